package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

var exportCommand = command{
	name:  "export",
	brief: "write a recovery point to raw images or devices",
	help: `Usage: vault export --store DIR --machine NAME [OPTION]... OUT

Writes the disks of a recovery point to raw image files, with holes where they
are zero, or to block devices. All that is read is checked against its sum.

OUT is a file or a block device if the point has one disk, or --disk picks one.
If OUT is a folder that exists, or ends in '/', the disks become files in it,
named after the disks.

A file is written as OUT.partial and renamed when it is whole and durable: an
OUT that was there is replaced then, and is as it was if the export fails. A
block device is written in place; it may be larger than the disk, whose end is
then followed by what was there. One that is mounted, or whose partition is, or
that is used by another device, is refused.

Options:
  --machine NAME  the machine (required)
  --point ID      the recovery point, as vault ls shows it; default: latest
  --disk DISK     this disk alone
  --store DIR, --passphrase-file FILE: see vault --help
`,
	setup: func(fs *flag.FlagSet) action {
		var o exportOptions
		o.flags(fs)
		fs.StringVar(&o.disk, "disk", "", "")
		return func(ctx context.Context, args []string) error {
			if err := required(fs, "store", "machine"); err != nil {
				return err
			}
			if len(args) != 1 {
				return wrongUsage("want one OUT, not %d; see vault export --help", len(args))
			}
			return o.run(ctx, args[0])
		}
	},
}

type exportOptions struct {
	pointOptions
	disk string
}

func (o *exportOptions) run(ctx context.Context, out string) (err error) {
	start := time.Now()
	s, err := o.open(false, vault.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	img, err := o.openPoint(ctx, s)
	if err != nil {
		return err
	}
	defer img.Close()
	if img, err = pick(img, o.disk); err != nil {
		return err
	}
	disks := img.Point().Machine.Disks
	paths, err := outputs(disks, out)
	if err != nil {
		return err
	}
	dst, blank, err := openTarget(disks, paths)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	bar := newProgress(disks)
	report, err := replication.Copy(ctx, dst, img, replication.CopyOptions{
		Have:     replication.History{Blank: blank},
		Progress: bar.show,
	})
	bar.end()
	if err != nil {
		return err
	}
	fmt.Printf("%s: %s, %s: wrote %s, %.1f s\n", report.Point.ID, plural(len(disks), "disk", "disks"),
		size(total(disks)), size(report.Written), time.Since(start).Seconds())
	return nil
}

// outputs says which disk is written where.
func outputs(disks []dr.Disk, out string) (map[dr.DiskID]string, error) {
	folder := strings.HasSuffix(out, "/") || strings.HasSuffix(out, string(filepath.Separator))
	if info, err := os.Stat(out); err == nil && info.IsDir() {
		folder = true
	}
	if !folder {
		if len(disks) != 1 {
			return nil, wrongUsage("the point has %s (%s): pick one with --disk, or let OUT be a folder", plural(len(disks), "disk", "disks"), names(disks))
		}
		return map[dr.DiskID]string{disks[0].ID: out}, nil
	}
	if err := os.MkdirAll(out, 0o777); err != nil {
		return nil, err
	}
	paths := map[dr.DiskID]string{}
	for _, d := range disks {
		name := string(d.ID)
		if !filepath.IsLocal(name) || filepath.Base(name) != name || strings.ContainsAny(name, `/\`) {
			return nil, wrongUsage("disk %q can't be the name of a file: pick it with --disk, and name a file", name)
		}
		paths[d.ID] = filepath.Join(out, name)
	}
	return paths, nil
}

func names(disks []dr.Disk) string {
	var all []string
	for _, d := range disks {
		all = append(all, string(d.ID))
	}
	return strings.Join(all, ", ")
}

// pick narrows an image to one disk; "" leaves it as it is.
func pick(img dr.Image, disk string) (dr.Image, error) {
	if disk == "" {
		return img, nil
	}
	p := img.Point()
	d, ok := p.Machine.Disk(dr.DiskID(disk))
	if !ok {
		return nil, fmt.Errorf("%w: point %s has no disk %s, but %s", dr.ErrNotFound, p.ID, disk, names(p.Machine.Disks))
	}
	p.Machine.Disks = []dr.Disk{d}
	return picked{img, p}, nil
}

// picked is an image of which one disk is wanted.
type picked struct {
	dr.Image
	point dr.Point
}

func (i picked) Unwrap() any     { return i.Image }
func (i picked) Point() dr.Point { return i.point }

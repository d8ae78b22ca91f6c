package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

var addCommand = command{
	name:  "add",
	brief: "add a recovery point of a machine from its raw images or devices",
	help: `Usage: vault add --store DIR --machine NAME [OPTION]... IMAGE...

Adds a recovery point: the content of raw image files or block devices, each
of which is a disk of the machine. The store is made if there is none.

An IMAGE is a path, whose disk is named after the file (/srv/a/sda.img is disk
sda.img), or DISK=PATH. A disk is continued by its name: keep it from one point
to the next, or all of it is stored again. Disks may grow, shrink, come and go.

Holes aren't read, zeros and what equals the last point aren't stored. With
--changed only what the list names is read.

Nothing may write to an IMAGE meanwhile: stop the machine, or add a snapshot.
A file that was written to while it was read is refused; a block device is
opened exclusively, and refused if it is mounted, but who else writes to it
can't be told.

An add that was interrupted shows nothing in the store. Run again with the same
images, unchanged, it goes on where it was; with others, and always with
devices, whose content has no time, it begins anew.

Options:
  --machine NAME     the machine; letters, digits, '-', '_' and '.' (required)
  --changed FILE     read only what FILE lists; "-" is standard input.
                     Each line is "OFFSET LENGTH", in bytes, decimal; if there
                     are several disks "DISK OFFSET LENGTH". Empty lines and
                     those beginning with '#' count as none. The list must
                     name all that changed since the last point in the store;
                     too much does no harm. It isn't used for disks that the
                     last point doesn't have, nor if there is no point: then
                     all is read.
  --compress METHOD  zstd (default); s2: three times as fast, an eighth
                     larger; or none. Points of all methods can be mixed.
  --store DIR, --passphrase-file FILE: see vault --help

Prints one line when the point is in the store, durably: its ID first.
`,
	setup: func(fs *flag.FlagSet) action {
		var o addOptions
		o.flags(fs)
		fs.StringVar(&o.machine, "machine", "", "")
		fs.StringVar(&o.changed, "changed", "", "")
		fs.StringVar(&o.compress, "compress", "zstd", "")
		return func(ctx context.Context, args []string) error {
			if err := required(fs, "store", "machine"); err != nil {
				return err
			}
			return o.run(ctx, args)
		}
	},
}

type addOptions struct {
	storeOptions
	machine  string
	changed  string
	compress string
}

func (o *addOptions) vault() (v vault.Options, err error) {
	switch o.compress {
	case "zstd":
		v.Codec = vault.Zstd
	case "s2":
		v.Codec = vault.S2
	case "none":
		v.NoCompression = true
	default:
		err = wrongUsage("--compress %s: want zstd, s2 or none", o.compress)
	}
	return v, err
}

func (o *addOptions) run(ctx context.Context, args []string) (err error) {
	if len(args) == 0 {
		return wrongUsage("which images? See vault add --help")
	}
	machine := dr.MachineID(o.machine)
	if err := machine.Validate(); err != nil {
		return wrongUsage("%v", err)
	}
	v, err := o.vault()
	if err != nil {
		return err
	}
	start := time.Now()
	src, err := openImages(args)
	if err != nil {
		return err
	}
	defer src.Close()
	if o.changed != "" {
		if src.changed, err = readChangeList(o.changed, src.point.Machine.Disks); err != nil {
			return err
		}
	}
	s, err := o.open(true, v)
	if err != nil {
		return err
	}
	defer s.Close()

	parent, err := newest(ctx, s, machine)
	if err != nil {
		return err
	}
	if err := src.describe(ctx, s, machine, parent, start); err != nil {
		return err
	}
	note(parent, src.point, o.changed != "")
	draft, err := s.Create(ctx, src.point)
	if err != nil {
		return err
	}
	// What was received by then is kept for the next add.
	defer func() { err = errors.Join(err, draft.Close()) }()

	bar := newProgress(src.point.Machine.Disks)
	report, err := replication.Copy(ctx, unlessChanged{draft, src}, src, replication.CopyOptions{
		Have: replication.History{Blank: parent.ID == "", Common: parent},
		// The store compares what it is given with the last point by itself,
		// for the price of one sum: then one reading is enough.
		Full:     parent.ID != "" && src.changed == nil,
		Progress: bar.show,
	})
	bar.end()
	if err != nil {
		return err
	}
	changed := report.Written + report.Resumed
	if parent.ID != "" {
		if changed, err = difference(ctx, s, report.Point, parent); err != nil {
			return err
		}
	}
	resumed := ""
	if report.Resumed > 0 {
		resumed = fmt.Sprintf(", %s resumed", size(report.Resumed))
	}
	fmt.Printf("%s: %s, %s: read %s, changed %s%s, %.1f s\n", report.Point.ID, plural(len(src.disks), "disk", "disks"),
		size(total(src.point.Machine.Disks)), size(report.Read), size(changed), resumed, time.Since(start).Seconds())
	return nil
}

// describe makes the point that the images will be: a new one, or that of an
// interrupted add of the same content over the same parent.
func (im *images) describe(ctx context.Context, s *vault.Store, m dr.MachineID, parent dr.Point, now time.Time) error {
	p := &im.point
	p.ID, p.Time = replication.CycleName(now), now.UTC()
	p.Machine.ID = m
	p.Consistency = dr.CrashConsistent
	p.Parent = parent.ID
	p.Cursors = map[dr.DiskID]dr.Cursor{}
	for id, d := range im.disks {
		mark := stamp(d.info, now)
		if mark == "" {
			mark = "once:" + rand.Text()
		}
		p.Cursors[id] = dr.Cursor(mark)
	}
	for old, err := range s.Pending(ctx, m) {
		if err != nil {
			return err
		}
		if old.Parent == p.Parent && slices.Equal(old.Machine.Disks, p.Machine.Disks) && maps.Equal(old.Cursors, p.Cursors) {
			p.ID, p.Time = old.ID, old.Time
		}
	}
	return nil
}

// note tells what may surprise whoever keeps points of a machine.
func note(parent, p dr.Point, listed bool) {
	if parent.ID == "" {
		if listed {
			fmt.Fprintf(os.Stderr, "vault: note: machine %s has no point yet: all is read, whatever --changed says\n", p.Machine.ID)
		}
		return
	}
	for _, d := range parent.Machine.Disks {
		if _, ok := p.Machine.Disk(d.ID); !ok {
			fmt.Fprintf(os.Stderr, "vault: note: disk %s of the last point isn't in this one\n", d.ID)
		}
	}
	for _, d := range p.Machine.Disks {
		if _, ok := parent.Machine.Disk(d.ID); !ok {
			fmt.Fprintf(os.Stderr, "vault: note: disk %s isn't in the last point: all of it is read\n", d.ID)
		}
	}
}

// unlessChanged is a draft that isn't committed if its source has changed.
type unlessChanged struct {
	dr.Draft
	src *images
}

func (d unlessChanged) Unwrap() any { return d.Draft }

func (d unlessChanged) Commit(ctx context.Context, p dr.Point) error {
	if err := d.src.unchanged(); err != nil {
		return err
	}
	return d.Draft.Commit(ctx, p)
}

// difference is how many bytes of p's disks aren't as they were in parent, in
// whole chunks. It is found in the maps, without reading data.
func difference(ctx context.Context, s *vault.Store, p, parent dr.Point) (n int64, err error) {
	img, err := s.Open(ctx, p.Machine.ID, p.ID)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	tracker, ok := dr.As[dr.ChangeTracker](img)
	if !ok {
		return 0, dr.ErrUnsupported
	}
	for _, d := range p.Machine.Disks {
		for e, err := range tracker.Changes(ctx, d.ID, parent) {
			if err != nil {
				return 0, err
			}
			n += e.Len
		}
	}
	return n, nil
}

func total(disks []dr.Disk) (n int64) {
	for _, d := range disks {
		n += d.Size
	}
	return n
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// images reads raw image files and block devices as the disks of a machine.
// It is a dr.Image, a dr.Mapper and, with a list of changes, a
// dr.ChangeTracker.
type images struct {
	point   dr.Point
	disks   map[dr.DiskID]*source
	changed changeList // nil: not known
}

var (
	_ dr.Image         = (*images)(nil)
	_ dr.Mapper        = (*images)(nil)
	_ dr.ChangeTracker = (*images)(nil)
)

// source is a file or device being read.
type source struct {
	fsys.File
	path string
	size int64
	info fs.FileInfo // when it was opened
}

func (s *source) device() bool { return s.info.Mode()&fs.ModeDevice != 0 }

// splitImage takes an IMAGE argument apart: PATH, whose disk is named after
// the file, or DISK=PATH.
func splitImage(arg string) (dr.DiskID, string) {
	if id, path, ok := strings.Cut(arg, "="); ok && id != "" && !strings.ContainsAny(id, `/\`) {
		return dr.DiskID(id), path
	}
	return dr.DiskID(filepath.Base(arg)), arg
}

// openImages opens all files or none. The point's disks are in the order of
// the arguments.
func openImages(args []string) (*images, error) {
	im := &images{disks: map[dr.DiskID]*source{}}
	for _, arg := range args {
		id, path := splitImage(arg)
		if other, ok := im.disks[id]; ok {
			return nil, errors.Join(wrongUsage("%s and %s would both be disk %s: name them, as in sda=%s", other.path, path, id, path), im.Close())
		}
		s, err := openSource(path)
		if err != nil {
			return nil, errors.Join(err, im.Close())
		}
		im.disks[id] = s
		im.point.Machine.Disks = append(im.point.Machine.Disks, dr.Disk{ID: id, Size: s.size})
	}
	return im, nil
}

// openSource opens a block device exclusively: what is mounted changes while
// it is read, and can't be opened so.
func openSource(path string) (*source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	flag := os.O_RDONLY | fsys.Direct
	switch mode := info.Mode(); {
	case mode.IsDir() || mode&fs.ModeCharDevice != 0 || mode&(fs.ModeNamedPipe|fs.ModeSocket) != 0:
		return nil, fmt.Errorf("%s is neither a raw image file nor a block device", path)
	case mode&fs.ModeDevice != 0:
		flag |= os.O_EXCL
	}
	f, err := fsys.OS().OpenFile(path, flag, 0)
	if errors.Is(err, syscall.EBUSY) {
		return nil, fmt.Errorf("%s is %w: it, or a part of it, is mounted or used by another device; add a snapshot of it instead", path, dr.ErrBusy)
	}
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &source{f, path, size, info}, nil
}

// Point implements dr.Image.
func (im *images) Point() dr.Point { return im.point }

// Close implements dr.Image.
func (im *images) Close() error {
	var errs []error
	for id, s := range im.disks {
		errs = append(errs, s.Close())
		delete(im.disks, id)
	}
	return errors.Join(errs...)
}

// ReadAt implements dr.Image.
func (im *images) ReadAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	s, ok := im.disks[disk]
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if !ok {
		return 0, fmt.Errorf("%w: disk %s", dr.ErrNotFound, disk)
	}
	return s.ReadAt(p, off)
}

// Extents implements dr.Mapper: holes are zeros.
func (im *images) Extents(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		s := im.disks[disk]
		for at := int64(0); at < s.size; {
			if err := ctx.Err(); err != nil {
				yield(dr.Extent{}, err)
				return
			}
			start, end, err := s.Data(at)
			if errors.Is(err, io.EOF) {
				start, end, err = s.size, s.size, nil
			}
			if err != nil {
				yield(dr.Extent{}, err)
				return
			}
			start, end = min(start, s.size), min(end, s.size)
			if start > at && !yield(dr.Extent{Off: at, Len: start - at, Zero: true}, nil) {
				return
			}
			if end > start && !yield(dr.Extent{Off: start, Len: end - start}, nil) {
				return
			}
			at = end
		}
	}
}

// Changes implements dr.ChangeTracker. The list counts from the store's last
// point of the machine, whichever since is.
func (im *images) Changes(_ context.Context, disk dr.DiskID, _ dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		if im.changed == nil {
			yield(dr.Extent{}, dr.ErrChangesLost)
			return
		}
		for e := range im.changed.extents(disk, im.disks[disk].size) {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// unchanged fails if a file was written since it was opened. Devices don't
// tell.
func (im *images) unchanged() error {
	for id, s := range im.disks {
		now, err := os.Stat(s.path)
		if err != nil {
			return err
		}
		size, err := s.Size()
		if err != nil {
			return err
		}
		if size != s.size || !os.SameFile(s.info, now) || !s.device() && !now.ModTime().Equal(s.info.ModTime()) {
			return fmt.Errorf("%w: %s (disk %s) was changed while it was read: add it while nothing writes to it, or a snapshot of it", dr.ErrNotConsistent, s.path, id)
		}
	}
	return nil
}

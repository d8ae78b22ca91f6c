package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// target is a draft over raw image files and block devices. A file is written
// beside its name and takes it when it is whole; a device is written in place.
type target struct {
	disks map[dr.DiskID]*output
}

var (
	_ dr.Draft  = (*target)(nil)
	_ dr.Zeroer = (*target)(nil)
)

// output is a file or device being written.
type output struct {
	fsys.File
	path    string
	partial string // where the file is until it is whole; "" for a device
	lock    interface{ Close() error }
	done    bool
}

// openTarget opens what each disk is written to, all or none. blank says that
// all of it reads as zeros.
func openTarget(disks []dr.Disk, paths map[dr.DiskID]string) (t *target, blank bool, err error) {
	t, blank = &target{map[dr.DiskID]*output{}}, true
	for _, d := range disks {
		o, err := openOutput(paths[d.ID], d.Size)
		if err != nil {
			return nil, false, errors.Join(err, t.Close())
		}
		t.disks[d.ID] = o
		blank = blank && o.partial != ""
	}
	return t, blank, nil
}

func openOutput(path string, size int64) (*output, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return openFile(path, size, 0o600)
	case err != nil:
		return nil, err
	case info.Mode().IsRegular():
		// A link to the file stays one.
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return nil, err
		}
		return openFile(path, size, info.Mode().Perm())
	case info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0:
		return openDevice(path, size)
	}
	return nil, fmt.Errorf("%s is neither a file nor a block device: it can't be written to", path)
}

func openFile(path string, size int64, perm fs.FileMode) (*output, error) {
	o := &output{path: path, partial: path + ".partial"}
	lock, err := fsys.OS().Lock(o.partial, true)
	if errors.Is(err, fsys.ErrLocked) {
		return nil, fmt.Errorf("%w: another export to %s is under way", dr.ErrBusy, path)
	}
	if err != nil {
		return nil, err
	}
	o.lock = lock
	o.File, err = fsys.OS().OpenFile(o.partial, os.O_RDWR|os.O_TRUNC|fsys.Direct, 0)
	if err == nil {
		err = errors.Join(o.Truncate(size), os.Chmod(o.partial, perm))
	}
	if err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

// openDevice opens a device that nobody uses: the kernel refuses one that is
// mounted, in part too, or below another device.
func openDevice(path string, size int64) (*output, error) {
	f, err := fsys.OS().OpenFile(path, os.O_RDWR|os.O_EXCL|fsys.Direct, 0)
	if errors.Is(err, syscall.EBUSY) {
		return nil, fmt.Errorf("%s is %w: it, or a part of it, is mounted or used by another device; it was not written", path, dr.ErrBusy)
	}
	if err != nil {
		return nil, err
	}
	room, err := f.Size()
	if err == nil && room < size {
		err = fmt.Errorf("%s has %d bytes, and the disk %d: it was not written", path, room, size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &output{File: f, path: path}, nil
}

// WriteAt implements dr.Draft.
func (t *target) WriteAt(ctx context.Context, disk dr.DiskID, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return t.disks[disk].WriteAt(p, off)
}

// Zero implements dr.Zeroer.
func (t *target) Zero(ctx context.Context, disk dr.DiskID, off, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return t.disks[disk].Punch(off, n)
}

// Commit makes everything durable and gives the files their names.
func (t *target) Commit(ctx context.Context, _ dr.Point) error {
	for _, o := range t.disks {
		if err := errors.Join(ctx.Err(), o.Sync()); err != nil {
			return err
		}
	}
	for _, o := range t.disks {
		if o.partial != "" && !o.done {
			if err := errors.Join(fsys.OS().Rename(o.partial, o.path), fsys.OS().SyncDir(filepath.Dir(o.path))); err != nil {
				return err
			}
		}
		o.done = true
	}
	return nil
}

// Close removes the files that are not whole.
func (t *target) Close() error {
	var errs []error
	for id, o := range t.disks {
		errs = append(errs, o.close())
		delete(t.disks, id)
	}
	return errors.Join(errs...)
}

func (o *output) close() (err error) {
	if o.File != nil {
		err = o.File.Close()
	}
	if o.partial == "" {
		return err
	}
	if !o.done {
		err = errors.Join(err, os.Remove(o.partial))
	}
	return errors.Join(err, o.lock.Close())
}

package physical

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// disks are a machine's disks, opened.
type disks map[dr.DiskID]opened

type opened struct {
	fsys.File
	path string
	size int64 // when it was opened: nobody sees more of it
}

// buffers are what sums are read into. A megabyte is where direct reads reach
// their speed.
var buffers = fsys.NewPool(1<<20, 8)

// path is where a disk is.
func (m *machine) path(d diskFile) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rec != nil && !m.rec.Made {
		return d.Path
	}
	return filepath.Join(m.folder, d.Path)
}

// open opens a disk. For writing a block device is opened exclusively: that is
// refused where it is mounted, whatever namespace that was done in, and keeps
// it from being mounted.
func (m *machine) open(d diskFile, flag int) (fsys.File, error) {
	return m.openAt(d.ID, m.path(d), flag)
}

func (m *machine) openAt(disk dr.DiskID, path string, flag int) (fsys.File, error) {
	fail := func(err error) error {
		e := &dr.Error{Op: "open", Machine: m.id, Disk: disk, Off: -1, Err: err}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			e.Err = fmt.Errorf("%w: %w", dr.ErrNotFound, err)
			e.Remedy = "attach the device or restore the file at this path, or correct the machine's configuration"
		case busy(err):
			e.Err = &InUseError{Path: path, Why: "somebody has the device open exclusively, as mounts do"}
		}
		return e
	}
	info, err := m.host.fs.Stat(path)
	if err != nil {
		return nil, fail(err)
	}
	switch mode := info.Mode(); {
	case mode.IsDir() || mode&fs.ModeCharDevice != 0:
		return nil, fail(fmt.Errorf("%w: %s is neither an image file nor a block device", dr.ErrInvalid, path))
	case mode&fs.ModeDevice != 0 && flag&os.O_RDWR != 0:
		flag |= os.O_EXCL
	}
	f, err := m.host.fs.OpenFile(path, flag|fsys.Direct, 0)
	if err != nil {
		return nil, fail(err)
	}
	return f, nil
}

// openDisks opens all of them or none.
func (m *machine) openDisks(rec *record, flag int) (disks, error) {
	all := disks{}
	for _, d := range rec.Disks {
		f, err := m.open(d, flag)
		if err != nil {
			return nil, errors.Join(err, all.close())
		}
		size, err := f.Size()
		if err != nil {
			return nil, errors.Join(&dr.Error{Op: "measure", Machine: m.id, Disk: d.ID, Off: -1, Err: err}, f.Close(), all.close())
		}
		all[d.ID] = opened{f, m.path(d), size}
	}
	return all, nil
}

func (ds disks) close() error {
	var errs []error
	for _, d := range ds {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// sync makes all disks durable, each for itself: they may be on several
// devices.
func (ds disks) sync() error {
	var g errgroup.Group
	for id, d := range ds {
		g.Go(func() error {
			if err := d.Sync(); err != nil {
				return fmt.Errorf("disk %s: %s: sync: %w", id, d.path, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (ds disks) sizes() map[dr.DiskID]int64 {
	out := map[dr.DiskID]int64{}
	for id, d := range ds {
		out[id] = d.size
	}
	return out
}

func (ds disks) find(ctx context.Context, id dr.DiskID, off, n int64) (opened, error) {
	if err := ctx.Err(); err != nil {
		return opened{}, err
	}
	d, ok := ds[id]
	switch {
	case !ok:
		return d, dr.ErrNotFound
	case off < 0 || n < 0:
		return d, fmt.Errorf("%w: %d bytes at %d", dr.ErrInvalid, n, off)
	case off > d.size || n > d.size-off:
		return d, fmt.Errorf("%w: %d bytes at %d of %d", dr.ErrOutOfRange, n, off, d.size)
	}
	return d, nil
}

// readAt is as dr.Image says.
func (ds disks) readAt(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
	d, err := ds.find(ctx, id, off, 0)
	if errors.Is(err, dr.ErrOutOfRange) {
		return 0, io.EOF
	}
	if err != nil {
		return 0, err
	}
	rest := d.size - off
	if int64(len(p)) <= rest {
		return d.fill(p, off)
	}
	n, err := d.fill(p[:rest], off)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

// fill reads all of p, which lies within the disk's size as it was.
func (d opened) fill(p []byte, off int64) (int, error) {
	n, err := d.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s: %w: it had %d bytes when it was opened", d.path, io.ErrUnexpectedEOF, d.size)
	}
	return n, err
}

// sums are as dr.Summer says. Holes are not read.
func (ds disks) sums(ctx context.Context, id dr.DiskID, off int64, sums []dr.Sum) error {
	d, err := ds.find(ctx, id, off, 0)
	if err != nil {
		return err
	}
	blocks := (d.size + dr.SumBlock - 1) / dr.SumBlock
	if off%dr.SumBlock != 0 {
		return fmt.Errorf("%w: sums from %d, which is no multiple of %d", dr.ErrInvalid, off, dr.SumBlock)
	}
	if first := off / dr.SumBlock; int64(len(sums)) > blocks-first {
		return fmt.Errorf("%w: %d sums from %d of %d bytes", dr.ErrOutOfRange, len(sums), off, d.size)
	}
	clear(sums)
	end := min(off+int64(len(sums))*dr.SumBlock, d.size)
	buf := buffers.Get()
	defer buffers.Put(buf)
	for at := off; at < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		start, stop, err := d.Data(at)
		if errors.Is(err, io.EOF) || err == nil && start >= end {
			return nil
		}
		if err != nil {
			return err
		}
		at = max(at, start/dr.SumBlock*dr.SumBlock)
		stop = min((stop+dr.SumBlock-1)/dr.SumBlock*dr.SumBlock, end)
		for at < stop {
			p := buf[:min(int64(len(buf)), stop-at)]
			if _, err := d.fill(p, at); err != nil {
				return err
			}
			for block := range slices.Chunk(p, dr.SumBlock) {
				sums[(at-off)/dr.SumBlock] = blocksum.Sum(block)
				at += int64(len(block))
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// extents are as dr.Mapper says.
func (ds disks) extents(ctx context.Context, id dr.DiskID, yield func(dr.Extent, error) bool) {
	d, err := ds.find(ctx, id, 0, 0)
	if err != nil {
		yield(dr.Extent{}, err)
		return
	}
	for at := int64(0); at < d.size; {
		if err := ctx.Err(); err != nil {
			yield(dr.Extent{}, err)
			return
		}
		start, end, err := d.Data(at)
		if errors.Is(err, io.EOF) {
			start, end, err = d.size, d.size, nil
		}
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		start, end = min(max(start, at), d.size), min(end, d.size)
		if start > at && !yield(dr.Extent{Off: at, Len: start - at, Zero: true}, nil) {
			return
		}
		if end > start && !yield(dr.Extent{Off: start, Len: end - start}, nil) {
			return
		}
		at = max(end, start)
	}
}

// free refuses disks that somebody uses, or that are two machines'. A missing
// one is used by nobody.
func (m *machine) free(rec *record) error {
	if err := m.alone(rec); err != nil {
		return err
	}
	for _, d := range rec.Disks {
		if err := m.host.inUse(m.path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("disk %s: %w", d.ID, err)
		}
	}
	return nil
}

// describe is the machine as it is now: with the sizes that its disks have.
func (m *machine) describe(rec *record) (dr.Machine, error) {
	out := rec.described()
	for i, d := range rec.Disks {
		if d.Making {
			continue // it will have the size that is recorded
		}
		var err error
		if out.Disks[i].Size, err = m.size(d); err != nil {
			return out, err
		}
	}
	return out, nil
}

// size is the disk's present one.
func (m *machine) size(d diskFile) (int64, error) {
	f, err := m.open(d, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	size, err := f.Size()
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, &dr.Error{Op: "measure", Machine: m.id, Disk: d.ID, Off: -1, Err: err}
	}
	return size, nil
}

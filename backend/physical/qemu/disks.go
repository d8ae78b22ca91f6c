package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/internal/nbd"
	"github.com/lifeboat-dr/lifeboat/internal/qemu"
)

// diskSocket is where a machine's disks are served, in its folder.
const diskSocket = "disks"

func exportName(i int) string { return fmt.Sprintf("disk%d", i) }

// disks are a machine's disks while this process serves them.
type disks struct {
	files  []io.Closer
	cancel context.CancelFunc
	ended  chan error
}

// serve opens the disks, locked, and serves them in dir.
func (r *Runner) serve(e physical.Event, dir string) (_ *disks, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	d := &disks{cancel: cancel, ended: make(chan error, 1)}
	defer func() {
		if err != nil {
			cancel()
			d.ended <- nil
			err = errors.Join(err, d.close())
		}
	}()
	server := &nbd.Server{Log: r.o.Log}
	for i, path := range e.Paths {
		disk := e.Machine.Disks[i]
		fail := func(err error) error {
			return &dr.Error{Op: "serve", Machine: e.Machine.ID, Disk: disk.ID, Off: -1, Err: err}
		}
		lock, err := lockFile(path)
		if err != nil {
			return d, fail(err)
		}
		d.files = append(d.files, lock)
		f, err := fsys.OS().OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return d, fail(err)
		}
		d.files = append(d.files, f)
		size, err := f.Size()
		if err != nil {
			return d, fail(err)
		}
		server.Exports = append(server.Exports, nbd.Export{Name: exportName(i), Device: noted{f, size, func(off, n int64) {
			r.o.Tracker.Mark(e.Machine.ID, disk.ID, off, n)
		}}})
	}
	l, err := qemu.Listen(dir, diskSocket, r.o.User)
	if err != nil {
		return d, err
	}
	go func() { d.ended <- server.Serve(ctx, l) }()
	return d, nil
}

// close ends the server, makes what was written durable, and unlocks.
func (d *disks) close() error {
	d.cancel()
	err := <-d.ended
	for i := len(d.files) - 1; i >= 0; i-- {
		if f, ok := d.files[i].(fsys.File); ok {
			err = errors.Join(err, f.Sync())
		}
		err = errors.Join(err, d.files[i].Close())
	}
	return err
}

// noted is a disk's file, with every write noted before it can reach the disk and
// again when it is there, as physical.Tracker asks.
type noted struct {
	file fsys.File
	size int64
	mark func(off, n int64)
}

var (
	_ nbd.Writer  = noted{}
	_ nbd.Flusher = noted{}
	_ nbd.Zeroer  = noted{}
	_ nbd.Trimmer = noted{}
	_ nbd.Mapper  = noted{}
)

// Size implements nbd.Device.
func (d noted) Size() int64 { return d.size }

// ReadAt implements nbd.Device.
func (d noted) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return d.file.ReadAt(p, off)
}

// WriteAt implements nbd.Writer.
func (d noted) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	d.mark(off, int64(len(p)))
	defer d.mark(off, int64(len(p)))
	return d.file.WriteAt(p, off)
}

// Flush implements nbd.Flusher.
func (d noted) Flush(context.Context) error { return d.file.Sync() }

// Zero implements nbd.Zeroer.
func (d noted) Zero(_ context.Context, off, n int64) error {
	d.mark(off, n)
	defer d.mark(off, n)
	return d.file.Punch(off, n)
}

// Trim implements nbd.Trimmer.
func (d noted) Trim(ctx context.Context, off, n int64) error { return d.Zero(ctx, off, n) }

// Extents implements nbd.Mapper.
func (d noted) Extents(ctx context.Context, off, n int64) iter.Seq2[nbd.Extent, error] {
	return func(yield func(nbd.Extent, error) bool) {
		for pos, end := off, off+n; pos < end && ctx.Err() == nil; {
			start, stop, err := d.file.Data(pos)
			if errors.Is(err, io.EOF) {
				start, stop, err = end, end, nil
			}
			if err != nil {
				yield(nbd.Extent{}, err)
				return
			}
			start, stop = min(max(start, pos), end), min(stop, end)
			if start > pos && !yield(nbd.Extent{Off: pos, Len: start - pos, Hole: true, Zero: true}, nil) {
				return
			}
			if stop > start && !yield(nbd.Extent{Off: start, Len: stop - start}, nil) {
				return
			}
			pos = max(start, stop)
		}
	}
}

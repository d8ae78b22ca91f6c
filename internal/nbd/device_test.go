package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"sync"
	"sync/atomic"
)

// memDevice is a Device in memory with every ability.
type memDevice struct {
	mu      sync.Mutex
	data    []byte
	flushes int
	hook    atomic.Pointer[hook]
}

// hook is asked before each operation, and may wait or fail it.
type hook func(ctx context.Context, op string, off int64) error

func (d *memDevice) onOp(h hook) { d.hook.Store(&h) }

// bytes copies the content, in order with the server's writes.
func (d *memDevice) bytes() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.data)
}

func (d *memDevice) flushed() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flushes
}

func (d *memDevice) before(ctx context.Context, op string, off int64) error {
	if h := d.hook.Load(); h != nil {
		return (*h)(ctx, op, off)
	}
	return nil
}

func (d *memDevice) Size() int64 { return int64(len(d.data)) }

func (d *memDevice) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := d.before(ctx, "read", off); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.NewReader(d.data).ReadAt(p, off)
}

func (d *memDevice) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := d.before(ctx, "write", off); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(d.data[off:], p), nil
}

func (d *memDevice) Flush(ctx context.Context) error {
	if err := d.before(ctx, "flush", 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushes++
	return nil
}

func (d *memDevice) Zero(ctx context.Context, off, n int64) error {
	if err := d.before(ctx, "zero", off); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off:][:n])
	return nil
}

func (d *memDevice) Trim(ctx context.Context, off, n int64) error {
	if err := d.before(ctx, "trim", off); err != nil {
		return err
	}
	return d.Zero(ctx, off, n)
}

// Extents maps zero runs of 4 KiB blocks as holes.
func (d *memDevice) Extents(ctx context.Context, off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if err := d.before(ctx, "extents", off); err != nil {
			yield(Extent{}, err)
			return
		}
		for at, end := off, off+n; at < end; {
			k := min(4096-at%4096, end-at)
			d.mu.Lock()
			zero := bytes.Equal(d.data[at:][:k], zeros[:k])
			d.mu.Unlock()
			if !yield(Extent{Off: at, Len: k, Hole: zero, Zero: zero}, nil) {
				return
			}
			at += k
		}
	}
}

// plainDevice hides every ability of a memDevice.
type plainDevice struct{ d *memDevice }

func (p plainDevice) Size() int64 { return p.d.Size() }
func (p plainDevice) ReadAt(ctx context.Context, b []byte, off int64) (int, error) {
	return p.d.ReadAt(ctx, b, off)
}

// writeDevice can be written, and nothing else.
type writeDevice struct{ plainDevice }

func (p writeDevice) WriteAt(ctx context.Context, b []byte, off int64) (int, error) {
	return p.d.WriteAt(ctx, b, off)
}

// fileDevice is a file as a Device.
type fileDevice struct {
	f    *os.File
	size int64
}

func (d fileDevice) Size() int64 { return d.size }
func (d fileDevice) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return d.f.ReadAt(p, off)
}
func (d fileDevice) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	return d.f.WriteAt(p, off)
}
func (d fileDevice) Flush(context.Context) error { return d.f.Sync() }

// Extents finds holes with SEEK_DATA and SEEK_HOLE.
func (d fileDevice) Extents(_ context.Context, off, n int64) iter.Seq2[Extent, error] {
	const seekData, seekHole = 3, 4 // of Linux
	return func(yield func(Extent, error) bool) {
		for end := off + n; off < end; {
			data, err := d.f.Seek(off, seekData)
			if err != nil {
				data = end // ENXIO: a hole to the end
			}
			if data > off {
				stop := min(data, end)
				if !yield(Extent{Off: off, Len: stop - off, Hole: true, Zero: true}, nil) {
					return
				}
				off = stop
				continue
			}
			hole, err := d.f.Seek(off, seekHole)
			if err != nil {
				yield(Extent{}, err)
				return
			}
			stop := min(hole, end)
			if !yield(Extent{Off: off, Len: stop - off}, nil) {
				return
			}
			off = stop
		}
	}
}

var errDisk = errors.New("the disk made a noise")

// sparseFile is a File for overlays that can fail and be powered off.
type sparseFile struct {
	mu     sync.Mutex
	now    []byte // what a reader sees
	safe   []byte // what a power cut leaves at least
	writes []write
	fail   func(op string) error
}

type write struct {
	off int64
	p   []byte
}

func (f *sparseFile) before(op string) error {
	if f.fail == nil {
		return nil
	}
	return f.fail(op)
}

func (f *sparseFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.before("read"); err != nil {
		return 0, err
	}
	if off >= int64(len(f.now)) {
		return 0, io.EOF
	}
	return bytes.NewReader(f.now).ReadAt(p, off)
}

func (f *sparseFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.before("write"); err != nil {
		return 0, err
	}
	w := write{off, bytes.Clone(p)}
	f.writes = append(f.writes, w)
	f.now = w.onto(f.now)
	return len(p), nil
}

func (w write) onto(b []byte) []byte {
	if need := w.off + int64(len(w.p)) - int64(len(b)); need > 0 {
		b = append(b, make([]byte, need)...)
	}
	copy(b[w.off:], w.p)
	return b
}

func (f *sparseFile) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.before("sync"); err != nil {
		return err
	}
	f.safe = bytes.Clone(f.now)
	f.writes = nil
	return nil
}

// powerCut leaves what was synced, and of each sector written since, the
// content after one of the writes to it that keep chooses: a system writes
// sectors back whole, at any time, in any order.
func (f *sparseFile) powerCut(keep func() bool) *sparseFile {
	f.mu.Lock()
	defer f.mu.Unlock()
	left, cur := bytes.Clone(f.safe), bytes.Clone(f.safe)
	for _, w := range f.writes {
		cur = w.onto(cur)
		for at := w.off / 512 * 512; at < w.off+int64(len(w.p)); at += 512 {
			if keep() {
				left = write{at, cur[at:min(at+512, int64(len(cur)))]}.onto(left)
			}
		}
	}
	return &sparseFile{now: left, safe: bytes.Clone(left)}
}

// PunchHole is, to a disk, a write like any other.
func (f *sparseFile) PunchHole(off, n int64) error {
	_, err := f.WriteAt(make([]byte, n), off)
	return err
}

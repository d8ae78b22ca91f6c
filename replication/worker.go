package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// page is the alignment that direct I/O wants of memory.
const page = 4 << 10

// worker does jobs, one request at a time. Its buffers are its own, and made
// only when the first byte has to be read.
type worker struct {
	*pass
	buf          []byte // page aligned, a chunk and a page long
	ours, theirs []dr.Sum
	sampler      *sampler // nil: nothing is measured
}

func (w *worker) run(ctx context.Context) error {
	for {
		select {
		case j, ok := <-w.work:
			if !ok {
				return nil
			}
			err := w.do(ctx, &j)
			j.disk.done.Add(j.end() - j.from)
			j.disk.flying.Done()
			if err != nil {
				return err
			}
			w.meter.tick(j.disk)
		case <-ctx.Done():
			return w.stopped(ctx)
		}
	}
}

func (w *worker) do(ctx context.Context, j *job) error {
	for _, e := range j.ext[:j.n] {
		var err error
		switch {
		case e.Zero:
			err = w.zero(ctx, j.disk, e.Off, e.Len)
		case j.compare:
			err = w.compare(ctx, j.disk, e)
		default:
			err = w.copy(ctx, j.disk, e.Off, e.End())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// compare copies those blocks of e whose sums differ. e begins at a block.
func (w *worker) compare(ctx context.Context, d *disk, e dr.Extent) error {
	if w.ours == nil {
		w.ours = make([]dr.Sum, compareSpan/dr.SumBlock)
		w.theirs = make([]dr.Sum, compareSpan/dr.SumBlock)
	}
	n := int((e.Len + dr.SumBlock - 1) / dr.SumBlock)
	ours, theirs := w.ours[:n], w.theirs[:n]
	if err := w.srcSum.Sums(ctx, d.ID, e.Off, ours); err != nil {
		return w.fail("sums", dr.SourceSide, d.ID, e.Off, err)
	}
	if err := w.dstSum.Sums(ctx, d.ID, e.Off, theirs); err != nil {
		return w.fail("sums", dr.TargetSide, d.ID, e.Off, err)
	}
	kind := func(i int) int {
		switch {
		case ours[i] == theirs[i]:
			return 0
		case ours[i].IsZero():
			return 1
		}
		return 2
	}
	for i := 0; i < n; {
		k, first := kind(i), i
		for i < n && kind(i) == k {
			i++
		}
		off := e.Off + int64(first)*dr.SumBlock
		end := min(e.Off+int64(i)*dr.SumBlock, e.End())
		var err error
		switch k {
		case 0:
			w.counts.equal.Add(end - off)
		case 1:
			err = w.zero(ctx, d, off, end-off)
		case 2:
			err = w.copy(ctx, d, off, end)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copy reads and writes [off, end) in requests that don't cross chunks.
func (w *worker) copy(ctx context.Context, d *disk, off, end int64) error {
	for off < end {
		n := min(end, off-off%w.chunk+w.chunk) - off
		p := w.buffer(off, n)
		if err := w.read(ctx, d, p, off); err != nil {
			return err
		}
		if err := w.put(ctx, d, p, off); err != nil {
			return err
		}
		off += n
	}
	return nil
}

func (w *worker) read(ctx context.Context, d *disk, p []byte, off int64) error {
	n, err := w.src.ReadAt(ctx, d.ID, p, off)
	switch {
	case n == len(p) && (err == nil || errors.Is(err, io.EOF)):
		w.counts.read.Add(int64(n))
		return nil
	case err == nil:
		err = fmt.Errorf("%w: the image broke its contract: %d of %d bytes and no error", io.ErrUnexpectedEOF, n, len(p))
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("%w: the image ends after %d of %d bytes, its disk has %d", io.ErrUnexpectedEOF, n, len(p), d.Size)
	}
	return w.fail("read", dr.SourceSide, d.ID, off, err)
}

// put writes p, but for blocks that are zero: they don't travel, unless the
// draft can't make zeros by itself and isn't blank.
func (w *worker) put(ctx context.Context, d *disk, p []byte, off int64) error {
	if w.zeroer == nil && !w.blank {
		return w.write(ctx, d, p, off)
	}
	for len(p) > 0 {
		zero, n := isZero(block(p, off)), 0
		for n < len(p) {
			b := block(p[n:], off+int64(n))
			if isZero(b) != zero {
				break
			}
			n += len(b)
		}
		var err error
		if zero {
			err = w.zero(ctx, d, off, int64(n))
		} else {
			err = w.write(ctx, d, p[:n], off)
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// block is the first piece of p, which is at off, up to a block's border.
func block(p []byte, off int64) []byte {
	return p[:min(int64(len(p)), dr.SumBlock-off%dr.SumBlock)]
}

func (w *worker) write(ctx context.Context, d *disk, p []byte, off int64) error {
	if err := w.wait(ctx, d, len(p)); err != nil {
		return err
	}
	if w.sampler != nil {
		if err := w.sampler.before(ctx, w.copier, d, p, off); err != nil {
			return w.fail("packed", dr.TargetSide, d.ID, off, err)
		}
	}
	n, err := w.dst.WriteAt(ctx, d.ID, p, off)
	if err == nil && n != len(p) {
		err = fmt.Errorf("%w: the draft broke its contract: %d of %d bytes and no error", io.ErrShortWrite, n, len(p))
	}
	if err != nil {
		return w.fail("write", dr.TargetSide, d.ID, off, err)
	}
	if w.sampler != nil {
		if err := w.sampler.after(ctx, w.copier, d, p, off); err != nil {
			return w.fail("packed", dr.TargetSide, d.ID, off, err)
		}
	}
	w.counts.written.Add(int64(n))
	d.moved.Add(int64(n))
	return nil
}

// zero makes [off, off+n) zero. Without a Zeroer n is a chunk at most, or
// what a compare found.
func (w *worker) zero(ctx context.Context, d *disk, off, n int64) error {
	switch {
	case w.blank:
	case w.zeroer != nil:
		if err := w.zeroer.Zero(ctx, d.ID, off, n); err != nil {
			return w.fail("zero", dr.TargetSide, d.ID, off, err)
		}
	default:
		for end := off + n; off < end; {
			p := w.buffer(off, min(end, off-off%w.chunk+w.chunk)-off)
			clear(p)
			if err := w.write(ctx, d, p, off); err != nil {
				return err
			}
			off += int64(len(p))
		}
		return nil
	}
	w.counts.zeroed.Add(n)
	return nil
}

// wait lets n bytes pass every limit.
func (w *worker) wait(ctx context.Context, d *disk, n int) error {
	if err := w.pay(ctx, w.o.Limit, d, n); err != nil {
		return err
	}
	for _, l := range w.o.Limits {
		if err := w.pay(ctx, l, d, n); err != nil {
			return err
		}
	}
	return nil
}

// pay lets n bytes pass one. Requests may be larger than the burst.
func (w *worker) pay(ctx context.Context, l *rate.Limiter, d *disk, n int) error {
	if l == nil || l.Limit() == rate.Inf {
		return nil
	}
	for n > 0 {
		m := min(n, max(1, l.Burst()))
		if err := l.WaitN(ctx, m); err != nil {
			if _, ends := ctx.Deadline(); ends && ctx.Err() == nil {
				err = fmt.Errorf("%w: %w", context.DeadlineExceeded, err) // it would be, before this has passed
			}
			return w.fail("wait for the rate limit", "", d.ID, -1, err)
		}
		n -= m
		w.meter.tick(d)
	}
	return nil
}

// buffer returns memory for n bytes at off: it lies in its page as the bytes
// do in theirs, so that a reader that splits off unaligned ends can do the
// rest by direct I/O.
func (w *worker) buffer(off, n int64) []byte {
	if w.buf == nil {
		b := make([]byte, w.chunk+2*page)
		skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % page
		w.buf = b[skip : int64(skip)+w.chunk+page]
	}
	pad := off % page
	return w.buf[pad : pad+n : pad+n]
}

// isZero compares p with itself shifted, which runs at memory speed and ends
// at the first difference.
func isZero(p []byte) bool {
	const head = 64
	for _, b := range p[:min(head, len(p))] {
		if b != 0 {
			return false
		}
	}
	return len(p) <= head || bytes.Equal(p[head:], p[:len(p)-head])
}

package memstore

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// work is what outlives an interrupted draft: the content so far.
type work struct {
	point dr.Point // as first given to Create; never changed
	mu    sync.RWMutex
	disks map[dr.DiskID]*written
}

type written struct {
	disk
	// own are the pages that no committed point shares: they are written in
	// place, others are copied first.
	own map[int64]bool
	// whole are the pages that were written or zeroed from end to end, and
	// so hold the draft's point and nothing of its parent. Pages written in
	// pieces are not counted: to say too little only costs a copy.
	whole map[int64]bool
}

func newWork(p dr.Point, parent *stored) *work {
	w := &work{point: p, disks: map[dr.DiskID]*written{}}
	for _, d := range p.Machine.Disks {
		var content disk
		if parent != nil {
			content = parent.disks[d.ID]
		}
		w.disks[d.ID] = &written{content.resized(d.Size), map[int64]bool{}, map[int64]bool{}}
	}
	return w
}

func (w *written) write(p []byte, off int64) {
	for len(p) > 0 {
		n, at := off/pageSize, off%pageSize
		k := min(int64(len(p)), pageSize-at)
		if !w.own[n] {
			fresh := new(page)
			if old := w.pages[n]; old != nil {
				*fresh = *old
			}
			w.pages[n], w.own[n] = fresh, true
		}
		copy(w.pages[n][at:], p[:k])
		if at == 0 && (k == pageSize || off+k == w.size) {
			w.whole[n] = true
			if blocksum.Zero(p[:k]) {
				delete(w.pages, n)
				delete(w.own, n)
			}
		}
		p, off = p[k:], off+k
	}
}

var zeros page

func (w *written) zero(off, n int64) {
	end := off + n
	for off < end {
		k := min(end-off, pageSize-off%pageSize)
		switch whole := off%pageSize == 0 && (k == pageSize || off+k == w.size); {
		case whole:
			delete(w.pages, off/pageSize)
			delete(w.own, off/pageSize)
			w.whole[off/pageSize] = true
		case w.pages[off/pageSize] != nil:
			w.write(zeros[:k], off)
		}
		off += k
	}
}

// draft is a handle on a work. Of the handles on one work only the newest is
// not closed.
type draft struct {
	store *Store
	work  *work
	point dr.Point // as given to the Create that made this handle

	// Under work.mu:
	err  error // why it can be used no more
	done bool  // committed
	// idle says that the point had been committed before the draft was
	// made: what is written is what is there, and is dropped.
	idle bool
}

var (
	_ dr.Draft   = (*draft)(nil)
	_ dr.Zeroer  = (*draft)(nil)
	_ dr.Summer  = (*draft)(nil)
	_ dr.Resumer = (*draft)(nil)
)

func (d *draft) WriteAt(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
	d.work.mu.Lock()
	defer d.work.mu.Unlock()
	w, err := d.disk(ctx, "write", id, off, int64(len(p)), true)
	if err != nil {
		return 0, err
	}
	if !d.idle {
		w.write(p, off)
	}
	return len(p), nil
}

func (d *draft) Zero(ctx context.Context, id dr.DiskID, off, n int64) error {
	d.work.mu.Lock()
	defer d.work.mu.Unlock()
	w, err := d.disk(ctx, "zero", id, off, n, true)
	if err == nil && !d.idle {
		w.zero(off, n)
	}
	return err
}

func (d *draft) Sums(ctx context.Context, id dr.DiskID, off int64, sums []dr.Sum) error {
	d.work.mu.RLock()
	defer d.work.mu.RUnlock()
	w, err := d.disk(ctx, "sum", id, off, 0, false)
	if err != nil {
		return err
	}
	return fill(w.disk, off, sums, func(err error) error { return failure("sum", d.point, id, off, err) })
}

func (d *draft) Durable(ctx context.Context, id dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		extents, err := d.durable(ctx, id)
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		yieldAll(ctx, extents, yield)
	}
}

func (d *draft) durable(ctx context.Context, id dr.DiskID) ([]dr.Extent, error) {
	d.work.mu.RLock()
	defer d.work.mu.RUnlock()
	w, err := d.disk(ctx, "resume", id, 0, 0, false)
	if err != nil {
		return nil, err
	}
	var l list
	if d.idle {
		l.add(0, w.size, false)
		return l, nil
	}
	for _, n := range slices.Sorted(maps.Keys(w.whole)) {
		l.add(n*pageSize, min((n+1)*pageSize, w.size), false)
	}
	return l, nil
}

func (d *draft) Commit(ctx context.Context, p dr.Point) error {
	d.work.mu.Lock()
	defer d.work.mu.Unlock()
	switch {
	case d.done:
		d.store.release(d)
		return nil
	case d.err != nil:
		return failure("commit", d.point, "", -1, d.err)
	case ctx.Err() != nil:
		return failure("commit", d.point, "", -1, ctx.Err())
	}
	s := &stored{point: d.point.Clone(), disks: map[dr.DiskID]disk{}}
	p = p.Clone()
	s.point.Time, s.point.Consistency, s.point.Cursors = p.Time, p.Consistency, p.Cursors
	s.point.Changes = p.Changes
	for id, w := range d.work.disks {
		s.disks[id] = w.disk
	}
	d.store.commit(d, s)
	d.done = true
	return nil
}

func (d *draft) Close() error {
	d.work.mu.Lock()
	defer d.work.mu.Unlock()
	if d.err == nil {
		d.err = fmt.Errorf("draft: %w", os.ErrClosed)
		d.store.release(d)
	}
	return nil
}

// disk checks a call; the caller holds work.mu.
func (d *draft) disk(ctx context.Context, op string, id dr.DiskID, off, n int64, change bool) (*written, error) {
	w, ok := d.work.disks[id]
	err := ctx.Err()
	switch {
	case err != nil:
	case d.err != nil:
		err = d.err
	case change && d.done && !d.idle:
		err = fmt.Errorf("%w: the draft is committed", dr.ErrNotAllowed)
	case !ok:
		err = fmt.Errorf("%w: the draft has no such disk", dr.ErrNotFound)
	case off < 0 || n < 0:
		err = fmt.Errorf("%w: negative offset or length", dr.ErrInvalid)
	case n > w.size-off:
		err = fmt.Errorf("%w: %d bytes, the disk has %d", dr.ErrOutOfRange, n, w.size)
	default:
		return w, nil
	}
	return nil, failure(op, d.point, id, off, err)
}

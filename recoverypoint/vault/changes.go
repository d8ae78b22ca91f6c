package vault

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Changes compares the maps of two points. Subtrees that both share are
// skipped without being read, and no data is.
func (i *image) Changes(ctx context.Context, disk dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		fail := func(err error) { yield(dr.Extent{}, i.fail("compare", disk, -1, err)) }
		d, err := i.disk("compare", disk)
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		if since.Machine.ID != "" && since.Machine.ID != i.man.Point.Machine.ID {
			fail(fmt.Errorf("%w: point %s is of machine %s", dr.ErrChangesLost, since.ID, since.Machine.ID))
			return
		}
		old := i
		if since.ID != i.man.Point.ID {
			old, err = i.store.open(ctx, i.man.Point.Machine.ID, since.ID)
			if errors.Is(err, dr.ErrNotFound) || errors.Is(err, dr.ErrInvalid) {
				fail(fmt.Errorf("%w: point %s is not in the vault", dr.ErrChangesLost, since.ID))
				return
			}
			if err != nil {
				fail(err)
				return
			}
			defer old.Close()
		}
		if !since.Time.IsZero() && !since.Time.Equal(old.man.Point.Time) {
			fail(fmt.Errorf("%w: the vault's point %s is of another moment", dr.ErrChangesLost, since.ID))
			return
		}
		var before tree
		if od, ok := old.man.disk(disk); ok {
			before = od.tree()
		}
		m := merger{size: d.Size, yield: yield}
		w := walker{ctx: ctx, store: i.store, new: d.tree(), old: before, emit: m.emit}
		// What lies behind the old disk's end is changed, zeros too.
		w.limit = chunks(d.Size)
		if before.size < d.Size {
			w.limit = before.size / chunkSize
		}
		if err = w.compare(); err == nil {
			w.old, w.all, w.from, w.limit = tree{}, true, w.limit, chunks(d.Size)
			err = w.compare()
		}
		m.end(err, func(err error) { fail(err) })
	}
}

// Extents yields the disk's data and zeros, from the map.
func (i *image) Extents(ctx context.Context, disk dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		d, err := i.disk("map", disk)
		if err != nil {
			yield(dr.Extent{}, err)
			return
		}
		m := merger{size: d.Size, yield: yield}
		w := walker{ctx: ctx, store: i.store, new: d.tree(), all: true, limit: chunks(d.Size), emit: m.emit}
		m.end(w.compare(), func(err error) { yield(dr.Extent{}, i.fail("map", disk, -1, err)) })
	}
}

// errStop ends a walk whose caller wants no more.
var errStop = errors.New("stop")

// walker goes through the chunks [from, limit) of a new tree beside an old
// one, and reports those that differ, or all of them.
type walker struct {
	ctx         context.Context
	store       *Store
	new, old    tree
	all         bool
	from, limit int64
	emit        func(chunk, n int64, zero bool) error
}

func (w *walker) compare() error {
	if w.from >= w.limit {
		return nil
	}
	level := max(w.new.level, w.old.level)
	return w.visit(level, 0, w.new.lift(level), w.old.lift(level))
}

// lifted is a subtree that is seen from a level above the tree's root: there
// the tree is the first child of the first child.
type lifted struct {
	ref   ref
	above int // levels above the root
}

func (t tree) lift(level int) lifted { return lifted{t.root, level - t.level} }

func (l lifted) child(p *page, i int) lifted {
	if l.above == 0 {
		return lifted{ref: p.refs[i]}
	}
	if i == 0 {
		return lifted{l.ref, l.above - 1}
	}
	return lifted{}
}

func (w *walker) visit(level int, base int64, n, o lifted) error {
	span := int64(1) << ((level + 1) * pageBits)
	if base >= w.limit || base+span <= w.from || !w.all && n.ref == o.ref && n.above == o.above {
		return nil
	}
	if w.all && n.ref.isZero() {
		from := max(base, w.from)
		return w.emit(from, min(base+span, w.limit)-from, true)
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	var np, op *page
	var err error
	if n.above == 0 {
		if np, err = w.store.page(w.ctx, &n.ref, level); err != nil {
			return err
		}
	}
	if o.above == 0 && !w.all {
		if op, err = w.store.page(w.ctx, &o.ref, level); err != nil {
			return err
		}
	}
	for i := range pageRefs {
		nc := n.child(np, i)
		var oc lifted
		if !w.all {
			oc = o.child(op, i)
		}
		chunk := base + int64(i)<<(level*pageBits)
		if level > 0 {
			if err := w.visit(level-1, chunk, nc, oc); err != nil {
				return err
			}
			continue
		}
		if chunk >= w.from && chunk < w.limit && (w.all || nc.ref.sum != oc.ref.sum) {
			if err := w.emit(chunk, 1, nc.ref.isZero()); err != nil {
				return err
			}
		}
	}
	return nil
}

// merger joins neighbouring chunks to extents that end with the disk.
type merger struct {
	size  int64
	yield func(dr.Extent, error) bool
	cur   dr.Extent
}

func (m *merger) emit(chunk, n int64, zero bool) error {
	off, end := chunk*chunkSize, min((chunk+n)*chunkSize, m.size)
	if m.cur.Len > 0 && m.cur.End() == off && m.cur.Zero == zero {
		m.cur.Len = end - m.cur.Off
		return nil
	}
	last := m.cur
	m.cur = dr.Extent{Off: off, Len: end - off, Zero: zero}
	if last.Len > 0 && !m.yield(last, nil) {
		m.cur.Len = 0
		return errStop
	}
	return nil
}

// end yields what is left, and the error that ended the walk, if any.
func (m *merger) end(err error, fail func(error)) {
	if err == errStop {
		return
	}
	if m.cur.Len > 0 && !m.yield(m.cur, nil) {
		return
	}
	if err != nil {
		fail(err)
	}
}

package pageblob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Create begins or resumes a draft, as recoverypoint.PointStore says; the
// machine's draft of another process is taken over: its Commit fails with
// dr.ErrFenced. A draft that was interrupted is kept until one of its ID goes
// on with it or throws it away, or Delete is called with its ID.
func (s *Store) Create(ctx context.Context, p dr.Point) (dr.Draft, error) {
	p = p.Clone()
	m := p.Machine.ID
	fail := func(err error) (dr.Draft, error) { return nil, failure("create", m, p.ID, "", -1, err) }
	if err := check(p); err != nil {
		return fail(err)
	}
	if err := ended(ctx); err != nil {
		return fail(err)
	}
	d := &draft{s: s, m: m, point: p, index: map[dr.DiskID]int{}, memory: map[int32]*staging{}}
	for i, disk := range p.Machine.Disks {
		d.index[disk.ID] = i
		d.sizes = append(d.sizes, disk.Size)
	}
	d.over = make([]pieces, len(d.sizes))
	d.slots = make(chan struct{}, s.o.Concurrency+1)
	d.failed = make(chan *staging, s.o.Concurrency+1)
	d.ctx, d.cancel = context.WithCancel(context.WithoutCancel(ctx))
	st := s.machine(m)
	st.mu.Lock()
	open := st.open
	if open == nil {
		st.open = d
	}
	st.mu.Unlock()
	if open != nil {
		return fail(fmt.Errorf("%w: point %s of the machine is being written", dr.ErrBusy, open.point.ID))
	}
	if err := d.start(ctx); err != nil {
		d.cancel()
		d.release()
		return fail(err)
	}
	return d, nil
}

// start enters the draft in the head, and finds what an earlier one left.
func (d *draft) start(ctx context.Context) error {
	p := d.point
	resumed := false
	var done *entry
	_, err := d.s.changeHead(ctx, d.m, func(h *head) (bool, error) {
		resumed, done = false, nil
		if e := h.find(p.ID); e != nil {
			old, err := d.s.pointOf(ctx, d.m, *e)
			if isNotFound(err) {
				return false, fmt.Errorf("%w: object %s: try again", dr.ErrConflict, e.Manifest)
			}
			if err != nil {
				return false, err
			}
			if !recoverypoint.SameDraft(old, p) {
				return false, fmt.Errorf("%w: a point of that name, of %v", dr.ErrExists, old.Time)
			}
			done = e
			return false, nil
		}
		h.Epoch++
		d.epoch = h.Epoch
		for _, x := range h.Drafts {
			if x.Point.ID == p.ID && recoverypoint.SameDraft(x.Point, p) {
				d.id, d.parent, resumed = x.ID, x.Parent, true
				return true, nil
			}
		}
		d.parent = 0
		if p.Parent != "" {
			e := h.find(p.Parent)
			if e == nil {
				return false, fmt.Errorf("%w: parent point %s", dr.ErrNotFound, p.Parent)
			}
			d.parent = e.Seq
		}
		h.dropDrafts(func(x begun) bool { return x.Point.ID == p.ID })
		d.id = newNonce()
		h.Drafts = append(h.Drafts, begun{ID: d.id, Point: p, Parent: d.parent})
		return true, nil
	})
	if err != nil {
		return err
	}
	if done != nil {
		st := d.s.machine(d.m)
		st.mu.Lock() // Delete looks at the machine's open draft
		d.idle, d.done = true, true
		st.mu.Unlock()
		d.under = d.s.contentOf(d.m, done.Seq)
		return nil
	}
	d.under = d.s.contentOf(d.m, d.parent)
	if err := d.findParent(ctx); err != nil {
		return err
	}
	if resumed {
		return d.resume(ctx)
	}
	return nil
}

// dropDrafts forgets drafts.
func (h *head) dropDrafts(which func(begun) bool) { h.Drafts = slices.DeleteFunc(h.Drafts, which) }

// findParent reads the parent's manifest, which moves when it is processed.
func (d *draft) findParent(ctx context.Context) error {
	if d.parent == 0 {
		return nil
	}
	const tries = 3
	for try := 1; ; try++ {
		h, _, err := d.s.readHead(ctx, d.m)
		if err != nil {
			return err
		}
		v, err := d.s.version(ctx, d.m, h, d.parent)
		if err == nil || !isNotFound(err) || try == tries {
			d.before = v.mf
			return err
		}
	}
}

// resume takes what segments of earlier handles hold. One that can't be read is
// left out: what is not durable is copied again.
func (d *draft) resume(ctx context.Context) error {
	type found struct {
		object
		records []record
		ok      bool
	}
	var all []*found
	for o, err := range d.s.list(ctx, d.dir(), false) {
		if err != nil {
			return err
		}
		if isSegmentName(strings.TrimPrefix(o.name, d.dir())) {
			all = append(all, &found{object: o})
		}
	}
	slices.SortFunc(all, func(a, b *found) int { return cmp.Compare(a.name, b.name) })
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * d.s.o.Concurrency)
	for _, f := range all {
		g.Go(func() error {
			records, err := d.s.readTail(gctx, f.name, f.size, d.sizes)
			if errors.Is(err, dr.ErrCorrupt) || isNotFound(err) {
				d.s.log.Warn("a segment is not used", "object", f.name, "error", plain(err).Error())
				return nil
			}
			f.records, f.ok = records, err == nil
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, f := range all {
		if !f.ok {
			continue
		}
		n := int32(len(d.names))
		d.names = append(d.names, strings.TrimPrefix(f.name, d.dir()))
		d.stored = append(d.stored, true)
		at := int64(0)
		for _, r := range f.records {
			q := piece{off: r.off, n: r.n, seg: n, at: isZero}
			if !r.zero {
				q.at = int32(at)
				at += r.n
			}
			d.over[r.disk].put(q)
		}
	}
	return nil
}

// Delete forgets a point, processed or not, or an interrupted draft of that
// ID; a draft that this Store is writing is dr.ErrBusy, one that another
// process is writing is fenced. Snapshots are deleted at once, but for those
// of images that are open and those that a draft or a received point is
// written over; Prune deletes these later. What the point changed in its parent
// is remembered for as long as other points' Changes need it.
func (s *Store) Delete(ctx context.Context, m dr.MachineID, id dr.PointID) error {
	fail := func(err error) error { return failure("delete", m, id, "", -1, err) }
	if err := m.Validate(); err != nil {
		return fail(err)
	}
	if err := id.Validate(); err != nil {
		return fail(err)
	}
	st := s.machine(m)
	_, err := s.changeHead(ctx, m, func(h *head) (bool, error) {
		st.mu.Lock()
		busy := st.open != nil && !st.open.idle && st.open.point.ID == id
		st.mu.Unlock()
		if busy {
			return false, fmt.Errorf("%w: it is being written", dr.ErrBusy)
		}
		n := len(h.Drafts)
		h.dropDrafts(func(x begun) bool { return x.Point.ID == id })
		e := h.find(id)
		if e != nil {
			e.Gone = true
		}
		return e != nil || len(h.Drafts) != n, nil
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

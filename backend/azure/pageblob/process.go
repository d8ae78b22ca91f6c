package pageblob

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// errAgain says that the head is not what a plan was made for.
var errAgain = errors.New("the head changed")

// Process makes points of all that was received, in the order of the commits.
// If nothing waits it does nothing. Where another process is at it, it is
// fenced, and its work is gone on with: points are processed once, whoever does
// it. An error leaves points received, for the next Process.
func (s *Store) Process(ctx context.Context, m dr.MachineID) error {
	fail := func(id dr.PointID, err error) error { return failure("process", m, id, "", -1, err) }
	if err := m.Validate(); err != nil {
		return fail("", err)
	}
	st := s.machine(m)
	if err := take(ctx, st.process); err != nil {
		return fail("", err)
	}
	defer func() { <-st.process }()
	const tries = 20 // for one point
	try, last := 0, uint64(0)
	for {
		h, _, err := s.readHead(ctx, m)
		if err != nil {
			return fail("", err)
		}
		i := slices.IndexFunc(h.Points, func(e entry) bool { return e.Received })
		if i < 0 {
			return nil
		}
		e := h.Points[i]
		if try++; e.Seq != last {
			try, last = 1, e.Seq
		}
		err = s.processPoint(ctx, m, h, e)
		if errors.Is(err, errAgain) && try < tries {
			continue
		}
		if errors.Is(err, errAgain) {
			err = fmt.Errorf("%w: %w", dr.ErrConflict, err)
		}
		if err != nil {
			return fail(e.ID, err)
		}
	}
}

// pass is the processing of one point.
type pass struct {
	s      *Store
	m      dr.MachineID
	dir    string
	by     string // of this pass alone
	e      entry
	to     version
	parent version
	whole  content // of the point
	disks  []*target
	marked bool // the head gave this pass the turn
	leases *leases
}

// target is a disk and the page blob that is to hold it.
type target struct {
	disk  stored
	n     int    // its number in the manifest
	name  string // of the blob, within the machine's folder
	fresh bool   // the blob is new, and reads as zeros but for this point's
	// from is what the blob holds, but for what this point may have been
	// written over already. With promote that is not known, or too far away:
	// then the blob is made a copy of the parent's snapshot first.
	from     version
	promote  bool
	source   string // the parent's snapshot
	write    []dr.Extent
	snapshot string // made already
}

func (s *Store) processPoint(ctx context.Context, m dr.MachineID, h *head, e entry) error {
	p := &pass{s: s, m: m, dir: machineDir(m), by: newNonce(), e: e}
	err := p.run(ctx, h)
	gone, lost := isNotFound(err), isLeaseLost(err) || errors.Is(err, errFenced)
	if !gone && !lost {
		return err
	}
	// Whose turn it is, and whether there is anything left to do, the head says.
	now, _, herr := s.readHead(ctx, m)
	if herr != nil {
		return herr
	}
	cur := now.bySeq(e.Seq)
	switch {
	case cur == nil || !cur.Received || !p.marked && now.Rev != h.Rev:
		return errAgain
	case p.marked && !p.holdsTurn(now):
		return fmt.Errorf("%w: another process processes the machine's points", dr.ErrFenced)
	case lost:
		return fmt.Errorf("%w: a lease ran out, or was broken by hand: %v", dr.ErrConflict, plain(err))
	}
	return fmt.Errorf("%w: %v", dr.ErrCorrupt, plain(err))
}

// errFenced says that the head gives the turn to another pass.
var errFenced = errors.New("not this pass's turn")

// turn fails if the head gives the turn to another pass, or to none.
func (p *pass) turn(ctx context.Context) error {
	h, _, err := p.s.readHead(ctx, p.m)
	if err == nil && !p.holdsTurn(h) {
		err = errFenced
	}
	return err
}

func (p *pass) holdsTurn(h *head) bool {
	for _, t := range p.disks {
		if b := h.blob(t.name); b == nil || b.Applying != p.e.Seq || b.By != p.by {
			return false
		}
	}
	return true
}

func (p *pass) run(ctx context.Context, h *head) error {
	var err error
	if p.to, err = p.s.version(ctx, p.m, h, p.e.Seq); err != nil {
		return err
	}
	if p.parent, err = p.s.version(ctx, p.m, h, p.e.Parent); err != nil {
		return err
	}
	p.whole = p.s.received(p.m, p.to.mf, p.s.contentOf(p.m, p.e.Parent))
	again, err := p.plan(ctx, h)
	if err != nil {
		return err
	}
	if again {
		if err := p.findSnapshots(ctx); err != nil {
			return err
		}
	}
	if err := p.mark(ctx, h); err != nil {
		return err
	}
	lctx, l := p.s.lease(ctx)
	p.leases = l
	err = p.write(lctx)
	if cause := ended(lctx); err != nil && cause != nil {
		err = cause
	}
	l.release(ctx)
	if err != nil {
		return err
	}
	return p.finish(ctx)
}

// plan says for each disk which blob it goes to, and what is to be written.
// again says that a pass over this point was cut off.
func (p *pass) plan(ctx context.Context, h *head) (again bool, err error) {
	for n, d := range p.to.mf.Disks {
		t := &target{disk: d, n: n}
		p.disks = append(p.disks, t)
		pi, had := 0, false
		if p.parent.mf != nil {
			pi, had = p.parent.mf.disk(d.ID)
		}
		if !had {
			t.name, t.fresh = blobName(d.ID, p.e.Draft), true
			t.write = p.to.mf.delta[n].extents()
			again = again || h.blob(t.name) != nil
			continue
		}
		parent := p.parent.mf.Disks[pi]
		t.name, t.source = parent.Blob, parent.Snapshot
		b := h.blob(t.name)
		again = again || b != nil && b.Applying == p.e.Seq
		t.promote = b == nil || b.Holds == 0 || h.bySeq(b.Holds) == nil || b.Applying != 0 && b.Applying != p.e.Seq
		if !t.promote {
			if t.from, err = p.s.version(ctx, p.m, h, b.Holds); err != nil {
				return false, err
			}
			if t.write, err = p.extents(ctx, h, t); err != nil {
				return false, err
			}
			// A copy of the parent's snapshot is made by Azure; going back by
			// our own records takes every byte through this process.
			t.promote = t.from.seq != p.parent.seq && length(t.write) > length(p.to.mf.delta[n].extents())+p.s.promoteFrom
		}
		if t.promote {
			t.from = p.parent
			if t.write, err = p.extents(ctx, h, t); err != nil {
				return false, err
			}
		}
	}
	return again, nil
}

// length counts bytes that aren't zeros.
func length(l []dr.Extent) (n int64) {
	for _, e := range l {
		if !e.Zero {
			n += e.Len
		}
	}
	return n
}

// mark gives this pass the turn: the head says which blobs are being written,
// before the first byte is.
func (p *pass) mark(ctx context.Context, planned *head) error {
	_, err := p.s.changeHead(ctx, p.m, func(h *head) (bool, error) {
		if e := h.bySeq(p.e.Seq); e == nil || *e != p.e {
			return false, errAgain
		}
		for _, t := range p.disks {
			was, now := planned.blob(t.name), h.blob(t.name)
			if (was == nil) != (now == nil) || was != nil && *was != *now {
				return false, errAgain
			}
		}
		for _, t := range p.disks {
			b := h.blob(t.name)
			if b == nil {
				h.Blobs = append(h.Blobs, base{Name: t.name, Disk: t.disk.ID, Fresh: t.fresh})
				b = h.blob(t.name)
			}
			b.Applying, b.By = p.e.Seq, p.by
			if t.promote {
				b.Holds = 0
			}
		}
		return len(p.disks) > 0, nil
	})
	p.marked = err == nil
	return err
}

// write brings the point's content to the blobs, and snapshots all of them when
// all have it.
func (p *pass) write(ctx context.Context) error {
	each := func(do func(context.Context, *target) error) error {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(parallelDisks)
		for _, t := range p.disks {
			if t.snapshot == "" {
				g.Go(func() error {
					if err := do(gctx, t); err != nil {
						return located(err, p.m, p.e.ID, t.disk.ID)
					}
					return nil
				})
			}
		}
		return g.Wait()
	}
	if err := each(p.ready); err != nil {
		return err
	}
	// A pass that lost its turn before it took the leases would have taken
	// another's, or those of blobs that hold another point by now. From here
	// on whoever is given the turn breaks them before he writes.
	if err := p.turn(ctx); err != nil {
		return err
	}
	if slices.ContainsFunc(p.disks, func(t *target) bool { return t.promote && t.snapshot == "" }) {
		if err := each(p.promoted); err != nil {
			return err
		}
		if err := p.markPromoted(ctx); err != nil {
			return err
		}
	}
	if err := each(p.apply); err != nil {
		return err
	}
	return each(p.snapshot)
}

// located names the disk of an error that is told as it is otherwise.
func located(err error, m dr.MachineID, id dr.PointID, disk dr.DiskID) error {
	if isLeaseLost(err) || isNotFound(err) || isContextEnd(err) || errors.Is(err, errFenced) || errors.Is(err, errAgain) {
		return err // to be looked into
	}
	return failure("process", m, id, disk, -1, err)
}

// markPromoted says in the head that the blobs hold the parent.
func (p *pass) markPromoted(ctx context.Context) error {
	_, err := p.s.changeHead(ctx, p.m, func(h *head) (bool, error) {
		if !p.holdsTurn(h) {
			return false, errFenced
		}
		for _, t := range p.disks {
			if t.promote && t.snapshot == "" {
				h.blob(t.name).Holds = p.parent.seq
			}
		}
		return true, nil
	})
	return err
}

// finish makes the point one that is listed.
func (p *pass) finish(ctx context.Context) error {
	mf := *p.to.mf
	mf.Segments, mf.Disks, mf.delta = nil, slices.Clone(mf.Disks), nil
	for _, t := range p.disks {
		mf.Disks[t.n].Blob, mf.Disks[t.n].Snapshot = t.name, t.snapshot
	}
	for _, l := range p.to.mf.delta {
		var d pieces
		for _, q := range l {
			q.seg = noSegment
			q.at = min(q.at, 0)
			d.put(q)
		}
		mf.delta = append(mf.delta, d)
	}
	b := mf.bytes()
	_, err := p.s.changeHead(ctx, p.m, func(h *head) (bool, error) {
		e := h.bySeq(p.e.Seq)
		switch {
		case e == nil:
			return false, errAgain // deleted; Prune takes the snapshots
		case !e.Received:
			return false, nil // done, by whoever had the turn, or by us: the answer was lost
		case !p.holdsTurn(h):
			return false, errFenced
		}
		name := pointDir + string(p.e.ID) + "." + newNonce()
		if err := p.s.put(ctx, p.dir+name, b); err != nil {
			return false, err
		}
		e.Manifest, e.Received = name, false
		for _, t := range p.disks {
			b := h.blob(t.name)
			*b = base{Name: b.Name, Disk: b.Disk, Holds: p.e.Seq}
		}
		return true, nil
	})
	return err
}

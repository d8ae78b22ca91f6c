package memstore

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Options are what differs from one store to another. The zero value is a
// store that processes on Commit.
type Options struct {
	// Deferred makes Commit only receive: the point can be listed and opened
	// when Process made it. Then "latest" and "latest processed" differ.
	// Points received, and not processed, may be parents already.
	Deferred bool
}

// Store is a recoverypoint.PointStore, Pender and Processor. Its methods are
// safe for concurrent use.
type Store struct {
	deferred bool

	mu       sync.Mutex // taken after a work's, never before
	machines map[dr.MachineID]*machine
}

type machine struct {
	points   []*stored // processed, in the order of their commits
	received []*stored // committed after all of points
	drafts   []*work   // begun and not committed, in the order of their Create
	open     *draft    // the one being written, if any
}

var (
	_ recoverypoint.PointStore = (*Store)(nil)
	_ recoverypoint.Pender     = (*Store)(nil)
	_ recoverypoint.Processor  = (*Store)(nil)
)

// New returns an empty store.
func New(o Options) *Store {
	return &Store{deferred: o.Deferred, machines: map[dr.MachineID]*machine{}}
}

// Create begins or resumes a draft, as recoverypoint.PointStore says. A draft
// that was interrupted is kept until one of its ID goes on with it or throws
// it away, or Delete is called with its ID.
func (s *Store) Create(ctx context.Context, p dr.Point) (dr.Draft, error) {
	p = p.Clone()
	fail := func(err error) (dr.Draft, error) { return nil, failure("create", p, "", -1, err) }
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if err := recoverypoint.Check(p); err != nil {
		return fail(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machines[p.Machine.ID]
	if m == nil {
		m = &machine{}
	}
	if m.open != nil {
		return fail(fmt.Errorf("%w: point %s of the machine is being written", dr.ErrBusy, m.open.work.point.ID))
	}
	d := &draft{store: s, point: p}
	if done, ok := m.find(p.ID); ok {
		if !recoverypoint.SameDraft(done.point, p) {
			return fail(fmt.Errorf("%w: a point of that name, of %v", dr.ErrExists, done.point.Time))
		}
		d.work, d.done, d.idle = newWork(done.point.Clone(), done), true, true
	} else if i := slices.IndexFunc(m.drafts, func(w *work) bool { return w.point.ID == p.ID }); i >= 0 && recoverypoint.SameDraft(m.drafts[i].point, p) {
		d.work = m.drafts[i]
	} else {
		parent, ok := m.find(p.Parent)
		if p.Parent != "" && !ok {
			return fail(fmt.Errorf("%w: parent point %s", dr.ErrNotFound, p.Parent))
		}
		d.work = newWork(p, parent)
		m.forget(p.ID)
		m.drafts = append(m.drafts, d.work)
	}
	m.open = d
	s.machines[p.Machine.ID] = m
	return d, nil
}

// Open opens a processed point.
func (s *Store) Open(ctx context.Context, m dr.MachineID, id dr.PointID) (dr.Image, error) {
	p := dr.Point{ID: id, Machine: dr.Machine{ID: m}}
	if err := ctx.Err(); err != nil {
		return nil, failure("open", p, "", -1, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if mach := s.machines[m]; mach != nil {
		if i := slices.IndexFunc(mach.points, byID(id)); i >= 0 {
			return &image{stored: mach.points[i], store: s}, nil
		}
	}
	return nil, failure("open", p, "", -1, dr.ErrNotFound)
}

// List yields the processed points as they were when it was called.
func (s *Store) List(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
	return s.each(ctx, m, func(m *machine) (all []dr.Point) {
		for _, p := range m.points {
			all = append(all, p.point.Clone())
		}
		return all
	})
}

// Pending yields the drafts that are begun and not committed, the one that is
// being written among them.
func (s *Store) Pending(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
	return s.each(ctx, m, func(m *machine) (all []dr.Point) {
		for _, w := range m.drafts {
			all = append(all, w.point.Clone())
		}
		return all
	})
}

func (s *Store) each(ctx context.Context, m dr.MachineID, points func(*machine) []dr.Point) iter.Seq2[dr.Point, error] {
	return func(yield func(dr.Point, error) bool) {
		var all []dr.Point
		s.mu.Lock()
		if mach := s.machines[m]; mach != nil {
			all = points(mach)
		}
		s.mu.Unlock()
		if err := ctx.Err(); err != nil {
			yield(dr.Point{}, failure("list", dr.Point{Machine: dr.Machine{ID: m}}, "", -1, err))
			return
		}
		for _, p := range all {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// Delete removes the point, processed or not, or throws an interrupted draft
// of that ID away. A draft that is being written is ErrBusy.
func (s *Store) Delete(ctx context.Context, m dr.MachineID, id dr.PointID) error {
	p := dr.Point{ID: id, Machine: dr.Machine{ID: m}}
	if err := ctx.Err(); err != nil {
		return failure("delete", p, "", -1, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	mach := s.machines[m]
	if mach == nil {
		return nil
	}
	if mach.open != nil && mach.open.work.point.ID == id && !mach.open.idle {
		return failure("delete", p, "", -1, fmt.Errorf("%w: it is being written", dr.ErrBusy))
	}
	mach.points = slices.DeleteFunc(mach.points, byID(id))
	mach.received = slices.DeleteFunc(mach.received, byID(id))
	mach.forget(id)
	return nil
}

// Process makes points of all that was received, in the order of the commits.
// If nothing waits it does nothing.
func (s *Store) Process(ctx context.Context, m dr.MachineID) error {
	if err := ctx.Err(); err != nil {
		return failure("process", dr.Point{Machine: dr.Machine{ID: m}}, "", -1, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if mach := s.machines[m]; mach != nil {
		mach.points = append(mach.points, mach.received...)
		mach.received = nil
	}
	return nil
}

// Crash leaves the store as another process would find it after the one that
// used it died: drafts that were open are interrupted, and their handles fail
// with ErrFenced from now on. Images stay readable, which no process has.
func (s *Store) Crash() {
	s.mu.Lock()
	var open []*draft
	for _, m := range s.machines {
		if m.open != nil {
			open = append(open, m.open)
		}
	}
	s.mu.Unlock()
	for _, d := range open {
		d.work.mu.Lock()
		if d.err == nil {
			d.err = dr.ErrFenced
			s.release(d)
		}
		d.work.mu.Unlock()
	}
}

// commit makes the point visible, or at least received.
func (s *Store) commit(d *draft, p *stored) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machines[p.point.Machine.ID]
	m.forget(p.point.ID)
	if s.deferred {
		m.received = append(m.received, p)
	} else {
		m.points = append(m.points, p)
	}
	m.open = nil
}

// release ends a draft's hold on its machine.
func (s *Store) release(d *draft) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.machines[d.work.point.Machine.ID]; m.open == d {
		m.open = nil
	}
}

func (s *Store) find(m dr.MachineID, id dr.PointID) (*stored, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mach := s.machines[m]; mach != nil {
		return mach.find(id)
	}
	return nil, false
}

func (m *machine) find(id dr.PointID) (*stored, bool) {
	for _, l := range [][]*stored{m.points, m.received} {
		if i := slices.IndexFunc(l, byID(id)); i >= 0 {
			return l[i], true
		}
	}
	return nil, false
}

func (m *machine) forget(id dr.PointID) {
	m.drafts = slices.DeleteFunc(m.drafts, func(w *work) bool { return w.point.ID == id })
}

func byID(id dr.PointID) func(*stored) bool {
	return func(p *stored) bool { return p.point.ID == id }
}

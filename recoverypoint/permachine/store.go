package permachine

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// DefaultKeep is how many stores are kept open that nobody uses.
const DefaultKeep = 64

// Options say where the machines' stores are. Open is needed.
type Options struct {
	// Open opens a machine's store, or makes it. It is called when the store
	// isn't open, for several machines at a time. A store that is an io.Closer
	// is closed when it hasn't been asked for lately: its images and drafts must
	// outlive that, as a vault's do.
	Open func(ctx context.Context, m dr.MachineID) (recoverypoint.PointStore, error)
	// Keep is how many stores are kept open that no call uses; 0: DefaultKeep.
	// An open vault costs some 2 MB of buffers, and opening one some reads.
	Keep int
	// Machines lists the machines that have a store, for pruning and scrubbing.
	// Nil: those whose stores are open.
	Machines func(ctx context.Context) iter.Seq2[dr.MachineID, error]
}

// Store is a recoverypoint.PointStore whose machines have stores of their own.
// It is also a Processor, Pender, Pruner and Scrubber; for stores that lack one
// of these there is nothing to do. It is safe for concurrent use. Make one with
// New.
type Store struct {
	o Options

	mu     sync.Mutex
	closed bool
	stores map[dr.MachineID]*one
	cutOff dr.MachineID // with which the next Prune begins; "": any
	idle   list.List    // of *one that are open and in no call, the longest first
}

// one is a machine's store. turn is held by who opens it; all else is under
// Store.mu.
type one struct {
	m     dr.MachineID
	turn  chan struct{}
	calls int
	store recoverypoint.PointStore
	idle  *list.Element // nil while it is in a call or not open
}

// New returns a store of stores. It panics without Options.Open.
func New(o Options) *Store {
	if o.Open == nil {
		panic("permachine: Options.Open is needed")
	}
	if o.Keep <= 0 {
		o.Keep = DefaultKeep
	}
	return &Store{o: o, stores: map[dr.MachineID]*one{}}
}

var errClosed = fmt.Errorf("stores of machines: %w", fs.ErrClosed)

// of returns the machine's store, which stays open until done is called.
func (s *Store) of(ctx context.Context, m dr.MachineID) (store recoverypoint.PointStore, done func(), err error) {
	if err := m.Validate(); err != nil {
		return nil, nil, err
	}
	x := s.enter(m)
	defer func() {
		if err != nil {
			s.leave(x)
		}
	}()
	select {
	case x.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	defer func() { <-x.turn }()
	s.mu.Lock()
	store, closed := x.store, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return nil, nil, errClosed
	case store != nil:
		return store, func() { s.leave(x) }, nil
	}
	if store, err = s.o.Open(ctx, m); err != nil {
		return nil, nil, &dr.Error{Op: "open the store", Side: dr.StoreSide, Machine: m, Err: err}
	}
	s.mu.Lock()
	if closed = s.closed; !closed {
		x.store = store
	}
	s.mu.Unlock()
	if closed { // meanwhile
		return nil, nil, errors.Join(errClosed, shut(store))
	}
	return store, func() { s.leave(x) }, nil
}

func (s *Store) enter(m dr.MachineID) *one {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.stores[m]
	if x == nil {
		x = &one{m: m, turn: make(chan struct{}, 1)}
		s.stores[m] = x
	}
	x.calls++
	if x.idle != nil {
		s.idle.Remove(x.idle)
		x.idle = nil
	}
	return x
}

// leave ends a call, and closes the stores that are too many.
func (s *Store) leave(x *one) {
	s.mu.Lock()
	if x.calls--; x.calls == 0 {
		if x.store == nil { // it couldn't be opened, or all is closed
			delete(s.stores, x.m)
		} else {
			x.idle = s.idle.PushBack(x)
		}
	}
	var old []recoverypoint.PointStore
	for s.idle.Len() > s.o.Keep {
		o := s.idle.Remove(s.idle.Front()).(*one)
		old = append(old, o.store)
		delete(s.stores, o.m)
	}
	s.mu.Unlock()
	for _, o := range old {
		_ = shut(o) // nothing that was written waits for it
	}
}

func shut(s recoverypoint.PointStore) error {
	if c, ok := s.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Close closes all stores. Images and drafts that are open are as those stores
// leave them. A second Close does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	var all []recoverypoint.PointStore
	for m, x := range s.stores {
		if x.store != nil {
			all = append(all, x.store)
			x.store = nil
		}
		if x.calls == 0 {
			delete(s.stores, m)
		}
	}
	s.idle.Init()
	s.mu.Unlock()
	var errs []error
	for _, x := range all {
		errs = append(errs, shut(x))
	}
	return errors.Join(errs...)
}

// Create implements recoverypoint.PointStore.
func (s *Store) Create(ctx context.Context, p dr.Point) (dr.Draft, error) {
	x, done, err := s.of(ctx, p.Machine.ID)
	if err != nil {
		return nil, err
	}
	defer done()
	return x.Create(ctx, p)
}

// Open implements recoverypoint.PointStore.
func (s *Store) Open(ctx context.Context, m dr.MachineID, id dr.PointID) (dr.Image, error) {
	x, done, err := s.of(ctx, m)
	if err != nil {
		return nil, err
	}
	defer done()
	return x.Open(ctx, m, id)
}

// List implements recoverypoint.PointStore.
func (s *Store) List(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
	return s.points(ctx, m, func(x recoverypoint.PointStore) iter.Seq2[dr.Point, error] { return x.List(ctx, m) })
}

// Pending implements recoverypoint.Pender.
func (s *Store) Pending(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
	return s.points(ctx, m, func(x recoverypoint.PointStore) iter.Seq2[dr.Point, error] {
		if p, ok := dr.As[recoverypoint.Pender](x); ok {
			return p.Pending(ctx, m)
		}
		return func(func(dr.Point, error) bool) {}
	})
}

func (s *Store) points(ctx context.Context, m dr.MachineID, of func(recoverypoint.PointStore) iter.Seq2[dr.Point, error]) iter.Seq2[dr.Point, error] {
	return func(yield func(dr.Point, error) bool) {
		x, done, err := s.of(ctx, m)
		if err != nil {
			yield(dr.Point{}, err)
			return
		}
		defer done()
		of(x)(yield)
	}
}

// Delete implements recoverypoint.PointStore.
func (s *Store) Delete(ctx context.Context, m dr.MachineID, id dr.PointID) error {
	x, done, err := s.of(ctx, m)
	if err != nil {
		return err
	}
	defer done()
	return x.Delete(ctx, m, id)
}

// Process implements recoverypoint.Processor.
func (s *Store) Process(ctx context.Context, m dr.MachineID) error {
	x, done, err := s.of(ctx, m)
	if err != nil {
		return err
	}
	defer done()
	if p, ok := dr.As[recoverypoint.Processor](x); ok {
		return p.Process(ctx, m)
	}
	return nil
}

// Prune implements recoverypoint.Pruner, one machine after the other, beginning
// behind the one at which the last Prune was cut off, or anywhere: thousands of
// machines take long, and none must wait for ever. A store that is being written to
// elsewhere (dr.ErrBusy) is left for the next time; of others that fail the errors
// are joined, when all were tried. While a machine's store is pruned here, who
// writes to it elsewhere is refused so.
func (s *Store) Prune(ctx context.Context) (given int64, err error) {
	var all []dr.MachineID
	for m, err := range s.machines(ctx) {
		if err != nil {
			return 0, err
		}
		all = append(all, m)
	}
	s.mu.Lock()
	first := slices.Index(all, s.cutOff)
	s.mu.Unlock()
	if first < 0 && len(all) > 0 {
		first = rand.IntN(len(all))
	}
	var errs []error
	for i := range all {
		m := all[(first+i)%len(all)]
		n, err := s.prune(ctx, m)
		given += n
		switch {
		case ctx.Err() != nil:
			s.mu.Lock()
			s.cutOff = all[(first+i+1)%len(all)]
			s.mu.Unlock()
			return given, errors.Join(append(errs, ctx.Err())...)
		case err != nil && !errors.Is(err, dr.ErrBusy):
			errs = append(errs, fmt.Errorf("prune machine %s: %w", m, err))
		}
	}
	return given, errors.Join(errs...)
}

func (s *Store) prune(ctx context.Context, m dr.MachineID) (int64, error) {
	x, done, err := s.of(ctx, m)
	if err != nil {
		return 0, err
	}
	defer done()
	if p, ok := dr.As[recoverypoint.Pruner](x); ok {
		return p.Prune(ctx)
	}
	return 0, nil
}

// Scrub implements recoverypoint.Scrubber, one machine after the other. A store that
// can't be checked, as it is damaged beyond opening or being pruned elsewhere, doesn't
// keep the others from it: the errors are joined, and end it when all were tried.
func (s *Store) Scrub(ctx context.Context) iter.Seq2[recoverypoint.Damage, error] {
	return func(yield func(recoverypoint.Damage, error) bool) {
		var errs []error
		for m, err := range s.machines(ctx) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				errs = append(errs, err)
				break
			}
			wanted, err := s.scrub(ctx, m, yield)
			if !wanted {
				return
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("scrub machine %s: %w", m, err))
			}
		}
		if len(errs) > 0 {
			yield(recoverypoint.Damage{}, errors.Join(errs...))
		}
	}
}

// scrub checks one machine's store, and reports whether the next is wanted.
func (s *Store) scrub(ctx context.Context, m dr.MachineID, yield func(recoverypoint.Damage, error) bool) (wanted bool, err error) {
	x, done, err := s.of(ctx, m)
	if err != nil {
		return true, err
	}
	defer done()
	if sc, ok := dr.As[recoverypoint.Scrubber](x); ok {
		for d, err := range sc.Scrub(ctx) {
			if err != nil {
				return true, err
			}
			if !yield(d, nil) {
				return false, nil
			}
		}
	}
	return true, nil
}

func (s *Store) machines(ctx context.Context) iter.Seq2[dr.MachineID, error] {
	if s.o.Machines != nil {
		return s.o.Machines(ctx)
	}
	return func(yield func(dr.MachineID, error) bool) {
		s.mu.Lock()
		var all []dr.MachineID
		for m, x := range s.stores {
			if x.store != nil {
				all = append(all, m)
			}
		}
		s.mu.Unlock()
		slices.Sort(all)
		for _, m := range all {
			if !yield(m, nil) {
				return
			}
		}
	}
}

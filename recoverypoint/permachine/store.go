package permachine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"sync"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Options say where the machines' stores are. Open is needed.
type Options struct {
	// Open opens a machine's store, or makes it. It is called once for each
	// machine, several at a time; one that fails is tried again by the next
	// call. A store that is an io.Closer is closed by Store.Close.
	Open func(ctx context.Context, m dr.MachineID) (recoverypoint.PointStore, error)
	// Machines lists the machines that have a store, for pruning and scrubbing.
	// Nil: those that were asked for since the Store was made.
	Machines func(ctx context.Context) iter.Seq2[dr.MachineID, error]
}

// Store is a recoverypoint.PointStore whose machines have stores of their own.
// It is also a Processor, Pender, Pruner and Scrubber; for stores that lack one
// of these there is nothing to do. It is safe for concurrent use. Make one with
// New.
//
// It keeps every store open that was asked for: see to it that one is small.
type Store struct {
	o Options

	mu     sync.Mutex
	closed bool
	stores map[dr.MachineID]*one
}

// one is a machine's store. turn is held by who opens it.
type one struct {
	turn  chan struct{}
	store recoverypoint.PointStore
}

// New returns a store of stores. It panics without Options.Open.
func New(o Options) *Store {
	if o.Open == nil {
		panic("permachine: Options.Open is needed")
	}
	return &Store{o: o, stores: map[dr.MachineID]*one{}}
}

// of returns the machine's store.
func (s *Store) of(ctx context.Context, m dr.MachineID) (recoverypoint.PointStore, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	x := s.stores[m]
	if x == nil {
		x = &one{turn: make(chan struct{}, 1)}
		s.stores[m] = x
	}
	s.mu.Unlock()
	select {
	case x.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-x.turn }()
	s.mu.Lock()
	store, closed := x.store, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return nil, fmt.Errorf("stores of machines: %w", fs.ErrClosed)
	case store != nil:
		return store, nil
	}
	store, err := s.o.Open(ctx, m)
	if err != nil {
		return nil, &dr.Error{Op: "open the store", Side: dr.StoreSide, Machine: m, Err: err}
	}
	s.mu.Lock()
	closed = s.closed
	if !closed {
		x.store = store
	}
	s.mu.Unlock()
	if closed { // meanwhile
		return nil, errors.Join(fmt.Errorf("stores of machines: %w", fs.ErrClosed), shut(store))
	}
	return store, nil
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
	for _, x := range s.stores {
		if x.store != nil {
			all = append(all, x.store)
			x.store = nil
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, x := range all {
		errs = append(errs, shut(x))
	}
	return errors.Join(errs...)
}

// Create implements recoverypoint.PointStore.
func (s *Store) Create(ctx context.Context, p dr.Point) (dr.Draft, error) {
	x, err := s.of(ctx, p.Machine.ID)
	if err != nil {
		return nil, err
	}
	return x.Create(ctx, p)
}

// Open implements recoverypoint.PointStore.
func (s *Store) Open(ctx context.Context, m dr.MachineID, id dr.PointID) (dr.Image, error) {
	x, err := s.of(ctx, m)
	if err != nil {
		return nil, err
	}
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
		x, err := s.of(ctx, m)
		if err != nil {
			yield(dr.Point{}, err)
			return
		}
		of(x)(yield)
	}
}

// Delete implements recoverypoint.PointStore.
func (s *Store) Delete(ctx context.Context, m dr.MachineID, id dr.PointID) error {
	x, err := s.of(ctx, m)
	if err != nil {
		return err
	}
	return x.Delete(ctx, m, id)
}

// Process implements recoverypoint.Processor.
func (s *Store) Process(ctx context.Context, m dr.MachineID) error {
	x, err := s.of(ctx, m)
	if err != nil {
		return err
	}
	if p, ok := dr.As[recoverypoint.Processor](x); ok {
		return p.Process(ctx, m)
	}
	return nil
}

// Prune implements recoverypoint.Pruner, one machine after the other. A store
// that is being written to elsewhere (dr.ErrBusy) is left for the next time; of
// others that fail the errors are joined, when all were tried.
func (s *Store) Prune(ctx context.Context) (given int64, err error) {
	var errs []error
	for m, err := range s.machines(ctx) {
		if err != nil {
			return given, errors.Join(append(errs, err)...)
		}
		x, err := s.of(ctx, m)
		if err == nil {
			if p, ok := dr.As[recoverypoint.Pruner](x); ok {
				var n int64
				n, err = p.Prune(ctx)
				given += n
			}
		}
		switch {
		case ctx.Err() != nil:
			return given, errors.Join(append(errs, ctx.Err())...)
		case err != nil && !errors.Is(err, dr.ErrBusy):
			errs = append(errs, fmt.Errorf("prune machine %s: %w", m, err))
		}
	}
	return given, errors.Join(errs...)
}

// Scrub implements recoverypoint.Scrubber, one machine after the other.
func (s *Store) Scrub(ctx context.Context) iter.Seq2[recoverypoint.Damage, error] {
	return func(yield func(recoverypoint.Damage, error) bool) {
		for m, err := range s.machines(ctx) {
			var x recoverypoint.PointStore
			if err == nil {
				x, err = s.of(ctx, m)
			}
			if err != nil {
				yield(recoverypoint.Damage{}, err)
				return
			}
			sc, ok := dr.As[recoverypoint.Scrubber](x)
			if !ok {
				continue
			}
			for d, err := range sc.Scrub(ctx) {
				if !yield(d, err) || err != nil {
					return
				}
			}
		}
	}
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

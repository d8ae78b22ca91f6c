package embedded

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// serving is one call of Serve.
type serving struct {
	ctx     context.Context // ends with the cause errEnding
	actions dr.Actions
	queues  []string
	slots   *semaphore.Weighted
	alone   *semaphore.Weighted // held by the one suspect that may begin (dr.Task.Suspect)

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// add takes a place for a goroutine that Serve waits for; false: too late.
func (s *serving) add() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

func (s *serving) done() { s.wg.Done() }

// place waits for one of the places of Options.Parallel. Steps that only wait
// need none: they would keep what they wait for from having one.
func (s *serving) place(ctx context.Context, task dr.Task) error {
	if task.Step.Waits {
		return ctx.Err()
	}
	return s.slots.Acquire(ctx, 1)
}

// tryPlace is place that doesn't wait.
func (s *serving) tryPlace(task dr.Task) bool { return task.Step.Waits || s.slots.TryAcquire(1) }

// leave gives the place back.
func (s *serving) leave(task dr.Task) {
	if !task.Step.Waits {
		s.slots.Release(1)
	}
}

// Serve runs the steps. When ctx ends it stops the actions, and returns when
// they have returned and what they came to is recorded: an action that doesn't
// stop when its context ends keeps it from returning, as calling it again
// beside itself would be worse. ErrBusy: the engine is being served already.
// ErrUnsupported, naming run and action: an open run needs an action that a
// doesn't have. Claims that can't be reached are asked again and again.
func (e *Engine) Serve(ctx context.Context, a dr.Actions, queues ...string) error {
	s := &serving{actions: a, queues: queues, slots: semaphore.NewWeighted(int64(e.o.Parallel)), alone: semaphore.NewWeighted(1)}
	var end context.CancelCauseFunc
	s.ctx, end = context.WithCancelCause(context.WithoutCancel(ctx))
	runs, served, err := e.beginServing(s)
	if err != nil {
		end(err)
		return err
	}
	defer close(served)
	e.log.Info("serving", "runs", len(runs), "queues", queues)
	for _, r := range runs {
		r.poke()
	}
	e.serveUntil(ctx)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	end(errEnding)
	s.wg.Wait()
	e.endServing()
	if err := e.dead(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return e.closedErr()
}

func (e *Engine) closedErr() error { return fmt.Errorf("journal %s: %w", e.path, ErrClosed) }

func (e *Engine) beginServing(s *serving) ([]*run, chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.dead(); err != nil {
		return nil, nil, err
	}
	if e.quitting() {
		return nil, nil, e.closedErr()
	}
	if e.serves.Load() != nil {
		return nil, nil, fmt.Errorf("journal %s: %w: it is being served already", e.path, dr.ErrBusy)
	}
	runs := make([]*run, 0, len(e.live))
	for _, r := range e.live {
		runs = append(runs, r)
	}
	slices.SortFunc(runs, func(a, b *run) int { return cmp.Compare(a.n, b.n) })
	for _, r := range runs {
		r.view.Lock()
		err := s.able(r.id, r.seen)
		r.view.Unlock()
		if err != nil {
			return nil, nil, err
		}
	}
	e.served = make(chan struct{})
	e.serves.Store(s)
	return runs, e.served, nil
}

// able refuses a run that needs an action which is not registered.
func (s *serving) able(id dr.RunID, f *dr.Run) error {
	for _, name := range f.Needs(s.queues...) {
		if s.actions[name] == nil {
			return fmt.Errorf("run %s needs action %q, which is not registered: %w", id, name, dr.ErrUnsupported)
		}
	}
	return nil
}

// checkEvery is how soon a process that was taken over while it stood still
// stops its actions, if it has nothing to write before.
const checkEvery = 10 * time.Second

// serveUntil returns when ctx ends or the engine dies. Meanwhile it purges,
// and looks whether the file is still its own.
func (e *Engine) serveUntil(ctx context.Context) {
	var hourly <-chan time.Time
	if e.o.Keep > 0 {
		t := time.NewTicker(time.Hour)
		defer t.Stop()
		hourly = t.C
	}
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	for purge := e.o.Keep > 0; ; {
		if purge {
			purge = false
			if n, err := e.Purge(ctx, e.o.Keep); err != nil {
				e.log.Warn("ended runs not purged", "err", err)
			} else if n > 0 {
				e.log.Info("ended runs purged", "runs", n)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-e.ctx.Done():
			return
		case <-e.quit:
			return
		case <-hourly:
			purge = true
		case <-check.C:
			if err := e.checkOwner(ctx); err != nil && ctx.Err() == nil {
				e.log.Warn("owner of the journal not known", "err", err)
			}
		}
	}
}

// endServing has every run forget what it had in hand. No action runs any
// more; timers may.
func (e *Engine) endServing() {
	e.mu.Lock()
	runs := make([]*run, 0, len(e.live))
	for _, r := range e.live {
		runs = append(runs, r)
	}
	e.mu.Unlock()
	for _, r := range runs {
		_ = r.tell(func() (*dr.Event, error) { // a dead engine needs no tidying
			for k, h := range r.hand {
				if !h.outside {
					h.stop(errEnding)
					delete(r.hand, k)
				}
			}
			return nil, nil
		})
	}
	e.serves.Store(nil)
}

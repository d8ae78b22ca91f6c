package temporal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Why an action is stopped.
var (
	errEnding    = errors.New("the worker stops serving")
	errCancelled = errors.New("stopped because the run ends")
	errLost      = errors.New("stopped because Temporal could not be reached, and may have given the step to another worker")
	errGone      = errors.New("stopped because Temporal doesn't know of this attempt any more")
)

// maxWaiting is how many steps that only wait a process holds for one queue.
const maxWaiting = 5000

// serving is one call of Serve.
type serving struct {
	e       *Engine
	ctx     context.Context // of the actions; ends with the cause errEnding
	actions dr.Actions
	queues  []string
	all     bool // no queues were given: those that runs name are served as they are found
	alone   *semaphore.Weighted

	broken chan error // a worker can't go on

	mu      sync.Mutex
	closed  bool
	workers map[string]worker.Worker // by task queue
}

// Serve runs the steps: those of all queues that runs name, or of the given
// ones and of queue "". Any number of processes may, each with its own actions.
// When ctx ends it stops the actions, and returns when they have returned and
// what they came to is recorded: an action that doesn't stop when its context
// ends keeps it from returning.
//
// ErrBusy: the engine is being served already. ErrUnsupported, naming run and
// action: an open run needs an action that a doesn't have. A step of a run that
// comes later, from a process that doesn't serve, waits until it is served by
// who has its action.
func (e *Engine) Serve(ctx context.Context, a dr.Actions, queues ...string) error {
	s := &serving{e: e, actions: a, queues: queues, all: len(queues) == 0, alone: semaphore.NewWeighted(1),
		broken: make(chan error, 1), workers: map[string]worker.Worker{}}
	var end context.CancelCauseFunc
	s.ctx, end = context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(errEnding)
	served, err := e.beginServing(s)
	if err != nil {
		return err
	}
	defer close(served)
	err = s.begin(ctx)
	if err == nil {
		e.log.Info("serving", "engine", e.o.Queue, "queues", queues)
		err = s.until(ctx)
	}
	end(errEnding)
	s.stop()
	e.mu.Lock()
	e.serves, e.served = nil, nil
	e.mu.Unlock()
	return err
}

func (e *Engine) serving() *serving {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.serves
}

func (e *Engine) beginServing(s *serving) (chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.dead(); err != nil {
		return nil, err
	}
	if e.serves != nil {
		return nil, fmt.Errorf("temporal engine %s: %w: it is being served already", e.o.Queue, dr.ErrBusy)
	}
	e.served = make(chan struct{})
	e.serves = s
	return e.served, nil
}

// begin looks whether the open runs can be served, and has the workers polling.
func (s *serving) begin(ctx context.Context) error {
	runs, err := s.e.list(ctx, true)
	if err != nil {
		return err
	}
	if err := s.ableAll(ctx, runs); err != nil {
		return err
	}
	queues := append([]string{""}, s.queues...)
	if s.all {
		queues = append(queues, s.e.o.Sites...)
		for _, r := range runs {
			queues = append(queues, sorted(r.Needs)...)
		}
	}
	for _, q := range queues {
		if err := s.poll(q); err != nil {
			return err
		}
	}
	return nil
}

// ableAll asks those runs what they still need whose plans need, or may need,
// something that isn't registered.
func (s *serving) ableAll(ctx context.Context, runs []listed) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, r := range runs {
		if r.Needs != nil && s.able(r.Run, s.of(r.planned)) == nil {
			continue
		}
		g.Go(func() error {
			i, err := s.e.describe(gctx, "needs", r.Run)
			if errors.Is(err, dr.ErrNotFound) || err == nil && i.closed {
				return nil
			}
			if err != nil {
				return err
			}
			var needs []string
			err = s.e.ask(gctx, "needs", r.Run, needsQuery, &needs, s.queues)
			if blocked(err) {
				// It must not keep all others from being served. What it offers that isn't
				// registered here is declined.
				s.e.log.Error("an open run can't say which actions it needs", "run", r.Run, "err", err)
				return nil
			}
			if err != nil {
				return err
			}
			return s.able(r.Run, needs)
		})
	}
	return g.Wait()
}

// of lists the plan's actions that are served here.
func (s *serving) of(p planned) []string {
	var names []string
	for _, q := range sorted(p.Needs) {
		if dr.Serves(q, s.queues) {
			names = append(names, p.Needs[q]...)
		}
	}
	return names
}

// able refuses a run that needs an action which is not registered.
func (s *serving) able(id dr.RunID, needs []string) error {
	for _, name := range needs {
		if s.actions[name] == nil {
			return fmt.Errorf("run %s needs action %q, which is not registered: %w", id, name, dr.ErrUnsupported)
		}
	}
	return nil
}

// poll has workers take the steps of a queue; again it does nothing.
func (s *serving) poll(queue string) error {
	for _, waits := range []bool{false, true} {
		name := taskQueue(s.e.o.Queue, queue, waits)
		s.mu.Lock()
		if s.closed || s.workers[name] != nil {
			s.mu.Unlock()
			continue
		}
		places := s.e.o.Parallel
		if waits {
			places = maxWaiting
		}
		w := worker.New(s.e.c, name, worker.Options{
			MaxConcurrentActivityExecutionSize: places,
			MaxConcurrentActivityTaskPollers:   2, // a site that is cut off takes a step with each, until its Heartbeat is over
			DisableWorkflowWorker:              true,
			WorkerStopTimeout:                  longest, // an action beside its own successor would be worse
			OnFatalError:                       s.fatal,
		})
		w.RegisterActivityWithOptions(s.step, activity.RegisterOptions{Name: stepName})
		w.RegisterActivityWithOptions(present, activity.RegisterOptions{Name: presentName})
		// Under the lock, so that stop doesn't come between: it would be polling
		// for ever.
		err := w.Start()
		if err == nil {
			s.workers[name] = w
		}
		s.mu.Unlock()
		if err != nil {
			return explain(context.Background(), "serve queue "+queue, err)
		}
	}
	return nil
}

func (s *serving) fatal(err error) {
	select {
	case s.broken <- explain(context.Background(), "serve", err):
	default:
	}
}

// see has a run's queues served.
func (s *serving) see(p planned) {
	if !s.all {
		return
	}
	for _, q := range sorted(p.Needs) {
		if err := s.poll(q); err != nil {
			s.fatal(err)
		}
	}
}

// until returns when ctx ends, or it can't go on. Meanwhile it looks for
// queues that aren't served yet.
func (s *serving) until(ctx context.Context) error {
	tick := time.NewTicker(s.e.o.Discover)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.e.ctx.Done():
			return s.e.dead()
		case err := <-s.broken:
			return err
		case <-tick.C:
			if !s.all {
				continue
			}
			runs, err := s.e.list(ctx, true)
			if err != nil {
				s.e.log.Warn("open runs not listed, so new queues are not seen", "err", err)
				continue
			}
			for _, r := range runs {
				s.see(r.planned)
			}
		}
	}
}

// stop ends polling, and waits for the actions.
func (s *serving) stop() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, w := range s.workers {
		wg.Go(w.Stop)
	}
	wg.Wait()
}

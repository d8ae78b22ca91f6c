package embedded

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Why something in hand is stopped.
var (
	errEnding    = errors.New("the engine stops serving")
	errCancelled = errors.New("stopped because the run ends")
)

// aloneFor is how long a suspect runs before the next one may begin beside it.
// What kills a process mostly does so at once, and a copy takes hours.
const aloneFor = time.Minute

// plan lets go of what is not wanted any more and begins what is.
func (r *run) plan(t *turn) error {
	for {
		again, err := r.planOnce(t)
		if err != nil {
			return err
		}
		if !again {
			break
		}
	}
	for k, give := range r.granted { // turns that nobody wants any more
		delete(r.granted, k)
		give()
	}
	return nil
}

// planOnce reports true if what it recorded may have changed what is wanted.
func (r *run) planOnce(t *turn) (again bool, err error) {
	tasks := r.fold.Next()
	r.letGo(tasks)
	s := r.e.serves.Load()
	for _, task := range tasks {
		k := key{task.Kind, task.Step.ID}
		if h := r.hand[k]; h != nil {
			if task.Stop {
				h.stop(errCancelled)
			}
			if h.lapsed {
				delete(r.hand, k)
				return true, r.addAll(t, task.Lapse(now(), dr.NoWorkers, 0))
			}
			continue
		}
		if task.Kind == dr.TaskRelease && r.e.o.Claims == nil {
			// It needs nobody who serves: it is part of the write.
			return false, r.add(t, dr.Event{Kind: dr.EventReleased, At: now()})
		}
		if s == nil || s.ctx.Err() != nil {
			continue
		}
		if !dr.Serves(task.Step.Queue, s.queues) {
			r.unserved(k, task)
			continue
		}
		switch task.Kind {
		case dr.TaskDo, dr.TaskUndo:
			again, err = r.begin(t, s, k, task)
		case dr.TaskGate:
			again, err = r.gate(t, s, k, task)
		case dr.TaskClaim:
			r.outside(t, s, k, r.claimAgain)
		case dr.TaskRelease:
			if len(r.hand) == 0 { // a claim may still be under way
				r.outside(t, s, k, r.releaseAll)
			}
		}
		if again || err != nil {
			return again, err
		}
	}
	return false, nil
}

// letGo stops what is in hand and not wanted any more.
func (r *run) letGo(tasks []dr.Task) {
	if len(r.hand) == 0 {
		return
	}
	want := make(map[key]bool, len(tasks))
	for _, t := range tasks {
		want[key{t.Kind, t.Step.ID}] = true
	}
	for k, h := range r.hand {
		if want[k] {
			continue
		}
		h.stop(errCancelled)
		if h.idle {
			delete(r.hand, k)
		}
	}
}

// begin records that an attempt begins and has it started, or waits for its
// turn.
func (r *run) begin(t *turn, s *serving, k key, task dr.Task) (again bool, err error) {
	give := r.granted[k]
	if give == nil {
		if task.Failed > 0 || task.Suspect() || !s.tryPlace(task) {
			r.await(t, s, k, task)
			return false, nil
		}
		give = func() { s.leave(task) }
	}
	delete(r.granted, k)
	if !s.add() {
		give()
		return false, nil
	}
	begun := task.Begin(now())
	if err := r.add(t, begun); err != nil || begun.Kind != dr.EventBegun {
		give()
		s.done()
		return true, err
	}
	a := &attempt{r: r, s: s, give: give, k: k, task: task, begun: begun, call: r.fold.Call(task, begun.Attempt)}
	a.ctx, a.stop = context.WithCancelCause(s.ctx)
	r.hand[k] = &hand{stop: a.stop}
	t.starts = append(t.starts, start{run: a.run, abandon: func() {
		give()
		s.done()
	}})
	return false, nil
}

// await waits for the time of the next attempt and for a slot, and then lets
// the run look again.
func (r *run) await(t *turn, s *serving, k key, task dr.Task) {
	if !s.add() {
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	h := &hand{stop: func(error) { cancel() }, idle: true}
	r.hand[k] = h
	t.starts = append(t.starts, start{abandon: func() { cancel(); s.done() }, run: func() {
		defer s.done()
		defer cancel()
		if !pause(ctx, r.e.o.backoff(task.Failed)) {
			return
		}
		give, ok := r.slot(ctx, s, task)
		if !ok {
			return
		}
		err := r.tell(func() (*dr.Event, error) {
			if r.hand[k] != h {
				give()
				return nil, nil
			}
			delete(r.hand, k)
			r.granted[k] = give
			return nil, nil
		})
		if err != nil {
			r.e.log.Debug("engine stopped while a step waited for its turn", "run", r.id, "step", k.step, "err", err)
		}
	}})
}

// slot waits for a slot, and for that of a suspect also until no other one has
// just begun. They come in an order that is another one in each life: what
// kills the process is not always last, or each life would begin, and lose, all
// the others before it.
func (r *run) slot(ctx context.Context, s *serving, task dr.Task) (give func(), ok bool) {
	alone := func() {}
	if task.Suspect() {
		if !pause(ctx, rand.N(r.e.o.BackoffMost/10+1)) || s.alone.Acquire(ctx, 1) != nil {
			return nil, false
		}
		alone = sync.OnceFunc(func() { s.alone.Release(1) })
	}
	if s.place(ctx, task) != nil {
		alone()
		return nil, false
	}
	if task.Suspect() {
		r.e.log.Warn("the process died in each of this step's last attempts: it is begun alone", "run", r.id, "step", task.Step.ID, "undo", task.Kind == dr.TaskUndo)
		timer := time.AfterFunc(aloneFor, alone)
		return func() { timer.Stop(); alone(); s.leave(task) }, true
	}
	return func() { s.leave(task) }, true
}

// unserved sets the clock for a step that nobody takes up: this process is the
// only one.
func (r *run) unserved(k key, task dr.Task) {
	if task.Step.Patience == 0 {
		return
	}
	h := &hand{idle: true}
	timer := time.AfterFunc(task.Step.Patience, func() {
		r.post(message{event: func() (*dr.Event, error) {
			h.lapsed = r.hand[k] == h
			return nil, nil
		}})
	})
	h.stop = func(error) { timer.Stop() }
	r.hand[k] = h
}

func (r *run) addAll(t *turn, events []dr.Event) error {
	for _, ev := range events {
		if err := r.add(t, ev); err != nil {
			return err
		}
	}
	return nil
}

// gate opens a gate, or sets the clock for one.
func (r *run) gate(t *turn, s *serving, k key, task dr.Task) (again bool, err error) {
	if task.Opened.IsZero() {
		return true, r.add(t, dr.Event{Kind: dr.EventOpened, At: now(), Step: task.Step.ID})
	}
	if task.Deadline.IsZero() {
		return false, nil
	}
	h := &hand{idle: true}
	timer := time.AfterFunc(until(task.Deadline), func() {
		r.post(message{event: func() (*dr.Event, error) {
			if r.hand[k] != h {
				return nil, nil
			}
			delete(r.hand, k)
			return &dr.Event{Kind: dr.EventExpired, At: now(), Step: k.step}, nil
		}})
	})
	h.stop = func(error) { timer.Stop() }
	r.hand[k] = h
	return false, nil
}

// outside does what other claims than the engine's own need: do is tried
// until it comes to something or the engine stops serving.
func (r *run) outside(t *turn, s *serving, k key, do func(context.Context) (dr.Event, error)) {
	if !s.add() {
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	r.hand[k] = &hand{stop: func(error) { cancel() }}
	t.starts = append(t.starts, start{abandon: func() { cancel(); s.done() }, run: func() {
		defer s.done()
		defer cancel()
		var ev dr.Event
		var err error
		for n := 0; ; n++ {
			if !pause(ctx, r.e.o.backoff(n)) {
				err = ctx.Err()
				break
			}
			if ev, err = do(ctx); err == nil {
				break
			}
			r.e.log.Warn("claims can't be reached", "run", r.id, "task", k.kind, "err", err)
			r.troubled(fmt.Sprintf("its claims can't be reached, and are tried again: %v", err))
		}
		r.troubled("")
		_ = r.tell(func() (*dr.Event, error) { // a dead engine has said so elsewhere
			delete(r.hand, k)
			if err != nil || !r.wants(k.kind) {
				return nil, nil
			}
			return &ev, nil
		})
	}})
}

// wants reports whether the fold still asks for a claim or a release.
func (r *run) wants(kind dr.TaskKind) bool {
	for _, t := range r.fold.Next() {
		if t.Kind == kind {
			return true
		}
	}
	return false
}

// claimAgain finishes the claiming that a crash has interrupted.
func (r *run) claimAgain(ctx context.Context) (dr.Event, error) {
	epochs, err := r.e.acquireAll(ctx, r.id, r.fold.Plan().Locks)
	if errors.Is(err, dr.ErrBusy) || errors.Is(err, dr.ErrFenced) {
		return dr.Event{Kind: dr.EventRefused, At: now(), Err: err.Error()}, nil
	}
	return dr.Event{Kind: dr.EventClaimed, At: now(), Epochs: epochs}, err
}

func (r *run) releaseAll(ctx context.Context) (dr.Event, error) {
	err := releaseAll(ctx, r.e.o.Claims, r.e.claimant(r.id), r.fold.Plan().Locks)
	return dr.Event{Kind: dr.EventReleased, At: now()}, err
}

func releaseAll(ctx context.Context, c dr.Claims, owner string, locks []string) error {
	var errs []error
	for _, l := range locks {
		if err := c.Release(ctx, l, owner); err != nil {
			errs = append(errs, fmt.Errorf("release %s: %w", l, err))
		}
	}
	return errors.Join(errs...)
}

package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// attempt is one call of an action, journaled as begun.
type attempt struct {
	r     *run
	s     *serving
	give  func() // the slot back
	k     key
	task  dr.Task
	begun dr.Event
	call  *dr.Call
	ctx   context.Context
	stop  context.CancelCauseFunc
}

// run calls the action and records how it ended. It returns when that is
// durable and what follows has begun.
func (a *attempt) run() {
	defer a.s.done()
	result, err := a.exec()
	a.give()
	ev := a.begun.End(now(), result, err)
	log := a.r.e.log.With("run", a.r.id, "step", a.task.Step.ID, "undo", a.begun.Undo, "attempt", a.begun.Attempt)
	if err != nil {
		if errors.Is(context.Cause(a.ctx), errEnding) {
			ev.Kind, ev.Final = dr.EventStopped, false
		} else {
			log.Warn("attempt failed", "final", ev.Final, "err", err)
		}
		if p := (*dr.PanicError)(nil); errors.As(err, &p) {
			log.Error("action panicked", "panic", p.Value, "stack", string(p.Stack))
		}
	}
	a.stop(nil)
	err = a.r.tell(func() (*dr.Event, error) {
		delete(a.r.hand, a.k)
		return &ev, nil
	})
	if err != nil {
		log.Warn("end of attempt not recorded; it will be decided at the next start", "err", err)
	}
}

func (a *attempt) exec() (json.RawMessage, error) {
	st := a.task.Step
	if st.Timeout > 0 {
		t := time.AfterFunc(st.Timeout, func() { a.stop(fmt.Errorf("stopped after %s", st.Timeout)) })
		defer t.Stop()
	}
	alive := func() {}
	if st.Silence > 0 {
		t := time.AfterFunc(st.Silence, func() { a.stop(fmt.Errorf("stopped after %s without a sign of life", st.Silence)) })
		defer t.Stop()
		alive = func() { t.Reset(st.Silence) }
	}
	a.call.Beat = func(p dr.Progress) {
		alive()
		a.r.beat(st.ID, p)
	}
	result, err := a.s.actions.Exec(a.ctx, a.task, a.call)
	if cause := context.Cause(a.ctx); err != nil && cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return result, err
}

// backoff is how long to wait before the next attempt after so many failures.
func (o *Options) backoff(failed int) time.Duration {
	if failed <= 0 {
		return 0
	}
	d := o.BackoffFirst
	for ; failed > 1 && d < o.BackoffMost; failed-- {
		d *= 2
	}
	d = min(d, o.BackoffMost)
	return d - rand.N(d/2+1)
}

// pause reports false if ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

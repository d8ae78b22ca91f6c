package temporal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// aloneFor is how long a suspect runs before the next one may begin beside it.
// What kills a process mostly does so at once, and a copy takes hours.
const aloneFor = time.Minute

// step is the activity: one attempt. Temporal may hand out what was lost on its
// way here, or long given to another worker when this process wakes from a
// sleep; so the action is called only after the run's history has it as begun,
// and Temporal has then confirmed that the attempt is still this worker's.
func (s *serving) step(ctx context.Context, o offer) (outcome, error) {
	a := &attempt{s: s, o: o, log: s.e.log.With("run", o.Call.Run, "step", o.Step.ID, "undo", o.Call.Undo, "attempt", o.Call.Attempt)}
	a.ctx, a.stop = context.WithCancelCause(s.ctx)
	defer a.stop(nil)
	t := dr.Task{Kind: o.Kind, Step: o.Step}
	name := o.Step.Action
	if o.Kind == dr.TaskUndo {
		name = o.Step.Undo
	}
	if s.actions[name] == nil {
		a.log.Warn("a step needs an action that is not registered here; it waits for another worker", "action", name)
		return outcome{Kind: outcomeDeclined}, nil
	}
	h := newHeart(s.e.c, activity.GetInfo(ctx), o, a.stop)
	defer h.stop()
	defer context.AfterFunc(ctx, func() { a.stop(context.Cause(ctx)) })()
	c, err := a.call()
	if err == nil && o.Suspect {
		var free func()
		if free, err = a.alone(); err == nil {
			defer free()
		}
	}
	if err == nil {
		err = context.Cause(a.ctx)
	}
	// From here on serving may end, and the action is called all the same: it
	// finds its context ended, and what it says of that is recorded.
	if err == nil {
		err = a.begin(ctx, h)
	}
	if cause := context.Cause(a.ctx); err == nil && !errors.Is(cause, errEnding) {
		err = cause
	}
	if err != nil {
		a.log.Debug("a step was not begun", "err", err)
		return outcome{Kind: outcomeStopped, Err: "the attempt was not begun"}, nil
	}
	began := time.Now()
	out := a.run(t, c, h)
	out.Begun, out.Took = true, time.Since(began)
	return out, nil
}

// attempt is one call of an action.
type attempt struct {
	s    *serving
	o    offer
	ctx  context.Context
	stop context.CancelCauseFunc
	log  *slog.Logger
}

// begin has it in the run's history, or where that is told from, that the
// attempt begins, and then confirmed that it is still this worker's. Where it
// runs alone one heartbeat is both.
func (a *attempt) begin(ctx context.Context, h *heart) error {
	if a.o.Quiet {
		if told, err := h.quietly(ctx); told {
			return err
		}
	}
	// Said twice it is said once.
	err := insist(ctx, func() error { return a.s.e.c.SignalWorkflow(ctx, h.workflow, h.run, begunSignal, begun{a.o.Seq}) })
	if err != nil {
		return err
	}
	return h.confirm(ctx)
}

// call is what the action is called with.
func (a *attempt) call() (*dr.Call, error) {
	o := a.o.Call
	c := &dr.Call{Run: o.Run, Step: o.Step, Key: o.Key, Undo: o.Undo, Attempt: o.Attempt, Epochs: o.Epochs,
		Input: a.o.Step.Input, Results: o.Results, Left: o.Left}
	if c.Epochs == nil {
		c.Epochs = map[string]uint64{}
	}
	if c.Results == nil {
		c.Results = map[string]json.RawMessage{}
	}
	for _, step := range a.o.Fetch {
		var p packed
		if err := a.s.e.ask(a.ctx, "results", o.Run, resultQuery, &p, step); err != nil {
			return nil, err
		}
		var r json.RawMessage
		if err := p.open(&r); err != nil {
			return nil, fmt.Errorf("result of step %s: %w", step, err)
		}
		c.Results[step] = r
	}
	return c, nil
}

// alone waits until no other suspect has just begun in this process.
func (a *attempt) alone() (free func(), err error) {
	a.log.Warn("the process died in each of this step's last attempts: it is begun alone")
	if err := a.s.alone.Acquire(a.ctx, 1); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer a.s.alone.Release(1)
		t := time.NewTimer(aloneFor)
		defer t.Stop()
		select {
		case <-t.C:
		case <-done:
		}
	}()
	return func() { close(done) }, nil
}

// run calls the action, and tells how it ended.
func (a *attempt) run(t dr.Task, c *dr.Call, h *heart) outcome {
	st := a.o.Step
	if st.Timeout > 0 {
		timer := time.AfterFunc(st.Timeout, func() { a.stop(fmt.Errorf("stopped after %s", st.Timeout)) })
		defer timer.Stop()
	}
	alive := func() {}
	if st.Silence > 0 {
		timer := time.AfterFunc(st.Silence, func() { a.stop(fmt.Errorf("stopped after %s without a sign of life", st.Silence)) })
		defer timer.Stop()
		alive = func() { timer.Reset(st.Silence) }
	}
	c.Beat = func(p dr.Progress) {
		alive()
		h.beat(p)
	}
	result, err := a.s.actions.Exec(a.ctx, t, c)
	if err == nil {
		err = writable(result)
	}
	cause := context.Cause(a.ctx)
	if err != nil && cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	e := dr.Event{}.End(time.Time{}, result, err)
	if p := (*dr.PanicError)(nil); errors.As(err, &p) {
		a.log.Error("action panicked", "panic", p.Value, "stack", string(p.Stack))
	}
	switch {
	case err == nil:
		return outcome{Kind: outcomeDone, Data: e.Data}
	case errors.Is(cause, errEnding), errors.Is(cause, errLost), errors.Is(cause, errGone):
		return outcome{Kind: outcomeStopped, Err: e.Err}
	}
	a.log.Warn("attempt failed", "final", e.Final, "err", err)
	return outcome{Kind: outcomeFailed, Err: e.Err, Final: e.Final}
}

// writable refuses a result that has more than dr.MaxResult bytes as it is written
// into the history, where "<", ">" and "&" have six each: Temporal would refuse
// the attempt's end, which would be taken for the worker's death.
func writable(result json.RawMessage) error {
	w, err := json.Marshal(result)
	if err != nil {
		return dr.Permanent(err)
	}
	if len(w) > dr.MaxResult {
		return fmt.Errorf("%w: the result has %d bytes as Temporal writes it, %d are allowed", dr.ErrInvalid, len(w), dr.MaxResult)
	}
	return nil
}

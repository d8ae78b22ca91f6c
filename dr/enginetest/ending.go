package enginetest

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var endingPromises = []promise{
	{"a failed run is undone, last first", func(e *env) {
		e.on["c"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			if _, err := e.life.effect(ctx, c); err != nil {
				return nil, err
			}
			return nil, dr.Permanent(errors.New("half way"))
		}
		p := plan(step("a"), with(step("b", "a"), func(s *dr.Step) { s.Undo = "" }), step("c", "b"), step("d", "c"))
		e.serve()
		e.start("r", p)
		s := e.ends("r", dr.RunFailed)
		require.Equal(e, []string{"a", "b", "c", "c~", "a~"}, e.ledger.made("r"), "what has no undo stays, what never started needs none")
		require.Equal(e, map[string]dr.StepState{"a": dr.StepUndone, "b": dr.StepDone, "c": dr.StepUndone, "d": dr.StepPending}, states(s))
		require.Contains(e, s.Reason, "half way")
		require.True(e, e.ledger.last(e, "r", "c~").undo)
	}},
	{"what runs beside a failure is waited for before undoing", func(e *env) {
		failed := make(chan struct{})
		e.on["b"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			close(failed)
			return fails(ctx, c)
		}
		e.on["a"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			<-failed
			for ctx.Err() == nil {
				s, err := e.o.Status(ctx, "r")
				if err != nil {
					return nil, err
				}
				if s.State == dr.RunUndoing {
					return e.life.effect(ctx, c)
				}
			}
			return nil, ctx.Err()
		}
		p := plan(step("a"), step("b"), step("c", "a"))
		e.serve()
		e.start("r", p)
		e.ends("r", dr.RunFailed)
		require.Equal(e, []string{"a", "b~", "a~"}, e.ledger.made("r"), "a's effect is settled, then undone; c doesn't start")
	}},
	{"a failed undo is recorded, the rest is undone, and told of it", func(e *env) {
		e.on["c"] = fails
		e.on["b~"] = fails
		e.serve()
		e.start("r", plan(step("a"), step("b", "a"), step("c", "b")))
		s := e.ends("r", dr.RunFailed)
		require.Equal(e, []string{"b"}, e.ledger.last(e, "r", "a~").left)
		require.Empty(e, e.ledger.last(e, "r", "c~").left)
		require.Empty(e, e.ledger.last(e, "r", "c").left)
		require.Equal(e, []string{"a", "b", "c~", "a~"}, e.ledger.made("r"))
		require.Equal(e, dr.StepUndoFailed, states(s)["b"])
		require.Equal(e, dr.StepUndone, states(s)["a"])
	}},
	{"an undo is tried again", func(e *env) {
		e.on["b"] = fails
		e.on["a~"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			if c.Attempt < 3 {
				return nil, errors.New("not yet")
			}
			return e.life.effect(ctx, c)
		}
		e.serve()
		e.start("r", plan(step("a"), step("b", "a")))
		s := e.ends("r", dr.RunFailed)
		require.Equal(e, []int{1, 2, 3}, e.ledger.attempts("r", "a~"))
		require.Equal(e, dr.StepUndone, states(s)["a"])
	}},
	{"cancelling again hurries an undo that hangs, and takes no attempt from it", func(e *env) {
		e.on["b"] = fails
		e.on["a~"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			if c.Attempt < 4 {
				return hang(ctx, c)
			}
			return e.life.effect(ctx, c)
		}
		e.serve()
		e.start("r", plan(with(step("a"), func(s *dr.Step) { s.Attempts = 1 }), step("b", "a")))
		for n := 1; n < 4; n++ {
			e.until("r", "the undo hangs", func(s dr.Status) bool { return s.Steps[0].State == dr.StepUndoing && s.Steps[0].Attempt == n })
			require.NoError(e, e.o.Cancel(e.ctx(), "r", "hurry up"))
		}
		s := e.ends("r", dr.RunFailed)
		require.Equal(e, []int{1, 2, 3, 4}, e.ledger.attempts("r", "a~"))
		require.Equal(e, dr.StepUndone, states(s)["a"])
		require.NotContains(e, s.Reason, "undoing step")
	}},
	{"an optional step that failed is undone too", func(e *env) {
		e.on["a"], e.on["b"] = fails, fails
		e.serve()
		e.start("r", plan(with(step("a"), optional), step("b", "a")))
		e.ends("r", dr.RunFailed)
		require.Equal(e, []string{"b~", "a~"}, e.ledger.made("r"))
	}},
	{"cancelling stops what runs, and undoes it", func(e *env) {
		e.on["b"] = hang
		p := plan(step("a"), step("b", "a"), step("c", "b"))
		e.serve()
		e.start("r", p)
		e.step("r", "b", dr.StepRunning)
		require.NoError(e, e.o.Cancel(e.ctx(), "r", "changed my mind"))
		s := e.ends("r", dr.RunCancelled)
		require.Equal(e, []string{"a", "b~", "a~"}, e.ledger.made("r"))
		require.Contains(e, s.Reason, "changed my mind")
		require.ErrorIs(e, e.o.Cancel(e.ctx(), "r", "again"), dr.ErrNotAllowed)
	}},
	{"cancelling twice is cancelling once", func(e *env) {
		e.on["a"] = hang
		e.serve()
		e.start("r", plan(step("a")))
		e.step("r", "a", dr.StepRunning)
		require.NoError(e, e.o.Cancel(e.ctx(), "r", "first"))
		if err := e.o.Cancel(e.ctx(), "r", "second"); err != nil {
			require.ErrorIs(e, err, dr.ErrNotAllowed, "it may have ended by now")
		}
		require.Contains(e, e.ends("r", dr.RunCancelled).Reason, "first")
	}},
	{"cancelling before anything started leaves nothing", func(e *env) {
		p := plan(step("a"))
		p.Locks = []string{"m"}
		e.start("r", p)
		require.NoError(e, e.o.Cancel(e.ctx(), "r", "never mind"))
		e.serve()
		e.ends("r", dr.RunCancelled)
		require.Empty(e, e.ledger.of("r"))
		e.start("r2", p)
		e.ends("r2", dr.RunDone)
	}},
	{"a run that is done can't be cancelled", func(e *env) {
		e.serve()
		e.start("r", plan(step("a")))
		e.ends("r", dr.RunDone)
		require.ErrorIs(e, e.o.Cancel(e.ctx(), "r", "too late"), dr.ErrNotAllowed)
	}},
	{"behind the point of no return there is no cancelling", func(e *env) {
		go1 := make(chan struct{})
		e.on["b"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			select {
			case <-go1:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return e.life.effect(ctx, c)
		}
		e.serve()
		e.start("r", plan(step("a"), with(step("b", "a"), noReturn), step("c", "b")))
		e.step("r", "b", dr.StepRunning)
		require.ErrorIs(e, e.o.Cancel(e.ctx(), "r", "no"), dr.ErrNotAllowed, "it has started, that is enough")
		close(go1)
		e.ends("r", dr.RunDone)
		require.Equal(e, []string{"a", "b", "c"}, e.ledger.made("r"))
	}},
	{"a failure before the point of no return is undone as ever", func(e *env) {
		e.on["a"] = fails
		e.serve()
		e.start("r", plan(step("a"), with(step("b", "a"), noReturn)))
		e.ends("r", dr.RunFailed)
		require.Equal(e, []string{"a~"}, e.ledger.made("r"))
	}},
	{"a failure behind the point of no return waits for a person: retry", func(e *env) {
		e.stuckAt("c", 1)
		e.decide("r", "c", dr.Retry)
		s := e.ends("r", dr.RunDone)
		require.Equal(e, []string{"a", "b", "c", "d"}, e.ledger.made("r"))
		require.Equal(e, []int{1, 2}, e.ledger.attempts("r", "c"))
		require.Equal(e, dr.StepDone, states(s)["c"])
	}},
	{"a failure behind the point of no return waits for a person: skip", func(e *env) {
		e.stuckAt("c", 99)
		e.decide("r", "c", dr.Skip)
		s := e.ends("r", dr.RunDone)
		require.Equal(e, []string{"a", "b", "d"}, e.ledger.made("r"))
		require.Equal(e, dr.StepSkipped, states(s)["c"])
		require.Equal(e, []string{"a", "b"}, e.ledger.last(e, "r", "d").results)
	}},
	{"a failure behind the point of no return waits for a person: give up", func(e *env) {
		e.stuckAt("c", 99)
		e.decide("r", "c", dr.GiveUp)
		s := e.ends("r", dr.RunFailed)
		require.Equal(e, []string{"a", "b"}, e.ledger.made("r"), "as it stands: nothing is undone")
		require.Contains(e, s.Reason, "broken")
		require.Contains(e, s.Reason, "me")
	}},
	{"the point of no return itself can be stuck, again and again", func(e *env) {
		e.stuckAt("b", 2)
		e.decide("r", "b", dr.Retry)
		e.until("r", "it is stuck once more", func(s dr.Status) bool { return s.State == dr.RunStuck && s.Steps[1].Attempt == 2 })
		e.decide("r", "b", dr.Retry)
		e.ends("r", dr.RunDone)
		require.Equal(e, []string{"a", "b", "c", "d"}, e.ledger.made("r"))
	}},
	{"a stuck run keeps its claims", func(e *env) {
		e.stuckAt("c", 99)
		err := e.o.Start(e.ctx(), "other", dr.Plan{Flow: "test", Locks: []string{"m"}})
		require.ErrorIs(e, err, dr.ErrBusy)
		e.again()
		require.ErrorIs(e, e.o.Start(e.ctx(), "other", dr.Plan{Flow: "test", Locks: []string{"m"}}), dr.ErrBusy)
		e.until("r", "it is still stuck", func(s dr.Status) bool { return s.State == dr.RunStuck })
		e.decide("r", "c", dr.GiveUp)
		e.ends("r", dr.RunFailed)
		e.start("other", dr.Plan{Flow: "test", Locks: []string{"m"}})
	}},
}

func noReturn(s *dr.Step) { s.NoReturn = true }

// stuckAt runs a plan in which b is the point of no return, and a step fails
// in its first attempts, until it is stuck.
func (e *env) stuckAt(id string, failures int) {
	e.Helper()
	e.on[id] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
		if c.Attempt <= failures {
			return fails(ctx, c)
		}
		return e.life.effect(ctx, c)
	}
	p := plan(step("a"), with(step("b", "a"), noReturn), step("c", "b"), step("d", "c"))
	p.Locks = []string{"m"}
	e.serve()
	e.start("r", p)
	s := e.until("r", "it is stuck", func(s dr.Status) bool { return s.State == dr.RunStuck })
	require.Equal(e, dr.StepStuck, states(s)[id])
	require.Contains(e, s.Reason, "broken")
}

func (e *env) decide(id dr.RunID, step string, v dr.Verdict) {
	e.Helper()
	require.NoError(e, e.o.Decide(e.ctx(), id, step, dr.Decision{Verdict: v, By: "me"}))
}

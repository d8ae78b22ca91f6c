package enginetest

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var startPromises = []promise{
	{"Start returns before the steps run", func(e *env) {
		e.start("r", plan(step("a")))
		require.Equal(e, dr.StepPending, states(e.status("r"))["a"])
		require.Equal(e, dr.RunRunning, e.status("r").State)
		e.serve()
		e.ends("r", dr.RunDone)
		require.Equal(e, []string{"a"}, e.ledger.made("r"))
	}},
	{"a run may have no steps", func(e *env) {
		e.serve()
		e.start("r", plan())
		e.ends("r", dr.RunDone)
	}},
	{"a run exists once, open or ended", func(e *env) {
		p := plan(step("a"))
		e.start("r", p)
		require.ErrorIs(e, e.o.Start(e.ctx(), "r", p), dr.ErrRunExists)
		e.serve()
		e.ends("r", dr.RunDone)
		require.ErrorIs(e, e.o.Start(e.ctx(), "r", plan(step("b"))), dr.ErrRunExists)
		e.again()
		require.ErrorIs(e, e.o.Start(e.ctx(), "r", p), dr.ErrRunExists)
	}},
	{"an invalid plan is refused", func(e *env) {
		require.ErrorIs(e, e.o.Start(e.ctx(), "r", plan(step("a", "nothing"))), dr.ErrInvalid)
		_, err := e.o.Status(e.ctx(), "r")
		require.ErrorIs(e, err, dr.ErrNotFound)
	}},
	{"an unknown run is not found", func(e *env) {
		_, err := e.o.Status(e.ctx(), "no")
		require.ErrorIs(e, err, dr.ErrNotFound)
		require.ErrorIs(e, e.o.Cancel(e.ctx(), "no", "why"), dr.ErrNotFound)
		require.ErrorIs(e, e.o.Decide(e.ctx(), "no", "a", dr.Decision{Verdict: dr.Approve, By: "me"}), dr.ErrNotFound)
		if w, ok := dr.As[dr.Watcher](e.o); ok {
			for _, err := range w.Watch(e.ctx(), "no") {
				require.ErrorIs(e, err, dr.ErrNotFound)
			}
		}
	}},
	{"the plan is frozen", func(e *env) {
		p := plan(with(step("a"), func(s *dr.Step) { s.Input = json.RawMessage(`{"n":1}`) }), step("b", "a"))
		e.start("r", p)
		copy(p.Steps[0].Input, `{"n":2}`)
		p.Steps[1].After[0] = "b"
		p.Steps[1].ID = "c"
		got := make(chan string, 1)
		e.on["a"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			got <- string(c.Input)
			return e.life.effect(ctx, c)
		}
		e.serve()
		e.ends("r", dr.RunDone)
		require.JSONEq(e, `{"n":1}`, <-got)
		require.Equal(e, []string{"a", "b"}, e.ledger.made("r"))
	}},
	{"one resource, one run: until behind the last step", func(e *env) {
		locked := func(s ...dr.Step) dr.Plan {
			p := plan(s...)
			p.Locks = []string{"machine/1", "machine/2"}
			return p
		}
		busy := func() {
			err := e.o.Start(e.ctx(), "other", locked(step("x")))
			require.ErrorIs(e, err, dr.ErrBusy)
			require.ErrorContains(e, err, "holder", "the error names who holds it")
			_, err = e.o.Status(e.ctx(), "other")
			require.ErrorIs(e, err, dr.ErrNotFound, "a refused run leaves nothing behind")
		}
		e.start("holder", locked(step("a"), step("b", "a")))
		busy()
		e.on["b"] = fails
		e.on["a~"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			if err := e.o.Start(ctx, "other", locked(step("x"))); !errors.Is(err, dr.ErrBusy) {
				return nil, dr.Permanent(errors.New("the claims were given back while the run was being undone"))
			}
			return e.life.effect(ctx, c)
		}
		e.kill() // a death is no end
		e.open()
		busy()
		e.serve()
		e.ends("holder", dr.RunFailed)
		require.Equal(e, []string{"a", "b~", "a~"}, append([]string{"a"}, e.ledger.undoCalls("holder")...))
		require.Contains(e, e.ledger.made("holder"), "a~")
		e.start("other", locked(step("x")))
		e.ends("other", dr.RunDone)
		first, second := e.ledger.last(e, "holder", "a"), e.ledger.last(e, "other", "x")
		for _, l := range []string{"machine/1", "machine/2"} {
			require.NotZero(e, first.epochs[l])
			require.Greater(e, second.epochs[l], first.epochs[l], "the fencing epoch rises with each owner")
		}
	}},
	{"a lock named twice is one lock", func(e *env) {
		p := plan(step("a"))
		p.Locks = []string{"m", "m"}
		e.serve()
		e.start("r", p)
		e.ends("r", dr.RunDone)
		e.start("r2", p)
		e.ends("r2", dr.RunDone)
	}},
}

// undoCalls names the undoing calls of a run in their order, each once.
func (l *ledger) undoCalls(run dr.RunID) []string {
	var names []string
	for _, c := range l.of(run) {
		if c.undo && (len(names) == 0 || names[len(names)-1] != c.name()) {
			names = append(names, c.name())
		}
	}
	return names
}

package enginetest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// moment is when in a call the process dies.
type moment string

const (
	before moment = "before the effect"
	after  moment = "after the effect, before its record"
)

var crashPromises = []promise{
	{"a death at any effect loses nothing and doubles nothing", func(e *env) {
		p := plan(step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c"))
		p.Locks = []string{"m"}
		n := 0
		for _, m := range []moment{before, after} {
			for _, name := range []string{"a", "b", "c", "d"} {
				id := dr.RunID(fmt.Sprint("done", n))
				n++
				e.killAt(name, m)
				e.serveIfNot()
				e.start(id, p)
				e.ends(id, dr.RunDone)
				e.ledger.follows(e, id, p)
				made := e.ledger.made(id)
				slices.Sort(made)
				require.Equal(e, []string{"a", "b", "c", "d"}, made, "the process died in %s %s", name, m)
				require.Len(e, e.ledger.attempts(id, name), 2, "the step in doubt is run again")
			}
		}
	}},
	{"a death at any effect of undoing loses nothing and doubles nothing", func(e *env) {
		p := plan(step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c"))
		n := 0
		for _, m := range []moment{before, after} {
			for _, name := range []string{"a", "b", "c", "d", "d~", "c~", "b~", "a~"} {
				id := dr.RunID(fmt.Sprint("failed", n))
				n++
				e.on["d"] = fails
				e.killAt(name, m)
				e.serveIfNot()
				e.start(id, p)
				e.ends(id, dr.RunFailed)
				e.ledger.undone(e, id, p)
			}
		}
	}},
	{"cancelled after a death: what is in doubt is settled, then undone", func(e *env) {
		e.killAt("b", after)
		e.serve()
		e.start("r", plan(step("a"), step("b", "a"), step("c", "b")))
		<-e.life.want
		e.kill()
		e.open()
		require.NoError(e, e.o.Cancel(e.ctx(), "r", "why"))
		e.serve()
		s := e.ends("r", dr.RunCancelled)
		require.Equal(e, []string{"a", "b", "b~", "a~"}, e.ledger.made("r"))
		require.Equal(e, []int{1, 2}, e.ledger.attempts("r", "b"), "it is run again to settle it")
		require.Contains(e, s.Reason, "why")
	}},
	{"a death is no failure: a step with one attempt gets another", func(e *env) {
		e.killAt("a", before)
		e.serve()
		e.start("r", plan(with(step("a"), func(s *dr.Step) { s.Attempts = 1 })))
		e.ends("r", dr.RunDone)
		require.Equal(e, []int{1, 2}, e.ledger.attempts("r", "a"))
	}},
	{"failures are counted across deaths", func(e *env) {
		e.on["a"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			if c.Attempt == 2 {
				return e.life.killMe(ctx)
			}
			return nil, fmt.Errorf("failure in attempt %d", c.Attempt)
		}
		e.serve()
		e.start("r", plan(with(step("a"), func(s *dr.Step) { s.Attempts = 2 })))
		e.ends("r", dr.RunFailed)
		require.Equal(e, []int{1, 2, 3}, e.ledger.attempts("r", "a"))
	}},
	{"a step that kills the process each time fails in the end", func(e *env) {
		e.on["b"] = func(ctx context.Context, _ *dr.Call) (json.RawMessage, error) { return e.life.killMe(ctx) }
		e.serve()
		e.start("r", plan(step("a"), step("b", "a")))
		e.ends("r", dr.RunFailed)
		require.LessOrEqual(e, len(e.ledger.attempts("r", "b")), 50)
		require.Equal(e, []string{"a", "b~", "a~"}, e.ledger.made("r"))
	}},
	{"a decision and a cancellation survive a death", func(e *env) {
		e.serve()
		e.start("decided", plan(gate("g"), step("a", "g")))
		e.start("open", plan(gate("g"), step("a", "g")))
		e.on["a"] = hang
		e.start("cancelled", plan(step("a")))
		e.step("decided", "g", dr.StepWaiting)
		e.step("open", "g", dr.StepWaiting)
		e.step("cancelled", "a", dr.StepRunning)
		e.rest() // so that nothing follows before the death
		e.on["a"] = nil
		e.decide("decided", "g", dr.Approve)
		require.NoError(e, e.o.Cancel(e.ctx(), "cancelled", "why"))
		e.again()
		e.ends("decided", dr.RunDone)
		e.ends("cancelled", dr.RunCancelled)
		require.Equal(e, []string{"a", "a~"}, e.ledger.made("cancelled"))
		e.step("open", "g", dr.StepWaiting)
		e.decide("open", "g", dr.Approve)
		e.ends("open", dr.RunDone)
	}},
	{"a gate's time goes on while the process is dead", func(e *env) {
		e.serve()
		e.start("r", plan(with(gate("g"), func(s *dr.Step) { s.Timeout = 300 * time.Millisecond })))
		opened := e.step("r", "g", dr.StepWaiting).Started
		e.again()
		s := e.ends("r", dr.RunCancelled)
		require.Less(e, s.Ended.Sub(opened), 5*time.Second)
		require.Equal(e, opened.UnixMilli(), s.Steps[0].Started.UnixMilli(), "it isn't opened anew")
	}},
	{"a stuck run is stuck after a death", func(e *env) {
		e.stuckAt("c", 1)
		e.again()
		e.until("r", "it is stuck", func(s dr.Status) bool { return s.State == dr.RunStuck })
		e.decide("r", "c", dr.Retry)
		e.ends("r", dr.RunDone)
		require.Equal(e, []string{"a", "b", "c", "d"}, e.ledger.made("r"))
	}},
	{"behind the point of no return a death goes forward", func(e *env) {
		e.killAt("b", after)
		e.serve()
		e.start("r", plan(step("a"), with(step("b", "a"), noReturn), step("c", "b")))
		e.ends("r", dr.RunDone)
		require.Equal(e, []string{"a", "b", "c"}, e.ledger.made("r"))
	}},
	{"storms of deaths", func(e *env) {
		for range 12 {
			seed := rand.Uint64()
			e.Logf("seed %d", seed)
			e.storm(seed)
		}
	}},
}

// killAt lets the process die once in the next call of an action, keeping
// what the action does otherwise.
func (e *env) killAt(name string, m moment) {
	was := e.on[name]
	if was == nil {
		was = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) { return e.life.effect(ctx, c) }
	}
	var mu sync.Mutex
	dead := false
	e.on[name] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
		mu.Lock()
		first := !dead
		dead = true
		mu.Unlock()
		if first && m == before {
			return e.life.killMe(ctx)
		}
		res, err := was(ctx, c)
		if first {
			return e.life.killMe(ctx)
		}
		return res, err
	}
}

func (e *env) serveIfNot() {
	if e.served == nil {
		e.serve()
	}
}

// storm runs a random plan while the process keeps dying.
func (e *env) storm(seed uint64) {
	e.Helper()
	rng := e.rng(seed)
	p := randomPlan(rng)
	fail := ""
	if rng.IntN(2) == 0 {
		fail = p.Steps[rng.IntN(len(p.Steps))].ID
	}
	var mu sync.Mutex
	deaths := 0
	dies := func() bool {
		mu.Lock()
		defer mu.Unlock()
		if deaths < 12 && rng.IntN(3) == 0 {
			deaths++
			return true
		}
		return false
	}
	e.on = map[string]dr.Action{}
	act := func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
		if dies() {
			return e.life.killMe(ctx)
		}
		if c.Step == fail && !c.Undo {
			return fails(ctx, c)
		}
		res, err := e.life.effect(ctx, c)
		if err == nil && dies() {
			return e.life.killMe(ctx)
		}
		return res, err
	}
	for _, s := range p.Steps {
		e.on[s.ID], e.on[s.ID+"~"] = act, act
	}
	id := dr.RunID(fmt.Sprintf("storm-%d", seed))
	e.serveIfNot()
	e.start(id, p)
	if fail == "" {
		e.ends(id, dr.RunDone)
		require.Len(e, e.ledger.made(id), len(p.Steps), "seed %d", seed)
		e.ledger.follows(e, id, p)
		return
	}
	e.ends(id, dr.RunFailed)
	e.ledger.undone(e, id, p)
}

func randomPlan(rng *rand.Rand) dr.Plan {
	p := plan()
	p.Locks = []string{"m"}
	for i := range 2 + rng.IntN(7) {
		s := step(fmt.Sprint("s", i))
		for j := range i {
			if rng.IntN(3) == 0 {
				s.After = append(s.After, fmt.Sprint("s", j))
			}
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}

package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var stepPromises = []promise{
	{"steps run in order, and side by side where After allows", func(e *env) {
		both := meeting(2)
		e.on["b"], e.on["c"] = e.meets(both), e.meets(both)
		p := plan(step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c"))
		e.serve()
		e.start("r", p)
		s := e.ends("r", dr.RunDone)
		e.ledger.follows(e, "r", p)
		made := e.ledger.made("r")
		require.Len(e, made, 4)
		require.Equal(e, []string{"a", "d"}, []string{made[0], made[3]})
		for _, st := range s.Steps {
			require.Equal(e, dr.StepDone, st.State)
			require.Equal(e, 1, st.Attempt)
			require.JSONEq(e, `"`+st.ID+`"`, string(st.Result))
			require.False(e, st.Started.IsZero() || st.Ended.Before(st.Started))
		}
	}},
	{"several runs go on at once", func(e *env) {
		all := meeting(4)
		e.on["a"] = e.meets(all)
		e.serve()
		for i := range 4 {
			e.start(dr.RunID(fmt.Sprint("r", i)), plan(step("a")))
		}
		for i := range 4 {
			e.ends(dr.RunID(fmt.Sprint("r", i)), dr.RunDone)
		}
	}},
	{"a step is tried again until it succeeds", func(e *env) {
		e.on["a"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			if c.Attempt < 3 {
				return nil, errors.New("not yet")
			}
			return e.life.effect(ctx, c)
		}
		e.serve()
		e.start("r", plan(step("a")))
		s := e.ends("r", dr.RunDone)
		require.Equal(e, []int{1, 2, 3}, e.ledger.attempts("r", "a"))
		require.Equal(e, 3, s.Steps[0].Attempt)
		require.Empty(e, s.Steps[0].Err)
	}},
	{"a step fails when its attempts are used up", func(e *env) {
		e.on["a"] = func(context.Context, *dr.Call) (json.RawMessage, error) { return nil, errors.New("no luck") }
		e.serve()
		e.start("r", plan(with(step("a"), func(s *dr.Step) { s.Attempts = 3 })))
		s := e.ends("r", dr.RunFailed)
		require.Equal(e, []int{1, 2, 3}, e.ledger.attempts("r", "a"))
		require.Contains(e, s.Reason, "no luck")
		require.Contains(e, s.Steps[0].Err, "no luck")
		require.Error(e, s.Err())
	}},
	{"a step that doesn't say is tried as often as the contract says", func(e *env) {
		e.on["a"] = func(context.Context, *dr.Call) (json.RawMessage, error) { return nil, errors.New("no luck") }
		e.serve()
		e.start("r", plan(step("a")))
		e.ends("r", dr.RunFailed)
		require.Len(e, e.ledger.attempts("r", "a"), dr.DefaultAttempts)
	}},
	{"what repeating won't cure is not repeated", func(e *env) {
		e.on["permanent"] = fails
		e.on["sentinel"] = func(context.Context, *dr.Call) (json.RawMessage, error) {
			return nil, fmt.Errorf("start: %w", dr.ErrUnsupported)
		}
		e.on["panic"] = func(context.Context, *dr.Call) (json.RawMessage, error) { panic("out of cheese") }
		e.serve()
		for _, id := range []string{"permanent", "sentinel", "panic"} {
			e.start(dr.RunID(id), plan(step(id)))
			e.ends(dr.RunID(id), dr.RunFailed)
			require.Equal(e, []int{1}, e.ledger.attempts(dr.RunID(id), id))
		}
		require.Contains(e, e.status("panic").Reason, "out of cheese")
	}},
	{"an attempt that takes too long is stopped and tried again", func(e *env) {
		e.firstHangs("a")
		e.serve()
		e.start("r", plan(with(step("a"), func(s *dr.Step) { s.Timeout = 300 * time.Millisecond })))
		e.ends("r", dr.RunDone)
		require.Equal(e, []int{1, 2}, e.ledger.attempts("r", "a"))
	}},
	{"an attempt that falls silent is stopped and tried again", func(e *env) {
		e.firstHangs("a")
		e.serve()
		e.start("r", plan(with(step("a"), func(s *dr.Step) { s.Silence = 300 * time.Millisecond })))
		e.ends("r", dr.RunDone)
		require.Equal(e, []int{1, 2}, e.ledger.attempts("r", "a"))
	}},
	{"an attempt that beats is not silent", func(e *env) {
		e.on["a"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			tick := time.NewTicker(55 * time.Millisecond)
			defer tick.Stop()
			for range 40 { // more than twice the silence that is allowed
				select {
				case <-tick.C:
					c.Beat(dr.Progress{What: "working"})
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return e.life.effect(ctx, c)
		}
		e.serve()
		e.start("r", plan(with(step("a"), func(s *dr.Step) { s.Silence = time.Second; s.Attempts = 1 })))
		e.ends("r", dr.RunDone)
	}},
	{"a step gets the results of all that it comes after", func(e *env) {
		e.on["lost"] = fails
		e.serve()
		e.start("r", plan(step("a"), step("other"), step("b", "a"), with(step("lost", "a"), optional), step("c", "b", "lost")))
		e.ends("r", dr.RunDone)
		require.Empty(e, e.ledger.last(e, "r", "a").results)
		require.Equal(e, []string{"a"}, e.ledger.last(e, "r", "b").results)
		require.Equal(e, []string{"a", "b"}, e.ledger.last(e, "r", "c").results, "neither of a step beside it nor of one that failed")
	}},
	{"an undo gets its own step's result too", func(e *env) {
		e.on["c"] = fails
		e.serve()
		e.start("r", plan(step("a"), step("b", "a"), step("c", "b")))
		e.ends("r", dr.RunFailed)
		require.Equal(e, []string{"a", "b"}, e.ledger.last(e, "r", "c~").results, "it has none")
		require.Equal(e, []string{"a", "b"}, e.ledger.last(e, "r", "b~").results)
		require.Equal(e, []string{"a"}, e.ledger.last(e, "r", "a~").results)
	}},
	{"an optional step's failure is recorded, and the run goes on", func(e *env) {
		e.on["b"] = fails
		e.serve()
		e.start("r", plan(step("a"), with(step("b", "a"), optional), step("c", "b")))
		s := e.ends("r", dr.RunDone)
		require.Equal(e, []string{"a", "c"}, e.ledger.made("r"))
		require.Equal(e, dr.StepFailed, states(s)["b"])
		require.Contains(e, s.Steps[1].Err, "broken")
		require.NoError(e, s.Err())
	}},
	{"progress is shown, the latest of each disk", func(e *env) {
		shown := make(chan struct{})
		e.on["a"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			for i := range 3 {
				c.Beat(dr.Progress{Disk: "d0", Done: int64(i), Total: 9})
				c.Beat(dr.Progress{Disk: "d1", Done: int64(i * 2)})
			}
			select {
			case <-shown:
			case <-ctx.Done():
			}
			return e.life.effect(ctx, c)
		}
		e.serve()
		e.start("r", plan(step("a")))
		s := e.until("r", "progress is shown", func(s dr.Status) bool {
			return len(s.Steps[0].Progress) == 2 && s.Steps[0].Progress[1].Done == 4
		})
		require.Equal(e, []dr.Progress{{Disk: "d0", Done: 2, Total: 9}, {Disk: "d1", Done: 4}}, s.Steps[0].Progress)
		require.Equal(e, dr.StepRunning, s.Steps[0].State)
		close(shown)
		e.ends("r", dr.RunDone)
	}},
}

func optional(s *dr.Step) { s.Optional = true }

// firstHangs makes a step's first attempt wait until it is stopped.
func (e *env) firstHangs(id string) {
	e.on[id] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
		if c.Attempt == 1 {
			return hang(ctx, c)
		}
		return e.life.effect(ctx, c)
	}
}

// meeting lets n actions go on when all of them are there.
func meeting(n int) func(context.Context) error {
	var mu sync.Mutex
	all := make(chan struct{})
	return func(ctx context.Context) error {
		mu.Lock()
		if n--; n == 0 {
			close(all)
		}
		mu.Unlock()
		select {
		case <-all:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *env) meets(m func(context.Context) error) dr.Action {
	return func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
		if err := m(ctx); err != nil {
			return nil, err
		}
		return e.life.effect(ctx, c)
	}
}

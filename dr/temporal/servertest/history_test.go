package servertest

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

var update = flag.Bool("update", false, "record the histories that dr/temporal's tests replay")

// story is a run whose history is recorded.
type story struct {
	name string
	plan dr.Plan
	long int
	act  func(c *dr.Call) error // nil: it succeeds
	meet func(t *testing.T, e *temporal.Engine, id dr.RunID)
	ends dr.RunState
	// runs is in how many workflow runs it went on, at least.
	runs int
	// queues are served, or all; parallel are their places, or the usual.
	queues   []string
	parallel int
}

func do(id string, after ...string) dr.Step {
	return dr.Step{ID: id, Action: "do@1", Undo: "undo@1", After: after}
}

func stories() []story {
	locked := func(s ...dr.Step) dr.Plan {
		return dr.Plan{Flow: "test", Rev: 1, Locks: []string{"m1", "m2"}, Steps: s}
	}
	hangs := do("b", "a")
	hangs.Attempts = 1
	noReturn := do("b", "a")
	noReturn.NoReturn = true
	often := do("b", "a")
	often.Attempts = 40
	gate := dr.Step{ID: "g", Gate: "go on?", After: []string{"a"}, Timeout: time.Hour}
	late := dr.Step{ID: "g", Gate: "go on?", After: []string{"a"}, Timeout: 50 * time.Millisecond}
	there := func(s dr.Step) dr.Step {
		s.Queue, s.Optional, s.Patience = "there", true, 300*time.Millisecond
		return s
	}
	fails := func(step string, upTo int) func(*dr.Call) error {
		return func(c *dr.Call) error {
			if c.Step == step && !c.Undo && c.Attempt <= upTo {
				if upTo > 20 {
					return errors.New("not yet")
				}
				return dr.Permanent(errors.New("broken"))
			}
			return nil
		}
	}
	return []story{
		{name: "straight", plan: locked(do("a"), do("b", "a"), do("c", "a"), do("d", "b", "c")), ends: dr.RunDone},
		{name: "undone", plan: locked(do("a"), do("b", "a"), do("c", "b")), act: fails("c", 1), ends: dr.RunFailed},
		{name: "gate", plan: locked(do("a"), gate, do("b", "g")), ends: dr.RunDone, meet: func(t *testing.T, e *temporal.Engine, id dr.RunID) {
			until(t, e, id, func(s dr.Status) bool { return s.State == dr.RunWaiting })
			require.NoError(t, e.Decide(t.Context(), id, "g", dr.Decision{Verdict: dr.Approve, By: "me", Note: "fine"}))
		}},
		{name: "expired", plan: locked(do("a"), late), ends: dr.RunCancelled},
		{name: "cancelled", plan: locked(do("a"), do("hang", "a"), do("c", "hang")), ends: dr.RunCancelled, meet: func(t *testing.T, e *temporal.Engine, id dr.RunID) {
			until(t, e, id, func(s dr.Status) bool { st, _ := s.Step("hang"); return st.State == dr.StepRunning })
			require.NoError(t, e.Cancel(t.Context(), id, "changed my mind"))
		}},
		{name: "stuck", plan: locked(do("a"), noReturn, do("c", "b")), act: fails("c", 1), ends: dr.RunDone, meet: func(t *testing.T, e *temporal.Engine, id dr.RunID) {
			until(t, e, id, func(s dr.Status) bool { return s.State == dr.RunStuck })
			require.NoError(t, e.Decide(t.Context(), id, "c", dr.Decision{Verdict: dr.Retry, By: "me"}))
		}},
		{name: "long", plan: locked(do("a"), often, do("c", "b")), act: fails("b", 25), long: 90, ends: dr.RunDone, runs: 3},
		{name: "lost-site", plan: locked(do("a"), there(do("b", "a")), do("c", "b")), ends: dr.RunDone, queues: []string{"here"}},
		{name: "busy-site", plan: locked(there(do("slow")), there(do("b")), do("c", "b")), ends: dr.RunDone, queues: []string{"there"}, parallel: 1,
			act: func(c *dr.Call) error {
				if !c.Undo && c.Step != "c" { // of the two that have one place, the other waits
					time.Sleep(time.Second)
				}
				return nil
			}},
	}
}

func until(t *testing.T, e *temporal.Engine, id dr.RunID, is func(dr.Status) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	_, err := dr.WaitUntil(ctx, e, id, is)
	require.NoError(t, err)
}

// TestStories runs them, so that what is recorded is what is done today; with
// -update it records them.
func TestStories(t *testing.T) {
	t.Parallel()
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			st := newState(t, temporal.Options{Long: s.long, Parallel: s.parallel})
			_, err := st.Open()
			require.NoError(t, err)
			e := st.e
			t.Cleanup(st.Kill)
			act := func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
				if c.Step == "hang" && !c.Undo {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				if s.act != nil {
					if err := s.act(c); err != nil {
						return nil, err
					}
				}
				return json.Marshal(c.Step)
			}
			go func() { _ = e.Serve(t.Context(), dr.Actions{"do@1": act, "undo@1": act}, s.queues...) }()
			id := dr.RunID(s.name)
			require.NoError(t, e.Start(t.Context(), id, s.plan))
			if s.meet != nil {
				s.meet(t, e, id)
			}
			until(t, e, id, func(dr.Status) bool { return false })
			end, err := e.Status(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, s.ends, end.State, end.Reason)
			chain := chainOf(t, st.o.Queue+"/"+s.name)
			require.GreaterOrEqual(t, len(chain), s.runs, "workflow runs")
			if !*update {
				return
			}
			for i, h := range chain {
				raw, err := protojson.MarshalOptions{Indent: " "}.Marshal(h)
				require.NoError(t, err)
				name := s.name
				if len(chain) > 1 {
					name += string(rune('0' + i))
				}
				require.NoError(t, os.WriteFile(filepath.Join("..", "testdata", "histories", name+".json"), raw, 0o644))
			}
		})
	}
}

// chainOf returns the histories of a workflow's runs, the last first.
func chainOf(t *testing.T, workflow string) []*history.History {
	var chain []*history.History
	for run := ""; ; {
		h := &history.History{}
		it := server.GetDefaultClient().GetWorkflowHistory(t.Context(), workflow, run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for it.HasNext() {
			ev, err := it.Next()
			require.NoError(t, err)
			h.Events = append(h.Events, ev)
		}
		chain = append(chain, h)
		if run = h.Events[0].GetWorkflowExecutionStartedEventAttributes().GetContinuedExecutionRunId(); run == "" {
			return chain
		}
	}
}

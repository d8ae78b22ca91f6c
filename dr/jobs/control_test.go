package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
)

// serve runs an engine whose actions fail while broken says so.
func serve(t *testing.T, broken func(step string) bool) *embedded.Engine {
	engine, err := embedded.Open(filepath.Join(t.TempDir(), "journal"), embedded.Options{BackoffFirst: time.Millisecond})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- engine.Serve(ctx, dr.Actions{"a@1": func(_ context.Context, c *dr.Call) (json.RawMessage, error) {
			if !c.Undo && broken(c.Step) {
				return nil, dr.Permanent(errors.New("broken"))
			}
			return nil, nil
		}})
	}()
	t.Cleanup(func() {
		stop()
		<-served
		require.NoError(t, engine.Close())
	})
	return engine
}

// until watches the run until its job is in a state.
func until(t *testing.T, o dr.Orchestrator, run dr.RunID, want State) Job {
	w, _ := dr.As[dr.Watcher](o)
	for s, err := range w.Watch(t.Context(), run) {
		require.NoError(t, err)
		if Of(s, Options{}).State == want {
			j, err := Load(t.Context(), o, run, Options{})
			require.NoError(t, err)
			return j
		}
	}
	require.Fail(t, "it has ended otherwise")
	return Job{}
}

// rules.md: jobs "can be cancelled, resumed, restarted".
func TestCancelResumeRestart(t *testing.T) {
	broken := make(chan bool, 10)
	o := serve(t, func(step string) bool { return step == "late" && <-broken })
	ctx := t.Context()
	p := dr.Plan{Flow: "f", Locks: []string{"protection/web"}, Steps: []dr.Step{
		{ID: "early", Action: "a@1", Undo: "a@1"}, {ID: "gate", Gate: "Go?", After: []string{"early"}},
		{ID: "late", Action: "a@1", NoReturn: true, After: []string{"gate"}},
	}}
	plan := func(_ context.Context, s dr.Status) (dr.Plan, error) {
		require.Equal(t, "f", s.Flow)
		return p, nil
	}
	require.NoError(t, o.Start(ctx, "r", p))
	j := until(t, o, "r", Waiting)
	require.Equal(t, []Control{MayCancel, MayResume}, j.Controls)
	require.Equal(t, []dr.ProtectionID{"web"}, j.Protections)
	require.ErrorIs(t, Cancel(ctx, o, "r", "", "no"), dr.ErrInvalid)
	_, err := Restart(ctx, o, "r", plan)
	require.ErrorIs(t, err, dr.ErrNotAllowed, "it goes on")
	require.NoError(t, Cancel(ctx, o, "r", "ann", "wrong day"))
	j = until(t, o, "r", Cancelled)
	require.Contains(t, j.Reason, "cancelled by ann: wrong day")
	require.Equal(t, []Control{MayRestart}, j.Controls)
	require.ErrorIs(t, Resume(ctx, o, "r", Answer{By: "ann"}), dr.ErrNotFound)

	no := errors.New("not today")
	_, err = Restart(ctx, o, "r", func(context.Context, dr.Status) (dr.Plan, error) { return dr.Plan{}, no })
	require.ErrorIs(t, err, no)
	next, err := Restart(ctx, o, "r", plan)
	require.NoError(t, err)
	require.Equal(t, dr.RunID("r~2"), next)
	again, err := Restart(ctx, o, "r", plan)
	require.ErrorIs(t, err, dr.ErrRunExists, "asking twice starts one")
	require.Equal(t, next, again)

	until(t, o, next, Waiting)
	require.ErrorIs(t, Resume(ctx, o, next, Answer{Step: "early", By: "bob"}), dr.ErrNotFound)
	broken <- true
	require.NoError(t, Resume(ctx, o, next, Answer{By: "bob", Note: "fine"}))
	for { // past the gate, and stuck
		j = until(t, o, next, Waiting)
		if j.Tasks[2].State == Waiting {
			break
		}
	}
	require.Equal(t, []Control{MayResume}, j.Controls)
	require.Equal(t, ManualAction, j.Waits)
	require.ErrorIs(t, Cancel(ctx, o, next, "bob", ""), dr.ErrNotAllowed, "the point of no return is past")
	broken <- false
	require.NoError(t, Resume(ctx, o, next, Answer{By: "bob"}))
	j = until(t, o, next, Completed)
	require.Empty(t, j.Controls)
	_, err = Restart(ctx, o, next, plan)
	require.ErrorIs(t, err, dr.ErrNotAllowed, "what succeeded is not run once more")
	_, err = Load(ctx, o, "nothing", Options{})
	require.ErrorIs(t, err, dr.ErrNotFound)
}

func TestResumeMustBeToldWhichOfSeveral(t *testing.T) {
	o := serve(t, func(string) bool { return false })
	require.NoError(t, o.Start(t.Context(), "r", dr.Plan{Flow: "f", Steps: []dr.Step{{ID: "a", Gate: "A?"}, {ID: "b", Gate: "B?"}}}))
	w := until(t, o, "r", Waiting)
	for w.Tasks[0].State != Waiting || w.Tasks[1].State != Waiting {
		w = until(t, o, "r", Waiting)
	}
	err := Resume(t.Context(), o, "r", Answer{By: "ann"})
	require.ErrorIs(t, err, dr.ErrAmbiguous)
	require.ErrorContains(t, err, "a, b")
	require.NoError(t, Resume(t.Context(), o, "r", Answer{Step: "a", By: "ann"}))
	require.NoError(t, Resume(t.Context(), o, "r", Answer{Step: "b", By: "ann"}))
	until(t, o, "r", Completed)
}

func TestNextRun(t *testing.T) {
	for run, want := range map[dr.RunID]dr.RunID{
		"r": "r~2", "r~2": "r~3", "r~9": "r~10", "r~1": "r~1~2", "r~02": "r~02~2", "~": "~~2", "r~x": "r~x~2", "r~99999999999999999999": "r~99999999999999999999~2",
	} {
		require.Equal(t, want, NextRun(run), run)
	}
}

func TestList(t *testing.T) {
	o := serve(t, func(step string) bool { return step == "bad" })
	ctx := t.Context()
	start := func(run dr.RunID, flow, step string, lock string, want State) {
		require.NoError(t, o.Start(ctx, run, dr.Plan{Flow: flow, Locks: []string{lock}, Steps: []dr.Step{{ID: step, Action: "a@1"}}}))
		until(t, o, run, want)
	}
	start("p1", "planned-failover", "ok", "protection/web", Completed)
	start("p2", "planned-failover", "bad", "protection/db", Failed)
	middle := time.Now()
	start("plan", "plan", "drive", "plan/shop", Completed)
	start("plan.web", "test-failover", "ok", "protection/web", Completed)
	opt := Options{
		Children: func(s dr.Status, st dr.StepStatus) []dr.RunID {
			if st.ID == "drive" {
				return []dr.RunID{s.Run + ".web"}
			}
			return nil
		},
		Parent: func(s dr.Status) dr.RunID {
			if s.Run == "plan.web" {
				return "plan"
			}
			return ""
		},
	}
	for _, c := range []struct {
		name string
		f    Filter
		want []dr.RunID
	}{
		{"all", Filter{}, []dr.RunID{"p1", "p2", "plan", "plan.web"}},
		{"roots", Filter{Roots: true}, []dr.RunID{"p1", "p2", "plan"}},
		{"of a protection, below too", Filter{Protection: "web"}, []dr.RunID{"p1", "plan", "plan.web"}},
		{"of flows", Filter{Flows: []string{"test-failover", "plan"}}, []dr.RunID{"plan", "plan.web"}},
		{"in a state", Filter{States: []State{Failed, Cancelled}}, []dr.RunID{"p2"}},
		{"since", Filter{Since: middle}, []dr.RunID{"plan", "plan.web"}},
		{"until", Filter{Until: middle}, []dr.RunID{"p1", "p2"}},
		{"all of it", Filter{Protection: "db", States: []State{Failed}, Until: middle, Roots: true}, []dr.RunID{"p2"}},
		{"none", Filter{Protection: "x"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []dr.RunID
			for j, err := range List(ctx, o, c.f, opt) {
				require.NoError(t, err)
				got = append(got, j.ID)
			}
			require.Equal(t, c.want, got)
		})
	}
	for _, err := range List(ctx, struct{ dr.Orchestrator }{}, Filter{}, Options{}) {
		require.ErrorIs(t, err, dr.ErrUnsupported)
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	for _, err := range List(stopped, o, Filter{}, Options{}) {
		require.ErrorIs(t, err, context.Canceled)
	}
}

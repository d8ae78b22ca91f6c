package failback_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// A caller's steps run where they were put, know the point, and are undone in
// their place.
func TestOwnStepsRunInTheirPlace(t *testing.T) {
	w := newWorld(t, all, all)
	var order []string
	w.serve(dr.Actions{"own.note@1": func(_ context.Context, c *dr.Call) (json.RawMessage, error) {
		order = append(order, c.Step)
		switch c.Step {
		case "approve":
			require.Equal(t, dr.On, w.power(hq, vm), "before the shutdown")
		case "dns":
			pt, err := failover.ChosenPoint(c)
			require.NoError(t, err)
			require.Equal(t, dr.Off, pt.Machine.Power)
			require.Equal(t, dr.On, w.power(away, "awaymade-1"))
			require.Equal(t, dr.Protected, w.record().State, "before the record says so")
		}
		return nil, nil
	}})
	protected(w)
	p, err := failover.Planned(w.record(), failover.Options{})
	require.NoError(t, err)
	p, err = p.InsertBefore(failover.StepShutdown, dr.Step{ID: "approve", Action: "own.note@1"})
	require.NoError(t, err)
	p, err = p.InsertAfter(failover.StepStart, dr.Step{ID: "dns", Action: "own.note@1"})
	require.NoError(t, err)
	w.must(p, nil)
	require.Equal(t, []string{"approve", "dns"}, order)
}

// An own step that fails behind each step of each flow, the last too: whatever
// can be taken back is, the record with it. Behind the point of no return the
// run waits for a person, who skips the step.
func TestOwnStepsThatFail(t *testing.T) {
	for _, f := range flows {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, all, all)
			var undone []string
			w.serve(dr.Actions{"own.fail@1": func(_ context.Context, c *dr.Call) (json.RawMessage, error) {
				if c.Undo {
					undone = append(undone, c.Step)
					return nil, nil
				}
				return nil, dr.Permanent(errors.New("own failure"))
			}})
			f.stage(w)
			p, err := f.plan(w)
			require.NoError(t, err)
			p, err = p.InsertAfter(failover.StepFinish, dr.Step{ID: "own", Action: "own.fail@1", Undo: "own.fail@1"})
			require.NoError(t, err)
			before, had, former := w.picture(f.whole...), w.activeOn(), w.record()
			run := w.start(p)
			if final(p, "own") {
				for st, err := range w.engine.Watch(t.Context(), run) {
					require.NoError(t, err)
					if st.State == dr.RunStuck {
						require.NoError(t, w.engine.Decide(t.Context(), run, "own", dr.Decision{Verdict: dr.Skip, By: "test"}))
						break
					}
				}
				require.Equal(t, dr.RunDone, w.wait(run).State)
				return
			}
			st := w.wait(run)
			require.Equal(t, dr.RunFailed, st.State, st.Reason)
			require.Equal(t, "step own: own failure", st.Reason, "and nothing went wrong in taking it back")
			require.Equal(t, []string{"own"}, undone)
			if f.gives != "" {
				require.Equal(t, former.Failover, w.record().Failover)
				w.same(w.pointBytes(former.Active.Site, former.Standby.Machine, former.Failover.Point.ID), w.activeOn())
			} else {
				require.Equal(t, before, w.picture(f.whole...))
				w.same(had, w.activeOn())
			}
			again(w, f, f.name)
		})
	}
}

// Between a reprotection's last step and a caller's own that fails, cycles may
// have made points: they go with the direction.
func TestCyclesBetweenFinishAndAnOwnFailure(t *testing.T) {
	w := newWorld(t, all, all)
	w.serve(dr.Actions{"own.cycle@1": func(ctx context.Context, _ *dr.Call) (json.RawMessage, error) {
		_, err := w.env.Replicate(ctx, pid, dr.CrashConsistent, nil)
		require.NoError(t, err)
		return nil, dr.Permanent(errors.New("own failure"))
	}})
	parted(w)
	before := w.picture(vm)
	p, err := failback.Reprotect(w.record(), failback.ReprotectOptions{})
	require.NoError(t, err)
	p, err = p.InsertAfter(failover.StepFinish, dr.Step{ID: "own", Action: "own.cycle@1"})
	require.NoError(t, err)
	require.Equal(t, dr.RunFailed, w.do(p, nil).State)
	require.Equal(t, before, w.picture(vm))
	require.Zero(t, w.record().Last)
	w.must(failback.Reprotect(w.record(), failback.ReprotectOptions{}))
	w.followed("reprotected again")
}

package failback_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// planners make the plan of each operation.
var planners = map[dr.Operation]func(dr.Protection) (dr.Plan, error){
	dr.OpProtect:           replication.Protect,
	dr.OpUnprotect:         replication.Unprotect,
	dr.OpTestFailover:      func(p dr.Protection) (dr.Plan, error) { return failover.Test(p, "r", failover.Options{}) },
	dr.OpCleanUpTest:       func(p dr.Protection) (dr.Plan, error) { return failover.CleanUp(p, "") },
	dr.OpPlannedFailover:   func(p dr.Protection) (dr.Plan, error) { return failover.Planned(p, failover.Options{}) },
	dr.OpUnplannedFailover: func(p dr.Protection) (dr.Plan, error) { return failover.Unplanned(p, failover.Options{}) },
	dr.OpChangePoint: func(p dr.Protection) (dr.Plan, error) {
		return failover.ChangePoint(p, recoverypoint.Choice{}, failover.Options{})
	},
	dr.OpCommit:         func(p dr.Protection) (dr.Plan, error) { return failover.Commit(p, failover.CommitOptions{}) },
	dr.OpCancelFailover: failover.Cancel,
	dr.OpReprotect:      func(p dr.Protection) (dr.Plan, error) { return failback.Reprotect(p, failback.ReprotectOptions{}) },
	dr.OpFailback: func(p dr.Protection) (dr.Plan, error) {
		return failback.Failback(p, failback.Options{Sync: failback.During})
	},
}

// variants are a record in every state, at home and away, with and without a
// drill, held by a run or not.
func variants() (all []dr.Protection) {
	for _, s := range []dr.State{dr.Unprotected, dr.Synchronizing, dr.Protected, dr.FailedOver, dr.Committed} {
		for i := range 8 {
			p := dr.Protection{ID: pid, Home: hq, State: s, Active: dr.Place{Site: hq, Machine: vm}, Standby: dr.Place{Site: away, Machine: "r1", Key: "k"}}
			if i&1 != 0 {
				p.Swap()
			}
			if i&2 != 0 {
				p.Test = &dr.TestFailover{Run: "drill", State: dr.TestRunning, Place: dr.Place{Site: p.Standby.Site, Machine: "t1"}}
			}
			if s == dr.FailedOver {
				p.Failover = &dr.Failover{Run: "out", From: dr.Protected, Point: dr.Point{ID: "p1"}, Direct: i&4 != 0}
			}
			all = append(all, p)
		}
	}
	return all
}

// An operation that the state doesn't allow is refused by its planner, and a
// plan that was made when it was allowed by its first step: naming the state
// and what is allowed, before anything of a platform or a store is touched.
func TestRefusedBeforeTheFirstEffect(t *testing.T) {
	w := newWorld(t, all, all)
	defer w.end()
	w.serve(nil)
	_, err := w.engine.Save(t.Context(), replication.New(pid, dr.Place{Site: hq, Machine: vm}, away))
	require.NoError(t, err)
	var calls atomic.Int64
	w.intercept(func(_ ctx, c backendtest.Call, do func() error) error {
		if c.Op != opLoad && c.Op != opSave {
			calls.Add(1)
		}
		return do()
	})
	refused := 0
	for op, plan := range planners {
		var made []dr.Plan
		for _, p := range variants() {
			if pl, err := plan(p); err == nil {
				made = append(made, pl)
			} else {
				named(t, err.Error(), op, p)
				require.ErrorIs(t, err, dr.ErrNotAllowed)
			}
		}
		require.NotEmpty(t, made, "%s is allowed somewhere", op)
		for _, now := range variants() {
			if now.Allow(op) == nil {
				continue
			}
			old := w.record()
			now.Version, now.Epoch, now.Applied = old.Version, old.Epoch, old.Applied
			now, err := w.engine.Save(t.Context(), now)
			require.NoError(t, err)
			pl := made[refused%len(made)]
			for i := range pl.Steps {
				pl.Steps[i].Attempts = 0
			}
			w.runs++
			run := dr.RunID(fmt.Sprint("refused", w.runs))
			require.NoError(t, w.engine.Start(t.Context(), run, pl))
			st := w.wait(run)
			require.Equal(t, dr.RunFailed, st.State)
			named(t, st.Reason, op, now)
			require.Zero(t, calls.Load(), "%s in %s: calls were made", op, now.State)
			require.Equal(t, now, w.record(), "%s in %s: the record was touched", op, now.State)
			refused++
		}
	}
	require.Greater(t, refused, 200)
}

func named(t *testing.T, why string, op dr.Operation, p dr.Protection) {
	t.Helper()
	require.Contains(t, why, "state is "+string(p.State))
	require.Contains(t, why, string(op))
	var allowed []string
	for _, o := range p.Allowed() {
		allowed = append(allowed, string(o))
	}
	require.Contains(t, why, "allowed now: "+strings.Join(allowed, ", "))
}

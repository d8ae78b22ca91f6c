package failback_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

func resultOf[T any](t *testing.T, st dr.Status, step string) (v T) {
	t.Helper()
	s, ok := st.Step(step)
	require.True(t, ok, "step %s", step)
	require.NoError(t, json.Unmarshal(s.Result, &v), "result of %s", step)
	return v
}

// The whole cycle, with and without the abilities that make it fast.
func TestRoundTrip(t *testing.T) {
	for name, o := range map[string]memory.Options{
		"all abilities": {}, "no tracker": {NoTracker: true}, "no tracker, no sums": {NoTracker: true, NoSums: true},
	} {
		t.Run(name, func(t *testing.T) { roundTrip(t, o) })
	}
}

func roundTrip(t *testing.T, o memory.Options) {
	w := newWorld(t, o, o)
	w.serve(nil)
	w.protect()
	require.Equal(t, dr.Protected, w.record().State)
	first := w.disks(hq, vm)
	p1 := w.record().Last
	w.scribble(hq, vm, 3)
	w.cycle()

	// A drill touches neither production nor replication, and leaves nothing.
	drill, err := failover.Test(w.record(), "drill", failover.Options{})
	require.NoError(t, err)
	require.NoError(t, w.engine.Start(t.Context(), "drill", drill))
	st, err := dr.Wait(t.Context(), w.engine, "drill", nil)
	require.NoError(t, err)
	require.Equal(t, dr.RunDone, st.State, st.Reason)
	test := w.record().Test
	require.Equal(t, dr.TestRunning, test.State)
	require.Equal(t, dr.On, w.power(away, test.Place.Machine))
	w.scribble(away, test.Place.Machine, 2)
	w.cycle()
	w.must(failover.CleanUp(w.record(), "it came up"))
	require.Nil(t, w.record().Test)
	_, err = w.hosts[away].Machine(t.Context(), test.Place.Machine)
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.Equal(t, dr.On, w.power(hq, vm))

	// Out, without loss.
	w.scribble(hq, vm, 3)
	last := w.disks(hq, vm)
	st = w.must(failover.Planned(w.record(), failover.Options{}))
	rep := resultOf[failover.Report](t, st, failover.StepFinish)
	require.True(t, rep.Loss.None)
	p := w.record()
	require.Equal(t, dr.FailedOver, p.State)
	require.Equal(t, away, p.Active.Site)
	require.Equal(t, dr.Off, w.power(hq, vm))
	w.same(last, w.disks(away, p.Active.Machine))
	w.scribble(away, p.Active.Machine, 3)

	// Another point, and back to the latest.
	w.must(failover.ChangePoint(w.record(), recoverypoint.Choice{Option: recoverypoint.Custom, Point: p1.ID}, failover.Options{}))
	w.same(first, w.disks(away, p.Active.Machine))
	w.scribble(away, p.Active.Machine, 3)
	w.must(failover.ChangePoint(w.record(), recoverypoint.Choice{}, failover.Options{}))
	w.same(last, w.disks(away, p.Active.Machine))
	require.Equal(t, dr.On, w.power(away, p.Active.Machine))
	w.must(failover.Commit(w.record(), failover.CommitOptions{}))
	require.Equal(t, dr.Committed, w.record().State)
	require.Empty(t, w.record().Pins)

	// Both sides write: the home machine was started by mistake.
	changed := w.scribble(away, p.Active.Machine, 4)
	require.NoError(t, w.hosts[hq].Power(vm, dr.On))
	changed += w.scribble(hq, vm, 4)
	st = w.must(failback.Reprotect(w.record(), failback.ReprotectOptions{}))
	require.Equal(t, dr.Off, w.power(hq, vm), "the former machine is turned off and stays off")
	require.Empty(t, resultOf[replication.Report](t, st, failover.StepHydrate).Full, "the disks hold the seed: no comparison")
	back := resultOf[failback.Reprotected](t, st, failover.StepFinish)
	if !o.NoTracker {
		require.Less(t, back.First.Written, changed, "only changes of either side travel")
		require.Less(t, back.First.Read, changed)
	}
	require.Equal(t, dr.Protected, w.record().State)
	w.scribble(away, p.Active.Machine, 2)
	w.cycle()
	w.scribble(away, p.Active.Machine, 2)

	// Home, from points.
	last = w.disks(away, p.Active.Machine)
	st = w.must(failback.Failback(w.record(), failback.Options{}))
	rep = resultOf[failover.Report](t, st, failover.StepFinish)
	require.True(t, rep.Loss.None)
	if !o.NoTracker {
		require.Less(t, rep.Copied.Written, int64(4*dr.SumBlock), "the disks at home were warm")
	}
	require.True(t, w.record().AtHome())
	w.same(last, w.disks(hq, vm))
	w.must(failover.Commit(w.record(), failover.CommitOptions{}))
	_, err = w.hosts[away].Machine(t.Context(), p.Active.Machine)
	require.ErrorIs(t, err, dr.ErrNotFound, "committing a failback removes the machine that was left")

	// And protected again, by deltas.
	changed = w.scribble(hq, vm, 2)
	st = w.must(failback.Reprotect(w.record(), failback.ReprotectOptions{}))
	again := resultOf[replication.Report](t, st, failback.StepReplicate)
	if !o.NoTracker {
		require.Less(t, again.Read, changed, "replicating again sends only changes")
	}
	require.Equal(t, dr.Protected, w.record().State)

	// The second time out works as the first.
	w.scribble(hq, vm, 2)
	last = w.disks(hq, vm)
	w.must(failover.Unplanned(w.record(), failover.Options{Shutdown: true}))
	w.same(last, w.disks(away, w.record().Active.Machine))
}

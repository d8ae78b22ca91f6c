package recoveryplan_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

// The whole way out and home, of six machines.
func TestOutAndHome(t *testing.T) {
	w := newWorld(t, shop()).protect()
	was := w.contents()

	st := w.do(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
	require.Equal(t, dr.RunDone, st.State, st.Reason)
	r, ok := recoveryplan.ReportOf(st)
	require.True(t, ok)
	require.True(t, r.Whole(), "%+v", r)
	require.Equal(t, 6, r.Count(recoveryplan.Done))
	for _, m := range r.Machines {
		require.NotNil(t, m.Report)
		require.True(t, m.Report.Loss.None)
	}
	w.everywhere(away)
	w.same(was)
	order(t, st, "open/web2", "copy/db1", "start/db1", "start/app1", "start/web2", recoveryplan.StepFinish)

	w.must(recoveryplan.Commit(w.plan, w.records(), recoveryplan.Options{}))
	w.must(recoveryplan.Reprotect(w.plan, w.records(), recoveryplan.Options{}))
	for _, id := range w.plan.Machines() {
		require.Equal(t, dr.Protected, w.record(id).State)
		w.write(away, w.record(id).Active.Machine)
	}
	was = w.contents()
	w.must(recoveryplan.Failback(w.plan, w.records(), recoveryplan.Options{}))
	w.everywhere(hq)
	w.same(was)
	w.must(recoveryplan.Commit(w.plan, w.records(), recoveryplan.Options{}))
	w.must(recoveryplan.Reprotect(w.plan, w.records(), recoveryplan.Options{}))
	w.everywhere(hq)
}

// Without recovery points, and with a person's word between the phases.
func TestTwoPhaseFailback(t *testing.T) {
	w := newWorld(t, shop()).protect()
	w.must(recoveryplan.Unplanned(w.plan, w.records(), recoveryplan.Options{Shutdown: true}))
	w.must(recoveryplan.Commit(w.plan, w.records(), recoveryplan.Options{}))
	run := w.start(recoveryplan.Failback(w.plan, w.records(), recoveryplan.Options{Sync: failback.Before}))
	w.until(run, recoveryplan.StepComplete)
	w.everywhere(away)
	for _, id := range w.plan.Machines() {
		w.write(away, w.record(id).Active.Machine)
	}
	was := w.contents()
	w.approve(run, recoveryplan.StepComplete)
	st := w.wait(run)
	require.Equal(t, dr.RunDone, st.State, st.Reason)
	w.everywhere(hq)
	w.same(was)
}

func TestDrillCleansUp(t *testing.T) {
	w := newWorld(t, shop()).protect()
	r := w.must(recoveryplan.Drill(w.plan, w.records(), recoveryplan.Options{Notes: "third quarter"}))
	require.True(t, r.Whole(), "%+v", r)
	require.Equal(t, "third quarter", r.Notes)
	require.Empty(t, w.all(away))
	w.everywhere(hq)
	for _, p := range w.records() {
		require.Nil(t, p.Test)
		require.Empty(t, p.Pins)
		require.Equal(t, dr.Protected, p.State)
	}
}

func TestTestAndCleanUp(t *testing.T) {
	w := newWorld(t, shop()).protect()
	w.must(recoveryplan.Test(w.plan, w.records(), recoveryplan.Options{}))
	require.Len(t, w.all(away), 6)
	w.must(recoveryplan.CleanUp(w.plan, w.records(), recoveryplan.Options{}))
	require.Empty(t, w.all(away))
}

func (w *world) until(run dr.RunID, gate string) {
	w.Helper()
	st, err := dr.WaitUntil(w.Context(), w.engine, run, func(s dr.Status) bool {
		g, ok := s.Step(gate)
		return ok && g.State == dr.StepWaiting && s.State == dr.RunWaiting // nothing else can go on
	})
	require.NoError(w, err)
	require.False(w, st.State.Ended(), "%s: %s", st.State, st.Reason)
}

func (w *world) approve(run dr.RunID, gate string) {
	w.Helper()
	require.NoError(w, w.engine.Decide(w.Context(), run, gate, dr.Decision{Verdict: dr.Approve, By: "anna"}))
}

package recoveryplan_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/jobs"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

func (w *world) job(run dr.RunID) jobs.Job {
	w.Helper()
	j, err := jobs.Load(w.Context(), w.engine, run, recoveryplan.Jobs(jobs.Options{Record: func(id dr.ProtectionID) (dr.Protection, bool) {
		return w.record(id), true
	}}))
	require.NoError(w, err)
	return j
}

// below are the jobs below a job's tasks.
func below(j jobs.Job) (all []jobs.Job) {
	for _, t := range j.Tasks {
		all = append(all, t.Jobs...)
	}
	return all
}

func TestAPlanIsATreeOfJobs(t *testing.T) {
	w := newWorld(t, shop()).protect()
	w.plan.Groups[1].Before = []recoveryplan.Action{{Name: "go", Manual: "Go?"}}
	run := w.start(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
	w.until(run, "group/logic/before/go")
	j := w.job(run)
	require.Equal(t, jobs.Waiting, j.State)
	require.Equal(t, jobs.ManualAction, j.Waits)
	require.Len(t, below(j), 6)
	for _, c := range below(j) {
		require.Equal(t, run, c.Parent)
		if c.ID == recoveryplan.ChildRun(run, "web1") {
			require.Equal(t, jobs.InProgress, c.State, "it waits for its turn, and for nobody")
		}
	}
	w.approve(run, "group/logic/before/go")
	w.wait(run)
	j = w.job(run)
	require.Equal(t, jobs.Waiting, j.State, "failovers wait for their commit")
	require.Equal(t, jobs.Completion, j.Waits)
	w.must(recoveryplan.Commit(w.plan, w.records(), recoveryplan.Options{}))
	require.Equal(t, jobs.Completed, w.job(run).State)
}

func TestAPlanThatSucceedsInPart(t *testing.T) {
	w := newWorld(t, shop()).protect()
	w.intercept(breaks(backendtest.OpShutdown, "app1"))
	run := w.start(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
	w.wait(run)
	w.must(recoveryplan.Commit(w.plan, w.records(), recoveryplan.Options{}))
	j := w.job(run)
	require.Equal(t, jobs.PartiallySucceeded, j.State)
	for _, c := range below(j) {
		want := jobs.Completed
		if c.ID == recoveryplan.ChildRun(run, "app1") {
			want = jobs.Failed
		}
		require.Equal(t, want, c.State, c.ID)
	}
}

func TestTwoPhasesWaitForAPerson(t *testing.T) {
	w := newWorld(t, shop()).protect()
	w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
	w.must(recoveryplan.Commit(w.plan, w.records(), recoveryplan.Options{}))
	run := w.start(recoveryplan.Failback(w.plan, w.records(), recoveryplan.Options{Sync: failback.Before}))
	w.until(run, recoveryplan.StepComplete)
	require.Equal(t, jobs.Waiting, w.job(run).State)
	require.NoError(t, w.engine.Cancel(t.Context(), run, "not today"))
	w.wait(run)
	j := w.job(run)
	require.Equal(t, jobs.Cancelled, j.State)
	for _, c := range below(j) {
		require.Equal(t, jobs.Cancelled, c.State, c.ID)
	}
}

package recoveryplan_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

func (w *world) preview(flow string, o recoveryplan.Options, checks ...recoveryplan.Check) recoveryplan.Preview {
	w.Helper()
	v, err := recoveryplan.DryRun(w.Context(), w.planEnv(), w.plan, flow, w.records(), o, checks...)
	require.NoError(w, err)
	return v
}

// A dry run names every step that the run then takes, in every flow of the way
// out and home, and changes nothing.
func TestDryRunSaysEveryStep(t *testing.T) {
	w := newWorld(t, shop()).protect()
	w.plan.Groups[0].After = []recoveryplan.Action{{Name: "check", Callback: "check"}}
	w.calls["check"] = func(context.Context, recoveryplan.Context) (any, error) { return nil, nil }
	for _, c := range []struct {
		flow string
		o    recoveryplan.Options
	}{
		{recoveryplan.FlowDrill, recoveryplan.Options{}}, {recoveryplan.FlowTest, recoveryplan.Options{}}, {recoveryplan.FlowCleanUp, recoveryplan.Options{}},
		{recoveryplan.FlowPlanned, recoveryplan.Options{}}, {recoveryplan.FlowCancel, recoveryplan.Options{}},
		{recoveryplan.FlowUnplanned, recoveryplan.Options{Shutdown: true}}, {recoveryplan.FlowCommit, recoveryplan.Options{}},
		{recoveryplan.FlowReprotect, recoveryplan.Options{}}, {recoveryplan.FlowFailback, recoveryplan.Options{}},
		{recoveryplan.FlowCommit, recoveryplan.Options{}}, {recoveryplan.FlowReprotect, recoveryplan.Options{Cold: true}},
		{recoveryplan.FlowPlanned, recoveryplan.Options{}}, {recoveryplan.FlowCommit, recoveryplan.Options{}},
		{recoveryplan.FlowFailback, recoveryplan.Options{Sync: failback.During}},
	} {
		was, bytes := w.records(), w.contents()
		v := w.preview(c.flow, c.o)
		require.True(t, v.Ready, "%s: %+v", c.flow, v.Findings)
		require.Equal(t, was, w.records())
		w.same(bytes)
		var said []string
		for _, s := range v.Steps {
			require.NotEmpty(t, s.What, s.ID)
			said = append(said, s.ID)
		}
		run := w.start(recoveryplan.Make(w.plan, c.flow, w.records(), c.o))
		st := w.wait(run)
		require.Equal(t, dr.RunDone, st.State, "%s: %s", c.flow, st.Reason)
		require.Equal(t, stepIDs(st), said, c.flow)
		for _, id := range w.plan.Machines() {
			child, err := w.engine.Status(t.Context(), recoveryplan.ChildRun(run, id))
			require.NoError(t, err)
			require.Equal(t, stepIDs(child), ownSteps(v, id), "%s of %s", c.flow, id)
		}
	}
}

func TestDryRunTellsHowLongItTook(t *testing.T) {
	w := newWorld(t, shop()).protect()
	v := w.preview(recoveryplan.FlowDrill, recoveryplan.Options{})
	require.Zero(t, v.Estimate)
	require.Positive(t, v.Unknown)
	st := w.do(recoveryplan.Drill(w.plan, w.records(), recoveryplan.Options{}))
	v = w.preview(recoveryplan.FlowDrill, recoveryplan.Options{})
	require.Zero(t, v.Unknown)
	require.Positive(t, v.Estimate)
	require.LessOrEqual(t, v.Estimate, st.Ended.Sub(st.Started))
	require.Zero(t, w.preview(recoveryplan.FlowPlanned, recoveryplan.Options{}).Estimate, "another flow")
}

func TestDryRunFinds(t *testing.T) {
	for _, c := range []struct {
		code    string
		flow    string
		blocker bool
		world   func(*world)
		want    string
	}{
		{recoveryplan.CodeState, recoveryplan.FlowPlanned, true, func(w *world) { w.do(unprotect(w.record("db1"))) }, "state is unprotected"},
		{recoveryplan.CodeRefused, recoveryplan.FlowPlanned, true, func(w *world) { w.do(unprotect(w.record("db1"))) }, "not allowed"},
		{recoveryplan.CodeSkipped, recoveryplan.FlowPlanned, false, func(w *world) {
			w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{Only: []dr.ProtectionID{"db1"}}))
		}, "it is at away already"},
		{recoveryplan.CodeMissing, recoveryplan.FlowPlanned, true, func(w *world) {
			w.plan.After = []recoveryplan.Action{{Name: "a", Callback: "nobody"}}
		}, `callback "nobody"`},
		{recoveryplan.CodeMissing, recoveryplan.FlowPlanned, true, func(w *world) {
			w.plan.After = []recoveryplan.Action{{Name: "a", Script: []string{"nothing"}}}
		}, `script "nothing"`},
		{recoveryplan.CodeSite, recoveryplan.FlowPlanned, true, func(w *world) { delete(w.env.Sites, away) }, `site "away"`},
		{recoveryplan.CodeUnreachable, recoveryplan.FlowPlanned, true, func(w *world) { require.NoError(w, w.hosts[hq].Destroy("db1")) }, "machine db1 at hq"},
		{recoveryplan.CodeUnreachable, recoveryplan.FlowUnplanned, false, func(w *world) { require.NoError(w, w.hosts[hq].Destroy("db1")) }, "machine db1 at hq"},
		{"disk-independent", recoveryplan.FlowPlanned, true, func(w *world) {
			require.NoError(w, w.hosts[hq].SetProblems("db1", backend.Problem{Code: "disk-independent", Disk: "a", Text: "it is left out of snapshots", Blocker: true}))
		}, "disk a: it is left out"},
		{recoveryplan.CodeNoPoint, recoveryplan.FlowDrill, true, func(w *world) {
			for p, err := range w.stores[away].List(w.Context(), "db1") {
				require.NoError(w, err)
				require.NoError(w, w.stores[away].Delete(w.Context(), "db1", p.ID))
			}
		}, "there is none at all"},
		{recoveryplan.CodePointAge, recoveryplan.FlowDrill, false, func(w *world) {
			w.plan.Objective.RPO = recoveryplan.Duration(time.Minute)
			w.env.Now = func() time.Time { return time.Now().Add(time.Hour) }
		}, "the objective is 1m0s"},
		{recoveryplan.CodeRunning, recoveryplan.FlowPlanned, true, func(w *world) {
			w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
			w.must(recoveryplan.Cancel(w.plan, w.records(), recoveryplan.Options{}))
			require.NoError(w, w.hosts[away].Power(w.record("db1").Standby.Machine, dr.On))
		}, "somebody started it"},
	} {
		t.Run(c.code+" "+c.flow, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, shop()).protect()
			require.Empty(t, w.preview(c.flow, recoveryplan.Options{}).Findings)
			c.world(w)
			v := w.preview(c.flow, recoveryplan.Options{})
			i := slices.IndexFunc(v.Findings, func(f recoveryplan.Finding) bool {
				return f.Code == c.code && strings.Contains(f.Text+f.Remedy, c.want)
			})
			require.GreaterOrEqual(t, i, 0, "%+v", v.Findings)
			require.Equal(t, c.blocker, v.Findings[i].Blocker)
			if c.blocker {
				require.False(t, v.Ready)
			}
		})
	}
}

func TestDryRunAsksTheCallersChecks(t *testing.T) {
	w := newWorld(t, shop()).protect()
	v := w.preview(recoveryplan.FlowPlanned, recoveryplan.Options{}, func(_ context.Context, p dr.Protection, flow string, to recoveryplan.Direction) ([]recoveryplan.Finding, error) {
		require.Equal(t, recoveryplan.Out, to)
		if p.ID != "web1" {
			return nil, nil
		}
		return []recoveryplan.Finding{{Code: "sshd", Text: "it doesn't start at boot", Blocker: true}}, nil
	})
	require.Equal(t, []recoveryplan.Finding{{Code: "sshd", Machine: "web1", Text: "it doesn't start at boot", Blocker: true}}, v.Findings)
	require.False(t, v.Ready)
}

// ownSteps are those that the preview tells of a machine's own run.
func ownSteps(v recoveryplan.Preview, id dr.ProtectionID) (ids []string) {
	for _, s := range v.Steps {
		if s.Machine != id {
			continue
		}
		for _, x := range s.Steps {
			ids = append(ids, x.ID)
		}
	}
	return ids
}

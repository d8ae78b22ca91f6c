package drillreport_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/drillreport"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

func shop() recoveryplan.Plan {
	return recoveryplan.Plan{
		Name:      "shop",
		Objective: recoveryplan.Objective{RPO: recoveryplan.Duration(time.Hour), RTO: recoveryplan.Duration(time.Hour)},
		Groups: []recoveryplan.Group{
			{Name: "data", Machines: []recoveryplan.Machine{{Protection: "db1"}, {Protection: "db2"}},
				Health: []recoveryplan.Health{{Name: "sql", Machine: "db1", Callback: "sql"}},
				After:  []recoveryplan.Action{{Name: "rows", Callback: "rows"}}},
			{Name: "front", Machines: []recoveryplan.Machine{{Protection: "web1"}},
				Before: []recoveryplan.Action{{Name: "look", Manual: "Do the databases look right?"}}},
		},
	}
}

func calls() map[string]recoveryplan.Callback {
	return map[string]recoveryplan.Callback{
		"sql":  func(context.Context, recoveryplan.Context) (any, error) { return "ready for connections", nil },
		"rows": func(context.Context, recoveryplan.Context) (any, error) { return map[string]int{"orders": 4711}, nil },
	}
}

func (w *world) drill(id dr.RunID, o drillreport.Options) drillreport.Report {
	w.Helper()
	p, err := recoveryplan.Drill(w.plan, w.records(), recoveryplan.Options{Notes: "third quarter", Hold: "Seen enough?"})
	w.run(id, p, err)
	r, err := drillreport.Gather(w.Context(), w.engine, id, o)
	require.NoError(w, err)
	return r
}

func TestADrillProvesItself(t *testing.T) {
	w := newWorld(t, shop(), calls())
	r := w.drill("drill", drillreport.Options{})
	require.NoError(t, r.Err())
	require.True(t, r.Passed)
	require.Equal(t, "shop", r.Plan)
	require.Equal(t, "third quarter", r.Notes)
	require.Len(t, r.Machines, 3)
	for _, m := range r.Machines {
		require.Equal(t, recoveryplan.Done, m.State)
		require.Equal(t, "away", m.To.Site)
		require.Positive(t, m.Age)
		require.LessOrEqual(t, m.Age, r.RPO.Got)
		require.NotNil(t, m.Evidence)
		require.True(t, *m.Cleaned)
		require.False(t, m.Up.Before(m.Started))
		require.Nil(t, m.Loss, "a drill loses nothing")
		require.Contains(t, m.Name, ".example.org")
	}
	require.Positive(t, r.RTO.Got)
	require.LessOrEqual(t, r.RTO.Got, r.Ended.Sub(r.Started))
	require.Equal(t, []string{"group/data/health/sql", "group/data/after/rows"}, []string{r.Checks[0].Step, r.Checks[1].Step})
	require.Equal(t, "ready for connections", r.Checks[0].Seen)
	require.JSONEq(t, `{"orders":4711}`, r.Checks[1].Seen)
	require.Len(t, r.Decisions, 2)
	require.Equal(t, "anna", r.Decisions[0].By)

	var out bytes.Buffer
	require.NoError(t, r.WriteJSON(&out))
	var again drillreport.Report
	require.NoError(t, json.Unmarshal(out.Bytes(), &again))
	var second bytes.Buffer
	require.NoError(t, again.WriteJSON(&second))
	require.Equal(t, out.String(), second.String(), "JSON keeps everything")
}

// Each way in which a drill can fail to prove what it should is a failure of
// the report, by name.
func TestWhatDoesNotPass(t *testing.T) {
	for _, c := range []struct {
		name  string
		plan  func(*recoveryplan.Plan)
		calls map[string]recoveryplan.Callback
		world func(*world)
		o     drillreport.Options
		want  string
	}{
		{name: "the RPO is missed", o: drillreport.Options{Objective: recoveryplan.Objective{RPO: 1}}, want: "RPO: objective 1ns, got"},
		{name: "the RTO is missed", o: drillreport.Options{Objective: recoveryplan.Objective{RTO: 1}}, want: "RTO: objective 1ns, got"},
		{name: "a check fails", calls: map[string]recoveryplan.Callback{"rows": func(context.Context, recoveryplan.Context) (any, error) {
			return nil, errors.New("the orders table is empty")
		}}, want: "group/data/after/rows: callback rows: the orders table is empty"},
		{name: "a check is not run", plan: func(p *recoveryplan.Plan) {
			p.Groups[0].Health[0].OnFailure = recoveryplan.Stop
			p.Groups[0].Health[0].Timeout = 1
		}, calls: map[string]recoveryplan.Callback{"sql": func(context.Context, recoveryplan.Context) (any, error) {
			return nil, errors.New("no connection")
		}}, want: "group/data/after/rows: not run"},
		{name: "a machine can't take part", world: func(w *world) {
			_, err := w.engine.Save(w.Context(), func() dr.Protection {
				p, err := w.engine.Load(w.Context(), "web1")
				require.NoError(w, err)
				p.State, p.Last = dr.Unprotected, dr.Point{}
				return p
			}())
			require.NoError(w, err)
		}, want: "machine web1: failed"},
		{name: "a machine gives no sign of life", plan: func(p *recoveryplan.Plan) {
			p.Groups[1].Machines[0].VerifyTimeout = recoveryplan.Duration(time.Millisecond)
		}, world: func(w *world) { w.hang = true }, want: "machine web1: it gave no sign of life in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, all := shop(), calls()
			if c.plan != nil {
				c.plan(&p)
			}
			for n, f := range c.calls {
				all[n] = f
			}
			w := newWorld(t, p, all)
			if c.world != nil {
				c.world(w)
			}
			r := w.drill("drill", c.o)
			require.False(t, r.Passed)
			require.ErrorContains(t, r.Err(), c.want)
			require.Contains(t, strings.Join(r.Failures, "\n"), c.want)
		})
	}
}

func TestOnlyPlansHaveReports(t *testing.T) {
	w := newWorld(t, shop(), calls())
	_, err := drillreport.Gather(t.Context(), w.engine, "protect-db1", drillreport.Options{})
	require.ErrorIs(t, err, dr.ErrInvalid)
	_, err = drillreport.Gather(t.Context(), w.engine, "nothing", drillreport.Options{})
	require.ErrorIs(t, err, dr.ErrNotFound)
}

// What is lost in a real failover is said; and a run that was taken back says
// that it has not passed.
func TestRealFailovers(t *testing.T) {
	p := shop()
	w := newWorld(t, p, calls())
	pl, err := recoveryplan.Planned(p, w.records(), recoveryplan.Options{})
	w.run("planned", pl, err)
	r, err := drillreport.Gather(t.Context(), w.engine, "planned", drillreport.Options{})
	require.NoError(t, err)
	require.NoError(t, r.Err())
	require.Zero(t, r.RPO.Got)
	require.True(t, r.Machines[0].Loss.None)
	require.Nil(t, r.Machines[0].Cleaned)

	pl, err = recoveryplan.Cancel(p, w.records(), recoveryplan.Options{})
	w.run("cancel", pl, err)
	r, err = drillreport.Gather(t.Context(), w.engine, "cancel", drillreport.Options{})
	require.NoError(t, err)
	require.True(t, r.Passed)
}

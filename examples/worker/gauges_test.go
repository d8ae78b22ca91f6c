package main

import (
	"context"
	"io"
	"iter"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// opens is an engine with these runs open, which it must be asked for one by one.
type opens struct {
	dr.Orchestrator
	all   []dr.Status
	calls int
}

func (o *opens) OpenRuns(context.Context) iter.Seq2[dr.RunID, error] {
	return func(yield func(dr.RunID, error) bool) {
		for _, s := range o.all {
			if !yield(s.Run, nil) {
				return
			}
		}
	}
}

func (o *opens) Status(_ context.Context, id dr.RunID) (dr.Status, error) {
	o.calls++
	for _, s := range o.all {
		if s.Run == id {
			return s, nil
		}
	}
	return dr.Status{}, dr.ErrNotFound
}

// monitored is a worker of a fleet in which all is wrong that metrics tell of.
func monitored(t *testing.T) (w *worker, scrape func() string) {
	w = inProcess(t, map[string][]dr.MachineID{"berlin": {"a", "b", "c", "d"}})
	w.o.name, w.o.engine, w.o.fleet = "w1", "temporal", 4
	w.sites.Sites = map[string]siteSpec{"berlin": {}, "bonn": {}, "koeln": {}}
	w.o.queues = []string{"berlin", "bonn"}
	require.NoError(t, w.watch.metrics.Register(gauges{w}))
	w.sites.Policies = replication.Policies{"gold": {Every: time.Minute, Forward: recoverypoint.Policy{Keep: 24 * time.Hour, RPO: time.Hour}}}
	p := w.opened
	for id, change := range map[dr.MachineID]func(*dr.Protection){
		"a": func(d *dr.Protection) {
			d.State, d.Last = dr.Protected, dr.Point{ID: "p", Time: time.Now().Add(-2 * time.Hour)}
		},
		"b": func(d *dr.Protection) { d.State, d.Last = dr.Protected, dr.Point{ID: "p", Time: time.Now()} },
		"c": func(d *dr.Protection) { d.Policy = "golden" },
		"d": func(d *dr.Protection) { d.Standby.Site = "paris" },
	} {
		d := replication.New(dr.ProtectionID(id), dr.Place{Site: "berlin", Machine: id}, "bonn")
		d.Policy = "gold"
		change(&d)
		_, err := p.env.Records.Save(t.Context(), d)
		require.NoError(t, err)
	}
	w.board.set("engine", nil)
	w.board.set("site berlin", nil)
	w.board.set("site koeln", errSilent)
	w.watch.tel.Observe(scheduler.Event{Kind: scheduler.Failed, Protection: "a", From: "berlin", To: "bonn", Err: dr.ErrBusy})
	p.env.Records = fleet.Guard(p.engine.records)
	f, err := fleet.New(p.env, fleet.Options{Leases: &fleet.Memory{}, Name: "w1", Layout: w.layout(), TTL: time.Second})
	require.NoError(t, err)
	p.repl = &sharing{f, time.Second}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ran })
	require.Eventually(t, func() bool {
		st := f.Status()
		return len(st.Holds) == 4 && !slices.ContainsFunc(st.Shards, func(x fleet.ShardStatus) bool { return x.Member == "" })
	}, time.Minute, 10*time.Millisecond)
	w.watch.shards(w.log)(fleet.Event{Kind: fleet.Lost, Err: dr.ErrFenced})

	url := serveIt(t, w)
	return w, func() string {
		res, err := http.Get(url + "/metrics")
		require.NoError(t, err)
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode, "%s", raw)
		return string(raw)
	}
}

var since = time.Now().Add(-time.Hour)

func troubles() *opens {
	return &opens{all: []dr.Status{
		{Run: "mv", Flow: "plan/planned", State: dr.RunRunning},
		{Run: "mv/a", Flow: "planned-failover", State: dr.RunWaiting},
		{Run: "x/b", Flow: "planned-failover", State: dr.RunWaiting},
		{Run: "c", Flow: "commit", State: dr.RunStuck},
		{Run: "t", Flow: "test-failover", State: dr.RunRunning, Steps: []dr.StepStatus{
			{ID: "begin", State: dr.StepDone}, {ID: "choose", State: dr.StepPending, Queue: "koeln", Awaits: since}}},
	}}
}

// An operator sees what is late, whoever keeps it, what waits for whom, which site has
// nobody, and who was fenced.
func TestMetricsOfTrouble(t *testing.T) {
	w, scrape := monitored(t)
	w.recount(t.Context(), w.opened)
	require.NoError(t, w.watch.attention.look(t.Context(), troubles(), false))
	got := scrape()
	for _, line := range []string{
		`lifeboat_protections_late{lifeboat_site_source="berlin",lifeboat_site_target="bonn"} 1`,
		`lifeboat_protections{lifeboat_protection_state="protected"} 2`,
		`lifeboat_protections{lifeboat_protection_state="unprotected"} 2`,
		`lifeboat_protections_unkept{reason="policy"} 1`,
		`lifeboat_protections_unkept{reason="reach"} 1`,
		`lifeboat_protections_unkept{reason="area"} 0`,
		`lifeboat_runs{lifeboat_flow="commit",lifeboat_run_state="stuck"} 1`,
		`lifeboat_runs{lifeboat_flow="planned-failover",lifeboat_run_state="waiting"} 1`,
		`lifeboat_runs{lifeboat_flow="planned-failover",lifeboat_run_state="held"} 1`,
		`lifeboat_steps_awaiting{lifeboat_site="koeln"} 1`,
		`lifeboat_steps_awaiting{lifeboat_site="bonn"} 0`,
		`lifeboat_worker_serves{lifeboat_site="bonn"} 1`,
		`lifeboat_worker_site_up{lifeboat_site="koeln"} 0`,
		`lifeboat_worker_site_up{lifeboat_site="berlin"} 1`,
		`lifeboat_worker_part_up{lifeboat_part="engine"} 1`,
		`lifeboat_worker_ready 0`,
		`lifeboat_fleet_shards{lifeboat_shard_state="kept"} 4`,
		`lifeboat_fleet_shards_held 4`,
		`lifeboat_fleet_shards_lost_total 1`,
	} {
		require.Contains(t, strings.Split(got, "\n"), line)
	}
	require.NotContains(t, got, `lifeboat_worker_serves{lifeboat_site="koeln"}`)
	require.Regexp(t, `(?m)^lifeboat_steps_awaiting_seconds\{lifeboat_site="koeln"\} 36\d\d`, got)
	require.ErrorContains(t, fleetState(fleet.Status{}, w.counted().unreached), "of 1, d first", "it isn't ready")

	wrong, err := promlint.New(strings.NewReader(got)).Lint()
	require.NoError(t, err)
	for _, p := range wrong {
		require.NotContains(t, p.Metric, "lifeboat", p.Text)
	}
}

// What alerts are made of is what a worker tells.
func TestAlertRules(t *testing.T) {
	w, scrape := monitored(t)
	w.recount(t.Context(), w.opened)
	require.NoError(t, w.watch.attention.look(t.Context(), troubles(), false))
	told := map[string]bool{}
	word := regexp.MustCompile(`\b(lifeboat_\w+|error_type|reason)\b`)
	for _, x := range word.FindAllString(scrape(), -1) {
		told[x] = true
	}
	raw, err := os.ReadFile("alerts.yml")
	require.NoError(t, err)
	var f struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(raw, &f))
	page, err := os.ReadFile("../../docs/running.md")
	require.NoError(t, err)
	require.NotEmpty(t, f.Groups[0].Rules)
	for _, r := range f.Groups[0].Rules {
		words := word.FindAllString(r.Expr+r.Annotations["summary"], -1)
		require.NotEmpty(t, words, r.Alert)
		for _, x := range words {
			require.True(t, told[x], "%s speaks of %s, which no worker tells", r.Alert, x)
		}
		require.Contains(t, string(page), "| "+r.Alert+" |", "docs/running.md says what to do about it")
	}
}

// Where an answer costs a query a look asks a bounded number of runs, and all of them
// in the end.
func TestALookAsksABoundedNumber(t *testing.T) {
	o := &opens{}
	for i := range 2*maxAsked + 1 {
		o.all = append(o.all, dr.Status{Run: dr.RunID(strings.Repeat("x", i+1)), Flow: "f", State: dr.RunStuck})
	}
	a := &attention{log: inProcess(t, nil).log}
	known := func() (n int) {
		for range a.runs(t.Context()) {
			n++
		}
		return n
	}
	for _, want := range []int{maxAsked, 2 * maxAsked, 2*maxAsked + 1} {
		o.calls = 0
		require.NoError(t, a.look(t.Context(), o, false))
		require.Equal(t, maxAsked, o.calls)
		require.Equal(t, want, known())
	}
	o.all = o.all[:1]
	require.NoError(t, a.look(t.Context(), o, false))
	require.Equal(t, 1, known(), "what has ended is forgotten")
}

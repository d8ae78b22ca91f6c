package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// inProcess is a worker in this process between two sites, whose runs nobody serves.
func inProcess(t *testing.T, machines map[string][]dr.MachineID) *worker {
	w := &worker{log: slog.New(slog.DiscardHandler), board: newBoard()}
	var err error
	w.watch, err = newWatch(false, 2, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	e, err := embedded.Open(filepath.Join(t.TempDir(), "j.db"), embedded.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	sites := replication.Sites{}
	for _, name := range []string{"berlin", "bonn"} {
		b := memory.New(memory.Options{Site: name})
		for _, m := range machines[name] {
			require.NoError(t, b.Add(dr.Machine{ID: m, Name: string(m), Power: dr.On, Disks: []dr.Disk{{ID: "os", Size: 1 << 20, Boot: true}}}))
		}
		sites[name] = replication.Site{Backend: b, Points: memstore.New(memstore.Options{})}
	}
	w.opened = &plant{engine: &engine{Orchestrator: e, records: e}, runs: e, env: &replication.Env{Sites: sites, Records: e}}
	return w
}

// asked is what the worker answers to a request, whose body "" is a GET.
func asked(t *testing.T, url, path, body string, into any) int {
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	r, err := http.NewRequest(method, url+path, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	if into != nil {
		require.NoError(t, json.Unmarshal(raw, into), "%s", raw)
	}
	return res.StatusCode
}

func serveIt(t *testing.T, w *worker) string {
	s := httptest.NewServer(w.handler())
	t.Cleanup(s.Close)
	return s.URL
}

// A worker that ends takes no run: in its own journal it would lie until it is
// started again.
func TestADrainingWorkerStartsNothing(t *testing.T) {
	w := inProcess(t, map[string][]dr.MachineID{"berlin": {"a"}})
	url := serveIt(t, w)
	require.Equal(t, http.StatusOK, asked(t, url, "/protections", `{"from":"berlin","to":"bonn","all":true}`, nil))
	w.board.drain()
	require.Equal(t, http.StatusServiceUnavailable, asked(t, url, "/runs", `{"flow":"protect","protection":"a","run":"r"}`, nil))
	require.Equal(t, http.StatusNotFound, asked(t, url, "/runs/r", "", nil))
}

// A machine isn't taken for another of the same ID at another site, and never has
// two records.
func TestEnrolment(t *testing.T) {
	w := inProcess(t, map[string][]dr.MachineID{"berlin": {"a", "b"}, "bonn": {"a", "c"}})
	url := serveIt(t, w)
	var said struct {
		Added   []dr.ProtectionID
		Refused map[dr.MachineID]string
	}
	ask := func(body string) int {
		said.Added, said.Refused = nil, nil
		return asked(t, url, "/protections", body, &said)
	}
	require.Equal(t, http.StatusOK, ask(`{"from":"berlin","to":"bonn","all":true}`))
	require.Equal(t, []dr.ProtectionID{"a", "b"}, said.Added)
	require.Equal(t, http.StatusOK, ask(`{"from":"bonn","to":"berlin","all":true}`))
	require.Equal(t, []dr.ProtectionID{"c"}, said.Added)
	require.Contains(t, said.Refused["a"], "of site berlin")
	require.Equal(t, http.StatusConflict, ask(`{"from":"bonn","to":"berlin","machine":"a"}`))
	require.Equal(t, http.StatusOK, ask(`{"from":"bonn","to":"berlin","machine":"a","id":"bonn-a"}`))
	require.Equal(t, []dr.ProtectionID{"bonn-a"}, said.Added)
	for _, again := range []string{`{"from":"bonn","to":"berlin","machine":"a"}`, `{"from":"bonn","to":"berlin","machine":"a","id":"bonn-a"}`, `{"from":"bonn","to":"berlin","all":true}`} {
		require.Equal(t, http.StatusOK, ask(again))
		require.Empty(t, said.Added)
		require.Empty(t, said.Refused)
	}
	require.Equal(t, http.StatusConflict, ask(`{"from":"bonn","to":"berlin","machine":"a","id":"other"}`))
}

// The machine of a drill is no machine to protect: it would be replicated, and be
// gone at the next clean-up.
func TestADrillsMachineIsNotEnrolled(t *testing.T) {
	w := inProcess(t, map[string][]dr.MachineID{"berlin": {"a"}, "bonn": {"drill-of-a", "c"}})
	d := replication.New("a", dr.Place{Site: "berlin", Machine: "a"}, "bonn")
	d.Test = &dr.TestFailover{Run: "t", State: dr.TestRunning, Place: dr.Place{Site: "bonn", Machine: "drill-of-a", Key: "test/a/t"}}
	_, err := w.opened.env.Records.Save(t.Context(), d)
	require.NoError(t, err)
	var said struct{ Added []dr.ProtectionID }
	require.Equal(t, http.StatusOK, asked(t, serveIt(t, w), "/protections", `{"from":"bonn","to":"berlin","all":true}`, &said))
	require.Equal(t, []dr.ProtectionID{"c"}, said.Added)
}

// stubborn is replication that leaves something under way.
type stubborn struct{}

func (stubborn) Run(ctx context.Context) error {
	<-ctx.Done()
	return errors.Join(ctx.Err(), errors.Join(ctx.Err(), errors.New("protection a: the cycle doesn't stop")))
}
func (stubborn) Status() scheduler.Status { return scheduler.Status{} }
func (stubborn) Poke(...dr.ProtectionID)  {}

// A drain that leaves something under way doesn't look like one that doesn't.
func TestADrainTellsOfWhatGoesOn(t *testing.T) {
	for _, repl := range []replicator{nil, stubborn{}} {
		w := inProcess(t, nil)
		w.opened.repl = repl
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.serving(ctx, w.opened) }()
		cancel()
		err := <-ended
		require.ErrorIs(t, err, context.Canceled)
		if repl == nil {
			require.NotErrorIs(t, err, errNotDrained)
			continue
		}
		require.ErrorIs(t, err, errNotDrained)
		require.ErrorContains(t, err, "doesn't stop")
	}
}

// unreadable are records that can be read at first.
type unreadable struct {
	records
	err error
}

func (u *unreadable) Protections(ctx context.Context) iter.Seq2[dr.Protection, error] {
	if u.err != nil {
		return func(yield func(dr.Protection, error) bool) { yield(dr.Protection{}, u.err) }
	}
	return u.records.Protections(ctx)
}

// While records can't be read what is late stays late, and one part that hangs
// keeps the others from nothing.
func TestTheGuardBearsWhatFails(t *testing.T) {
	w := inProcess(t, map[string][]dr.MachineID{"berlin": {"a"}})
	w.sites.Policies = replication.Policies{"gold": {Every: time.Minute, Forward: recoverypoint.Policy{Keep: 24 * time.Hour, RPO: time.Hour}}}
	p := w.opened
	d := replication.New("a", dr.Place{Site: "berlin", Machine: "a"}, "bonn")
	d.Policy = "gold"
	_, err := p.env.Records.Save(t.Context(), d)
	require.NoError(t, err)
	gone := &unreadable{records: p.engine.records}
	p.engine.records = gone
	again := func() *census {
		c := *w.counted()
		c.at = time.Time{}
		w.census = &c
		w.recount(t.Context(), p)
		return w.counted()
	}
	c := again()
	require.Equal(t, time.Hour, c.objectives["a"])
	require.Empty(t, c.unkept)
	w.o.fleet, w.sites.Areas = 4, []fleet.Area{{Name: "west", Sites: []string{"berlin", "paris"}}}
	require.Equal(t, []dr.ProtectionID{"a"}, again().unkept, "told in /status: nobody replicates it")
	gone.err = errors.New("the database is away")
	c = again()
	require.Equal(t, time.Hour, c.objectives["a"])
	require.Zero(t, c.at, "asked again at the next")
}

// hung is a platform that doesn't even notice that it isn't waited for any more.
type hung struct {
	backend.Backend
	until chan struct{}
}

func (h hung) Machine(ctx context.Context, m dr.MachineID) (dr.Machine, error) {
	<-h.until
	return dr.Machine{}, dr.ErrNotFound
}

// A part that hangs keeps the others from nothing, and this process from telling
// that it lives.
func TestAProbeThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inProcess(t, nil)
		p := w.opened
		p.engine = &engine{Orchestrator: deadend{}, records: deadend{}}
		h := hung{p.env.Sites["bonn"].Backend, make(chan struct{})}
		p.env.Sites["bonn"] = replication.Site{Backend: h, Points: p.env.Sites["bonn"].Points}
		for range 2 { // it isn't asked twice, and not forgotten
			began := time.Now()
			w.probe(t.Context(), p)
			require.LessOrEqual(t, time.Since(began), probeEvery)
			r := w.board.read()
			require.Equal(t, map[string]string{"site bonn": errSilent.Error()}, r.Missing)
			require.Equal(t, []string{"engine", "records", "site berlin"}, r.Good)
		}
		close(h.until)
		synctest.Wait()
		w.probe(t.Context(), p)
		require.True(t, w.board.read().Ready)
	})
}

// deadend is an engine without runs and records.
type deadend struct {
	dr.Orchestrator
	records
}

func (deadend) Status(context.Context, dr.RunID) (dr.Status, error) {
	return dr.Status{}, dr.ErrNotFound
}
func (deadend) Load(context.Context, dr.ProtectionID) (dr.Protection, error) {
	return dr.Protection{}, dr.ErrNotFound
}

// The name of one plan's run isn't another's.
func TestARunOfAnotherPlan(t *testing.T) {
	w := inProcess(t, nil)
	url := serveIt(t, w)
	require.NoError(t, w.opened.runs.Start(t.Context(), "r", dr.Plan{Flow: recoveryplan.Flow("unplanned"), Rev: 1, Locks: []string{"plan/a"}, Steps: []dr.Step{{ID: "s", Action: "a@1"}}}))
	ask := func(plan string) int {
		return asked(t, url, "/runs", `{"run":"r","flow":"unplanned","plan":{"name":"`+plan+`","groups":[{"name":"g","machines":["x"]}]}}`, nil)
	}
	require.Equal(t, http.StatusOK, ask("a"))
	require.Equal(t, http.StatusConflict, ask("b"))
}

// A machine's run of a recovery plan has a slash in its name; it is found, and
// steered, as any other. A list says what holds a run up.
func TestRunsWithASlash(t *testing.T) {
	w := inProcess(t, nil)
	url := serveIt(t, w)
	e := w.opened.engine.Orchestrator
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- e.Serve(ctx, dr.Actions{"a@1": func(context.Context, *dr.Call) (json.RawMessage, error) { return nil, nil }})
	}()
	defer func() { stop(); require.ErrorIs(t, <-served, context.Canceled) }()
	require.NoError(t, e.Start(t.Context(), "mv1/web", dr.Plan{Flow: "f", Rev: 1, Steps: []dr.Step{{ID: "first", Action: "a@1"}, {ID: "go", Gate: "Go?", After: []string{"first"}}}}))
	var s dr.Status
	require.Equal(t, http.StatusOK, asked(t, url, "/runs/mv1/web?wait=1m", "", &s))
	require.Equal(t, dr.RunWaiting, s.State)
	require.Len(t, s.Steps, 2)
	var all []dr.Status
	require.Equal(t, http.StatusOK, asked(t, url, "/runs?open=1", "", &all))
	require.Len(t, all[0].Steps, 1)
	require.Equal(t, "go", all[0].Steps[0].ID)
	require.Equal(t, http.StatusNotFound, asked(t, url, "/runs/mv1/web", `{}`, nil))
	require.Equal(t, http.StatusOK, asked(t, url, "/runs/mv1/web/decide", `{"step":"go","verdict":"approve","by":"me"}`, nil))
	require.Equal(t, http.StatusOK, asked(t, url, "/runs/mv1/web?wait=1m", "", &s))
	require.Equal(t, dr.RunDone, s.State)
	require.Equal(t, http.StatusConflict, asked(t, url, "/runs/mv1/web/cancel", `{"why":"late"}`, nil))
}

package recoveryplan_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

const (
	hq, away = "hq", "away"
	diskSize = 256 << 10
)

// shop is a plan of three tiers.
func shop() recoveryplan.Plan {
	return recoveryplan.Plan{Name: "shop", Groups: []recoveryplan.Group{
		{Name: "data", Machines: machines("db1", "db2")},
		{Name: "logic", Machines: machines("app1", "app2")},
		{Name: "front", Machines: machines("web1", "web2")},
	}}
}

func machines(ids ...dr.ProtectionID) (all []recoveryplan.Machine) {
	for _, id := range ids {
		// A flow that is taken back waits so long for a guest that may yet go down.
		all = append(all, recoveryplan.Machine{Protection: id, ShutdownTimeout: recoveryplan.Duration(50 * time.Millisecond)})
	}
	return all
}

// world is two sites in memory, the machines of a plan, and an engine that can
// be killed.
type world struct {
	*testing.T
	plan    recoveryplan.Plan
	hosts   map[string]*memory.Backend
	stores  map[string]*memstore.Store
	around  atomic.Pointer[backendtest.Interceptor]
	calls   map[string]recoveryplan.Callback
	scripts string
	path    string
	engine  *embedded.Engine
	env     *replication.Env
	life    *life
	rnd     *rand.Rand
	runs    int
	killAt  int64 // this write of a life kills it; 0: none
}

type life struct {
	dead   atomic.Bool
	writes atomic.Int64 // to the journal, before and after counted
	killed chan struct{}
	stop   context.CancelFunc
	done   chan error
}

func newWorld(t *testing.T, p recoveryplan.Plan) *world {
	return newWorldOf(t, p, func(int, *dr.Machine) {})
}

// newWorldOf lets the machines be more than disks.
func newWorldOf(t *testing.T, p recoveryplan.Plan, more func(int, *dr.Machine)) *world {
	dir, err := os.MkdirTemp("/dev/shm", "lifeboat")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{
		T: t, plan: p, path: filepath.Join(dir, "journal.db"), rnd: rand.New(rand.NewPCG(3, 4)), calls: map[string]recoveryplan.Callback{},
		hosts:  map[string]*memory.Backend{hq: memory.New(memory.Options{Site: "hqmade"}), away: memory.New(memory.Options{Site: "awaymade"})},
		stores: map[string]*memstore.Store{hq: memstore.New(memstore.Options{}), away: memstore.New(memstore.Options{})},
	}
	t.Cleanup(w.end)
	w.open()
	for i, id := range p.Machines() {
		m := dr.Machine{ID: dr.MachineID(id), Name: string(id), Power: dr.On, Disks: []dr.Disk{{ID: "a", Size: diskSize, Boot: true}}}
		more(i, &m)
		require.NoError(t, w.hosts[hq].Add(m))
		w.write(hq, m.ID)
		_, err := w.engine.Save(t.Context(), replication.New(id, dr.Place{Site: hq, Machine: m.ID}, away))
		require.NoError(t, err)
	}
	return w
}

// open begins a life of the process.
func (w *world) open() {
	w.Helper()
	l := &life{done: make(chan error, 1), killed: make(chan struct{})}
	at := w.killAt
	e, err := embedded.Open(w.path, embedded.Options{BackoffFirst: 1, BackoffMost: 1, Parallel: 4, Intercept: func(embedded.Write) error {
		if l.dead.Load() {
			return os.ErrClosed
		}
		if l.writes.Add(1) == at {
			l.dead.Store(true)
			close(l.killed)
			return os.ErrClosed
		}
		return nil
	}})
	require.NoError(w, err)
	around := func(ctx context.Context, c backendtest.Call, do func() error) error {
		if l.dead.Load() {
			return os.ErrClosed
		}
		if i := w.around.Load(); i != nil {
			return (*i)(ctx, c, do)
		}
		return do()
	}
	site := func(name string) replication.Site {
		return replication.Site{Backend: backendtest.Wrap(w.hosts[name], around), Points: w.stores[name]}
	}
	w.engine, w.life = e, l
	w.env = &replication.Env{Records: e, Sites: replication.Sites{hq: site(hq), away: site(away)}}
	all, err := dr.Merge(replication.Actions(w.env), failover.Actions(w.env), failback.Actions(w.env), recoveryplan.Actions(w.planEnv()))
	require.NoError(w, err)
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	go func() { l.done <- e.Serve(ctx, all) }()
}

func (w *world) planEnv() *recoveryplan.Env {
	return &recoveryplan.Env{Replication: w.env, Runs: w.engine, Callbacks: w.calls, Scripts: w.scripts}
}

func (w *world) end() {
	if w.life == nil {
		return
	}
	w.life.stop()
	<-w.life.done
	_ = w.engine.Close()
	w.life = nil
}

// crash ends the life as kill -9 does, and begins another.
func (w *world) crash() {
	w.Helper()
	w.life.dead.Store(true)
	w.end()
	for _, h := range w.hosts {
		h.Crash()
	}
	for _, s := range w.stores {
		s.Crash()
	}
	w.open()
}

func (w *world) intercept(i backendtest.Interceptor) {
	if i == nil {
		w.around.Store(nil)
		return
	}
	w.around.Store(&i)
}

// write is a machine's guest writing a little.
func (w *world) write(site string, m dr.MachineID) {
	w.Helper()
	p := make([]byte, 1000)
	for i := range p {
		p[i] = byte(w.rnd.Uint32())
	}
	require.NoError(w, w.hosts[site].Write(m, "a", p, w.rnd.Int64N(diskSize-1000)))
}

func (w *world) records() (all []dr.Protection) {
	w.Helper()
	for p, err := range w.engine.Protections(w.Context()) {
		require.NoError(w, err)
		all = append(all, p)
	}
	return all
}

func (w *world) record(id dr.ProtectionID) dr.Protection {
	w.Helper()
	p, err := w.engine.Load(w.Context(), id)
	require.NoError(w, err)
	return p
}

func (w *world) next(flow string) dr.RunID {
	w.runs++
	return dr.RunID(fmt.Sprintf("%02d-%s", w.runs, flow))
}

func (w *world) start(p dr.Plan, err error) dr.RunID {
	w.Helper()
	require.NoError(w, err)
	run := w.next(p.Flow)
	require.NoError(w, w.engine.Start(w.Context(), run, p))
	return run
}

func (w *world) wait(run dr.RunID) dr.Status {
	w.Helper()
	st, err := dr.Wait(w.Context(), w.engine, run, nil)
	require.NoError(w, err)
	return st
}

func (w *world) do(p dr.Plan, err error) dr.Status {
	w.Helper()
	return w.wait(w.start(p, err))
}

// must is do for runs that have to go to their end.
func (w *world) must(p dr.Plan, err error) recoveryplan.Report {
	w.Helper()
	st := w.do(p, err)
	require.Equal(w, dr.RunDone, st.State, "%s: %s\n%+v", st.Flow, st.Reason, st.Steps)
	r, ok := recoveryplan.ReportOf(st)
	require.True(w, ok)
	return r
}

// protect makes the first points of all machines.
func (w *world) protect() *world {
	w.Helper()
	for _, id := range w.plan.Machines() {
		st := w.do(replication.Protect(w.record(id)))
		require.Equal(w, dr.RunDone, st.State, st.Reason)
	}
	return w
}

// running tells at which site each machine of the plan runs: once, or it is a
// split brain. Drills are left out.
func (w *world) running() map[dr.ProtectionID]string {
	w.Helper()
	drills := map[dr.MachineID]bool{}
	owner := map[dr.MachineID]dr.ProtectionID{}
	for _, p := range w.records() {
		if p.Test != nil {
			drills[p.Test.Place.Machine] = true
		}
		owner[p.Active.Machine], owner[p.Standby.Machine] = p.ID, p.ID
	}
	at := map[dr.ProtectionID]string{}
	for _, site := range []string{hq, away} {
		for _, m := range w.all(site) {
			if m.Power != dr.On || drills[m.ID] {
				continue
			}
			id := owner[m.ID]
			require.Empty(w, at[id], "%s runs at both sites", id)
			at[id] = site
		}
	}
	return at
}

func (w *world) all(site string) (all []dr.Machine) {
	l, _ := dr.As[backend.Lister](w.hosts[site])
	for m, err := range l.Machines(w.Context()) {
		require.NoError(w, err)
		all = append(all, m)
	}
	return all
}

// everywhere expects all machines of the plan to run at one site.
func (w *world) everywhere(site string) {
	w.Helper()
	at := w.running()
	for _, id := range w.plan.Machines() {
		require.Equal(w, site, at[id], "where %s runs", id)
	}
}

func (w *world) bytes(site string, m dr.MachineID) []byte {
	w.Helper()
	r, err := w.hosts[site].Disk(m, "a")
	require.NoError(w, err)
	p := make([]byte, diskSize)
	_, err = r.ReadAt(p, 0)
	require.NoError(w, err)
	return p
}

// contents are those of all machines where they run.
func (w *world) contents() map[dr.ProtectionID][]byte {
	all := map[dr.ProtectionID][]byte{}
	for _, id := range w.plan.Machines() {
		a := w.record(id).Active
		all[id] = w.bytes(a.Site, a.Machine)
	}
	return all
}

func (w *world) same(want map[dr.ProtectionID][]byte) {
	w.Helper()
	for id, got := range w.contents() {
		require.True(w, bytes.Equal(want[id], got), "disk of %s", id)
	}
}

// order is when the steps of a run were done, for questions of before and
// behind.
func order(t *testing.T, st dr.Status, ids ...string) {
	t.Helper()
	for i := 1; i < len(ids); i++ {
		a, ok := st.Step(ids[i-1])
		require.True(t, ok, "no step %s in %v", ids[i-1], stepIDs(st))
		b, ok := st.Step(ids[i])
		require.True(t, ok, "no step %s in %v", ids[i], stepIDs(st))
		require.False(t, b.Started.Before(a.Ended), "%s began before %s had ended", ids[i], ids[i-1])
	}
}

func stepIDs(st dr.Status) (ids []string) {
	for _, s := range st.Steps {
		ids = append(ids, s.ID)
	}
	return slices.Clip(ids)
}

package failback_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

const (
	hq, away = "hq", "away"
	pid      = dr.ProtectionID("app1")
	vm       = dr.MachineID("vm1")
)

var sizes = map[dr.DiskID]int64{"a": 512 << 10, "b": 300*512 + 64<<10}

// world is two sites in memory, one protected machine, and an engine.
type world struct {
	t      *testing.T
	rnd    *rand.Rand
	hosts  map[string]*memory.Backend
	stores map[string]*memstore.Store
	around atomic.Pointer[backendtest.Interceptor] // around backends, stores and records
	own    dr.Actions
	path   string
	env    *replication.Env
	engine *embedded.Engine
	life   *life
	runs   int
}

// life is one incarnation of the process: what runs in it reaches nothing any
// more when it is dead.
type life struct {
	dead atomic.Bool
	stop context.CancelFunc
	done chan error
}

func newWorld(t *testing.T, home, other memory.Options) *world {
	home.Site, other.Site = "hqmade", "awaymade"
	w := &world{
		t: t, rnd: rand.New(rand.NewPCG(1, 2)), path: filepath.Join(journals(t), "journal.db"),
		hosts:  map[string]*memory.Backend{hq: memory.New(home), away: memory.New(other)},
		stores: map[string]*memstore.Store{hq: memstore.New(memstore.Options{}), away: memstore.New(memstore.Options{})},
	}
	m := dr.Machine{ID: vm, Name: "app1", Power: dr.On, Disks: []dr.Disk{{ID: "a", Size: sizes["a"], Boot: true}, {ID: "b", Size: sizes["b"]}}}
	require.NoError(t, w.hosts[hq].Add(m))
	t.Cleanup(w.end)
	w.open()
	return w
}

// journals is a folder that costs no disk where there is such a thing: the
// engine's durability is the matter of its own tests.
func journals(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "lifeboat")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// open begins a life.
func (w *world) open() {
	w.t.Helper()
	l := &life{}
	e, err := embedded.Open(w.path, embedded.Options{BackoffFirst: 1, BackoffMost: 1, Intercept: func(embedded.Write) error {
		if l.dead.Load() {
			return errDead
		}
		return nil
	}})
	require.NoError(w.t, err)
	alive := func(_ context.Context, _ backendtest.Call, do func() error) error {
		if l.dead.Load() {
			return errDead
		}
		return do()
	}
	is := []backendtest.Interceptor{alive, func(ctx context.Context, c backendtest.Call, do func() error) error {
		if i := w.around.Load(); i != nil {
			return (*i)(ctx, c, do)
		}
		return do()
	}}
	site := func(name string) replication.Site {
		return replication.Site{
			Backend: backendtest.Wrap(w.hosts[name], is...),
			Points:  &store{Store: w.stores[name], around: is},
		}
	}
	w.engine, w.life = e, l
	w.env = &replication.Env{Records: &records{Engine: e, around: is}, Sites: replication.Sites{hq: site(hq), away: site(away)}}
}

// intercept puts i around all calls; nil takes it away.
func (w *world) intercept(i backendtest.Interceptor) {
	if i == nil {
		w.around.Store(nil)
		return
	}
	w.around.Store(&i)
}

// serve begins to run steps; own actions may be given.
func (w *world) serve(own dr.Actions) {
	if own != nil {
		w.own = own
	}
	all, err := dr.Merge(replication.Actions(w.env), failover.Actions(w.env), failback.Actions(w.env), w.own)
	require.NoError(w.t, err)
	ctx, stop := context.WithCancel(context.Background())
	l, e := w.life, w.engine
	l.stop, l.done = stop, make(chan error, 1)
	go func() { l.done <- e.Serve(ctx, all) }()
}

func (w *world) end() {
	if w.life == nil {
		return
	}
	defer func() { w.life = nil }()
	if w.life.stop != nil {
		w.life.stop()
		<-w.life.done
		w.life.stop = nil
	}
	if err := w.engine.Close(); !w.life.dead.Load() {
		require.NoError(w.t, err)
	}
}

// crash ends the life as kill -9 does, and begins another.
func (w *world) crash() {
	w.t.Helper()
	w.life.dead.Store(true)
	w.end()
	for _, h := range w.hosts {
		h.Crash()
	}
	for _, s := range w.stores {
		s.Crash()
	}
	w.open()
	w.serve(nil)
}

func (w *world) record() dr.Protection {
	w.t.Helper()
	p, err := w.engine.Load(w.t.Context(), pid)
	require.NoError(w.t, err)
	return p
}

func runID(n int, flow string) dr.RunID { return dr.RunID(fmt.Sprintf("%02d-%s", n, flow)) }

// pointBytes reads a recovery point.
func (w *world) pointBytes(site string, m dr.MachineID, id dr.PointID) content {
	w.t.Helper()
	img, err := w.stores[site].Open(w.t.Context(), m, id)
	require.NoError(w.t, err)
	all := content{}
	for d, size := range sizes {
		all[d] = make([]byte, size)
		_, err := img.ReadAt(w.t.Context(), d, all[d], 0)
		if err != nil {
			require.ErrorIs(w.t, err, io.EOF)
		}
	}
	require.NoError(w.t, img.Close())
	return all
}

func (w *world) start(p dr.Plan) dr.RunID {
	w.t.Helper()
	w.runs++
	run := runID(w.runs, p.Flow)
	require.NoError(w.t, w.engine.Start(w.t.Context(), run, p))
	return run
}

// wait waits for the end of a run, approving whatever gate it comes to.
func (w *world) wait(run dr.RunID) dr.Status {
	w.t.Helper()
	st, err := dr.Wait(w.t.Context(), w.engine, run, func(s dr.Status) {
		for _, x := range s.Steps {
			if x.State == dr.StepWaiting {
				_ = w.engine.Decide(w.t.Context(), run, x.ID, dr.Decision{Verdict: dr.Approve, By: "test"})
			}
		}
		if s.State == dr.RunStuck {
			for _, x := range s.Steps {
				if x.State == dr.StepStuck {
					_ = w.engine.Decide(w.t.Context(), run, x.ID, dr.Decision{Verdict: dr.Retry, By: "test"})
				}
			}
		}
	})
	require.NoError(w.t, err)
	return st
}

// do starts a plan and waits for its end.
func (w *world) do(p dr.Plan, err error) dr.Status {
	w.t.Helper()
	require.NoError(w.t, err)
	return w.wait(w.start(p))
}

// must is do for runs that have to succeed.
func (w *world) must(p dr.Plan, err error) dr.Status {
	w.t.Helper()
	st := w.do(p, err)
	require.Equal(w.t, dr.RunDone, st.State, "%s: %s\n%+v", st.Flow, st.Reason, st.Steps)
	return st
}

// protect makes and protects the machine.
func (w *world) protect() {
	w.t.Helper()
	w.enroll()
	w.must(replication.Protect(w.record()))
}

func (w *world) enroll() {
	w.t.Helper()
	_, err := w.engine.Save(w.t.Context(), replication.New(pid, dr.Place{Site: hq, Machine: vm}, away))
	require.NoError(w.t, err)
	w.fill(hq, vm)
}

func (w *world) cycle() replication.Report {
	w.t.Helper()
	r, err := w.env.Replicate(w.t.Context(), pid, dr.CrashConsistent, nil)
	require.NoError(w.t, err)
	return r
}

// fill writes to half of all of the machine's disks, as its guest would.
func (w *world) fill(site string, m dr.MachineID) {
	for _, d := range slices.Sorted(maps.Keys(sizes)) {
		p := w.noise(int(sizes[d] / 2))
		require.NoError(w.t, w.hosts[site].Write(m, d, p, sizes[d]/4))
	}
}

func (w *world) noise(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(w.rnd.Uint32())
	}
	return p
}

// scribble writes a few small ranges as the guest would, and returns a bound
// of the bytes that can differ, in whole blocks.
func (w *world) scribble(site string, m dr.MachineID, n int) int64 {
	w.t.Helper()
	for range n {
		d := dr.DiskID("a")
		if w.rnd.IntN(4) == 0 {
			d = "b"
		}
		p := w.noise(700)
		require.NoError(w.t, w.hosts[site].Write(m, d, p, w.rnd.Int64N(sizes[d]-700)))
	}
	return int64(n) * 2 * dr.SumBlock
}

type content map[dr.DiskID][]byte

// disks reads everything the machine's disks hold.
func (w *world) disks(site string, m dr.MachineID) content {
	w.t.Helper()
	all := content{}
	for d, size := range sizes {
		r, err := w.hosts[site].Disk(m, d)
		require.NoError(w.t, err)
		require.Equal(w.t, size, r.Size())
		all[d] = make([]byte, size)
		_, err = r.ReadAt(all[d], 0)
		require.NoError(w.t, err)
	}
	return all
}

func (w *world) same(want, got content, why ...any) {
	w.t.Helper()
	require.Equal(w.t, len(want), len(got))
	for d := range want {
		if bytes.Equal(want[d], got[d]) {
			continue
		}
		require.Len(w.t, got[d], len(want[d]), "disk %s", d)
		for off := range want[d] {
			if want[d][off] != got[d][off] {
				require.Fail(w.t, fmt.Sprintf("disk %s differs from %d on", d, off), why...)
			}
		}
	}
}

func (w *world) power(site string, m dr.MachineID) dr.Power {
	w.t.Helper()
	mc, err := w.hosts[site].Machine(w.t.Context(), m)
	require.NoError(w.t, err)
	return mc.Power
}

// active is the protected machine where it runs, on is its content there.
func (w *world) active() dr.Place  { return w.record().Active }
func (w *world) activeOn() content { a := w.active(); return w.disks(a.Site, a.Machine) }

// machines are all of a site.
func (w *world) machines(site string) (ids []dr.MachineID) {
	l, ok := dr.As[backend.Lister](w.hosts[site])
	require.True(w.t, ok)
	for m, err := range l.Machines(w.t.Context()) {
		require.NoError(w.t, err)
		ids = append(ids, m.ID)
	}
	return ids
}

// picture is all that can be seen of the world, as text, to be compared. The
// bytes of machines that are off and aren't in whole are left out.
func (w *world) picture(whole ...dr.MachineID) string {
	w.t.Helper()
	var b strings.Builder
	p := w.record()
	p.Version, p.Epoch, p.Applied, p.Last = 0, 0, "", dr.Point{}
	raw, err := json.MarshalIndent(p, "", " ")
	require.NoError(w.t, err)
	fmt.Fprintf(&b, "%s\n", raw)
	for _, site := range []string{hq, away} {
		for _, id := range w.machines(site) {
			pw := w.power(site, id)
			caps, err := w.hosts[site].Captures(id)
			require.NoError(w.t, err)
			fmt.Fprintf(&b, "machine %s at %s: %s, captures %q", id, site, pw, caps)
			if pw == dr.On || slices.Contains(whole, id) {
				c := w.disks(site, id)
				fmt.Fprintf(&b, ", bytes %x %x", sha256.Sum256(c["a"]), sha256.Sum256(c["b"]))
			}
			b.WriteByte('\n')
		}
		for _, line := range []dr.MachineID{vm, "hqmade-1", "hqmade-2", "awaymade-1", "awaymade-2", "awaymade-3"} {
			var ids []string
			require.NoError(w.t, w.stores[site].Process(w.t.Context(), line))
			for q, err := range w.stores[site].List(w.t.Context(), line) {
				require.NoError(w.t, err)
				if !strings.Contains(string(q.ID), failover.StepSync) { // stays, as every recovery point
					ids = append(ids, string(q.ID))
				}
			}
			for q, err := range w.stores[site].Pending(w.t.Context(), line) {
				require.NoError(w.t, err)
				ids = append(ids, "pending "+string(q.ID))
			}
			fmt.Fprintf(&b, "points of %s at %s: %q\n", line, site, ids)
		}
	}
	return b.String()
}

// running are the machines that are on, drills left out.
func (w *world) running() (on []dr.MachineID) {
	var drill dr.MachineID
	if t := w.record().Test; t != nil {
		drill = t.Place.Machine
	}
	for _, site := range []string{hq, away} {
		for _, id := range w.machines(site) {
			if id != drill && w.power(site, id) == dr.On {
				on = append(on, id)
			}
		}
	}
	return on
}

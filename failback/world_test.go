package failback_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

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

// world is two sites in memory, one protected machine, and an engine.
type world struct {
	t      *testing.T
	rnd    *rand.Rand
	hosts  map[string]*memory.Backend
	env    *replication.Env
	engine *embedded.Engine
	runs   int
	extra  dr.Actions
}

func newWorld(t *testing.T, home, other memory.Options) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(1, 2)), hosts: map[string]*memory.Backend{hq: memory.New(home), away: memory.New(other)}}
	m := dr.Machine{ID: vm, Name: "app1", Power: dr.On, Disks: []dr.Disk{{ID: "a", Size: 2 << 20, Boot: true}, {ID: "b", Size: 300*512 + 64<<10}}}
	require.NoError(t, w.hosts[hq].Add(m))
	e, err := embedded.Open(filepath.Join(t.TempDir(), "journal.db"), embedded.Options{BackoffFirst: 1, BackoffMost: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	w.engine = e
	w.env = &replication.Env{Records: e, Sites: replication.Sites{
		hq:   {Backend: w.hosts[hq], Points: memstore.New(memstore.Options{})},
		away: {Backend: w.hosts[away], Points: memstore.New(memstore.Options{})},
	}}
	return w
}

// serve begins to run steps; own actions may be given.
func (w *world) serve(own dr.Actions) {
	all, err := dr.Merge(replication.Actions(w.env), failover.Actions(w.env), failback.Actions(w.env), own)
	require.NoError(w.t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.engine.Serve(ctx, all) }()
	w.t.Cleanup(func() { stop(); <-done })
}

func (w *world) record() dr.Protection {
	w.t.Helper()
	p, err := w.engine.Load(w.t.Context(), pid)
	require.NoError(w.t, err)
	return p
}

// do starts a plan and waits for its end.
func (w *world) do(p dr.Plan, err error) dr.Status {
	w.t.Helper()
	require.NoError(w.t, err)
	w.runs++
	run := dr.RunID(fmt.Sprintf("%02d-%s", w.runs, p.Flow))
	require.NoError(w.t, w.engine.Start(w.t.Context(), run, p))
	st, err := dr.Wait(w.t.Context(), w.engine, run, nil)
	require.NoError(w.t, err)
	return st
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
	_, err := w.engine.Save(w.t.Context(), replication.New(pid, dr.Place{Site: hq, Machine: vm}, away))
	require.NoError(w.t, err)
	w.fill(hq, vm)
	w.must(replication.Protect(w.record()))
}

func (w *world) cycle() replication.Report {
	w.t.Helper()
	r, err := w.env.Replicate(w.t.Context(), pid, dr.CrashConsistent, nil)
	require.NoError(w.t, err)
	return r
}

// fill writes to all of the machine's disks, as its guest would.
func (w *world) fill(site string, m dr.MachineID) {
	for d, size := range map[dr.DiskID]int{"a": 2 << 20, "b": 300*512 + 64<<10} {
		p := make([]byte, size/2)
		for i := range p {
			p[i] = byte(w.rnd.Uint32())
		}
		require.NoError(w.t, w.hosts[site].Write(m, d, p, int64(size/4)))
	}
}

// scribble writes a few small ranges as the guest would, and returns a bound
// of the bytes that can differ, in whole blocks.
func (w *world) scribble(site string, m dr.MachineID, n int) int64 {
	w.t.Helper()
	for range n {
		p := make([]byte, 700)
		for i := range p {
			p[i] = byte(w.rnd.Uint32())
		}
		require.NoError(w.t, w.hosts[site].Write(m, "a", p, w.rnd.Int64N(2<<20-700)))
	}
	return int64(n) * 2 * dr.SumBlock
}

// disks reads everything the machine's disks hold.
func (w *world) disks(site string, m dr.MachineID) map[dr.DiskID][]byte {
	w.t.Helper()
	all := map[dr.DiskID][]byte{}
	for _, d := range []dr.DiskID{"a", "b"} {
		r, err := w.hosts[site].Disk(m, d)
		require.NoError(w.t, err)
		all[d], err = io.ReadAll(r)
		require.NoError(w.t, err)
	}
	return all
}

func (w *world) same(want, got map[dr.DiskID][]byte) {
	w.t.Helper()
	require.Equal(w.t, len(want), len(got))
	for d := range want {
		require.Len(w.t, got[d], len(want[d]), "disk %s", d)
		for off := range want[d] {
			if want[d][off] != got[d][off] {
				w.t.Fatalf("disk %s differs from %d on", d, off)
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

package vmware

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// end is a site, with the hands of its platform.
type end struct {
	backendtest.Harness
	name string
}

func vsphereEnd(t *testing.T, name string) end {
	return end{newVCenter(t, vmwaretest.Options{}).harness(t), name}
}

// nbdkitEnd is a vCenter whose disks travel through a real nbdkit: its file
// plugin serves the frozen bytes where the vddk plugin would, and takes back
// what is written.
func nbdkitEnd(t *testing.T, name string) end {
	program := tool(t, "nbdkit")
	w := newVCenter(t, vmwaretest.Options{})
	w.o.Transports, w.o.Force = []Transport{Servers(&filePlugin{sim: w.sim, program: program, dir: shortFolder(t)})}, true
	return end{w.harness(t), name}
}

// filePlugin serves the simulator's disks by nbdkit.
type filePlugin struct {
	sim          *vmwaretest.Simulator
	program, dir string
	n            atomic.Int64
}

func (f *filePlugin) ServeDisk(ctx context.Context, r DiskRequest) (string, func() error, error) {
	path := filepath.Join(f.dir, fmt.Sprint(f.n.Add(1)))
	e := vmwaretest.NBDExport{VM: types.ManagedObjectReference{Type: "VirtualMachine", Value: r.VM}, File: r.File}
	if r.Snapshot != "" {
		e.Snapshot = types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: r.Snapshot}
	}
	if err := f.sim.WriteRaw(path, e); err != nil {
		return "", nil, err
	}
	cmd := exec.Command(f.program, "--foreground", "--exit-with-parent", "--unix", path+".s", "file", path)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	for {
		if c, err := net.Dial("unix", path+".s"); err == nil {
			c.Close()
			break
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return "", nil, ctx.Err()
		}
	}
	return "nbd+unix:///?socket=" + path + ".s", func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		defer os.Remove(path)
		if r.ReadOnly {
			return nil
		}
		_, err := f.sim.ReadRaw(path, e)
		return err
	}, nil
}

func memoryEnd(t *testing.T, name string) end {
	b := memory.New(memory.Options{Site: name})
	return end{backendtest.Simulated(b, b), name}
}

// guest writes to a machine's disks until stopped, or until the machine is off.
func (e end) guest(seed uint64, id dr.MachineID, disks []dr.Disk) (stop func()) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		rnd := rand.New(rand.NewPCG(seed, 1))
		for {
			select {
			case <-quit:
				return
			default:
			}
			d := disks[rnd.IntN(len(disks))]
			p := make([]byte, 512*(1+rnd.IntN(16)))
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			if e.Write(id, d.ID, p, rnd.Int64N((d.Size-int64(len(p)))/512)*512) != nil {
				return // it is off
			}
		}
	})
	return func() { close(quit); wg.Wait() }
}

func (e end) scribble(t *testing.T, id dr.MachineID, d dr.Disk, n int) (bound int64) {
	for i := range n {
		p := bytes.Repeat([]byte{byte(i + 1)}, 512)
		require.NoError(t, e.Write(id, d.ID, p, d.Size/int64(n)/512*512*int64(i)))
	}
	return int64(n) * 64 << 10
}

func (e end) content(t *testing.T, id dr.MachineID, disks []dr.Disk) map[dr.DiskID][]byte {
	t.Helper()
	all := map[dr.DiskID][]byte{}
	for _, d := range disks {
		all[d.ID] = make([]byte, d.Size)
		require.NoError(t, e.Read(id, d.ID, all[d.ID], 0))
	}
	return all
}

func sameContent(t *testing.T, want, got map[dr.DiskID][]byte, what string) {
	t.Helper()
	for id := range want {
		for i := range want[id] {
			if want[id][i] != got[id][i] {
				require.Fail(t, fmt.Sprintf("%s: disk %s differs from %d on", what, id, i))
			}
		}
	}
}

// trip is one machine between two ends, with vaults and an engine.
type trip struct {
	t         *testing.T
	home, far end
	env       *replication.Env
	engine    *embedded.Engine
	disks     []dr.Disk
	machine   dr.MachineID
	runs      int
}

func newTrip(t *testing.T, home, far end) *trip {
	tr := &trip{t: t, home: home, far: far, disks: []dr.Disk{{ID: "os", Size: 4 << 20, Boot: true}, {ID: "data", Size: 3<<20 + 1024}}}
	e, err := embedded.Open(filepath.Join(t.TempDir(), "journal.db"), embedded.Options{BackoffFirst: 1, BackoffMost: 1})
	require.NoError(t, err)
	t.Cleanup(func() { e.Close() })
	tr.engine = e
	sites := replication.Sites{}
	for _, x := range []end{home, far} {
		v, err := vault.OpenDir(t.TempDir(), vault.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { v.Close() })
		sites[x.name] = replication.Site{Backend: x.Backend, Points: v}
	}
	tr.env = &replication.Env{Records: e, Sites: sites}
	actions, err := dr.Merge(replication.Actions(tr.env), failover.Actions(tr.env), failback.Actions(tr.env))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Serve(ctx, actions) }()
	t.Cleanup(func() { cancel(); <-done })
	tr.machine, err = home.Machine(t, tr.disks)
	require.NoError(t, err)
	require.NoError(t, home.Power(tr.machine, dr.On))
	_, err = e.Save(t.Context(), replication.New("app", dr.Place{Site: home.name, Machine: tr.machine}, far.name))
	require.NoError(t, err)
	return tr
}

func (tr *trip) record() dr.Protection {
	tr.t.Helper()
	p, err := tr.engine.Load(tr.t.Context(), "app")
	require.NoError(tr.t, err)
	return p
}

func (tr *trip) must(p dr.Plan, err error) dr.Status {
	tr.t.Helper()
	require.NoError(tr.t, err)
	tr.runs++
	run := dr.RunID(fmt.Sprintf("%02d-%s", tr.runs, p.Flow))
	require.NoError(tr.t, tr.engine.Start(tr.t.Context(), run, p))
	st, err := dr.Wait(tr.t.Context(), tr.engine, run, nil)
	require.NoError(tr.t, err)
	require.Equal(tr.t, dr.RunDone, st.State, "%s: %s\n%+v", st.Flow, st.Reason, st.Steps)
	return st
}

func (tr *trip) cycle() replication.Report {
	tr.t.Helper()
	r, err := tr.env.Replicate(tr.t.Context(), "app", dr.CrashConsistent, nil)
	require.NoError(tr.t, err)
	return r
}

func result[T any](t *testing.T, st dr.Status, step string) (v T) {
	t.Helper()
	s, ok := st.Step(step)
	require.True(t, ok, "step %s", step)
	require.NoError(t, json.Unmarshal(s.Result, &v))
	return v
}

func (tr *trip) size() (n int64) {
	for _, d := range tr.disks {
		n += d.Size
	}
	return n
}

// The whole cycle, with vSphere on either side and on both, and a guest that
// writes all the time.
func TestRoundTrip(t *testing.T) {
	for name, ends := range map[string]func(*testing.T) (home, far end){
		"from vSphere":     func(t *testing.T) (end, end) { return vsphereEnd(t, "home"), memoryEnd(t, "far") },
		"to vSphere":       func(t *testing.T) (end, end) { return memoryEnd(t, "home"), vsphereEnd(t, "far") },
		"through nbdkit":   func(t *testing.T) (end, end) { return nbdkitEnd(t, "home"), memoryEnd(t, "far") },
		"between vCenters": func(t *testing.T) (end, end) { return vsphereEnd(t, "home"), vsphereEnd(t, "far") },
	} {
		t.Run(name, func(t *testing.T) {
			home, far := ends(t)
			newTrip(t, home, far).run()
		})
	}
}

func (tr *trip) run() {
	t, home, far, m, disks := tr.t, tr.home, tr.far, tr.machine, tr.disks
	stop := home.guest(1, m, disks)
	tr.must(replication.Protect(tr.record()))
	for range 3 {
		tr.cycle()
	}
	stop()
	tr.cycle() // what was written since counts into this one
	home.scribble(t, m, disks[0], 5)
	rep := tr.cycle()
	require.LessOrEqual(t, rep.Read, int64(5*64<<10), "only what the guest changed is read")
	stop = home.guest(2, m, disks)

	// A drill, which production doesn't notice.
	drill, err := failover.Test(tr.record(), "drill", failover.Options{})
	require.NoError(t, err)
	require.NoError(t, tr.engine.Start(t.Context(), "drill", drill))
	st, err := dr.Wait(t.Context(), tr.engine, "drill", nil)
	require.NoError(t, err)
	require.Equal(t, dr.RunDone, st.State, st.Reason)
	drilled := tr.record().Test.Place.Machine
	tr.cycle()
	tr.must(failover.CleanUp(tr.record(), "fine"))
	_, err = far.Backend.Machine(t.Context(), drilled)
	require.ErrorIs(t, err, dr.ErrNotFound)

	// Out, while the guest writes until it is shut down: nothing is lost.
	st = tr.must(failover.Planned(tr.record(), failover.Options{}))
	stop()
	require.True(t, result[failover.Report](t, st, failover.StepFinish).Loss.None)
	away := tr.record().Active.Machine
	last := home.content(t, m, disks)
	sameContent(t, last, far.content(t, away, disks), "failed over")

	// Another point, and back; what the guest wrote meanwhile is undone.
	first := tr.firstPoint(far.name, m)
	stop = far.guest(3, away, disks)
	tr.must(failover.ChangePoint(tr.record(), recoverypoint.Choice{Option: recoverypoint.Custom, Point: first}, failover.Options{}))
	stop()
	sameContent(t, tr.pointContent(far.name, m, first), far.content(t, away, disks), "another point")
	stop = far.guest(4, away, disks)
	tr.must(failover.ChangePoint(tr.record(), recoverypoint.Choice{}, failover.Options{}))
	stop()
	sameContent(t, last, far.content(t, away, disks), "the latest point again")
	tr.must(failover.Commit(tr.record(), failover.CommitOptions{}))

	// Both sides change before the way back: only that travels.
	changed := far.scribble(t, away, disks[0], 6)
	require.NoError(t, home.Power(m, dr.On))
	changed += home.scribble(t, m, disks[1], 6)
	st = tr.must(failback.Reprotect(tr.record(), failback.ReprotectOptions{}))
	back := result[failback.Reprotected](t, st, failover.StepFinish)
	require.LessOrEqual(t, back.First.Written, changed, "only what either side changed travels")
	require.Less(t, back.First.Read, tr.size())
	hydrated := result[replication.Report](t, st, failover.StepHydrate)
	require.LessOrEqual(t, hydrated.Written, changed, "only what either side changed is written to the original")
	require.Empty(t, hydrated.Full)
	stop = far.guest(5, away, disks)
	tr.cycle()

	// Home, to the machine that it was, without loss.
	st = tr.must(failback.Failback(tr.record(), failback.Options{}))
	stop()
	require.True(t, result[failover.Report](t, st, failover.StepFinish).Loss.None)
	require.True(t, tr.record().AtHome())
	require.Equal(t, m, tr.record().Active.Machine)
	sameContent(t, far.content(t, away, disks), home.content(t, m, disks), "failed back")
	tr.must(failover.Commit(tr.record(), failover.CommitOptions{}))
	_, err = far.Backend.Machine(t.Context(), away)
	require.ErrorIs(t, err, dr.ErrNotFound, "the machine that was left is removed")

	// And protected again, by deltas.
	changed = home.scribble(t, m, disks[0], 3)
	stop = func() {}
	st = tr.must(failback.Reprotect(tr.record(), failback.ReprotectOptions{}))
	again := result[failback.Reprotected](t, st, failover.StepFinish)
	require.LessOrEqual(t, again.First.Read, changed)
	stop()
	tr.clean(home, m)
}

// clean requires that nothing of ours is left on the machine.
func (tr *trip) clean(e end, id dr.MachineID) {
	v, ok := dr.As[*VSphere](e.Backend)
	if !ok {
		return
	}
	m, err := v.find(context.Background(), id)
	require.NoError(tr.t, err)
	for _, s := range m.snapshots() {
		require.False(tr.t, s.ours, "snapshot %s is left", s.name)
	}
}

func (tr *trip) firstPoint(site string, m dr.MachineID) dr.PointID {
	for p, err := range tr.env.Sites[site].Points.List(tr.t.Context(), m) {
		require.NoError(tr.t, err)
		return p.ID
	}
	require.Fail(tr.t, "no points")
	return ""
}

func (tr *trip) pointContent(site string, m dr.MachineID, p dr.PointID) map[dr.DiskID][]byte {
	img, err := tr.env.Sites[site].Points.Open(tr.t.Context(), m, p)
	require.NoError(tr.t, err)
	defer img.Close()
	all := map[dr.DiskID][]byte{}
	for _, d := range tr.disks {
		all[d.ID] = make([]byte, d.Size)
		if _, err := img.ReadAt(tr.t.Context(), d.ID, all[d.ID], 0); err != io.EOF {
			require.NoError(tr.t, err)
		}
	}
	return all
}

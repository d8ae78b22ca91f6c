package vmware

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

var fleetSize = flag.Int("fleet", 24, "machines of TestFleet; 200 is what is promised, and takes a minute or so")

const (
	fleetAtOnce = 16 // machines that are copied at once, of 4 disks: more than Total
	fleetDisk   = int64(256) << 20
	fleetData   = 256 << 10 // bytes on each disk
	fleetCalls  = 60        // of the API, a machine and round
	fleetHeap   = 256 << 20 // alive above what the simulator and its disks take
	// fleetGoroutines are those of one open disk: its connections, at both ends.
	fleetGoroutines = 60
)

// fleet is a vCenter of many machines, and what they hold.
type fleet struct {
	sim *vmwaretest.Simulator
	v   *VSphere
	ids []dr.MachineID
	vms []*vmwaretest.VM
	r   *rand.ChaCha8
}

// newFleet has more hosts than one vCenter's connections suffice for.
func newFleet(t *testing.T, n int) *fleet {
	var hosts []string
	for i := range 8 {
		hosts = append(hosts, fmt.Sprintf("esx-%d", i))
	}
	w := newVCenter(t, vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{{
		Name: "DC0", Clusters: []vmwaretest.Cluster{{Name: "C0", Hosts: hosts}}, Datastores: []vmwaretest.Datastore{{Name: "vmfs-0"}},
	}}})
	f := &fleet{sim: w.sim, r: rand.NewChaCha8([32]byte{1})}
	for i := range n {
		spec := vmwaretest.VMSpec{Name: fmt.Sprintf("vm-%03d", i), InstanceUUID: uuid.NewString(), ChangeTracking: true, Host: hosts[i%len(hosts)],
			Disks: []vmwaretest.DiskSpec{{Size: fleetDisk}, {Size: fleetDisk}, {Size: fleetDisk}, {Size: fleetDisk}}}
		vm, err := w.sim.AddVM(spec)
		require.NoError(t, err)
		f.ids, f.vms = append(f.ids, dr.MachineID(spec.InstanceUUID)), append(f.vms, vm)
		for j := range vm.Disks() {
			f.write(t, i, j, fleetData, int64(i%8+j)<<24)
		}
	}
	f.v = connect(t, w.o)
	return f
}

func (f *fleet) write(t *testing.T, machine, disk, n int, off int64) {
	p := make([]byte, n)
	_, _ = f.r.Read(p)
	require.NoError(t, f.vms[machine].Write(f.vms[machine].Disks()[disk], p, off))
}

// peaks are the most that was seen.
type peaks struct {
	heap, live uint64
	goroutines int
}

// watch samples until stop, which returns what was seen.
func watch() (stop func() peaks) {
	var p peaks
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			heap, live := heapNow()
			p.heap, p.live, p.goroutines = max(p.heap, heap), max(p.live, live), max(p.goroutines, runtime.NumGoroutine())
			select {
			case <-end:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	return func() peaks { close(end); wg.Wait(); return p }
}

// heapNow is what objects take, and what of it the last collection found alive.
// The first depends on how much garbage the collector lets pass.
func heapNow() (all, live uint64) {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64(), s[1].Value.Uint64()
}

// peakRSS is the process's, in MiB; 0 where it isn't told.
func peakRSS() int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		return 0
	}
	kib, _ := strconv.Atoi(string(m[1]))
	return kib >> 10
}

// round makes a point of each machine, and returns the bytes that were read.
func (f *fleet) round(t *testing.T, c *replication.Cycle) (read int64) {
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(fleetAtOnce)
	for _, id := range f.ids {
		g.Go(func() error {
			r, err := c.ReplicateAs(t.Context(), id, "", dr.CrashConsistent, replication.CycleOptions{})
			mu.Lock()
			defer mu.Unlock()
			read += r.Read
			return err
		})
	}
	require.NoError(t, g.Wait())
	return read
}

// holds compares a machine's newest point with its disks.
func (f *fleet) holds(t *testing.T, s recoverypoint.PointStore, i int) {
	ctx := context.Background()
	p, err := recoverypoint.Newest(ctx, s, f.ids[i])
	require.NoError(t, err)
	img, err := s.Open(ctx, f.ids[i], p.ID)
	require.NoError(t, err)
	defer img.Close()
	want, got := make([]byte, 1<<20), make([]byte, 1<<20)
	for j, key := range f.vms[i].Disks() {
		for off := int64(0); off < fleetDisk; off += int64(len(want)) {
			_, err := f.vms[i].Read(key, want, off)
			require.NoError(t, err)
			_, err = img.ReadAt(ctx, p.Machine.Disks[j].ID, got, off)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got), "machine %d, disk %d, at %d", i, j, off)
		}
	}
}

// Many machines in one process and one vault: connections, calls, memory and
// goroutines stay bounded, however many machines there are.
func TestFleet(t *testing.T) {
	n := *fleetSize
	verified := 8
	if testing.Short() {
		n, verified = min(n, 8), 2
	}
	f := newFleet(t, n)
	store, err := vault.OpenDir(t.TempDir(), vault.Options{})
	require.NoError(t, err)
	defer store.Close()
	c := &replication.Cycle{Source: f.v, Points: store}

	runtime.GC()
	_, base := heapNow()
	idle := runtime.NumGoroutine()
	t.Logf("%d machines of 4 disks, %d at once; the simulator takes %d MiB of heap, %d MiB RSS", n, fleetAtOnce, base>>20, peakRSS())
	for round := 1; round <= 2; round++ {
		want := int64(n) * 4 * fleetData
		if round == 2 {
			want = int64(n) * (64 << 10)
			for i := range f.vms {
				f.write(t, i, i%4, 100, fleetDisk/2)
			}
		}
		calls, sent, start, stop := f.sim.Calls(""), f.sim.Traffic(vmwaretest.NBD).Sent, time.Now(), watch()
		read := f.round(t, c)
		took, seen := time.Since(start), stop()
		calls, sent = f.sim.Calls("")-calls, f.sim.Traffic(vmwaretest.NBD).Sent-sent
		peak := f.sim.Traffic(vmwaretest.NBD).Peak
		live := max(seen.live, base) - base
		t.Logf("round %d: %.2f s, %.1f calls a machine, %.1f MiB read, %d connections at most, live heap +%d MiB, heap %d MiB, RSS %d MiB, %d goroutines",
			round, took.Seconds(), float64(calls)/float64(n), float64(sent)/(1<<20), peak, live>>20, seen.heap>>20, peakRSS(), seen.goroutines)
		require.Equal(t, want, read)
		require.Equal(t, want, sent, "nothing but what changed travels")
		require.LessOrEqual(t, peak, f.v.options.Total)
		require.Less(t, calls, fleetCalls*n)
		require.Less(t, live, uint64(fleetHeap))
		require.Less(t, seen.goroutines-idle, fleetGoroutines*f.v.options.Total)
		require.Zero(t, f.sim.Traffic(vmwaretest.NBD).Open)
		for i := range min(verified, n) {
			f.holds(t, store, i*n/min(verified, n))
		}
	}
	for i, vm := range f.vms {
		require.Zero(t, vm.Snapshots(), "snapshots of machine %d", i)
	}
	for name, count := range f.sim.AllCalls() {
		if count >= n {
			t.Logf("%s: %.1f a machine and round", name, float64(count)/float64(n)/2)
		}
	}
	require.Eventually(t, func() bool {
		f.v.client.CloseIdleConnections()
		return runtime.NumGoroutine() <= idle+8
	}, time.Minute, 50*time.Millisecond, "goroutines are left")
}

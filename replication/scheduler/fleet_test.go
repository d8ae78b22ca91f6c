package scheduler_test

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// records keeps protections in memory, in order, and counts what is written.
type records struct {
	mu     sync.Mutex
	all    map[dr.ProtectionID]*dr.Protection
	ids    []dr.ProtectionID // sorted
	writes int
}

func newRecords() *records { return &records{all: map[dr.ProtectionID]*dr.Protection{}} }

func (r *records) Load(_ context.Context, id dr.ProtectionID) (dr.Protection, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.all[id]
	if p == nil {
		return dr.Protection{}, fmt.Errorf("%w: %s", dr.ErrNotFound, id)
	}
	return *p, nil
}

func (r *records) Save(_ context.Context, p dr.Protection) (dr.Protection, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.all[p.ID]
	if old == nil && p.Version != 0 || old != nil && old.Version != p.Version {
		return p, dr.ErrConflict
	}
	if old == nil {
		i, _ := slices.BinarySearch(r.ids, p.ID)
		r.ids = slices.Insert(r.ids, i, p.ID)
	}
	p.Version++
	p.Pins = maps.Clone(p.Pins)
	r.all[p.ID] = &p
	r.writes++
	return p, nil
}

func (r *records) remove(id dr.ProtectionID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, id)
	r.ids = slices.DeleteFunc(r.ids, func(x dr.ProtectionID) bool { return x == id })
}

func (r *records) Protections(ctx context.Context) iter.Seq2[dr.Protection, error] {
	return func(yield func(dr.Protection, error) bool) {
		r.mu.Lock()
		ids := slices.Clone(r.ids)
		r.mu.Unlock()
		for _, id := range ids {
			if p, err := r.Load(ctx, id); err == nil && !yield(p, nil) {
				return
			}
		}
	}
}

// fleet simulates machines whose cycles take time and the links' bandwidth.
type fleet struct {
	records *records
	env     *replication.Env
	bytes   func(id dr.ProtectionID) float64 // that a cycle moves
	latency time.Duration                    // of a cycle beside its bytes
	link    float64                          // bytes a second of each source site
	fail    func(id dr.ProtectionID) error

	mu      sync.Mutex
	free    map[string]time.Time // when a site's link is free again
	sites   map[dr.ProtectionID]string
	hosts   map[dr.ProtectionID]string
	starts  map[dr.ProtectionID][]time.Time
	running map[string]int // by "", site and host
	most    map[string]int
}

func newFleet(n, sites, hosts int, policy string) *fleet {
	f := &fleet{records: newRecords(), free: map[string]time.Time{}, sites: map[dr.ProtectionID]string{}, hosts: map[dr.ProtectionID]string{},
		starts: map[dr.ProtectionID][]time.Time{}, running: map[string]int{}, most: map[string]int{},
		latency: time.Second, link: math.Inf(1), bytes: func(dr.ProtectionID) float64 { return 0 }, fail: func(dr.ProtectionID) error { return nil }}
	f.env = &replication.Env{Records: f.records}
	for i := range n {
		id := dr.ProtectionID(fmt.Sprintf("vm-%05d", i))
		f.sites[id] = fmt.Sprint("site-", i%sites)
		f.hosts[id] = fmt.Sprintf("host-%d-%d", i%sites, i/sites%hosts)
		p := replication.New(id, dr.Place{Site: f.sites[id], Machine: dr.MachineID(id)}, "recovery")
		p.State, p.Policy = dr.Protected, policy
		p.Last = dr.Point{ID: "seed", Time: time.Now().Add(-time.Duration(i) * 5 * time.Minute / time.Duration(n))}
		if _, err := f.records.Save(context.Background(), p); err != nil {
			panic(err)
		}
	}
	return f
}

func (f *fleet) host(p dr.Protection) string { return f.hosts[p.ID] }

func (f *fleet) count(id dr.ProtectionID, n int) {
	for _, k := range []string{"", f.sites[id], f.hosts[id]} {
		f.running[k] += n
		f.most[k] = max(f.most[k], f.running[k])
	}
}

// replicate is one cycle of the simulation.
func (f *fleet) replicate(ctx context.Context, id dr.ProtectionID, o replication.KeepOptions) (replication.Report, error) {
	now := time.Now()
	f.mu.Lock()
	f.starts[id] = append(f.starts[id], now)
	f.count(id, 1)
	n := f.bytes(id)
	site := f.sites[id]
	if f.free[site].Before(now) {
		f.free[site] = now
	}
	f.free[site] = f.free[site].Add(time.Duration(n / f.link * float64(time.Second)))
	wait := f.free[site].Sub(now) + f.latency
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.count(id, -1)
	}()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return replication.Report{}, ctx.Err()
	}
	if err := f.fail(id); err != nil {
		return replication.Report{}, err
	}
	point := dr.Point{ID: "point", Time: now}
	f.records.mu.Lock()
	defer f.records.mu.Unlock()
	p := f.records.all[id]
	if p == nil {
		return replication.Report{}, fmt.Errorf("%w: %s", dr.ErrNotFound, id)
	}
	p.Last, p.Upkeep = point, dr.Upkeep{}
	p.Version++
	return replication.Report{Point: point, Written: int64(n)}, nil
}

func (f *fleet) expire(context.Context, dr.ProtectionID) ([]dr.PointID, error) { return nil, nil }

// scheduler makes one over the simulated cycles.
func (f *fleet) scheduler(t testing.TB, o scheduler.Options) *scheduler.Scheduler {
	o.Replicate, o.Expire = f.replicate, f.expire
	s, err := scheduler.New(f.env, o)
	require.NoError(t, err)
	return s
}

// serve runs it for a while, and waits until all has ended.
func serve(t testing.TB, s *scheduler.Scheduler, d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	require.ErrorIs(t, s.Run(ctx), context.DeadlineExceeded)
}

// The fleet: 10,000 machines at four sites, 125 hosts each, a cycle every five
// minutes. A cycle takes 2 s beside its bytes, which are distributed
// log-normally with a median of 10 and a mean of 41 MB, and go over a link of
// 10 Gbit/s a site. 128 cycles run at a time, 48 a site and 4 a host: 33.3
// cycles begin in a second, so that 67 and more are under way.
func TestTenThousandMachinesMissNoCycle(t *testing.T) {
	const machines = 10_000
	span := 2 * time.Hour
	if testing.Short() {
		span = 30 * time.Minute // under the race detector
	}
	intervals := int(span / replication.DefaultInterval)
	var f *fleet
	var began time.Time
	var cpu, heap float64
	var st scheduler.Status
	synctest.Test(t, func(t *testing.T) {
		f = newFleet(machines, 4, 125, "")
		rnd := rand.New(rand.NewPCG(1, 2))
		f.bytes = func(dr.ProtectionID) float64 { return 10e6 * math.Exp(1.68*rnd.NormFloat64()) }
		f.latency, f.link = 2*time.Second, 1.25e9
		for id := range f.sites {
			f.starts[id] = make([]time.Time, 0, intervals+2) // the probe's, not the scheduler's
		}
		before := heapInUse()
		s := f.scheduler(t, scheduler.Options{Host: f.host, Limits: scheduler.Limits{Total: 128, PerSite: 0, Sites: map[string]int{"site-0": 48, "site-1": 48, "site-2": 48, "site-3": 48}, PerHost: 4}})
		began = time.Now()
		spent := cpuTime()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(span)
		cpu = (cpuTime() - spent).Seconds()
		heap = heapInUse() - before
		st = s.Status()
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
	require.Len(t, st.Protections, machines)
	require.Zero(t, st.Totals.Missed)
	require.Zero(t, st.Totals.Failures)
	require.Zero(t, st.Totals.Late)
	require.Zero(t, st.Late)
	var waited time.Duration
	for id, starts := range f.starts {
		// One in each of its intervals, whatever its phase.
		require.GreaterOrEqual(t, len(starts), intervals-1, id)
		require.LessOrEqual(t, len(starts), intervals+1, id)
		last := starts[0]
		for _, s := range starts[1:] {
			waited = max(waited, s.Sub(last)-5*time.Minute)
			last = s
		}
	}
	require.Less(t, waited, time.Minute)
	require.LessOrEqual(t, f.most[""], 128)
	// Spread: no second has three times the mean of 33, nor the first ones.
	seconds := map[int64]int{}
	for _, starts := range f.starts {
		for _, s := range starts {
			seconds[int64(s.Sub(began)/time.Second)]++
		}
	}
	busiest := slices.MaxFunc(slices.Collect(maps.Keys(seconds)), func(a, b int64) int { return cmp.Compare(seconds[a], seconds[b]) })
	require.Less(t, seconds[busiest], 128)
	t.Logf("%d machines, %v of virtual time: %d cycles, none missed; worst RPO %v, a cycle began at most %v late; %d at a time at most, %d in the busiest second",
		machines, span, st.Totals.Cycles, st.Totals.WorstRPO, waited, f.most[""], seconds[busiest])
	t.Logf("with the simulation's own: %.1f µs of CPU a cycle, %.4f %% of a core a hundred machines; %.0f bytes of heap a machine",
		cpu*1e6/float64(st.Totals.Cycles), cpu/span.Seconds()*100*100/machines, heap/machines)
}

func heapInUse() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

package fleet_test

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/replication"
)

// Ten thousand machines in a hundred shards on four workers, one of which dies.
// The CPU time is that of all four with the simulation's own, its records, and
// their listings; the heap that of all four.
func TestTenThousandMachinesOnFourWorkers(t *testing.T) {
	machines := 10_000
	if testing.Short() {
		machines = 2_000 // under the race detector
	}
	const span = 7 * time.Minute
	var cpu, heap, idle float64
	var worst time.Duration
	var cycles, missed int
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, machines, 100)
		defer s.end()
		before := heapInUse()
		for _, n := range []string{"a", "b", "c", "d"} {
			s.start(n)
		}
		time.Sleep(5 * time.Second)
		spent := cpuTime()
		time.Sleep(span)
		cpu = (cpuTime() - spent).Seconds()
		heap = heapInUse() - before
		require.Equal(t, map[string]int{"a": 25, "b": 25, "c": 25, "d": 25}, s.shares())
		require.Less(t, s.oldest(), interval+10*time.Second)
		for _, w := range s.workers {
			st := w.Keeper().Scheduler().Status()
			cycles += int(st.Totals.Cycles)
			missed += int(st.Totals.Missed)
		}
		require.Len(t, s.cycles, machines)
		require.Zero(t, missed)

		s.workers[3].kill()
		died := time.Now()
		for time.Since(died) < interval+ttl {
			time.Sleep(5 * time.Second)
			worst = max(worst, s.oldest())
		}
		require.Less(t, worst, interval+ttl+15*time.Second)
		require.Less(t, s.oldest(), interval+10*time.Second)
		require.Zero(t, s.shares()[""])
	})
	// A fleet whose machines have nothing to do: what keeping it costs.
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, machines, 100)
		defer s.end()
		s.o.Scheduler.Policies = replication.Policies{"": {Every: 24 * time.Hour}}
		for _, n := range []string{"a", "b", "c", "d"} {
			s.start(n)
		}
		time.Sleep(5 * time.Second)
		spent := cpuTime()
		time.Sleep(span)
		idle = (cpuTime() - spent).Seconds()
	})
	t.Logf("%d machines, 100 shards, 4 workers, %v of virtual time: %d cycles, none missed", machines, span, cycles)
	t.Logf("with the simulation's own: %.1f µs of CPU a cycle; all four: %.2f %% of a core, idle %.2f %%; %.0f bytes of heap a machine", cpu*1e6/float64(cycles), cpu/span.Seconds()*100, idle/span.Seconds()*100, heap/float64(machines))
	t.Logf("a worker died: worst RPO %v at an interval of %v and a TTL of %v", worst, interval, ttl)
}

func heapInUse() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

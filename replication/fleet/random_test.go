package fleet_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

var (
	seedFlag  = flag.Uint64("fleet.seed", 0, "the seed of the random histories; 0: a new one")
	timesFlag = flag.Int("fleet.histories", 2, "how many random histories")
)

// Random histories of workers that join, die, are cut off and drain, with cycles
// that are quick, slow, or deaf. At no moment do two act for one shard, nothing is
// saved under an epoch that is over, no shard is without a worker for longer than a
// lease and a little, and no machine's newest point gets older than its interval,
// what its shard waited, and a cycle.
func TestRandomHistoriesOfAFleet(t *testing.T) {
	for range *timesFlag {
		seed := *seedFlag
		if seed == 0 {
			seed = rand.Uint64()
		}
		synctest.Test(t, func(t *testing.T) {
			t.Logf("-fleet.seed=%d", seed)
			history(t, rand.New(rand.NewPCG(seed, 7)))
		})
	}
}

func history(t *testing.T, rnd *rand.Rand) {
	const machines, shards = 120, 24
	s := newSim(t, machines, shards)
	defer s.end()
	s.o.Finish = 20 * time.Second
	var quick atomic.Int64
	quick.Store(int64(2 * time.Second))
	s.took = func(id dr.ProtectionID) time.Duration {
		switch n := len(id) + int(time.Now().Unix()/7+int64(id[len(id)-1])*31); n % 40 {
		case 0:
			return 50 * time.Second
		case 1:
			return -50 * time.Second
		}
		return time.Duration(quick.Load())
	}
	live := func() (all []*worker) {
		for _, w := range s.workers {
			if !w.gone() {
				all = append(all, w)
			}
		}
		return all
	}
	name := 'a'
	join := func() { s.start(string(name)); name++ }
	for range 3 {
		join()
	}
	free := map[fleet.Shard]time.Time{} // since when nobody has them
	var longest time.Duration
	next := time.Now().Add(time.Minute)
	for range 3600 {
		time.Sleep(time.Second)
		v, err := s.leases.View(t.Context())
		require.NoError(t, err)
		can := slices.ContainsFunc(live(), func(w *worker) bool { return w.reachable() })
		for _, st := range fleet.Table(s.layout, v) {
			since, waits := free[st.Shard]
			switch {
			case st.Member != "" && !st.Silent || !can:
				delete(free, st.Shard)
			case !waits:
				free[st.Shard] = time.Now()
			default:
				longest = max(longest, time.Since(since))
			}
		}
		if time.Now().Before(next) {
			continue
		}
		next = time.Now().Add(time.Duration(1+rnd.IntN(90)) * time.Second)
		ws := live()
		w := ws[rnd.IntN(len(ws))]
		switch k := rnd.IntN(10); {
		case k < 3 && len(ws) < 8 || len(ws) < 3:
			join()
		case k < 5:
			w.kill()
		case k < 7:
			w.sever(true)
		case k < 9:
			for _, w := range ws {
				w.sever(false)
			}
		default:
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rnd.IntN(60))*time.Second)
			_ = w.Drain(ctx)
			cancel()
			<-w.ended
			clear(free) // nobody has looked meanwhile
			w.mu.Lock()
			w.dead = true
			w.mu.Unlock()
		}
	}
	// A shard that was given back for one who then died waits until that one is
	// not counted any more; that this happens twice in a row is rare.
	require.LessOrEqual(t, longest, 2*ttl+3*beat)
	for _, w := range live() {
		w.sever(false)
	}
	quick.Store(int64(time.Second))
	time.Sleep(3 * time.Minute)
	shares := s.shares()
	n := len(live())
	require.Len(t, shares, n, shares)
	for _, k := range shares {
		require.InDelta(t, shards/n, k, 1, shares)
	}
	time.Sleep(2 * interval)
	require.Less(t, s.oldest(), interval+time.Minute+10*time.Second)
	t.Logf("%d workers, %d shards taken, %d cycles stopped, %d fenced; no shard was free for longer than %v", len(s.workers), s.moved, s.aborted, s.fenced, longest)
}

// reachable reports whether the worker lives and reaches the leases.
func (w *worker) reachable() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.dead && !w.cut
}

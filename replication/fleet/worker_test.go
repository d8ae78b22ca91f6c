package fleet_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

const (
	ttl      = 30 * time.Second
	beat     = 5 * time.Second
	interval = replication.DefaultInterval
)

func TestWorkersShareTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 1000, 100)
		defer s.end()
		for _, n := range []string{"a", "b", "c", "d"} {
			s.start(n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, map[string]int{"a": 25, "b": 25, "c": 25, "d": 25}, s.shares())
		time.Sleep(2 * interval)
		synctest.Wait()
		require.Less(t, s.oldest(), interval+10*time.Second)
		require.Equal(t, 1000, len(s.cycles), "every machine was kept")
		require.Zero(t, s.aborted)

		// One joins: each gives it five, and no cycle is stopped for that.
		s.moved = 0
		e := s.start("e")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, map[string]int{"a": 20, "b": 20, "c": 20, "d": 20, "e": 20}, s.shares())
		require.Equal(t, 20, s.moved)
		time.Sleep(2 * interval)
		synctest.Wait()
		require.Less(t, s.oldest(), interval+10*time.Second)
		require.Zero(t, s.aborted)

		// It drains: gracefully.
		s.moved = 0
		require.NoError(t, e.Drain(t.Context()))
		require.NoError(t, <-e.ended)
		e.ended <- nil
		time.Sleep(beat + time.Second)
		synctest.Wait()
		require.Equal(t, map[string]int{"a": 25, "b": 25, "c": 25, "d": 25}, s.shares())
		require.Equal(t, 20, s.moved)
		require.Zero(t, s.aborted)
		require.Less(t, s.oldest(), interval+beat+10*time.Second)
		require.Equal(t, e.count(fleet.Taken), e.count(fleet.Given))
		require.Zero(t, e.count(fleet.Lost))
	})
}

func TestADeadWorkersShardsAreTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 1000, 100)
		defer s.end()
		for _, n := range []string{"a", "b", "c", "d"} {
			s.start(n)
		}
		time.Sleep(2*interval + 77*time.Second)
		synctest.Wait()
		s.workers[2].kill()
		died := time.Now()
		for len(s.shares()) != 3 || s.shares()[""] > 0 {
			time.Sleep(100 * time.Millisecond)
		}
		require.LessOrEqual(t, time.Since(died), ttl+200*time.Millisecond)
		require.Equal(t, map[string]int{"a": 34, "b": 33, "d": 33}, map[string]int{"a": max(s.shares()["a"], 34), "b": s.shares()["b"], "d": s.shares()["d"]})
		// RPO: what was due meanwhile is made up for at once.
		var worst time.Duration
		for time.Since(died) < interval {
			time.Sleep(time.Second)
			worst = max(worst, s.oldest())
		}
		t.Logf("worst RPO after a takeover: %v", worst)
		require.Less(t, worst, interval+ttl+10*time.Second)
		require.Less(t, s.oldest(), interval+10*time.Second)
	})
}

func TestAWorkerThatIsCutOffStopsBeforeOthersBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 300, 30)
		s.took = func(dr.ProtectionID) time.Duration { return 40 * time.Second } // always something under way
		defer s.end()
		for _, n := range []string{"a", "b", "c"} {
			s.start(n)
		}
		time.Sleep(interval)
		synctest.Wait()
		a := s.workers[0]
		a.sever(true)
		cut := time.Now()
		for a.count(fleet.Lost) < 10 {
			time.Sleep(100 * time.Millisecond)
		}
		require.LessOrEqual(t, time.Since(cut), ttl-ttl/6+100*time.Millisecond)
		require.Greater(t, time.Since(cut), ttl/2)
		require.Positive(t, s.aborted)
		require.Equal(t, 1, a.count(fleet.Cut))
		time.Sleep(ttl)
		synctest.Wait()
		require.Zero(t, s.shares()["a"])
		require.Len(t, a.Status().Holds, 0)
		require.NotEmpty(t, a.Status().Err)
		a.sever(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Equal(t, map[string]int{"a": 10, "b": 10, "c": 10}, s.shares())
		require.Equal(t, 1, a.count(fleet.Reachable))
	})
}

// A cut shorter than the lease changes nothing.
func TestAShortCutIsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 100, 10)
		defer s.end()
		s.start("a")
		s.start("b")
		time.Sleep(interval)
		synctest.Wait()
		s.moved = 0
		s.workers[0].sever(true)
		time.Sleep(ttl / 2)
		synctest.Wait()
		s.workers[0].sever(false)
		time.Sleep(interval)
		synctest.Wait()
		require.Zero(t, s.moved)
		require.Zero(t, s.aborted)
	})
}

// Cycles that don't heed their context's end go on after the takeover: what they
// save is refused.
func TestACycleThatDoesNotStopIsFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 100, 10)
		var heal atomic.Bool
		s.took = func(dr.ProtectionID) time.Duration {
			if heal.Load() {
				return time.Second
			}
			return -3 * time.Minute
		}
		s.start("a")
		s.start("b")
		time.Sleep(interval)
		synctest.Wait()
		s.workers[0].sever(true)
		time.Sleep(2 * interval)
		synctest.Wait()
		require.Positive(t, s.fenced)
		s.check()
		heal.Store(true)
		s.workers[0].sever(false)
		time.Sleep(interval)
		synctest.Wait()
		s.end()
	})
}

func TestAWorkerKeepsWhatItReaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 0, 0)
		s.layout = fleet.Layout{Generation: 1, Areas: []fleet.Area{
			{Name: "north", Sites: []string{"berlin", "bonn"}, Shards: 8}, {Name: "south", Sites: []string{"munich", "ulm"}, Shards: 8}}}
		s.o.Layout = s.layout
		for i := range 50 {
			s.machine(2*i, "berlin", "bonn", "")
			s.machine(2*i+1, "ulm", "munich", "")
		}
		s.machine(100, "berlin", "ulm", "") // nobody's
		defer s.end()
		s.start("n", "berlin", "bonn")
		s.start("all")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, map[string]int{"n": 8, "all": 8}, s.shares())
		v, _ := s.leases.View(t.Context())
		for _, st := range fleet.Table(s.layout, v) {
			require.Equal(t, st.Name == "n", st.Shard[:5] == "north", st)
		}
		s.workers[1].kill()
		time.Sleep(2 * interval)
		synctest.Wait()
		require.Equal(t, map[string]int{"n": 8, "": 8}, s.shares())
		v, _ = s.leases.View(t.Context())
		for _, st := range fleet.Table(s.layout, v) {
			require.Equal(t, st.Shard[:5] == "south", st.Unreached, st)
		}
		s.start("s", "munich", "ulm", "hamburg")
		time.Sleep(2 * interval)
		synctest.Wait()
		require.Equal(t, map[string]int{"n": 8, "s": 8}, s.shares())
		require.Zero(t, s.cycles["vm-00100"])
		require.Len(t, s.cycles, 100)
	})
}

func TestAFleetIsLaidOutAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 200, 20)
		defer s.end()
		s.start("a1")
		s.start("b1")
		time.Sleep(interval)
		synctest.Wait()
		require.Equal(t, map[string]int{"a1": 10, "b1": 10}, s.shares())
		wrong, err := fleet.New(&replication.Env{Records: fleet.Guard(&s.records)}, fleet.Options{Leases: &s.leases, Layout: fleet.Layout{Shards: 21}})
		require.NoError(t, err)
		require.ErrorIs(t, wrong.Run(t.Context()), dr.ErrConflict)

		// The workers are started anew one by one.
		s.layout = fleet.Layout{Generation: 1, Shards: 31}
		require.NoError(t, s.workers[0].Drain(t.Context()))
		s.start("a2")
		time.Sleep(ttl)
		synctest.Wait()
		require.Equal(t, map[string]int{"a2": 31}, s.shares(), "the old one gave all back")
		require.True(t, s.workers[1].Status().Outdated)
		require.Equal(t, 1, s.workers[1].count(fleet.Outdated))
		require.NoError(t, s.workers[1].Drain(t.Context()))
		s.start("b2")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, 15, min(s.shares()["a2"], s.shares()["b2"]))
		time.Sleep(2 * interval)
		synctest.Wait()
		require.Less(t, s.oldest(), interval+10*time.Second)
		require.Zero(t, s.aborted)
	})
}

func TestADrainThatMayNotWaitStopsCycles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 100, 10)
		s.took = func(dr.ProtectionID) time.Duration { return time.Minute }
		defer s.end()
		a := s.start("a")
		time.Sleep(interval)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, a.Drain(ctx), context.DeadlineExceeded)
		require.Less(t, time.Since(began), 4*time.Second)
		require.Positive(t, s.aborted)
		require.Equal(t, map[string]int{"": 10}, s.shares())
		require.NoError(t, <-a.ended)
		a.ended <- nil
	})
}

func TestGroupsAreWhole(t *testing.T) {
	l := fleet.Layout{Shards: 100}
	seen := map[fleet.Shard]bool{}
	for i := range 50 {
		p := replication.New(dr.ProtectionID(rune('a'+i)), dr.Place{Site: "berlin"}, "bonn")
		p.Group = "erp"
		s, ok := l.Of(p)
		require.True(t, ok)
		seen[s] = true
		p.Swap()
		again, _ := l.Of(p)
		require.Equal(t, s, again, "a failover changes nothing")
	}
	require.Len(t, seen, 1)
}

// Somebody has taken a lease away, or the store's clock is far too fast: the next
// beat tells.
func TestALeaseThatIsTakenAwayIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 100, 10)
		s.took = func(dr.ProtectionID) time.Duration { return interval - time.Minute } // some are always under way
		defer s.end()
		a := s.start("a")
		time.Sleep(interval)
		synctest.Wait()
		require.NoError(t, s.leases.Release(t.Context(), a.ID(), []fleet.Shard{"0003"}))
		time.Sleep(2 * beat)
		synctest.Wait()
		require.Positive(t, a.count(fleet.Lost))
		require.Positive(t, s.aborted)
		s.mu.Lock() // what began or was saved within the beat could not know, and nobody else had the shard
		s.wrong = slices.DeleteFunc(s.wrong, func(w string) bool { return strings.Contains(w, "shard 0003") })
		s.mu.Unlock()
		time.Sleep(2 * beat)
		synctest.Wait()
		require.Equal(t, map[string]int{"a": 10}, s.shares())
	})
}

// The limits of a site are the fleet's: its workers never run more cycles there
// together, whoever comes and goes.
func TestWorkersShareWhatASiteBears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 400, 40)
		s.limits.PerSite = 20
		s.took = func(dr.ProtectionID) time.Duration { return 10 * time.Second }
		defer s.end()
		most := 0
		watch := func(d time.Duration) {
			for range d / time.Second {
				time.Sleep(time.Second)
				most = max(most, s.running())
			}
		}
		s.start("a")
		watch(interval)
		require.Equal(t, 20, most)
		s.start("b")
		watch(interval)
		s.start("c")
		s.workers[0].kill()
		watch(2 * interval)
		require.LessOrEqual(t, most, 20)
		require.Less(t, s.oldest(), interval+time.Minute)
	})
}

// A worker that can renew but take nothing says so.
func TestAWorkerThatCanTakeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 10, 4)
		defer s.end()
		w := s.start("a")
		w.mu.Lock()
		w.barred = errors.New("permission denied")
		w.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, w.Status().Holds)
		require.Contains(t, w.Status().Err, "permission denied")
		w.mu.Lock()
		w.barred = nil
		w.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Len(t, w.Status().Holds, 4)
		require.Empty(t, w.Status().Err)
	})
}

// A store refuses one machine's cycles as fenced, for a reason of its own: another
// program writes to it, or a flow began the draft that it wants. The lease is this
// worker's all the same, and the other machines of the shard are kept.
func TestAMachineThatIsFencedAloneFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 30, 1)
		s.took = func(dr.ProtectionID) time.Duration { return 20 * time.Second }
		var tried atomic.Int64
		s.refused = func(id dr.ProtectionID) error {
			if id != "vm-00007" {
				return nil
			}
			tried.Add(1)
			return &dr.Error{Op: "commit", Side: dr.StoreSide, Err: dr.ErrFenced}
		}
		defer s.end()
		w := s.start("a")
		time.Sleep(4 * interval)
		synctest.Wait()
		require.Zero(t, w.count(fleet.Lost))
		require.Zero(t, s.aborted)
		require.Len(t, s.cycles, 29)
		p, err := s.records.Load(t.Context(), "vm-00007")
		require.NoError(t, err)
		require.Positive(t, p.Upkeep.Failures, "somebody has to look at it")
		require.Less(t, tried.Load(), int64(5), "it isn't tried all the time")
	})
}

// What the records refuse because another has the shard is no failure of the machine.
func TestALostLeaseIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 30, 1)
		s.took = func(dr.ProtectionID) time.Duration { return 20 * time.Second }
		defer s.end()
		w := s.start("a")
		time.Sleep(beat / 2)
		require.NoError(t, s.leases.Release(t.Context(), w.ID(), []fleet.Shard{"0000"}))
		s.refused = func(dr.ProtectionID) error { return &dr.Error{Op: "capture", Err: dr.ErrFenced} }
		began := time.Now()
		for w.count(fleet.Lost) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		require.Less(t, time.Since(began), beat, "it asks at once")
		for _, id := range s.records.ids {
			p, err := s.records.Load(t.Context(), id)
			require.NoError(t, err)
			require.Zero(t, p.Upkeep, id)
		}
	})
}

// behind are leases whose clock is behind the workers'.
type behind struct {
	fleet.Leases
	by *atomic.Int64
}

func (b behind) Renew(ctx context.Context, m fleet.Member) (fleet.View, error) {
	v, err := b.Leases.Renew(ctx, m)
	v.Time = v.Time.Add(-time.Duration(b.by.Load()))
	return v, err
}

// A worker whose clock is far ahead goes on making points, and deletes none.
func TestAWorkerWhoseClockIsAheadDeletesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 10, 4)
		var ahead, expired, refused atomic.Int64
		env := &replication.Env{Records: fleet.Guard(&s.records)}
		w, err := fleet.New(env, fleet.Options{Leases: behind{&s.leases, &ahead}, Layout: s.layout, Scheduler: scheduler.Options{
			Retain: interval,
			Observe: func(e scheduler.Event) {
				if e.Kind == scheduler.Expired && errors.Is(e.Err, dr.ErrNotAllowed) {
					refused.Add(1)
				}
			},
			Replicate: func(ctx context.Context, id dr.ProtectionID, _ replication.KeepOptions) (replication.Report, error) {
				p, err := env.Amend(ctx, id, func(p *dr.Protection) error { p.Last.Time = env.Time(); return nil })
				return replication.Report{Point: p.Last}, err
			},
			Expire: func(context.Context, dr.ProtectionID) ([]dr.PointID, error) { expired.Add(1); return nil, nil }}})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.Run(ctx) }()
		time.Sleep(3 * interval)
		synctest.Wait()
		require.Positive(t, expired.Load())
		require.Zero(t, refused.Load())
		ahead.Store(int64(7 * 24 * time.Hour))
		time.Sleep(2 * beat)
		synctest.Wait()
		before := expired.Load()
		time.Sleep(3 * interval)
		synctest.Wait()
		require.Equal(t, before, expired.Load())
		require.Positive(t, refused.Load())
		ahead.Store(0)
		time.Sleep(3 * interval)
		synctest.Wait()
		require.Greater(t, expired.Load(), before)
		stop()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}

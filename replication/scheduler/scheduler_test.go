package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// live runs a scheduler in the bubble, and returns what stops it and waits.
func live(t *testing.T, s *scheduler.Scheduler) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return func() {
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	}
}

func (f *fleet) started(id dr.ProtectionID) []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.starts[id])
}

// cycles counts those that began since forget.
func (f *fleet) cycles() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, starts := range f.starts {
		n += len(starts)
	}
	return n
}

func (f *fleet) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starts = map[dr.ProtectionID][]time.Time{}
}

func (f *fleet) amend(t *testing.T, id dr.ProtectionID, change func(*dr.Protection)) {
	_, err := f.env.Amend(t.Context(), id, func(p *dr.Protection) error { change(p); return nil })
	require.NoError(t, err)
}

// No more cycles run than the limits say, in all, a site and a host; and each
// limit is used.
func TestCyclesAreBoundedBySiteAndHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(400, 2, 5, "")
		f.latency = 30 * time.Second // 40 would run at a time
		s := f.scheduler(t, scheduler.Options{Host: f.host, Limits: scheduler.Limits{Total: 12, PerSite: 7, Sites: map[string]int{"recovery": 12}, PerHost: 2}})
		serve(t, s, 30*time.Minute)
		require.Equal(t, 12, f.most[""])
		for k, n := range f.most {
			switch {
			case k == "":
			case k[:4] == "site":
				require.Equal(t, 7, n, k)
			default:
				require.Equal(t, 2, n, k)
			}
		}
	})
}

// Under twice the load that can be borne all machines get old alike, measured
// in their intervals; those that fail or are huge don't keep the others out.
func TestOverloadIsSharedEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(200, 2, 5, "")
		bad := map[dr.ProtectionID]bool{}
		for i := range 40 { // a fifth fails, after keeping its place for a minute
			bad[dr.ProtectionID(fmt.Sprintf("vm-%05d", i*5))] = true
		}
		slow := map[dr.ProtectionID]bool{}
		for i := range 20 {
			id := dr.ProtectionID(fmt.Sprintf("vm-%05d", 10*i+1))
			f.amend(t, id, func(p *dr.Protection) { p.Policy = "slow" })
			slow[id] = true
		}
		f.latency = 20 * time.Second // 8 places are 120 cycles in 5 minutes
		f.fail = func(id dr.ProtectionID) error {
			if bad[id] {
				time.Sleep(40 * time.Second)
				return errors.New("no route to host")
			}
			return nil
		}
		s := f.scheduler(t, scheduler.Options{Limits: scheduler.Limits{Total: 8},
			Policies: replication.Policies{"slow": {Every: 15 * time.Minute}}})
		stop := live(t, s)
		time.Sleep(3 * time.Hour)
		var low, high, lowSlow, highSlow time.Duration = time.Hour * 9, 0, time.Hour * 9, 0
		f.mu.Lock()
		for id, starts := range f.starts {
			if bad[id] {
				continue
			}
			mean := starts[len(starts)-1].Sub(starts[0]) / time.Duration(len(starts)-1)
			if slow[id] {
				lowSlow, highSlow = min(lowSlow, mean), max(highSlow, mean)
			} else {
				low, high = min(low, mean), max(high, mean)
			}
		}
		f.mu.Unlock()
		t.Logf("a point every %v to %v, wanted 5m; every %v to %v, wanted 15m", low, high, lowSlow, highSlow)
		require.Less(t, high, low*13/10)
		require.Less(t, highSlow, lowSlow*13/10)
		require.Greater(t, lowSlow, high*2, "lateness is measured in intervals")
		require.Less(t, high, 16*time.Minute, "half of the places at least are the healthy ones'")
		stop()
	})
}

// With a single place, and more to do than it bears, machines that fail take
// their turns and no more.
func TestFailingMachinesDontStarveOthersOfTheOnlyPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(40, 1, 1, "")
		bad := func(id dr.ProtectionID) bool { return id < "vm-00010" }
		f.latency = 10 * time.Second // 40 are 400 s
		f.fail = func(id dr.ProtectionID) error {
			if bad(id) {
				return errors.New("no route to host")
			}
			return nil
		}
		s := f.scheduler(t, scheduler.Options{Limits: scheduler.Limits{Total: 1}, Backoff: scheduler.Backoff{Cap: time.Minute}})
		stop := live(t, s)
		time.Sleep(2 * time.Hour)
		stop()
		var good, failed int
		for id, starts := range f.starts {
			if bad(id) {
				failed += len(starts)
			} else {
				require.Greater(t, len(starts), 10, id)
				good += len(starts)
			}
		}
		t.Logf("%d cycles of 30 good machines, %d of 10 bad ones", good, failed)
		require.Greater(t, good, failed)
		require.Greater(t, failed, 100)
	})
}

// Retention that failed is owed after the next cycle, not an hour later.
func TestRetentionThatFailedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(1, 1, 1, "")
		var at []time.Time
		o := scheduler.Options{Replicate: f.replicate, Expire: func(context.Context, dr.ProtectionID) ([]dr.PointID, error) {
			at = append(at, time.Now())
			if len(at) < 3 {
				return nil, errors.New("the store is busy")
			}
			return nil, nil
		}}
		s, err := scheduler.New(f.env, o)
		require.NoError(t, err)
		serve(t, s, 5*time.Hour)
		require.InDelta(t, 7, len(at), 1)
		require.Equal(t, 5*time.Minute, at[1].Sub(at[0]))
		require.Equal(t, 5*time.Minute, at[2].Sub(at[1]))
		require.Greater(t, at[3].Sub(at[2]), 40*time.Minute)
		require.Zero(t, s.Status().Totals.Failures, "the points were made")
	})
}

// A huge machine's cycles take hours; the others keep their five minutes, also
// if there are more huge ones than half of the places.
func TestHugeMachinesDontStarveOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(50, 1, 1, "")
		f.link = 1 << 20
		huge := func(id dr.ProtectionID) bool { return id < "vm-00010" }
		f.latency = time.Second
		f.fail = func(id dr.ProtectionID) error {
			if huge(id) {
				time.Sleep(2 * time.Hour)
			}
			return nil
		}
		s := f.scheduler(t, scheduler.Options{Limits: scheduler.Limits{Total: 6}, Silence: 24 * time.Hour})
		stop := live(t, s)
		time.Sleep(4 * time.Hour) // the first ones are not known to be huge
		f.forget()
		time.Sleep(10 * time.Hour)
		for i := range 50 {
			id := dr.ProtectionID(fmt.Sprintf("vm-%05d", i))
			if !huge(id) {
				require.InDelta(t, 120, len(f.started(id)), 2, id)
			} else {
				require.NotEmpty(t, f.started(id), id)
			}
		}
		stop()
	})
}

// A failing machine is tried after 30 s, then after twice as long each time up
// to half an hour; what repeating can't mend at once after half an hour; the
// record remembers; success ends it.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(2, 1, 1, "")
		var mended atomic.Bool
		f.fail = func(id dr.ProtectionID) error {
			switch {
			case mended.Load():
				return nil
			case id == "vm-00001":
				return dr.Permanent(errors.New("the account may not take snapshots"))
			}
			return errors.New("no route to host")
		}
		var mu sync.Mutex
		var kinds []scheduler.EventKind
		s := f.scheduler(t, scheduler.Options{Observe: func(e scheduler.Event) {
			mu.Lock()
			defer mu.Unlock()
			if e.Protection == "vm-00001" {
				kinds = append(kinds, e.Kind)
			}
		}})
		stop := live(t, s)
		time.Sleep(6 * time.Hour)
		starts := f.started("vm-00000")
		want := 30 * time.Second
		for i := range len(starts) - 1 {
			require.InDelta(t, want.Seconds(), starts[i+1].Sub(starts[i]).Seconds(), want.Seconds()/4+2, "try %d", i+2)
			want = min(2*want, 30*time.Minute)
		}
		require.Greater(t, len(starts), 12)
		starts = f.started("vm-00001")
		require.Greater(t, len(starts), 8)
		require.Greater(t, starts[1].Sub(starts[0]), 22*time.Minute, "permanent errors are tried slowly")
		p, ok := s.Protection("vm-00001")
		require.True(t, ok)
		require.True(t, p.Upkeep.Permanent)
		require.Contains(t, p.Upkeep.Err, "snapshots")
		require.True(t, p.Late)
		require.Equal(t, 2, s.Status().Failing)
		rec, err := f.records.Load(t.Context(), "vm-00001")
		require.NoError(t, err)
		require.Equal(t, p.Upkeep, rec.Upkeep)
		mended.Store(true)
		f.forget()
		s.Poke("vm-00000", "vm-00001") // who mended it need not wait
		time.Sleep(10 * time.Second)
		require.Len(t, f.started("vm-00000"), 1)
		require.Len(t, f.started("vm-00001"), 1)
		require.Zero(t, s.Status().Failing)
		time.Sleep(time.Hour)
		require.InDelta(t, 13, len(f.started("vm-00001")), 1)
		stop()
		require.Contains(t, kinds, scheduler.Late)
		require.Contains(t, kinds, scheduler.Recovered)
		require.Contains(t, kinds, scheduler.Failed)
	})
}

// A restart keeps back-off, and goes on with the phases where they were: no
// more begin in a second than before, also after hours of standing still.
func TestRestartKeepsBackoffAndDoesNotStampede(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(3000, 1, 1, "")
		f.fail = func(id dr.ProtectionID) error {
			if id == "vm-00007" {
				return dr.Permanent(errors.New("no"))
			}
			return nil
		}
		serve(t, f.scheduler(t, scheduler.Options{}), 20*time.Minute)
		before, err := f.records.Load(t.Context(), "vm-00007")
		require.NoError(t, err)
		require.Positive(t, before.Upkeep.Failures)
		for _, down := range []time.Duration{10 * time.Second, 10 * time.Minute, 5 * time.Hour} {
			time.Sleep(down)
			f.forget()
			began := time.Now()
			serve(t, f.scheduler(t, scheduler.Options{Limits: scheduler.Limits{Total: 1000}}), 10*time.Minute)
			seconds := map[int]int{}
			for _, starts := range f.starts {
				for _, s := range starts {
					seconds[int(s.Sub(began)/time.Second)]++
				}
			}
			most := slices.Max(slices.Collect(maps.Values(seconds)))
			t.Logf("after %v: at most %d began in a second, 10 is the mean, %d in the first", down, most, seconds[0])
			if down < time.Minute {
				require.Less(t, most, 30)
			}
			require.Less(t, most, 100, "overdue ones begin within a minute, not at once")
			if began.Before(before.Upkeep.Until) {
				for _, s := range f.starts["vm-00007"] {
					require.False(t, s.Before(before.Upkeep.Until))
				}
			}
		}
	})
}

// A paused machine, one that a flow holds, and those of a paused site are left
// alone, and are not told as failing.
func TestPauseAndFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(8, 2, 1, "")
		f.latency = time.Minute
		s := f.scheduler(t, scheduler.Options{})
		stop := live(t, s)
		time.Sleep(10 * time.Minute)
		require.NoError(t, f.env.Pause(t.Context(), "vm-00000"))
		f.amend(t, "vm-00001", func(p *dr.Protection) { p.Run = "failover-1" })
		s.Poke()
		time.Sleep(2 * time.Minute) // what runs ends
		f.forget()
		time.Sleep(time.Hour)
		require.Empty(t, f.started("vm-00000"))
		require.Empty(t, f.started("vm-00001"))
		require.NotEmpty(t, f.started("vm-00002"))
		p, _ := s.Protection("vm-00001")
		require.Contains(t, p.Why, "failover-1")
		require.True(t, p.Late, "RPO goes on")
		require.Zero(t, s.Status().Failing)

		require.NoError(t, f.env.Resume(t.Context(), "vm-00000"))
		f.amend(t, "vm-00001", func(p *dr.Protection) { p.Run = "" })
		s.Poke("vm-00001")
		time.Sleep(time.Second)
		require.NotEmpty(t, f.started("vm-00001"))
		time.Sleep(5 * time.Minute)
		require.NotEmpty(t, f.started("vm-00000"), "a listing notices")

		at := func(site string) int {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.running[site]
		}
		for at("site-0") == 0 {
			time.Sleep(time.Second)
		}
		s.PauseSite("site-0", scheduler.Pause{Why: "firmware"})
		synctest.Wait()
		f.mu.Lock()
		require.Zero(t, f.running["site-0"], "what ran is stopped")
		f.mu.Unlock()
		f.forget()
		time.Sleep(time.Hour)
		require.Empty(t, f.started("vm-00002"))
		require.NotEmpty(t, f.started("vm-00003"))
		p, _ = s.Protection("vm-00002")
		require.Contains(t, p.Why, "firmware")
		s.ResumeSite("site-0")
		time.Sleep(time.Minute)
		require.NotEmpty(t, f.started("vm-00002"))
		s.PauseSite(scheduler.AllSites, scheduler.Pause{Until: time.Now().Add(30 * time.Minute)})
		f.forget()
		time.Sleep(29 * time.Minute)
		require.Zero(t, f.cycles())
		time.Sleep(2 * time.Minute)
		require.NotZero(t, f.cycles())
		require.Zero(t, s.Status().Totals.Failures)
		stop()
	})
}

// Records that appear and vanish are noticed, at the next listing or by Poke.
func TestRecordsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(3, 1, 1, "")
		s := f.scheduler(t, scheduler.Options{List: time.Hour, Only: func(p dr.Protection) bool { return p.ID != "vm-00002" }})
		stop := live(t, s)
		time.Sleep(10 * time.Minute)
		require.Len(t, s.Status().Protections, 2)
		require.Empty(t, f.started("vm-00002"), "not this scheduler's")
		f.records.remove("vm-00000")
		p := replication.New("new", dr.Place{Site: "site-0", Machine: "new"}, "recovery")
		p.State = dr.Protected
		_, err := f.records.Save(t.Context(), p)
		require.NoError(t, err)
		s.Poke()
		synctest.Wait()
		_, there := s.Protection("vm-00000")
		require.False(t, there)
		time.Sleep(2 * time.Minute)
		require.NotEmpty(t, f.started("new"))
		s.Poke("new")
		synctest.Wait() // one begins
		p2, _ := s.Protection("new")
		require.True(t, p2.Running)
		f.records.remove("new")
		s.Poke("new")
		synctest.Wait()
		require.Zero(t, s.Status().Running, "what runs is stopped")
		f.forget()
		time.Sleep(time.Hour)
		require.Empty(t, f.started("vm-00000"))
		require.Len(t, s.Status().Protections, 1)
		stop()
	})
}

// A cycle that shows no progress is stopped, and counts as failed; one that
// doesn't stop then gives its place up, and is named when the scheduler ends.
func TestHungCycles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(20, 1, 1, "")
		release := make(chan struct{})
		f.fail = func(id dr.ProtectionID) error {
			if id == "vm-00003" || id == "vm-00004" {
				<-release // deaf
			}
			return nil
		}
		var hung []dr.ProtectionID
		o := scheduler.Options{Limits: scheduler.Limits{Total: 2}, Silence: 10 * time.Minute, Observe: func(e scheduler.Event) {
			if e.Kind == scheduler.Hung {
				hung = append(hung, e.Protection)
			}
		}}
		o.Expire = f.expire
		o.Replicate = func(ctx context.Context, id dr.ProtectionID, k replication.KeepOptions) (replication.Report, error) {
			switch id {
			case "vm-00001":
				<-ctx.Done()
				return replication.Report{}, ctx.Err()
			case "vm-00002": // slow, but it lives
				for range 30 {
					time.Sleep(time.Minute)
					k.Progress(dr.Progress{Disk: "d", Done: 1, Total: 2})
				}
			}
			return f.replicate(ctx, id, k)
		}
		s, err := scheduler.New(f.env, o)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(3 * time.Hour)
		p, _ := s.Protection("vm-00001")
		require.Contains(t, p.Upkeep.Err, "no progress")
		p, _ = s.Protection("vm-00003")
		require.True(t, p.Hung)
		p, _ = s.Protection("vm-00002")
		require.Zero(t, p.Totals.Failures)
		require.NotZero(t, p.Totals.Cycles)
		f.forget()
		time.Sleep(time.Hour)
		require.Greater(t, len(f.started("vm-00010")), 9)
		cancel()
		err = <-ended
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "vm-00003")
		require.Contains(t, hung, dr.ProtectionID("vm-00003"))
		require.NotContains(t, hung, dr.ProtectionID("vm-00002"))
		close(release)
	})
}

// A clock that is set forward makes no cycle silent.
func TestAClockThatIsSetHangsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(20, 1, 1, "")
		var ahead atomic.Int64
		f.env.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		f.latency = 4 * time.Minute
		var kinds sync.Map
		s, err := scheduler.New(f.env, scheduler.Options{Expire: f.expire, Replicate: f.replicate, Observe: func(e scheduler.Event) { kinds.Store(e.Kind, true) }})
		require.NoError(t, err)
		go serve(t, s, 20*time.Minute)
		time.Sleep(9 * time.Minute)
		require.Positive(t, s.Status().Running)
		ahead.Store(int64(3 * time.Hour))
		time.Sleep(10 * time.Minute)
		_, hung := kinds.Load(scheduler.Hung)
		_, failed := kinds.Load(scheduler.Failed)
		require.False(t, hung || failed)
		time.Sleep(2 * time.Minute)
	})
}

// A machine that failed under a clock that was ahead, in a process before this one or on
// another host, doesn't wait for that time to come.
func TestABackOffOfAClockThatWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(20, 1, 1, "")
		_, err := f.env.Amend(t.Context(), "vm-00003", func(p *dr.Protection) error {
			p.Upkeep = dr.Upkeep{Failures: 1, Tried: time.Now().AddDate(1, 0, 0), Until: time.Now().AddDate(1, 0, 0).Add(time.Minute), Err: "it was the clock's"}
			return nil
		})
		require.NoError(t, err)
		s := f.scheduler(t, scheduler.Options{})
		serve(t, s, time.Hour)
		require.Greater(t, len(f.started("vm-00003")), 6)
	})
}

// RPO is the age of the newest point; lateness is counted and told.
func TestRPOIsAccountedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(1, 1, 1, "own")
		var down atomic.Bool
		down.Store(true)
		f.fail = func(dr.ProtectionID) error {
			if down.Load() {
				return errors.New("down")
			}
			return nil
		}
		var events []scheduler.Event
		s := f.scheduler(t, scheduler.Options{Backoff: scheduler.Backoff{Cap: time.Minute}, Observe: func(e scheduler.Event) {
			if e.Kind == scheduler.Late || e.Kind == scheduler.Recovered {
				events = append(events, e)
			}
		}, Policies: replication.Policies{"own": {Forward: recoverypoint.Policy{RPO: 15 * time.Minute}}}})
		began := time.Now()
		stop := live(t, s)
		time.Sleep(time.Hour)
		p, _ := s.Protection("vm-00000")
		require.Equal(t, time.Hour, p.RPO)
		require.Equal(t, 45*time.Minute, p.Totals.Late)
		require.Equal(t, 1, s.Status().Late)
		require.Equal(t, time.Hour, s.Status().Oldest)
		down.Store(false)
		time.Sleep(time.Hour)
		p, _ = s.Protection("vm-00000")
		require.False(t, p.Late)
		require.InDelta(t, 46, p.Totals.Late.Minutes(), 1)
		require.InDelta(t, 61, p.Totals.WorstRPO.Minutes(), 1)
		require.Less(t, p.RPO, 6*time.Minute)
		stop()
		require.Len(t, events, 2)
		require.Equal(t, scheduler.Late, events[0].Kind)
		require.WithinDuration(t, began.Add(15*time.Minute), events[0].Time, time.Second)
		require.Equal(t, scheduler.Recovered, events[1].Kind)
	})
}

// A clock that was set back keeps nobody from being replicated.
func TestPointsOfTheFutureDontStopReplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(1, 1, 1, "")
		f.amend(t, "vm-00000", func(p *dr.Protection) { p.Last.Time = time.Now().Add(48 * time.Hour) })
		serve(t, f.scheduler(t, scheduler.Options{}), 20*time.Minute)
		require.Len(t, f.starts["vm-00000"], 4)
	})
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, o := range []scheduler.Options{
		{Limits: scheduler.Limits{Total: -1}},
		{Limits: scheduler.Limits{Sites: map[string]int{"a": 0}}},
		{Silence: -1},
		{Policies: replication.Policies{"p": {Every: -1}}},
		{Bandwidth: []scheduler.Bandwidth{{Rate: -1}}},
		{Bandwidth: []scheduler.Bandwidth{{Windows: []scheduler.Window{{Begin: 25 * time.Hour}}}}},
		{Bandwidth: []scheduler.Bandwidth{{Windows: []scheduler.Window{{End: time.Second}}}}},
	} {
		_, err := scheduler.New(&replication.Env{Records: newRecords()}, o)
		require.ErrorIs(t, err, dr.ErrInvalid, "%+v", o)
	}
	_, err := scheduler.New(&replication.Env{Records: struct{ dr.Records }{newRecords()}}, scheduler.Options{})
	require.ErrorIs(t, err, dr.ErrUnsupported)
}

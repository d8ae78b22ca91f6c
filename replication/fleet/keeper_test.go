package fleet_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/fleet/fleettest"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// kept is a keeper of one shard whose cycles the test has in its hands.
type kept struct {
	*fleet.Keeper
	s   *sim
	env *replication.Env

	slept atomic.Int64 // how far the clock was set forward

	mu     sync.Mutex
	begun  []dr.ProtectionID
	ended  []error // of the contexts
	failed error   // what cycles end with
}

func keep(t *testing.T, machines int, took time.Duration) *kept {
	k := &kept{s: newSim(t, machines, 1)}
	k.env = &replication.Env{Records: fleet.Guard(&k.s.records), Now: func() time.Time { return time.Now().Add(time.Duration(k.slept.Load())) }}
	var err error
	k.Keeper, err = fleet.NewKeeper(k.env, k.s.layout, scheduler.Options{Replicate: func(ctx context.Context, id dr.ProtectionID, _ replication.KeepOptions) (replication.Report, error) {
		k.mu.Lock()
		k.begun = append(k.begun, id)
		failed := k.failed
		k.mu.Unlock()
		began := time.Now()
		select {
		case <-time.After(took):
		case <-ctx.Done():
		}
		k.mu.Lock()
		k.ended = append(k.ended, context.Cause(ctx))
		k.mu.Unlock()
		if failed == nil {
			failed = ctx.Err()
		}
		if failed != nil {
			return replication.Report{}, failed
		}
		p, err := k.env.Amend(ctx, id, func(p *dr.Protection) error { p.Last.Time = began; return nil })
		return replication.Report{Point: p.Last}, err
	}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return k
}

func (k *kept) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.begun)
}

func TestAHoldIsFinishedGracefully(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, 30, time.Minute)
		time.Sleep(interval)
		synctest.Wait()
		require.Zero(t, k.count(), "nothing is held")
		h, err := k.Keep("0000", 7)
		require.NoError(t, err)
		_, err = k.Keep("0000", 8)
		require.ErrorIs(t, err, dr.ErrBusy)
		time.Sleep(interval + time.Second)
		synctest.Wait()
		require.GreaterOrEqual(t, k.count(), 30)
		require.Equal(t, 30, k.Summaries()["0000"].Machines)
		running := k.Summaries()["0000"].Running
		require.Positive(t, running)
		before := k.count()
		began := time.Now()
		require.NoError(t, h.Finish(t.Context(), time.Second))
		require.LessOrEqual(t, time.Since(began), time.Minute)
		require.Equal(t, before, k.count(), "none began meanwhile")
		require.Len(t, k.ended, before, "all ended")
		for _, err := range k.ended {
			require.NoError(t, err, "of themselves")
		}
		require.NoError(t, h.Finish(t.Context(), time.Second), "again")
		time.Sleep(interval)
		synctest.Wait()
		require.Equal(t, before, k.count())
		_, err = k.Keep("0000", 8)
		require.NoError(t, err)
	})
}

func TestAHoldEndsByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, 30, time.Hour)
		h, err := k.Keep("0000", 7)
		require.NoError(t, err)
		h.Until(time.Now().Add(interval))
		time.Sleep(interval - time.Second)
		synctest.Wait()
		h.Until(time.Now().Add(interval))
		time.Sleep(interval - time.Nanosecond)
		synctest.Wait()
		require.NoError(t, h.Cause())
		require.Empty(t, k.ended)
		n := k.count()
		require.Positive(t, n)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		synctest.Wait()
		require.ErrorIs(t, h.Cause(), dr.ErrFenced)
		h.Until(time.Now().Add(time.Hour)) // too late
		synctest.Wait()
		require.Len(t, k.ended, n)
		for _, err := range k.ended {
			require.ErrorIs(t, err, dr.ErrFenced)
		}
		time.Sleep(interval)
		synctest.Wait()
		require.Equal(t, n, k.count())
		p, err := k.s.records.Load(t.Context(), k.begun[0])
		require.NoError(t, err)
		require.Zero(t, p.Upkeep, "that is no failure of the machine")
	})
}

// What is fenced anywhere, in a store or at a platform, ends a hold that nobody can be
// asked about.
func TestAFencedCycleEndsTheHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, 30, time.Second)
		k.failed = &dr.Error{Op: "capture", Err: dr.ErrFenced}
		h, err := k.Keep("0000", 7)
		require.NoError(t, err)
		<-h.Ended()
		require.ErrorIs(t, h.Cause(), dr.ErrFenced)
		n := k.count()
		time.Sleep(interval)
		synctest.Wait()
		require.Equal(t, n, k.count())
		p, err := k.s.records.Load(t.Context(), k.begun[0])
		require.NoError(t, err)
		require.Zero(t, p.Upkeep)
	})
}

// A flow of another process sets the record's Run: the cycle ends by the next
// listing.
func TestAFlowElsewhereStopsACycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, 1, time.Hour)
		_, err := k.Keep("0000", 7)
		require.NoError(t, err)
		time.Sleep(interval + time.Minute)
		synctest.Wait()
		require.Equal(t, 1, k.count())
		_, err = k.env.Amend(t.Context(), "vm-00000", func(p *dr.Protection) error { p.Run = "failover-1"; return nil })
		require.NoError(t, err)
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		require.Len(t, k.ended, 1)
		require.ErrorIs(t, k.ended[0], dr.ErrBusy)
		require.ErrorContains(t, k.ended[0], "failover-1")
	})
}

func TestRecordsMustBeFenced(t *testing.T) {
	s := newSim(t, 1, 1)
	_, err := fleet.NewKeeper(&replication.Env{Records: &s.records}, s.layout, scheduler.Options{})
	require.ErrorIs(t, err, dr.ErrUnsupported)
	_, err = fleet.NewKeeper(&replication.Env{Records: fleet.Guard(&s.records)}, s.layout, scheduler.Options{Only: func(dr.Protection) bool { return true }})
	require.ErrorIs(t, err, dr.ErrInvalid)
	_, err = fleet.NewKeeper(&replication.Env{Records: fleet.Guard(&s.records)}, fleet.Layout{Areas: []fleet.Area{{Name: "a/b"}}}, scheduler.Options{})
	require.ErrorIs(t, err, dr.ErrInvalid)
}

// exact are records that ask the leases, as those beside them do in one statement.
type exact struct {
	*records
	leases *fleet.Memory
}

func (exact) FencesShards() bool { return true }

func (e exact) Save(ctx context.Context, p dr.Protection) (dr.Protection, error) {
	if s, epoch, ok := fleet.Fence(ctx); ok {
		v, err := e.leases.View(ctx)
		if err != nil {
			return p, err
		}
		held := false
		for _, l := range v.Leases {
			held = held || l.Shard == s && l.Epoch == epoch
		}
		if !held {
			return p, fmt.Errorf("%w: shard %s", dr.ErrFenced, s)
		}
	}
	return e.records.Save(ctx, p)
}

func TestTheFencersSuite(t *testing.T) {
	fleettest.Fencer(t, func(fleettest.T) (fleet.Leases, dr.Records) {
		l := &fleet.Memory{}
		return l, exact{&records{}, l}
	})
}

// A computer that was suspended, or a virtual machine that was paused, has a clock
// that stood still; the leases' went on.
func TestAHoldEndsWhileTheComputerSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, 1, time.Hour)
		h, err := k.Keep("0000", 7)
		require.NoError(t, err)
		h.Until(time.Now().Add(2 * interval))
		time.Sleep(interval + time.Second)
		synctest.Wait()
		require.Equal(t, 1, k.count())
		ctx, done, err := fleet.Begin(h)
		require.NoError(t, err)
		defer done()
		p, err := k.env.Records.Load(t.Context(), "vm-00000")
		require.NoError(t, err)
		p, err = k.env.Records.Save(ctx, p)
		require.NoError(t, err)
		k.slept.Store(int64(2 * interval))
		_, err = k.env.Records.Save(ctx, p)
		require.ErrorIs(t, err, dr.ErrFenced)
		_, _, err = fleet.Begin(h)
		require.ErrorIs(t, err, dr.ErrNotAllowed)
		h.Until(time.Now().Add(2 * interval)) // as a renewal that is too late does
		synctest.Wait()
		require.ErrorIs(t, h.Cause(), dr.ErrFenced)
		require.Len(t, k.ended, 1)
	})
}

package replication_test

import (
	"bytes"
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// counted are records that count how often they are listed.
type counted struct {
	*records
	n int
}

func (c *counted) Protections(ctx context.Context) iter.Seq2[dr.Protection, error] {
	c.n++
	return c.records.Protections(ctx)
}

// One listing serves the cycles of many groups, and who has joined or left meanwhile
// is known nevertheless.
func TestGroupsAreListedTogether(t *testing.T) {
	f := newFleet(t, 6, memory.Options{}, memstore.Options{}, nil)
	c := &counted{records: f.rec}
	f.env.Records = c
	var passed atomic.Int64
	began := time.Now()
	f.env.Now = func() time.Time { return began.Add(time.Duration(passed.Add(int64(time.Millisecond)))) }
	into := func(i int, group string) {
		_, err := f.env.Amend(t.Context(), f.ids[i], func(p *dr.Protection) error { p.Group = group; return nil })
		require.NoError(t, err)
	}
	for i := range 6 {
		into(i, []string{"g", "h"}[i/3])
	}
	members := func(i int) int {
		passed.Add(int64(2 * time.Second))
		r, err := f.env.KeepGroup(t.Context(), f.ids[i], replication.Policies{"": {Every: time.Second, Forward: recoverypoint.Policy{Keep: time.Hour}}}, replication.KeepOptions{})
		require.NoError(t, err)
		require.False(t, r.Existed)
		return len(r.Point.Group.Members)
	}
	require.Equal(t, 3, members(0))
	require.Equal(t, 3, members(3))
	require.Equal(t, 3, members(1))
	require.Equal(t, 1, c.n)
	into(2, "")
	require.Equal(t, 2, members(0), "one has left")
	require.Equal(t, 2, c.n)
	into(2, "h")
	require.Equal(t, 4, members(2), "one has joined")
	require.Equal(t, 3, c.n)
	into(1, "h")
	passed.Add(int64(10 * time.Second))
	require.Equal(t, 5, members(3), "that it joined is known in the end")
	require.Equal(t, 4, c.n)
}

// A member that waits for the group's cycle, which another began, hears of its
// progress: who watches over it must not take it for dead.
func TestWhoWaitsForAGroupsCycleHearsOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3, memory.Options{}, memstore.Options{}, nil)
		f.env.Copy.Limit = rate.NewLimiter(1<<10, 1<<10)
		for i := range 3 {
			require.NoError(t, f.homes[i].Write(f.vm(i), "a", bytes.Repeat([]byte{1}, sizeA), 0))
		}
		var heard [3]atomic.Int64
		var errs [3]error
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				_, errs[i] = f.env.KeepGroup(t.Context(), f.ids[i], nil, replication.KeepOptions{Progress: func(dr.Progress) {
					heard[i].Store(time.Now().UnixNano())
				}})
			})
		}
		time.Sleep(time.Minute)
		for i := range 3 {
			require.Less(t, time.Since(time.Unix(0, heard[i].Load())), 10*time.Second, i)
		}
		all.Wait()
		require.Equal(t, [3]error{}, errs)
	})
}

// Whose cycle was stopped is told so; members that only waited for it are to try again:
// that the first one's lease is over says nothing of theirs, which may be a newer one.
func TestWhoWaitsForACycleThatIsStoppedIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2, memory.Options{}, memstore.Options{}, nil)
		f.env.Copy.Limit = rate.NewLimiter(1<<10, 1<<10)
		for i := range 2 {
			require.NoError(t, f.homes[i].Write(f.vm(i), "a", bytes.Repeat([]byte{1}, sizeA), 0))
		}
		first, stop := context.WithCancelCause(t.Context())
		var errs [2]error
		var all sync.WaitGroup
		for i, ctx := range []context.Context{first, t.Context()} {
			all.Go(func() { _, errs[i] = f.env.KeepGroup(ctx, f.ids[i], nil, replication.KeepOptions{}) })
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		stop(dr.ErrFenced)
		all.Wait()
		require.ErrorIs(t, errs[0], dr.ErrFenced)
		require.ErrorIs(t, errs[1], dr.ErrBusy)
		require.NotErrorIs(t, errs[1], dr.ErrFenced)
	})
}

package fleettest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// T is what a test of a promise needs: *testing.T, or a double that notes that
// it failed.
type T interface {
	require.TestingT
	Context() context.Context
}

// LeasesEnv is what the tests need to know of an implementation.
type LeasesEnv struct {
	// Open returns leases in which nothing is and nothing ever was.
	Open func(t T) fleet.Leases
	// TTL is that of the tests' members: long enough that a few calls fit well
	// into a third of it.
	TTL time.Duration
	// Sleep lets the implementation's clock go on; nil: time.Sleep.
	Sleep func(time.Duration)
}

// Leases tests that leases keep their promises.
func Leases(t *testing.T, e LeasesEnv) {
	if e.Sleep == nil {
		e.Sleep = time.Sleep
	}
	for _, p := range leasePromises {
		t.Run(p.name, func(t *testing.T) { p.check(t, &leases{e.Open(t), e}) })
	}
}

// leases are those under test, with short words.
type leases struct {
	fleet.Leases
	e LeasesEnv
}

func (l *leases) member(id string) fleet.Member {
	return fleet.Member{ID: id, Name: "worker " + id, Weight: 2, Sites: []string{"berlin", "bonn"}, Layout: "one", TTL: l.e.TTL,
		Shards: map[fleet.Shard]fleet.Summary{"0001": {Machines: 100, Late: 1, Oldest: time.Minute}}}
}

func (l *leases) renew(t T, id string) fleet.View {
	v, err := l.Renew(t.Context(), l.member(id))
	require.NoError(t, err)
	return v
}

func (l *leases) take(t T, id string, shards ...fleet.Shard) []fleet.Lease {
	got, err := l.Take(t.Context(), id, shards)
	require.NoError(t, err)
	return got
}

func (l *leases) epoch(t T, id string, s fleet.Shard) uint64 {
	got := l.take(t, id, s)
	require.Len(t, got, 1)
	require.Equal(t, s, got[0].Shard)
	require.Equal(t, id, got[0].Member)
	return got[0].Epoch
}

// holders tells who holds what.
func holders(v fleet.View) map[fleet.Shard]string {
	m := map[fleet.Shard]string{}
	for _, l := range v.Leases {
		m[l.Shard] = l.Member
	}
	return m
}

type leasePromise struct {
	name  string
	check func(T, *leases)
}

var leasePromises = []leasePromise{
	{"members are seen as they told", func(t T, l *leases) {
		v := l.renew(t, "a")
		require.Equal(t, []fleet.Member{l.member("a")}, v.Members)
		require.Equal(t, "one", v.Layout)
		require.False(t, v.Time.IsZero())
		l.renew(t, "b")
		m := l.member("a")
		m.Draining, m.Shards = true, nil
		v, err := l.Renew(t.Context(), m)
		require.NoError(t, err)
		require.Equal(t, []fleet.Member{m, l.member("b")}, v.Members)
		v, err = l.View(t.Context())
		require.NoError(t, err)
		require.Equal(t, []fleet.Member{m, l.member("b")}, v.Members)
	}},
	{"a member that makes no sense is refused", func(t T, l *leases) {
		for _, m := range []fleet.Member{{TTL: l.e.TTL}, {ID: "a"}, {ID: "a", TTL: -1}} {
			_, err := l.Renew(t.Context(), m)
			require.ErrorIs(t, err, dr.ErrInvalid)
		}
	}},
	{"a shard has one holder", func(t T, l *leases) {
		l.renew(t, "a")
		l.renew(t, "b")
		got := l.take(t, "a", "0001", "0002")
		require.Len(t, got, 2)
		for _, g := range got {
			require.Equal(t, "a", g.Member)
			require.NotZero(t, g.Epoch, "zero is no epoch")
			require.GreaterOrEqual(t, g.Epoch, uint64(g.Since.Unix()), "epochs rise though the table be lost")
			require.False(t, g.Since.IsZero())
			require.InDelta(t, l.e.TTL, g.Left, float64(l.e.TTL)/2)
		}
		got = l.take(t, "b", "0001", "0002", "0003")
		require.Len(t, got, 1)
		require.Equal(t, fleet.Shard("0003"), got[0].Shard)
		v := l.renew(t, "b")
		require.Equal(t, map[fleet.Shard]string{"0001": "a", "0002": "a", "0003": "b"}, holders(v))
		require.Equal(t, []fleet.Shard{"0001", "0002", "0003"}, []fleet.Shard{v.Leases[0].Shard, v.Leases[1].Shard, v.Leases[2].Shard})
	}},
	{"what is held is not taken again", func(t T, l *leases) {
		l.renew(t, "a")
		e := l.epoch(t, "a", "0001")
		require.Empty(t, l.take(t, "a", "0001"))
		require.Equal(t, e, l.renew(t, "a").Leases[0].Epoch)
	}},
	{"of many who take one gets it", func(t T, l *leases) {
		const n = 8
		for i := range n {
			l.renew(t, fmt.Sprint(i))
		}
		var mu sync.Mutex
		got := map[fleet.Shard]string{}
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				given, err := l.Take(t.Context(), fmt.Sprint(i), []fleet.Shard{"0001", "0002", "0003"})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("take: %v", err)
				}
				for _, g := range given {
					if was := got[g.Shard]; was != "" {
						t.Errorf("shard %s was given to %s and to %s", g.Shard, was, g.Member)
					}
					got[g.Shard] = g.Member
				}
			})
		}
		all.Wait()
		require.Len(t, got, 3)
		v, err := l.View(t.Context())
		require.NoError(t, err)
		require.Equal(t, got, holders(v))
	}},
	{"epochs rise with each holding, whoever holds", func(t T, l *leases) {
		l.renew(t, "a")
		l.renew(t, "b")
		var last uint64
		for i := range 4 {
			id := []string{"a", "b"}[i%2]
			e := l.epoch(t, id, "0001")
			require.Greater(t, e, last)
			last = e
			require.NoError(t, l.Release(t.Context(), id, []fleet.Shard{"0001"}))
		}
		require.Greater(t, l.epoch(t, "b", "0001"), last, "the same holder again")
	}},
	{"only its holder gives a shard back", func(t T, l *leases) {
		l.renew(t, "a")
		l.renew(t, "b")
		l.take(t, "a", "0001")
		require.NoError(t, l.Release(t.Context(), "b", []fleet.Shard{"0001", "0007"}))
		require.Empty(t, l.take(t, "b", "0001"))
		require.NoError(t, l.Release(t.Context(), "a", []fleet.Shard{"0001"}))
		require.Len(t, l.take(t, "b", "0001"), 1)
		require.NoError(t, l.Release(t.Context(), "a", []fleet.Shard{"0001"}), "a late repetition")
		require.Equal(t, map[fleet.Shard]string{"0001": "b"}, holders(l.renew(t, "b")))
	}},
	{"renewing keeps what is held", func(t T, l *leases) {
		l.renew(t, "a")
		e := l.epoch(t, "a", "0001")
		for range 6 {
			l.e.Sleep(l.e.TTL / 3)
			v := l.renew(t, "a")
			require.Len(t, v.Leases, 1)
			require.Equal(t, e, v.Leases[0].Epoch)
			require.Greater(t, v.Leases[0].Left, l.e.TTL/2)
		}
	}},
	{"what isn't renewed is free in the end", func(t T, l *leases) {
		l.renew(t, "a")
		l.renew(t, "b")
		e := l.epoch(t, "a", "0001")
		for range 5 {
			l.e.Sleep(l.e.TTL / 3)
			l.renew(t, "b")
		}
		v := l.renew(t, "b")
		require.Empty(t, v.Leases)
		require.Equal(t, []fleet.Member{l.member("b")}, v.Members)
		require.Greater(t, l.epoch(t, "b", "0001"), e)
	}},
	{"what is over is not renewed, though nobody took it", func(t T, l *leases) {
		l.renew(t, "a")
		e := l.epoch(t, "a", "0001")
		l.e.Sleep(l.e.TTL + l.e.TTL/3)
		require.Empty(t, l.renew(t, "a").Leases)
		require.Greater(t, l.epoch(t, "a", "0001"), e)
	}},
	{"who isn't heard of is given nothing", func(t T, l *leases) {
		_, err := l.Take(t.Context(), "a", []fleet.Shard{"0001"})
		require.ErrorIs(t, err, dr.ErrFenced)
		l.renew(t, "a")
		l.e.Sleep(l.e.TTL + l.e.TTL/3)
		_, err = l.Take(t.Context(), "a", []fleet.Shard{"0001"})
		require.ErrorIs(t, err, dr.ErrFenced)
	}},
	{"who leaves gives all back", func(t T, l *leases) {
		l.renew(t, "a")
		l.renew(t, "b")
		l.take(t, "a", "0001", "0002")
		l.take(t, "b", "0003")
		require.NoError(t, l.Leave(t.Context(), "a"))
		require.NoError(t, l.Leave(t.Context(), "a"), "again")
		v := l.renew(t, "b")
		require.Equal(t, map[fleet.Shard]string{"0003": "b"}, holders(v))
		require.Len(t, v.Members, 1)
		require.Len(t, l.take(t, "b", "0001", "0002"), 2)
	}},
	{"one generation has one layout", func(t T, l *leases) {
		l.renew(t, "a")
		m := l.member("b")
		m.Layout = "another"
		_, err := l.Renew(t.Context(), m)
		require.ErrorIs(t, err, dr.ErrConflict)
		require.ErrorContains(t, err, "worker b")
		v, err := l.View(t.Context())
		require.NoError(t, err)
		require.Len(t, v.Members, 1, "it has not joined")
	}},
	{"a new generation begins when the old one holds nothing", func(t T, l *leases) {
		l.renew(t, "a")
		first := l.epoch(t, "a", "0001")
		other := l.epoch(t, "a", "0002")
		m := l.member("b")
		m.Generation, m.Layout = 1, "another"
		v, err := l.Renew(t.Context(), m)
		require.NoError(t, err)
		require.Equal(t, uint64(1), v.Generation)
		require.Equal(t, "another", v.Layout)
		require.Empty(t, l.take(t, "b", "0001", "0005"), "shards of the old one are held")
		v = l.renew(t, "a")
		require.Equal(t, uint64(1), v.Generation, "how a sees that it must end")
		require.Equal(t, map[fleet.Shard]string{"0001": "a", "0002": "a"}, holders(v), "it may still end what it does")
		_, err = l.Take(t.Context(), "a", []fleet.Shard{"0003"})
		require.ErrorIs(t, err, dr.ErrFenced)
		require.NoError(t, l.Release(t.Context(), "a", []fleet.Shard{"0001"}))
		require.Empty(t, l.take(t, "b", "0001"), "one shard is held")
		require.NoError(t, l.Release(t.Context(), "a", []fleet.Shard{"0002"}))
		got := l.take(t, "b", "0001")
		require.Len(t, got, 1)
		require.Equal(t, uint64(1), got[0].Generation)
		require.Greater(t, got[0].Epoch, first)
		require.NoError(t, l.Release(t.Context(), "b", []fleet.Shard{"0001"}))
		require.Greater(t, l.epoch(t, "b", "0002"), other+1, "what the old one held is fenced, taken or not")
	}},
	{"an old generation's lease ends by time, too", func(t T, l *leases) {
		l.renew(t, "a")
		l.take(t, "a", "0001")
		m := l.member("b")
		m.Generation = 7
		for range 5 {
			_, err := l.Renew(t.Context(), m)
			require.NoError(t, err)
			l.e.Sleep(l.e.TTL / 3)
		}
		require.Len(t, l.take(t, "b", "0001", "0002"), 2)
	}},
	{"a context that has ended does nothing", func(t T, l *leases) {
		l.renew(t, "a")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := l.Renew(ctx, l.member("b"))
		require.True(t, errors.Is(err, context.Canceled), "%v", err)
		_, err = l.Take(ctx, "a", []fleet.Shard{"0001"})
		require.Error(t, err)
		require.Error(t, l.Leave(ctx, "a"))
		v, err := l.View(t.Context())
		require.NoError(t, err)
		require.Len(t, v.Members, 1)
		require.Empty(t, v.Leases)
	}},
}

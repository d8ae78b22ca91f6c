package fleettest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// Fencer tests that records refuse what is saved under an old epoch of a shard.
// open returns leases and the records that heed them; nothing ever was in
// either.
func Fencer(t *testing.T, open func(t T) (fleet.Leases, dr.Records)) {
	for _, p := range fencePromises {
		t.Run(p.name, func(t *testing.T) {
			l, r := open(t)
			p.check(t, &leases{l, LeasesEnv{TTL: time.Hour}}, r)
		})
	}
}

type fencePromise struct {
	name  string
	check func(T, *leases, dr.Records)
}

var fencePromises = []fencePromise{
	{"the records say that they do", func(t T, _ *leases, r dr.Records) {
		f, ok := dr.As[fleet.Fencer](r)
		require.True(t, ok)
		require.True(t, f.FencesShards())
	}},
	{"its holder saves", func(t T, l *leases, r dr.Records) {
		l.renew(t, "a")
		ctx := fleet.WithFence(t.Context(), "0001", l.epoch(t, "a", "0001"))
		p, err := r.Save(ctx, dr.Protection{ID: "p"})
		require.NoError(t, err)
		p.Name = "two"
		_, err = r.Save(ctx, p)
		require.NoError(t, err)
	}},
	{"an old epoch is fenced", func(t T, l *leases, r dr.Records) {
		l.renew(t, "a")
		l.renew(t, "b")
		old := fleet.WithFence(t.Context(), "0001", l.epoch(t, "a", "0001"))
		p, err := r.Save(old, dr.Protection{ID: "p"})
		require.NoError(t, err)
		require.NoError(t, l.Leave(t.Context(), "a"))
		now := fleet.WithFence(t.Context(), "0001", l.epoch(t, "b", "0001"))
		p.Name = "old"
		_, err = r.Save(old, p)
		require.ErrorIs(t, err, dr.ErrFenced)
		_, err = r.Save(old, dr.Protection{ID: "new"})
		require.ErrorIs(t, err, dr.ErrFenced)
		p.Name = "now"
		_, err = r.Save(now, p)
		require.NoError(t, err)
		is, err := r.Load(t.Context(), "p")
		require.NoError(t, err)
		require.Equal(t, "now", is.Name)
		_, err = r.Load(t.Context(), "new")
		require.ErrorIs(t, err, dr.ErrNotFound)
	}},
	{"a conflict is a conflict, not a fence", func(t T, l *leases, r dr.Records) {
		l.renew(t, "a")
		ctx := fleet.WithFence(t.Context(), "0001", l.epoch(t, "a", "0001"))
		p, err := r.Save(ctx, dr.Protection{ID: "p"})
		require.NoError(t, err)
		_, err = r.Save(t.Context(), p)
		require.NoError(t, err)
		_, err = r.Save(ctx, p)
		require.ErrorIs(t, err, dr.ErrConflict)
		require.NotErrorIs(t, err, dr.ErrFenced)
	}},
	{"who acts for no shard is not asked", func(t T, l *leases, r dr.Records) {
		_, err := r.Save(t.Context(), dr.Protection{ID: "p"})
		require.NoError(t, err)
	}},
	{"a shard that was never leased is nobody's", func(t T, l *leases, r dr.Records) {
		_, err := r.Save(fleet.WithFence(t.Context(), "0009", 1), dr.Protection{ID: "p"})
		require.ErrorIs(t, err, dr.ErrFenced)
	}},
	{"another shard's takeover does nothing", func(t T, l *leases, r dr.Records) {
		l.renew(t, "a")
		l.renew(t, "b")
		ctx := fleet.WithFence(t.Context(), "0001", l.epoch(t, "a", "0001"))
		for range 3 {
			l.epoch(t, "b", "0002")
			require.NoError(t, l.Release(t.Context(), "b", []fleet.Shard{"0002"}))
		}
		_, err := r.Save(ctx, dr.Protection{ID: "p"})
		require.NoError(t, err)
	}},
	{"a new layout fences what the old one held", func(t T, l *leases, r dr.Records) {
		l.renew(t, "a")
		ctx := fleet.WithFence(t.Context(), "0009", l.epoch(t, "a", "0009"))
		require.NoError(t, l.Leave(t.Context(), "a"))
		m := l.member("b")
		m.Generation, m.Layout = 1, "another"
		_, err := l.Renew(t.Context(), m)
		require.NoError(t, err)
		l.epoch(t, "b", "0001")
		_, err = r.Save(ctx, dr.Protection{ID: "p"})
		require.ErrorIs(t, err, dr.ErrFenced)
	}},
}

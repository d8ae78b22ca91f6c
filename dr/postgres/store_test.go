package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// everything calls every method.
func everything(t *testing.T, s *postgres.Store) {
	t.Helper()
	ctx := t.Context()
	epoch, err := s.Acquire(ctx, "everything", "me")
	require.NoError(t, err)
	again, err := s.Acquire(ctx, "everything", "me")
	require.NoError(t, err)
	require.Equal(t, epoch, again)
	seized, err := s.Seize(ctx, "everything", "me", "you")
	require.NoError(t, err)
	require.Greater(t, seized, epoch)
	require.NoError(t, s.Release(ctx, "everything", "you"))
	require.NoError(t, s.Raise(ctx, "everything", seized+5))
	require.NoError(t, s.Raise(ctx, "raised", 3))
	for _, err := range s.Claims(ctx) {
		require.NoError(t, err)
	}
	p, err := s.Save(ctx, dr.Protection{ID: "everything"})
	require.NoError(t, err)
	p, err = s.Save(ctx, p)
	require.NoError(t, err)
	loaded, err := s.Load(ctx, p.ID)
	require.NoError(t, err)
	require.Equal(t, p, loaded)
	p.Version += 3
	require.NoError(t, s.Import(ctx, p))
	for _, err := range s.Protections(ctx) {
		require.NoError(t, err)
	}
	l := s.Leases()
	_, err = l.Renew(ctx, fleet.Member{ID: "w", TTL: time.Minute})
	require.NoError(t, err)
	given, err := l.Take(ctx, "w", []fleet.Shard{"1", "2", "1"})
	require.NoError(t, err)
	require.Len(t, given, 2)
	p, err = s.Save(fleet.WithFence(ctx, given[0].Shard, given[0].Epoch), p)
	require.NoError(t, err)
	require.NoError(t, l.Release(ctx, "w", []fleet.Shard{"1"}))
	require.NoError(t, l.Leave(ctx, "w"))
	_, err = l.View(ctx)
	require.NoError(t, err)
}

// odd names: none of them may be taken for another one.
var odd = []string{" ", "a", "A", "a ", "ä", "a\u0308", "a\x00b", "a\x00", "\x00", `\x00`, `\000`, `'; DROP TABLE claim; --`, "%", "\U0001F6F6", "日本", strings.Repeat("x", 2000)}

func testOddNames(t *testing.T, c *pgtest.Cluster) {
	for _, mode := range []string{"cache_statement", "simple_protocol"} {
		s := open(t, c.DSN("")+"&default_query_exec_mode="+mode, mode)
		claimed := append(slices.Clone(odd), "\xff", "\xfe\x00", string([]byte{0x80}))
		for _, name := range claimed {
			_, err := s.Acquire(t.Context(), name, "o"+name)
			require.NoError(t, err, "%q is another one", name)
			_, err = s.Acquire(t.Context(), name, "else")
			require.ErrorIs(t, err, dr.ErrBusy)
		}
		var got []string
		for c, err := range s.Claims(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, "o"+c.Resource, c.Owner)
			require.InDelta(t, time.Now().Unix(), c.Since.Unix(), 60)
			got = append(got, c.Resource)
		}
		slices.Sort(claimed)
		require.Equal(t, claimed, got, "byte by byte")

		for _, name := range odd {
			_, err := s.Save(t.Context(), dr.Protection{ID: dr.ProtectionID(name), Name: name})
			require.NoError(t, err, "%q", name)
		}
		got = nil
		for p, err := range s.Protections(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, string(p.ID), p.Name)
			got = append(got, string(p.ID))
		}
		want := slices.Sorted(slices.Values(odd))
		require.Equal(t, want, got)
		for _, id := range []dr.ProtectionID{"", "\xff"} {
			_, err := s.Save(t.Context(), dr.Protection{ID: id})
			require.ErrorIs(t, err, dr.ErrInvalid)
		}
		_, err := s.Acquire(t.Context(), "", "me")
		require.ErrorIs(t, err, dr.ErrInvalid)
		_, err = s.Acquire(t.Context(), "m", "")
		require.ErrorIs(t, err, dr.ErrInvalid)

		l := s.Leases()
		_, err = l.Renew(t.Context(), fleet.Member{ID: "w\x00", Name: "\x00", TTL: time.Hour})
		require.NoError(t, err)
		var shards []fleet.Shard
		for _, name := range claimed {
			shards = append(shards, fleet.Shard(name))
		}
		_, err = l.Take(t.Context(), "w\x00", shards)
		require.NoError(t, err)
		v, err := l.View(t.Context())
		require.NoError(t, err)
		for i, lease := range v.Leases {
			require.Equal(t, shards[i], lease.Shard)
			require.Equal(t, "w\x00", lease.Member)
		}
		require.Len(t, v.Leases, len(shards))
		require.Equal(t, "\x00", v.Members[0].Name)
	}
}

// What was saved comes back to the last digit.
func testRecordsComeBackExactly(t *testing.T, c *pgtest.Cluster) {
	s := open(t, c.DSN(""), "")
	p := dr.Protection{ID: "p", Name: "\x00 \u2028 <&> \ufffd", Epoch: 1<<63 - 1,
		Last: dr.Point{Time: time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC), Cursors: map[dr.DiskID]dr.Cursor{"d": "1e400"}}}
	p.Failover = &dr.Failover{Loss: dr.Loss{Unreplicated: 1<<62 + 1}}
	saved, err := s.Save(t.Context(), p)
	require.NoError(t, err)
	loaded, err := s.Load(t.Context(), "p")
	require.NoError(t, err)
	p.Version = 1
	require.Equal(t, p, saved)
	require.Equal(t, p, loaded)
	for _, bad := range []dr.Protection{{ID: "q", Epoch: 1 << 63}, {ID: "q", Version: 1<<63 - 1}} {
		_, err := s.Save(t.Context(), bad)
		require.ErrorIs(t, err, dr.ErrInvalid)
	}
}

// A record that somebody has damaged is told of, and hides none of the others.
func testDamagedRecords(t *testing.T, c *pgtest.Cluster) {
	s := open(t, c.DSN(""), "")
	for _, id := range []dr.ProtectionID{"a", "b", "c", "d"} {
		_, err := s.Save(t.Context(), dr.Protection{ID: id})
		require.NoError(t, err)
	}
	c.Query(`UPDATE lifeboat.protection SET body = '[]' WHERE id = 'b'; UPDATE lifeboat.protection SET body = '{"id":"a"}' WHERE id = 'c'`)
	for _, id := range []dr.ProtectionID{"b", "c"} {
		_, err := s.Load(t.Context(), id)
		require.ErrorIs(t, err, dr.ErrCorrupt)
		require.ErrorContains(t, err, "protection "+string(id))
	}
	var ids []dr.ProtectionID
	damaged := 0
	for p, err := range s.Protections(t.Context()) {
		if err != nil {
			require.ErrorIs(t, err, dr.ErrCorrupt)
			damaged++
			continue
		}
		ids = append(ids, p.ID)
	}
	require.Equal(t, []dr.ProtectionID{"a", "d"}, ids)
	require.Equal(t, 2, damaged)
}

// Ten thousand records are listed in order, whole, while the caller uses the
// store, whose pool has one connection.
func testListOfThousands(t *testing.T, c *pgtest.Cluster) {
	s := open(t, c.DSN("")+"&pool_max_conns=1", "")
	const n = 10_000
	c.Query(fmt.Sprintf(`INSERT INTO lifeboat.protection SELECT convert_to('p' || lpad(n::text, 5, '0'), 'UTF8'), 1, 0, gen_random_uuid(),
		json_build_object('id', 'p' || lpad(n::text, 5, '0'), 'version', 1) FROM generate_series(0, %d) AS n`, n-1))
	i := 0
	for p, err := range s.Protections(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("p%05d", i), string(p.ID))
		if i%1000 == 0 {
			_, err := s.Save(t.Context(), p)
			require.NoError(t, err)
		}
		i++
	}
	require.Equal(t, n, i)
	for range s.Protections(t.Context()) {
		break
	}
	everything(t, s)
}

func testMovingIn(t *testing.T, c *pgtest.Cluster) {
	s := open(t, c.DSN(""), "")
	ctx := t.Context()
	const far = uint64(1) << 40 // ahead of all clocks, so that epochs rise by one

	require.NoError(t, s.Raise(ctx, "m", far+41))
	require.NoError(t, s.Raise(ctx, "m", far+40), "it is never lowered")
	epoch, err := s.Acquire(ctx, "m", "alice")
	require.NoError(t, err)
	require.Equal(t, far+42, epoch)
	err = s.Raise(ctx, "m", far+43)
	require.ErrorIs(t, err, dr.ErrBusy)
	require.ErrorContains(t, err, "alice")
	require.NoError(t, s.Raise(ctx, "m", far+42), "that is no rise")
	require.NoError(t, s.Release(ctx, "m", "alice"))
	require.NoError(t, s.Raise(ctx, "m", far+50))
	epoch, err = s.Acquire(ctx, "m", "alice")
	require.NoError(t, err)
	require.Equal(t, far+51, epoch)
	require.ErrorIs(t, s.Raise(ctx, "m", 1<<63), dr.ErrInvalid)

	_, err = s.Seize(ctx, "m", "bob", "carol")
	require.ErrorIs(t, err, dr.ErrConflict)
	require.ErrorContains(t, err, "alice")
	epoch, err = s.Seize(ctx, "m", "alice", "")
	require.NoError(t, err)
	require.Equal(t, far+52, epoch)
	_, err = s.Seize(ctx, "m", "alice", "")
	require.ErrorIs(t, err, dr.ErrConflict)
	epoch, err = s.Acquire(ctx, "m", "bob")
	require.NoError(t, err)
	require.Equal(t, far+53, epoch)
	epoch, err = s.Seize(ctx, "m", "bob", "carol")
	require.NoError(t, err)
	require.Equal(t, far+54, epoch)
	_, err = s.Acquire(ctx, "m", "bob")
	require.ErrorIs(t, err, dr.ErrBusy)

	p := dr.Protection{ID: "p", Version: 7, Epoch: 3, Name: "seven", Pins: map[dr.PointID]string{}}
	require.NoError(t, s.Import(ctx, p))
	require.NoError(t, s.Import(ctx, p), "the same")
	other := p
	other.Name = "another"
	require.ErrorIs(t, s.Import(ctx, other), dr.ErrConflict)
	other.Version = 6
	require.ErrorIs(t, s.Import(ctx, other), dr.ErrConflict)
	other.Version, other.Epoch = 9, 2
	require.ErrorIs(t, s.Import(ctx, other), dr.ErrFenced)
	other.Epoch = 3
	require.NoError(t, s.Import(ctx, other))
	got, err := s.Load(ctx, "p")
	require.NoError(t, err)
	require.EqualValues(t, 9, got.Version)
	got, err = s.Save(ctx, got)
	require.NoError(t, err)
	require.EqualValues(t, 10, got.Version)
	require.ErrorIs(t, s.Import(ctx, dr.Protection{ID: "q"}), dr.ErrInvalid)
}

func testClosedAndCancelled(t *testing.T, c *pgtest.Cluster) {
	s, err := postgres.Open(t.Context(), postgres.Options{DSN: c.DSN("")})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Acquire(ctx, "m", "me")
	require.ErrorIs(t, err, context.Canceled)
	_, err = s.Load(ctx, "m")
	require.ErrorIs(t, err, context.Canceled)
	_, err = postgres.Open(ctx, postgres.Options{DSN: c.DSN("")})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, s.Close())
	_, err = s.Acquire(t.Context(), "m", "me")
	require.ErrorIs(t, err, dr.ErrInvalid)
	require.ErrorContains(t, err, "closed")
}

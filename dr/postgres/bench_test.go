package postgres_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// clients runs once with each number of clients, each for a resource of its own,
// on a server that syncs every commit.
func clients(b *testing.B, once func(b *testing.B, s *postgres.Store, client string)) {
	c := pgtest.Start(b, pgtest.Options{Sync: true})
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, err := postgres.Open(b.Context(), postgres.Options{DSN: c.DSN("") + fmt.Sprintf("&pool_max_conns=%d", n)})
			require.NoError(b, err)
			defer s.Close()
			var next atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(max(1, n/2)) // of 2 processors
			if n == 1 {
				for b.Loop() {
					once(b, s, "one")
				}
				return
			}
			b.RunParallel(func(p *testing.PB) {
				client := fmt.Sprint(next.Add(1))
				for p.Next() {
					once(b, s, client)
				}
			})
		})
	}
}

func BenchmarkSave(b *testing.B) {
	full := dr.Protection{Name: "büro/1", Home: "berlin", Active: dr.Place{Site: "berlin", Machine: "m1"}, Standby: dr.Place{Site: "bonn"},
		State: dr.Protected, Last: dr.Point{ID: "p1", Time: time.Now(), Machine: dr.Machine{ID: "m1", Disks: []dr.Disk{{ID: "d0", Size: 1 << 40}}}}}
	clients(b, func(b *testing.B, s *postgres.Store, client string) {
		p := full
		p.ID = dr.ProtectionID("bench-" + client)
		if was, err := s.Load(b.Context(), p.ID); err == nil {
			p.Version = was.Version
		}
		_, err := s.Save(b.Context(), p)
		require.NoError(b, err)
	})
}

// A claim is taken and given back.
func BenchmarkClaim(b *testing.B) {
	clients(b, func(b *testing.B, s *postgres.Store, client string) {
		_, err := s.Acquire(b.Context(), client, "me")
		require.NoError(b, err)
		require.NoError(b, s.Release(b.Context(), client, "me"))
	})
}

// A worker renews 25 shards of 100.
func BenchmarkRenew(b *testing.B) {
	c := pgtest.Start(b, pgtest.Options{Sync: true})
	s, err := postgres.Open(b.Context(), postgres.Options{DSN: c.DSN("")})
	require.NoError(b, err)
	defer s.Close()
	l := s.Leases()
	for w := range 4 {
		m := fleet.Member{ID: fmt.Sprint(w), TTL: time.Hour}
		_, err := l.Renew(b.Context(), m)
		require.NoError(b, err)
		var shards []fleet.Shard
		for i := range 25 {
			shards = append(shards, fleet.Shard(fmt.Sprintf("%04d", w*25+i)))
		}
		_, err = l.Take(b.Context(), m.ID, shards)
		require.NoError(b, err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, err := l.Renew(b.Context(), fleet.Member{ID: "1", TTL: time.Hour})
		require.NoError(b, err)
	}
}

func BenchmarkList10000(b *testing.B) {
	c := pgtest.Start(b, pgtest.Options{})
	s, err := postgres.Open(b.Context(), postgres.Options{DSN: c.DSN("")})
	require.NoError(b, err)
	defer s.Close()
	_, err = s.Save(b.Context(), dr.Protection{ID: "model", Name: "büro/1", Home: "berlin", Active: dr.Place{Site: "berlin", Machine: "m1"},
		Standby: dr.Place{Site: "bonn"}, State: dr.Protected, Last: dr.Point{ID: "p1", Time: time.Now()}})
	require.NoError(b, err)
	c.Query(`INSERT INTO lifeboat.protection SELECT convert_to('p' || n, 'UTF8'), 1, 0, gen_random_uuid(),
		jsonb_set(body::jsonb, '{id}', to_jsonb('p' || n))::json FROM lifeboat.protection, generate_series(1, 9999) AS n`)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range s.Protections(b.Context()) {
			require.NoError(b, err)
			n++
		}
		require.Equal(b, 10_000, n)
	}
}

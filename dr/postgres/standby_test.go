package postgres_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// While the synchronous standby is away nothing is acknowledged: not by the
// attempt whose commit waits for it, nor by the next one, which sees what that has
// left and what goes with the primary if the standby takes over.
func testStandbyIsAway(t *testing.T, c *pgtest.Cluster) {
	good := open(t, c.DSN(""), "")
	_, err := good.Acquire(t.Context(), "released", "me")
	require.NoError(t, err)
	_, err = good.Acquire(t.Context(), "seized", "me")
	require.NoError(t, err)
	_, err = good.Acquire(t.Context(), "freed", "me")
	require.NoError(t, err)
	_, err = good.Leases().Renew(t.Context(), fleet.Member{ID: "w", TTL: time.Hour})
	require.NoError(t, err)
	_, err = good.Leases().Take(t.Context(), "w", []fleet.Shard{"1"})
	require.NoError(t, err)

	set := func(how string) {
		c.Query("ALTER SYSTEM " + how)
		c.Query("SELECT pg_reload_conf()")
	}
	set("SET synchronous_standby_names = 'nobody'")
	defer set("RESET synchronous_standby_names")
	s, err := postgres.Open(t.Context(), postgres.Options{DSN: c.DSN(""), Attempt: 300 * time.Millisecond, Patience: time.Second})
	require.NoError(t, err)
	defer s.Close()
	require.Eventually(t, func() bool { _, err := s.Acquire(t.Context(), "away", "me"); return err != nil }, time.Minute, time.Millisecond)

	calls := map[string]func() error{
		"claim":   func() error { _, err := s.Acquire(t.Context(), "m", "me"); return err },
		"release": func() error { return s.Release(t.Context(), "released", "me") },
		"raise":   func() error { return s.Raise(t.Context(), "raised", 1<<40) },
		"seize":   func() error { _, err := s.Seize(t.Context(), "seized", "me", "you"); return err },
		"free":    func() error { _, err := s.Seize(t.Context(), "freed", "me", ""); return err },
		"save":    func() error { _, err := s.Save(t.Context(), dr.Protection{ID: "p"}); return err },
		"import":  func() error { return s.Import(t.Context(), dr.Protection{ID: "q", Version: 7}) },
		"renew": func() error {
			_, err := s.Leases().Renew(t.Context(), fleet.Member{ID: "w", TTL: time.Hour})
			return err
		},
		"take":   func() error { _, err := s.Leases().Take(t.Context(), "w", []fleet.Shard{"2"}); return err },
		"return": func() error { return s.Leases().Release(t.Context(), "w", []fleet.Shard{"1"}) },
	}
	again := []string{"claim", "release", "raise", "import", "renew", "return"}
	t.Run("all", func(t *testing.T) {
		for name, do := range calls {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				require.ErrorContains(t, do(), "a standby that a commit waits for")
				if slices.Contains(again, name) {
					require.ErrorContains(t, do(), "a standby that a commit waits for", "asked again")
				}
			})
		}
	})
}

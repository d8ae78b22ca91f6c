package postgres_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/enginetest"
	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/fleet/fleettest"
)

var schemas atomic.Int64

func newSchema() string { return fmt.Sprint("lifeboat_", schemas.Add(1)) }

func open(t enginetest.T, dsn, schema string) *postgres.Store {
	s, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Schema: schema})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// The suites, in each of the ways in which the driver can talk to the server: a
// pooler that gives every transaction another connection needs the last three.
func TestContract(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			dsn := c.DSN("") + "&default_query_exec_mode=" + mode
			t.Run("claims", func(t *testing.T) {
				enginetest.Claims(t, func(t enginetest.T) dr.Claims { return open(t, dsn, newSchema()) })
			})
			t.Run("records", func(t *testing.T) {
				enginetest.Records(t, func(t enginetest.T) dr.Records { return open(t, dsn, newSchema()) })
			})
			t.Run("leases", func(t *testing.T) {
				if mode != "cache_statement" && mode != "exec" {
					return // two are enough for what takes so many calls
				}
				schema := ""
				fleettest.Leases(t, fleettest.LeasesEnv{
					TTL: time.Minute,
					Open: func(t fleettest.T) fleet.Leases {
						schema = newSchema()
						return open(t.(enginetest.T), dsn, schema).Leases()
					},
					// The database's clock can't be moved: what is measured by it is.
					Sleep: func(d time.Duration) {
						for _, table := range []string{"member", "shard"} {
							c.Query(fmt.Sprintf("UPDATE %s.%s SET until = until - interval '%d ms'", schema, table, d.Milliseconds()))
						}
					},
				})
			})
			t.Run("fencer", func(t *testing.T) {
				fleettest.Fencer(t, func(t fleettest.T) (fleet.Leases, dr.Records) {
					s := open(t.(enginetest.T), dsn, newSchema())
					return s.Leases(), s
				})
			})
		})
	}
}

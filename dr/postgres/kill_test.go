package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
)

// The database is killed with kill -9 again and again while clients claim and
// save; it is set up not to wait for the disk. Nothing that was acknowledged is
// lost, no epoch is given twice, no resource has two holders, and no client
// sees an error: each call finds out by itself what became of it.
func TestDatabaseKilledUnderLoad(t *testing.T) {
	rounds := 4
	if long() {
		rounds = 60
	}
	c := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"synchronous_commit": "off", "wal_writer_delay": "10s", "wal_writer_flush_after": "0"}})
	l := newLedger()
	dsn := c.DSN("") + "&pool_max_conns=8"
	over, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for i := range 2 {
		s, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Patience: unhurried, Attempt: 5 * time.Second})
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		for j := range 3 {
			l.work(t, over, &clients, s, fmt.Sprintf("owner-%d-%d", i, j))
		}
	}
	for range rounds {
		l.wait(t, 200)
		c.Kill()
		c.Start()
	}
	stop()
	clients.Wait()
	c.Kill()
	c.Start()
	l.check(t, open(t, dsn, ""))
}

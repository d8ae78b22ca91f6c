package postgres_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
)

// bounce puts PgBouncer before the cluster: each transaction gets one of a few
// connections. It returns a DSN.
func bounce(t *testing.T, c *pgtest.Cluster) string {
	port := pgtest.FreePort(t)
	c.Give("users.txt", fmt.Appendf(nil, "%q %q\n", "postgres", c.Password))
	c.Give("pgbouncer.ini", fmt.Appendf(nil, `[databases]
* = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s/users.txt
pool_mode = transaction
default_pool_size = 3
server_login_retry = 0.2
`, c.Port, port, c.Data))
	// The shell ends it when this process ends, however that comes about.
	cmd := c.Command("sh", "-c", `"$0" "$1" & read _; kill -9 $!; wait`, pgtest.Tool(t, "pgbouncer"), c.Data+"/pgbouncer.ini")
	tie, err := cmd.StdinPipe()
	require.NoError(t, err)
	log, err := os.CreateTemp(t.TempDir(), "log")
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = tie.Close()
		_ = cmd.Wait()
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("PgBouncer said:\n%s", said)
		}
	})
	return fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/postgres?sslmode=disable&default_query_exec_mode=exec", c.Password, port)
}

// Behind PgBouncer, which gives each transaction another connection, all is as
// without, and what was acknowledged survives kills.
func TestPgBouncer(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"synchronous_commit": "off", "wal_writer_delay": "10s"}})
	dsn := bounce(t, c)
	s := open(t, dsn, "") // it tries until PgBouncer listens
	everything(t, s)
	// Who leaves the driver's mode as it is learns what to do.
	plain, err := postgres.Open(t.Context(), postgres.Options{DSN: strings.Replace(dsn, "=exec", "=cache_statement", 1) + "&pool_max_conns=8"})
	for i := 0; err == nil && i < 100; i++ {
		var all sync.WaitGroup
		errs := make(chan error, 8)
		for range cap(errs) {
			all.Go(func() { _, err := plain.Load(t.Context(), "everything"); errs <- err })
		}
		all.Wait()
		for range cap(errs) {
			err = cmp.Or(err, <-errs)
		}
	}
	require.ErrorContains(t, err, "default_query_exec_mode=exec")
	if plain != nil {
		require.NoError(t, plain.Close())
	}
	l := newLedger()
	over, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	for i := range 2 {
		s, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn + "&pool_max_conns=8", Patience: unhurried})
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		for j := range 2 {
			l.work(t, over, &clients, s, fmt.Sprintf("owner-%d-%d", i, j))
		}
	}
	l.wait(t, 400)
	c.Kill()
	c.Start()
	l.wait(t, 200)
	stop()
	clients.Wait()
	c.Kill()
	c.Start()
	l.check(t, s)
}

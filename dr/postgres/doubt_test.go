package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
)

// A claim whose call has failed, and which was given back, isn't taken by what
// the network still delivers: nobody would ever give it back again.
func testLateAfterGivingUp(t *testing.T, c *pgtest.Cluster) {
	for _, text := range []string{"INSERT INTO", "owner IS NULL AND epoch"} {
		schema := newSchema()
		good := open(t, c.DSN(""), schema)
		if text != "INSERT INTO" {
			_, err := good.Acquire(t.Context(), "m", "a")
			require.NoError(t, err)
			require.NoError(t, good.Release(t.Context(), "m", "a"))
		}
		b := newLine(t, c.Host(), 0)
		b.rule, b.hold, b.sent = once(text, lateQuestion), make(chan struct{}), make(chan struct{})
		s, err := postgres.Open(t.Context(), postgres.Options{Schema: schema, Patience: time.Nanosecond,
			DSN: fmt.Sprintf("postgres://postgres:%s@%s/postgres?sslmode=disable&default_query_exec_mode=simple_protocol", c.Password, b.Addr())})
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		_, err = s.Acquire(t.Context(), "m", "a")
		require.Error(t, err)
		require.NoError(t, s.Release(t.Context(), "m", "a"))
		close(b.hold)
		select {
		case <-b.sent:
		case <-time.After(10 * time.Second):
			t.Fatal("the statement was never sent")
		}
		_, err = good.Acquire(t.Context(), "m", "b")
		require.NoError(t, err)
	}
}

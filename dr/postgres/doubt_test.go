package postgres_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
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

// The answer to somebody else's call, given before, takes nothing of that away.
func testLateAfterAnother(t *testing.T, c *pgtest.Cluster) {
	schema := newSchema()
	good := open(t, c.DSN(""), schema)
	_, err := good.Acquire(t.Context(), "m", "holder")
	require.NoError(t, err)
	b := newLine(t, c.Host(), 0)
	b.rule, b.hold, b.sent = once("owner IS NULL AND epoch", lateQuestion), make(chan struct{}), make(chan struct{})
	told, tell := make(chan struct{}), make(chan struct{})
	b.back = func(chunk []byte) {
		if bytes.Contains(chunk, []byte(hex.EncodeToString([]byte("holder")))) {
			close(told)
			<-tell
		}
	}
	ended := sync.OnceFunc(func() { close(tell) })
	defer ended()
	s, err := postgres.Open(t.Context(), postgres.Options{Schema: schema, Patience: time.Nanosecond, Attempt: time.Hour,
		DSN: fmt.Sprintf("postgres://postgres:%s@%s/postgres?sslmode=disable&default_query_exec_mode=simple_protocol", c.Password, b.Addr())})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	refused := make(chan error)
	go func() {
		_, err := s.Acquire(t.Context(), "m", "other")
		refused <- err
	}()
	<-told // it is held: so the database said, and so the other hears later
	require.NoError(t, good.Release(t.Context(), "m", "holder"))
	_, err = s.Acquire(t.Context(), "m", "me")
	require.Error(t, err)
	require.NotErrorIs(t, err, dr.ErrBusy)
	ended()
	require.ErrorIs(t, <-refused, dr.ErrBusy)
	require.NoError(t, s.Release(t.Context(), "m", "me"))
	close(b.hold)
	select {
	case <-b.sent:
	case <-time.After(10 * time.Second):
		t.Fatal("the statement was never sent")
	}
	_, err = good.Acquire(t.Context(), "m", "you")
	require.NoError(t, err)
}

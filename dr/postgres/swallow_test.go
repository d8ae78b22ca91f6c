package postgres_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
)

// A host that is named first and whose site is gone takes packets and answers
// none. The store works with the other one, at once and not when TCP gives up.
func testFirstHostIsGone(t *testing.T, c *pgtest.Cluster) {
	gone, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections, and nobody them
	require.NoError(t, err)
	defer gone.Close()
	dsn := strings.Replace(c.DSN(""), c.Host(), gone.Addr().String()+","+c.Host(), 1)
	began := time.Now()
	s, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Attempt: 2 * time.Second, Patience: time.Minute})
	require.NoError(t, err)
	defer s.Close()
	_, err = s.Acquire(t.Context(), "m", "me")
	require.NoError(t, err)
	t.Logf("opened and claimed in %v", time.Since(began))

	// Who says how long connecting may take is heeded.
	config, err := pgxpool.ParseConfig(dsn + "&connect_timeout=1")
	require.NoError(t, err)
	for _, o := range []postgres.Options{{DSN: dsn + "&connect_timeout=1"}, {Config: config}} {
		o.Attempt, o.Patience = time.Minute, time.Minute
		s, err = postgres.Open(t.Context(), o)
		require.NoError(t, err)
		require.Equal(t, time.Second, s.ConnectTimeout())
		require.NoError(t, s.Close())
	}
}

// sink forwards connections, until it forgets those that there are, as a firewall
// does that was started anew: both ends go on, and nothing arrives.
type sink struct {
	net.Listener
	to string

	mu    sync.Mutex
	there []*sunk
	all   sync.WaitGroup
}

type sunk struct {
	near, far net.Conn
	forgotten atomic.Bool
	asked     atomic.Bool // something was, after that
}

func newSink(t *testing.T, to string) *sink {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &sink{Listener: l, to: to}
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, x := range s.there {
			x.near.Close()
			x.far.Close()
		}
		s.mu.Unlock()
		s.all.Wait()
	})
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			x := &sunk{near: near, far: far}
			s.mu.Lock()
			s.there = append(s.there, x)
			s.mu.Unlock()
			s.all.Go(func() { _, _ = io.Copy(near, far); near.Close() })
			s.all.Go(x.ask)
		}
	}()
	return s
}

func (x *sunk) ask() {
	defer x.far.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := x.near.Read(b)
		if err != nil {
			return
		}
		if x.forgotten.Load() {
			const goodbye = 'X' // https://www.postgresql.org/docs/15/protocol-message-formats.html
			if b[0] != goodbye {
				x.asked.Store(true)
			}
			continue
		}
		if _, err := x.far.Write(b[:n]); err != nil {
			return
		}
	}
}

// forget returns the connections that there were.
func (s *sink) forget() []*sunk {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.there {
		x.forgotten.Store(true)
	}
	return s.there[:len(s.there):len(s.there)]
}

// After a takeover of the address all connections of the pool are dead, and none
// says so. A call finds that out of one of them, and not of each in turn: there
// are more of them than patience has attempts, or a lease has beats.
func testConnectionsAreForgotten(t *testing.T, c *pgtest.Cluster) {
	for name, claim := range map[string]func(t *testing.T, s *postgres.Store){
		"by who has patience": func(t *testing.T, s *postgres.Store) {
			_, err := s.Acquire(t.Context(), "m", "me")
			require.NoError(t, err)
		},
		"by who asks anew": func(t *testing.T, s *postgres.Store) {
			for {
				ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
				_, err := s.Acquire(ctx, "m", "me")
				cancel()
				if err == nil {
					return
				}
				require.ErrorIs(t, err, context.DeadlineExceeded)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { forgetConnections(t, c, func(s *postgres.Store) { claim(t, s) }) })
	}
}

func forgetConnections(t *testing.T, c *pgtest.Cluster, claim func(*postgres.Store)) {
	schema := newSchema()
	open(t, c.DSN(""), schema)
	k := newSink(t, c.Host())
	dsn := fmt.Sprintf("postgres://postgres:%s@%s/postgres?sslmode=disable&application_name=forgotten&pool_max_conns=8&pool_min_conns=8", c.Password, k.Addr())
	s, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Schema: schema, Attempt: 2 * time.Second, Patience: unhurried})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	require.Eventually(t, func() bool {
		return c.Query("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'forgotten' AND state = 'idle'") == "8"
	}, time.Minute, time.Millisecond)
	_, err = s.Save(t.Context(), dr.Protection{ID: "p"})
	require.NoError(t, err)

	old := k.forget()
	claim(s)
	asked := 0
	for _, x := range old {
		if x.asked.Load() {
			asked++
		}
		x.near.Close() // or the driver waits for what is still on its way
	}
	require.Equal(t, 1, asked, "connections that are dead were asked")
}

package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// line is a bad one to the database. Of what a client sends, once in a while
// something isn't delivered, or its answer isn't, or it is delivered when the
// client has long given up and asked again.
type line struct {
	net.Listener
	to    string
	every int // chunks to a fault, on average
	late  time.Duration

	rule func(chunk []byte) int // instead of chance
	back func(chunk []byte)     // is called before an answer is passed on, and may wait; nil: isn't
	hold chan struct{}          // a rule's late question is delivered when it is closed
	sent chan struct{}          // and has been

	mu   sync.Mutex
	rng  *rand.Rand
	made [3]int // faults, by kind
	all  sync.WaitGroup
}

const (
	lostQuestion = iota
	lostAnswer
	lateQuestion
	noFault
)

func newLine(t *testing.T, to string, seed uint64) *line {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &line{Listener: l, to: to, every: 60, late: 300 * time.Millisecond, rng: rand.New(rand.NewPCG(seed, 1))}
	t.Cleanup(func() {
		l.Close()
		b.all.Wait()
	})
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			b.all.Go(func() { b.serve(near) })
		}
	}()
	return b
}

// draw says what happens to a chunk, and how late a late one is.
func (l *line) draw(chunk []byte) (fault int, late time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rule != nil {
		return l.rule(chunk), 0
	}
	if l.rng.IntN(l.every) != 0 {
		return noFault, 0
	}
	fault = l.rng.IntN(noFault)
	l.made[fault]++
	return fault, time.Duration(l.rng.Int64N(int64(l.late)))
}

func (l *line) serve(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	defer far.Close()
	l.all.Go(func() {
		_, _ = io.Copy(answers{near, l}, far) // ends when either is closed
		near.Close()
	})
	b := make([]byte, 64<<10)
	for {
		n, err := near.Read(b)
		if err != nil {
			return
		}
		switch fault, late := l.draw(b[:n]); fault {
		case lostQuestion:
			return
		case lostAnswer:
			near.Close()
			_, _ = far.Write(b[:n])
			l.listen(far)
			return
		case lateQuestion:
			near.Close()
			time.Sleep(late) // as a network holds it
			if l.hold != nil {
				<-l.hold
			}
			_, _ = far.Write(b[:n])
			l.listen(far)
			if l.sent != nil {
				close(l.sent)
			}
			return
		}
		if _, err := far.Write(b[:n]); err != nil {
			return
		}
	}
}

// answers is the way back to a client.
type answers struct {
	net.Conn
	l *line
}

func (a answers) Write(chunk []byte) (int, error) {
	a.l.mu.Lock()
	back := a.l.back
	a.l.mu.Unlock()
	if back != nil {
		back(chunk)
	}
	return a.Conn.Write(chunk)
}

// listen leaves the server the time to do what it was told.
func (l *line) listen(far net.Conn) {
	time.Sleep(50 * time.Millisecond)
}

// once is a rule for the first chunk that has the text.
func once(text string, fault int) func([]byte) int {
	done := false
	return func(chunk []byte) int {
		if done || !bytes.Contains(chunk, []byte(text)) {
			return noFault
		}
		done = true
		return fault
	}
}

// A statement that arrives when its call has long asked again, and others have
// followed, does nothing. One whose answer is lost isn't done twice.
func testLateAndLost(t *testing.T, c *pgtest.Cluster) {
	// In this mode the statements can be read on the line.
	through := func(t *testing.T, fault int, text string) (*postgres.Store, *line) {
		schema := newSchema()
		open(t, c.DSN(""), schema)
		b := newLine(t, c.Host(), 0)
		b.rule, b.hold, b.sent = once(text, fault), make(chan struct{}), make(chan struct{})
		s, err := postgres.Open(t.Context(), postgres.Options{Schema: schema, Attempt: time.Second,
			DSN: fmt.Sprintf("postgres://postgres:%s@%s/postgres?sslmode=disable&default_query_exec_mode=simple_protocol", c.Password, b.Addr())})
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		return s, b
	}
	arrive := func(b *line) {
		close(b.hold)
		select {
		case <-b.sent:
		case <-time.After(10 * time.Second):
			t.Fatal("the statement was never sent")
		}
	}

	t.Run("late claims", func(t *testing.T) {
		for _, text := range []string{"INSERT INTO", "owner IS NULL AND epoch"} {
			s, b := through(t, lateQuestion, text)
			last := dr.NextEpoch(0, time.Now()) - 1
			for range 2 {
				epoch, err := s.Acquire(t.Context(), "m", "a")
				require.NoError(t, err)
				require.Greater(t, epoch, last)
				last = epoch
				require.NoError(t, s.Release(t.Context(), "m", "a"))
			}
			arrive(b)
			epoch, err := s.Acquire(t.Context(), "m", "b")
			require.NoError(t, err, "it is free")
			require.Greater(t, epoch, last)
		}
	})
	t.Run("a late release", func(t *testing.T) {
		s, b := through(t, lateQuestion, "SET owner = NULL")
		_, err := s.Acquire(t.Context(), "m", "a")
		require.NoError(t, err)
		require.NoError(t, s.Release(t.Context(), "m", "a"))
		_, err = s.Acquire(t.Context(), "m", "a")
		require.NoError(t, err)
		arrive(b)
		_, err = s.Acquire(t.Context(), "m", "b")
		require.ErrorIs(t, err, dr.ErrBusy)
	})
	t.Run("a late save", func(t *testing.T) {
		s, b := through(t, lateQuestion, "UPDATE")
		p, err := s.Save(t.Context(), dr.Protection{ID: "p"})
		require.NoError(t, err)
		p.Name = "two"
		p, err = s.Save(t.Context(), p)
		require.NoError(t, err)
		p.Name = "three"
		p, err = s.Save(t.Context(), p)
		require.NoError(t, err)
		arrive(b)
		got, err := s.Load(t.Context(), "p")
		require.NoError(t, err)
		require.Equal(t, p, got)
		require.EqualValues(t, 3, got.Version)
	})
	t.Run("a save whose answer is lost", func(t *testing.T) {
		s, b := through(t, noFault, "")
		p, err := s.Save(t.Context(), dr.Protection{ID: "p"})
		require.NoError(t, err)
		b.mu.Lock()
		b.rule = once("UPDATE", lostAnswer)
		b.mu.Unlock()
		p.Name = "two"
		p, err = s.Save(t.Context(), p)
		require.NoError(t, err)
		require.EqualValues(t, 2, p.Version)
	})
	t.Run("seized, and the answer lost", func(t *testing.T) {
		for _, to := range []string{"b", ""} {
			s, _ := through(t, lostAnswer, "epoch = $5::bigint, since")
			first, err := s.Acquire(t.Context(), "m", "a")
			require.NoError(t, err)
			epoch, err := s.Seize(t.Context(), "m", "a", to)
			require.NoError(t, err)
			require.Greater(t, epoch, first)
			for c, err := range s.Claims(t.Context()) {
				require.NoError(t, err)
				require.Equal(t, epoch, c.Epoch, "as it was told")
			}
		}
	})
	t.Run("shards that were given, and the answer lost", func(t *testing.T) {
		s, b := through(t, noFault, "")
		l := s.Leases()
		_, err := l.Renew(t.Context(), fleet.Member{ID: "w", TTL: time.Hour})
		require.NoError(t, err)
		b.mu.Lock()
		b.rule = once("commit", lostAnswer)
		b.mu.Unlock()
		given, err := l.Take(t.Context(), "w", []fleet.Shard{"1", "2"})
		require.NoError(t, err)
		require.Len(t, given, 2)
		v, err := l.View(t.Context())
		require.NoError(t, err)
		require.Equal(t, v.Leases[0].Epoch, given[0].Epoch)
		given, err = l.Take(t.Context(), "w", []fleet.Shard{"1", "2"})
		require.NoError(t, err)
		require.Empty(t, given)
	})
}

// Over a bad line nothing is done twice, nothing that was acknowledged is lost,
// and no caller hears of it.
func testBadLine(t *testing.T, c *pgtest.Cluster) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	want := int64(1500)
	if long() {
		want = 200_000
	}
	bad := newLine(t, c.Host(), seed)
	open(t, c.DSN(""), "") // is made over a good one
	l := newLedger()
	over, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	for i := range 2 {
		dsn := fmt.Sprintf("postgres://postgres:%s@%s/postgres?sslmode=disable&pool_max_conns=8", c.Password, bad.Addr())
		s, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Attempt: 2 * time.Second, Patience: unhurried})
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		for j := range 3 {
			l.work(t, over, &clients, s, fmt.Sprintf("owner-%d-%d", i, j))
		}
	}
	l.wait(t, want)
	stop()
	clients.Wait()
	t.Logf("%d questions lost, %d answers, %d questions late", bad.made[lostQuestion], bad.made[lostAnswer], bad.made[lateQuestion])
	time.Sleep(bad.late + 100*time.Millisecond) // for what is still under way
	l.check(t, open(t, c.DSN(""), ""))
}

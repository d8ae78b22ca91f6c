package postgres_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
)

// line is a bad one to the database. Of what a client sends, once in a while
// something isn't delivered, or its answer isn't, or it is delivered when the
// client has long given up and asked again.
type line struct {
	net.Listener
	to    string
	every int // chunks to a fault, on average
	late  time.Duration

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
func (l *line) draw() (fault int, late time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
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
		_, _ = io.Copy(near, far) // ends when either is closed
		near.Close()
	})
	b := make([]byte, 64<<10)
	for {
		n, err := near.Read(b)
		if err != nil {
			return
		}
		switch fault, late := l.draw(); fault {
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
			_, _ = far.Write(b[:n])
			l.listen(far)
			return
		}
		if _, err := far.Write(b[:n]); err != nil {
			return
		}
	}
}

// listen leaves the server the time to do what it was told.
func (l *line) listen(far net.Conn) {
	time.Sleep(50 * time.Millisecond)
}

// Over a bad line nothing is done twice, nothing that was acknowledged is lost,
// and no caller hears of it.
func TestBadLine(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	want := int64(3000)
	if long() {
		want = 200_000
	}
	c := pgtest.Start(t, pgtest.Options{})
	bad := newLine(t, c.Host(), seed)
	open(t, c.DSN(""), "") // is made over a good one
	l := newLedger()
	over, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	for i := range 2 {
		dsn := fmt.Sprintf("postgres://postgres:%s@%s/postgres?sslmode=disable&pool_max_conns=8", c.Password, bad.Addr())
		s, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Attempt: 2 * time.Second})
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		for j := range 3 {
			l.work(t, over, &clients, s, fmt.Sprintf("owner-%d-%d", i, j))
		}
	}
	for l.done() < want && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	stop()
	clients.Wait()
	t.Logf("%d questions lost, %d answers, %d questions late", bad.made[lostQuestion], bad.made[lostAnswer], bad.made[lateQuestion])
	time.Sleep(bad.late + 100*time.Millisecond) // for what is still under way
	l.check(t, open(t, c.DSN(""), ""))
}

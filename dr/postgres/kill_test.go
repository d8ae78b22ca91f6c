package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
)

// ledger is what was acknowledged, as the clients saw it.
type ledger struct {
	mu     sync.Mutex
	epochs map[string]map[uint64]string // by resource, epoch: whose it was
	holder map[string]string            // by resource, as far as is known
	saved  map[dr.ProtectionID]dr.Protection
	wrong  []string
}

func (l *ledger) say(format string, args ...any) {
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// took notes an acknowledged claim.
func (l *ledger) took(resource, owner string, epoch uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epochs[resource] == nil {
		l.epochs[resource] = map[uint64]string{}
	}
	if was, ok := l.epochs[resource][epoch]; ok && was != owner {
		l.say("epoch %d of %s was given to %s and to %s", epoch, resource, was, owner)
	}
	for e := range l.epochs[resource] {
		if e > epoch {
			l.say("epoch %d of %s was given to %s after %d", epoch, resource, owner, e)
		}
	}
	if h := l.holder[resource]; h != "" && h != owner {
		l.say("%s was given to %s while %s held it", resource, owner, h)
	}
	l.epochs[resource][epoch], l.holder[resource] = owner, owner
}

// releasing is noted before: from then on anybody may get it.
func (l *ledger) releasing(resource string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holder[resource] = ""
}

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
	l := &ledger{epochs: map[string]map[uint64]string{}, holder: map[string]string{}, saved: map[dr.ProtectionID]dr.Protection{}}
	dsn := c.DSN("") + "&pool_max_conns=8"
	const resources = 5
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var claims, saves atomic.Int64
	for i := range 2 {
		s, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Patience: time.Minute, Attempt: 5 * time.Second})
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		for j := range 3 {
			owner := fmt.Sprintf("owner-%d-%d", i, j)
			clients.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					resource := fmt.Sprint("m", rand.N(resources))
					epoch, err := s.Acquire(t.Context(), resource, owner)
					if errors.Is(err, dr.ErrBusy) {
						continue
					}
					if err != nil {
						t.Errorf("acquire: %v", err)
						return
					}
					l.took(resource, owner, epoch)
					claims.Add(1)
					l.releasing(resource)
					if err := s.Release(t.Context(), resource, owner); err != nil {
						t.Errorf("release: %v", err)
						return
					}
				}
			})
			clients.Go(func() {
				p := dr.Protection{ID: dr.ProtectionID(owner)}
				for n := 0; ctx.Err() == nil; n++ {
					p.Applied = fmt.Sprint(n)
					next, err := s.Save(t.Context(), p)
					if err != nil {
						t.Errorf("save: %v", err) // a conflict with oneself is a lost answer misread
						return
					}
					p = next
					saves.Add(1)
				}
				l.mu.Lock()
				l.saved[p.ID] = p
				l.mu.Unlock()
			})
		}
	}
	for range rounds {
		before := claims.Load() + saves.Load()
		for claims.Load()+saves.Load() < before+200 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		c.Kill()
		c.Start()
	}
	stop()
	clients.Wait()
	c.Kill()
	c.Start()
	t.Logf("%d claims, %d saves, %d kills", claims.Load(), saves.Load(), rounds+1)
	require.Empty(t, l.wrong)
	s, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn})
	require.NoError(t, err)
	defer s.Close()
	for id, want := range l.saved {
		got, err := s.Load(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for c, err := range s.Claims(t.Context()) {
		require.NoError(t, err)
		for e := range l.epochs[c.Resource] {
			require.LessOrEqual(t, e, c.Epoch)
		}
	}
}

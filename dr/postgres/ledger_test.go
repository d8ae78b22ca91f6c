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
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// ledger is what was acknowledged, as the clients saw it.
type ledger struct {
	mu     sync.Mutex
	epochs map[string]map[uint64]string // by resource, epoch: whose it was
	holder map[string]string            // by resource, as far as is known
	saved  map[dr.ProtectionID]dr.Protection
	wrong  []string

	claims, saves, leases atomic.Int64
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

func newLedger() *ledger {
	return &ledger{epochs: map[string]map[uint64]string{}, holder: map[string]string{}, saved: map[dr.ProtectionID]dr.Protection{}}
}

// work claims, saves and leases in the store's name until over ends, and notes
// what was acknowledged. Any error but ErrBusy fails the test.
func (l *ledger) work(t *testing.T, over context.Context, all *sync.WaitGroup, s *postgres.Store, owner string) {
	resources, ctx := 5, t.Context()
	forever := func(what string, once func() error) {
		all.Go(func() {
			for over.Err() == nil {
				if err := once(); err != nil {
					t.Errorf("%s: %v", what, err)
					return
				}
			}
		})
	}
	forever("claim", func() error {
		resource := fmt.Sprint("m", rand.N(resources))
		epoch, err := s.Acquire(ctx, resource, owner)
		if errors.Is(err, dr.ErrBusy) {
			return nil
		}
		if err != nil {
			return err
		}
		l.took(resource, owner, epoch)
		l.claims.Add(1)
		l.releasing(resource)
		return s.Release(ctx, resource, owner)
	})
	p := dr.Protection{ID: dr.ProtectionID(owner)}
	forever("save", func() (err error) {
		// A conflict with oneself would be a lost answer that was misread.
		p.Applied = fmt.Sprint(l.saves.Load())
		if p, err = s.Save(ctx, p); err != nil {
			return err
		}
		l.saves.Add(1)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.saved[p.ID] = p
		return nil
	})
	leases := s.Leases()
	forever("lease", func() error {
		if _, err := leases.Renew(ctx, fleet.Member{ID: owner, TTL: time.Hour}); err != nil {
			return err
		}
		shard := fleet.Shard(fmt.Sprint("s", rand.N(resources)))
		given, err := leases.Take(ctx, owner, []fleet.Shard{shard})
		if err != nil || len(given) == 0 {
			return err
		}
		l.took(string(shard), owner, given[0].Epoch)
		l.leases.Add(1)
		if _, err := s.Save(fleet.WithFence(ctx, shard, given[0].Epoch), dr.Protection{ID: dr.ProtectionID(fmt.Sprintf("%s-%d", shard, given[0].Epoch))}); err != nil {
			return err
		}
		l.releasing(string(shard))
		return leases.Release(ctx, owner, []fleet.Shard{shard})
	})
}

// done is how much was acknowledged.
func (l *ledger) done() int64 { return l.claims.Load() + l.saves.Load() + l.leases.Load() }

// wait returns when so much more has been acknowledged.
func (l *ledger) wait(t *testing.T, more int64) {
	for began := l.done(); l.done() < began+more && !t.Failed(); {
		time.Sleep(time.Millisecond)
	}
}

// check compares what the database has with what it had acknowledged.
func (l *ledger) check(t *testing.T, s *postgres.Store) {
	t.Helper()
	t.Logf("%d claims, %d saves, %d leases", l.claims.Load(), l.saves.Load(), l.leases.Load())
	require.Empty(t, l.wrong)
	for id, want := range l.saved {
		got, err := s.Load(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for c, err := range s.Claims(t.Context()) {
		require.NoError(t, err)
		require.Empty(t, c.Owner, "%s: all was given back", c.Resource)
		for e := range l.epochs[c.Resource] {
			require.LessOrEqual(t, e, c.Epoch)
		}
	}
	v, err := s.Leases().View(t.Context())
	require.NoError(t, err)
	require.Empty(t, v.Leases)
}

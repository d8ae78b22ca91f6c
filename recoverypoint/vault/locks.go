package vault

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// pinShards is the number of locks that all points share. A point that is open
// keeps the deleted points of its shard from being pruned, which is harmless.
const pinShards = 64

func pinName(manifest string) string {
	h := fnv.New32a()
	h.Write([]byte(manifest))
	return fmt.Sprintf("pin-%02x", h.Sum32()%pinShards)
}

// pin keeps a point's manifest, and so everything it needs, from being pruned
// by any process. Prune holds a pin's lock only while it deletes a manifest;
// pin waits for that.
func (s *Store) pin(ctx context.Context, manifest string) (io.Closer, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		l, err := s.locks.Lock(ctx, pinName(manifest), false)
		if !errors.Is(err, dr.ErrBusy) {
			return l, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// localLocks keeps apart what happens inside one process, for buckets without
// locks.
type localLocks struct {
	mu   sync.Mutex
	held map[string]int // shared holders, or -1
}

func (l *localLocks) Lock(ctx context.Context, name string, exclusive bool) (io.Closer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[string]int{}
	}
	n := l.held[name]
	if n < 0 || exclusive && n > 0 {
		return nil, fmt.Errorf("%w: lock %s", dr.ErrBusy, name)
	}
	if exclusive {
		l.held[name] = -1
	} else {
		l.held[name]++
	}
	return closeFunc(sync.OnceValue(func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if exclusive {
			delete(l.held, name)
		} else {
			l.held[name]--
		}
		return nil
	})), nil
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

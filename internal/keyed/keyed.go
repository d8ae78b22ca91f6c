// Package keyed holds locks by name, which can be waited for with a context.
package keyed

import (
	"context"
	"sync"
)

// Locks are locks by name. The zero value is ready; it is safe for concurrent
// use, and keeps nothing of locks that nobody holds.
type Locks[K comparable] struct {
	mu    sync.Mutex
	locks map[K]chan struct{}
}

// Lock waits for the lock of that name until ctx ends; unlock gives it back, and
// may be called more than once.
func (k *Locks[K]) Lock(ctx context.Context, name K) (unlock func(), err error) {
	for {
		k.mu.Lock()
		held, ok := k.locks[name]
		if !ok {
			if k.locks == nil {
				k.locks = map[K]chan struct{}{}
			}
			mine := make(chan struct{})
			k.locks[name] = mine
			k.mu.Unlock()
			return sync.OnceFunc(func() {
				k.mu.Lock()
				delete(k.locks, name)
				k.mu.Unlock()
				close(mine)
			}), nil
		}
		k.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

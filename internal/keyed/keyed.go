// Package keyed holds locks by name, which can be waited for with a context.
package keyed

import (
	"context"
	"slices"
	"sync"
)

// Locks are locks by name. Who waits first has it first: nobody starves beside
// somebody who takes it again and again. The zero value is ready; it is safe for
// concurrent use, and keeps nothing of locks that nobody holds.
type Locks[K comparable] struct {
	mu      sync.Mutex
	waiting map[K][]chan struct{} // of each lock that is held, in their order
}

// Lock waits for the lock of that name until ctx ends; unlock gives it back, and
// may be called more than once.
func (k *Locks[K]) Lock(ctx context.Context, name K) (unlock func(), err error) {
	unlock = sync.OnceFunc(func() { k.pass(name) })
	k.mu.Lock()
	queue, held := k.waiting[name]
	if !held {
		if k.waiting == nil {
			k.waiting = map[K][]chan struct{}{}
		}
		k.waiting[name] = nil
		k.mu.Unlock()
		return unlock, nil
	}
	mine := make(chan struct{})
	k.waiting[name] = append(queue, mine)
	k.mu.Unlock()
	select {
	case <-mine:
		return unlock, nil
	case <-ctx.Done():
	}
	k.mu.Lock()
	i := slices.Index(k.waiting[name], mine)
	if i >= 0 {
		k.waiting[name] = slices.Delete(k.waiting[name], i, i+1)
	}
	k.mu.Unlock()
	if i < 0 { // it was handed over meanwhile
		unlock()
	}
	return nil, ctx.Err()
}

// pass hands the lock to who waits for it longest.
func (k *Locks[K]) pass(name K) {
	k.mu.Lock()
	defer k.mu.Unlock()
	queue := k.waiting[name]
	if len(queue) == 0 {
		delete(k.waiting, name)
		return
	}
	k.waiting[name] = queue[1:]
	close(queue[0])
}

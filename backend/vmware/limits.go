package vmware

import (
	"context"
	"sync"

	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/sync/semaphore"
)

// limits bounds the disks that are open at once: a vCenter gives out 52 NFC
// connections in all, a host fewer, and one more fails somebody else's backup.
type limits struct {
	total   *semaphore.Weighted
	perHost int64

	mu    sync.Mutex
	hosts map[types.ManagedObjectReference]*semaphore.Weighted
}

func newLimits(perHost, total int) *limits {
	return &limits{total: semaphore.NewWeighted(int64(total)), perHost: int64(perHost), hosts: map[types.ManagedObjectReference]*semaphore.Weighted{}}
}

// enter waits for a place; leave gives it back, once.
func (l *limits) enter(ctx context.Context, host types.ManagedObjectReference) (leave func(), err error) {
	h := l.host(host)
	// The host first: who waits for a busy host must not hold a place that
	// others could use.
	if err := h.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	if err := l.total.Acquire(ctx, 1); err != nil {
		h.Release(1)
		return nil, err
	}
	return l.leave(h), nil
}

// try is enter that doesn't wait; leave is nil if there is no place.
func (l *limits) try(host types.ManagedObjectReference) (leave func()) {
	h := l.host(host)
	if !h.TryAcquire(1) {
		return nil
	}
	if !l.total.TryAcquire(1) {
		h.Release(1)
		return nil
	}
	return l.leave(h)
}

func (l *limits) leave(h *semaphore.Weighted) func() {
	return sync.OnceFunc(func() {
		l.total.Release(1)
		h.Release(1)
	})
}

func (l *limits) host(host types.ManagedObjectReference) *semaphore.Weighted {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host]
	if h == nil {
		h = semaphore.NewWeighted(l.perHost)
		l.hosts[host] = h
	}
	return h
}

package vmware

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/sync/semaphore"
)

// limits bounds the disks that are open at once: a vCenter gives out 52 NFC
// connections in all, a host fewer, and one more fails somebody else's backup.
type limits struct {
	total   *semaphore.Weighted
	perHost int64

	mu      sync.Mutex
	hosts   map[types.ManagedObjectReference]*semaphore.Weighted
	sets    map[*openDisks]bool // whose disks may have to make room
	waiting int
	idle    chan struct{} // closed and replaced when a disk has become idle
}

func newLimits(perHost, total int) *limits {
	return &limits{total: semaphore.NewWeighted(int64(total)), perHost: int64(perHost), hosts: map[types.ManagedObjectReference]*semaphore.Weighted{},
		sets: map[*openDisks]bool{}, idle: make(chan struct{})}
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

// register lets a set's idle disks make room for others, until it is removed.
func (l *limits) register(o *openDisks) (remove func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sets[o] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.sets, o)
	}
}

// registered lists the sets, o first.
func (l *limits) registered(o *openDisks) []*openDisks {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Collect(maps.Keys(l.sets))
	slices.SortFunc(all, func(a, b *openDisks) int {
		switch {
		case a == b || a != o && b != o:
			return 0
		case a == o:
			return -1
		}
		return 1
	})
	return all
}

// wait notes that somebody waits for disks to become idle, until over.
func (l *limits) wait() (over func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waiting--
	}
}

// nextIdle is closed when a disk becomes idle after now.
func (l *limits) nextIdle() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idle
}

// idled tells those who wait that a disk has become idle.
func (l *limits) idled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting > 0 {
		close(l.idle)
		l.idle = make(chan struct{})
	}
}

package fsys

import (
	"sync"
	"unsafe"
)

// Alignment is what addresses, offsets and lengths must be multiples of, in
// bytes, for [Direct] to use them: the logical block size that every disk in the
// field takes, and the page size of most processors.
const Alignment = 4096

// Aligned makes a zeroed buffer of n bytes whose address is a multiple of
// [Alignment].
func Aligned(n int) []byte {
	b := make([]byte, n+Alignment)
	skip := -int(address(b)) & (Alignment - 1)
	return b[skip : skip+n : skip+n]
}

// address may be compared and masked, because Go's heap does not move.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// Pool lends aligned buffers of one size. The first touch of fresh memory costs
// more than most of what is done with it, so buffers are used again, the last
// one returned first. Unlike a sync.Pool it keeps them across collections, up
// to a stated number. Safe for concurrent use.
type Pool struct {
	size, keep int

	mu   sync.Mutex
	idle [][]byte
}

// NewPool makes a pool of buffers of size bytes that keeps at most keep idle
// ones; what is returned beyond that is left to the collector.
func NewPool(size, keep int) *Pool { return &Pool{size: size, keep: keep} }

// Size is the length in bytes of the buffers of this pool.
func (p *Pool) Size() int { return p.size }

// Get lends a buffer, whose content is arbitrary. It never waits: callers bound
// how many they hold.
func (p *Pool) Get() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		b := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		return b
	}
	return Aligned(p.size)
}

// Put returns a buffer that came from Get, shortened or not at its end. It must
// not be used afterwards, nor be put twice. A buffer that can't be this pool's
// is ignored.
func (p *Pool) Put(b []byte) {
	if cap(b) != p.size || address(b)%Alignment != 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) < p.keep {
		p.idle = append(p.idle, b[:p.size])
	}
}

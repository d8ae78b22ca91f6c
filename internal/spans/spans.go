// Package spans remembers where a disk was written, coarsely: a bit a block of
// at least 64 KiB, so that it costs 2 MiB at most whatever the disk's size.
package spans

import "slices"

// most is how many blocks a disk is divided into at most.
const most = 1 << 24

// Set is where a disk was written. It is not safe for concurrent use.
type Set struct {
	unit int64
	bits []uint64
}

// New returns an empty set for a disk of size bytes.
func New(size int64) *Set {
	unit := int64(64 << 10)
	for size/unit > most {
		unit *= 2
	}
	return &Set{unit: unit, bits: make([]uint64, size/unit/64+1)}
}

// Add adds the blocks that [off, off+n) touches. n must be more than 0, and the
// range within the disk.
func (s *Set) Add(off, n int64) {
	for b := off / s.unit; b <= (off+n-1)/s.unit; b++ {
		s.bits[b/64] |= 1 << (b % 64)
	}
}

// Remove takes away the blocks that a range touches.
func (s *Set) Remove(off, n int64) {
	for b := off / s.unit; b <= (off+n-1)/s.unit; b++ {
		s.bits[b/64] &^= 1 << (b % 64)
	}
}

// Clone returns a copy.
func (s *Set) Clone() *Set { return &Set{s.unit, slices.Clone(s.bits)} }

// Empty tells whether nothing is left.
func (s *Set) Empty() bool {
	return !slices.ContainsFunc(s.bits, func(w uint64) bool { return w != 0 })
}

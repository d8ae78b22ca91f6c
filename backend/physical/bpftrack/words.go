package bpftrack

import (
	"math/bits"
	"sync/atomic"
)

// The words of a disk, which the kernel's programs set bits in: a header, then
// a bit for each block.
const (
	wordAll      = 0 // not 0: something was written, and it isn't known where
	wordQueued   = 1 // how many skipped runs of the program at the queue are accounted for
	wordComplete = 2 // the same of the one at completion
	headerWords  = 8
)

// words is the memory of a map, shared with the kernel. The programs only ever
// set bits, each by an atomic OR, and only this process clears them, each by
// an atomic AND: no bit that is set is ever lost by another one.
type words []uint64

// read adds what is set to s and takes nothing away.
func (w words) read(s *set) {
	if atomic.LoadUint64(&w[wordAll]) != 0 {
		s.all = true
	}
	for i := range w[headerWords:] {
		if v := atomic.LoadUint64(&w[headerWords+i]); v != 0 {
			s.or(int64(i), v)
		}
	}
}

// clear takes away what s has. A bit that was set again since s was read goes
// too: see [Tracker.Cut] for why that is right.
func (w words) clear(s *set) {
	if s.all {
		atomic.StoreUint64(&w[wordAll], 0)
	}
	for page, v := range s.pages {
		for i, v := range v {
			if at := headerWords + int(page)*pageWords + i; v != 0 && at < len(w) {
				atomic.AndUint64(&w[at], ^v)
			}
		}
	}
}

// mark sets the bits of blocks first to last.
func (w words) mark(first, last int64) {
	if last>>6 >= int64(len(w)-headerWords) {
		w.markAll()
		return
	}
	for i := first >> 6; i <= last>>6; i++ {
		v := ^uint64(0)
		if i == first>>6 {
			v <<= first & 63
		}
		if i == last>>6 {
			v &= ^uint64(0) >> (63 - last&63)
		}
		atomic.OrUint64(&w[headerWords+i], v)
	}
}

func (w words) markAll() { atomic.OrUint64(&w[wordAll], 1) }

// account notes how often a program has not run because it was running on
// that processor already. What it would have marked isn't known.
func (w words) account(word int, skipped uint64) {
	if atomic.LoadUint64(&w[word]) != skipped {
		w.markAll() // first: dying in between says too much, not too little
		atomic.StoreUint64(&w[word], skipped)
	}
}

// set is a set of blocks, in pages that exist once one of their bits is set.
type set struct {
	all   bool // every block, also of a disk that has grown
	pages map[int64]*[pageWords]uint64
}

const (
	pageWords = 64
	pageBytes = pageWords * 8
)

func (s *set) or(word int64, v uint64) {
	page := s.pages[word/pageWords]
	if page == nil {
		if s.pages == nil {
			s.pages = map[int64]*[pageWords]uint64{}
		}
		page = new([pageWords]uint64)
		s.pages[word/pageWords] = page
	}
	page[word%pageWords] |= v
}

func (s *set) add(other *set) {
	if other == nil {
		return
	}
	s.all = s.all || other.all
	for n, page := range other.pages {
		for i, v := range page {
			if v != 0 {
				s.or(n*pageWords+int64(i), v)
			}
		}
	}
}

// memory is about how many bytes the set takes.
func (s *set) memory() int64 { return int64(len(s.pages)) * (pageBytes + 32) }

// runs calls f for each run of blocks [first, end), ascending, until f says
// no. words are those that have a bit, ascending.
func runs(word int64, v uint64, f func(first, end int64) bool) bool {
	for v != 0 {
		a := bits.TrailingZeros64(v)
		n := bits.TrailingZeros64(^(v >> a))
		if !f(word*64+int64(a), word*64+int64(a+n)) {
			return false
		}
		if a+n >= 64 {
			break
		}
		v &^= (uint64(1)<<n - 1) << a
	}
	return true
}

package replication

import (
	"fmt"
	"iter"
	"math"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// extents is a sequence as trackers, maps and resumers yield it. An error ends
// it. All functions of this file are lazy and keep one extent at most.
type extents = iter.Seq2[dr.Extent, error]

// errDisorder: a backend broke the promise of ascending extents. What it says
// can't be relied on, and must not be reordered by memory that grows.
var errDisorder = fmt.Errorf("%w: extents out of order", dr.ErrInvalid)

// whole is a disk of which nothing is known.
func whole(size int64) extents {
	return func(yield func(dr.Extent, error) bool) {
		if size > 0 {
			yield(dr.Extent{Len: size}, nil)
		}
	}
}

// ordered checks foreign extents: what it yields ascends, doesn't overlap,
// isn't empty and stays within the disk. Overlaps are cut where nothing can be
// lost by it; anything else out of order ends in errDisorder.
func ordered(seq extents, size int64) extents {
	return func(yield func(dr.Extent, error) bool) {
		var prev dr.Extent
		for e, err := range seq {
			if err != nil {
				yield(dr.Extent{}, err)
				return
			}
			if e.Off < 0 || e.Len < 0 || e.Off > math.MaxInt64-e.Len {
				yield(dr.Extent{}, fmt.Errorf("%w: [%d, +%d)", errDisorder, e.Off, e.Len))
				return
			}
			if e.Off < prev.Off || e.Off < prev.End() && prev.Zero && !e.Zero {
				yield(dr.Extent{}, fmt.Errorf("%w: [%d, %d) after [%d, %d)", errDisorder, e.Off, e.End(), prev.Off, prev.End()))
				return
			}
			// What prev covers is read, or is zero in both.
			if e = between(e, max(e.Off, prev.End()), min(e.End(), size)); e.Len == 0 {
				continue
			}
			if !yield(e, nil) {
				return
			}
			prev = e
		}
	}
}

// between narrows e to [from, to); Len is 0 if nothing is left.
func between(e dr.Extent, from, to int64) dr.Extent {
	return dr.Extent{Off: from, Len: max(0, to-from), Zero: e.Zero}
}

// union yields every byte of ours and theirs once. Zero is what ours says: a
// zero of theirs tells nothing of the image. Both must be ordered.
func union(ours, theirs extents) extents {
	return func(yield func(dr.Extent, error) bool) {
		next, stop := iter.Pull2(theirs)
		defer stop()
		t, err, ok := next()
		for e, ourErr := range ours {
			if ourErr != nil {
				yield(dr.Extent{}, ourErr)
				return
			}
			for ok && err == nil && t.Off < e.Off {
				end := min(t.End(), e.Off)
				if !yield(dr.Extent{Off: t.Off, Len: end - t.Off}, nil) {
					return
				}
				if t = between(t, end, t.End()); t.Len == 0 {
					t, err, ok = next()
				}
			}
			for ok && err == nil && t.Off < e.End() {
				if t = between(t, max(t.Off, e.End()), t.End()); t.Len == 0 {
					t, err, ok = next()
				}
			}
			if ok && err != nil {
				yield(dr.Extent{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
		for ; ok; t, err, ok = next() {
			t.Zero = false
			if !yield(t, err) || err != nil {
				return
			}
		}
	}
}

// cover fills the gaps of an ordered sequence behind from with data, so that
// nothing there is left out.
func cover(seq extents, from, size int64) extents {
	return func(yield func(dr.Extent, error) bool) {
		pos := from
		for e, err := range seq {
			if err != nil {
				yield(dr.Extent{}, err)
				return
			}
			if e.Off > pos && !yield(dr.Extent{Off: pos, Len: e.Off - pos}, nil) {
				return
			}
			if !yield(e, nil) {
				return
			}
			pos = max(pos, e.End())
		}
		if pos < size {
			yield(dr.Extent{Off: pos, Len: size - pos}, nil)
		}
	}
}

// snap moves the borders of a sequence without gaps to block borders, data
// outward and zeros inward: sums are of whole blocks, and no two requests may
// touch the same block while one of them sums it.
func snap(seq extents, size int64) extents {
	return func(yield func(dr.Extent, error) bool) {
		var pos int64 // everything before is yielded
		data := func(end int64) bool {
			if end <= pos {
				return true
			}
			e := dr.Extent{Off: pos, Len: end - pos}
			pos = end
			return yield(e, nil)
		}
		for e, err := range seq {
			if err != nil {
				yield(dr.Extent{}, err)
				return
			}
			if !e.Zero {
				if !data(blockEnd(e.End(), size)) {
					return
				}
				continue
			}
			z := inner(e, size)
			if z = between(z, max(z.Off, pos), z.End()); z.Len == 0 {
				continue // its bytes go with the data after it
			}
			if !data(z.Off) || !yield(z, nil) {
				return
			}
			pos = z.End()
		}
		data(size)
	}
}

// blocks widens the data of an ordered sequence, which may have gaps, to whole
// blocks, and narrows its zeros to those. A block comes once. What is added is
// equal on both sides or unknown to be: the image is read for it.
func blocks(seq extents, size int64) extents {
	return func(yield func(dr.Extent, error) bool) {
		var pos int64 // a border; everything before is yielded or in a gap
		emit := func(from, to int64, zero bool) bool {
			if from = max(from, pos); to <= from {
				return true
			}
			pos = to
			return yield(dr.Extent{Off: from, Len: to - from, Zero: zero}, nil)
		}
		for e, err := range seq {
			if err != nil {
				yield(dr.Extent{}, err)
				return
			}
			from, to := e.Off&^(dr.SumBlock-1), blockEnd(e.End(), size)
			if z := inner(e, size); e.Zero && z.Len > 0 {
				if z.Off > e.Off && !emit(from, z.Off, false) || !emit(z.Off, z.End(), true) {
					return
				}
				from = z.End()
				if e.End() <= from {
					continue
				}
			}
			if !emit(from, to, false) {
				return
			}
		}
	}
}

// without leaves out what is already there, and tells gone how much that is.
// Both must ascend; where have doesn't, less is left out.
func without(seq, have extents, gone func(int64)) extents {
	return func(yield func(dr.Extent, error) bool) {
		next, stop := iter.Pull2(have)
		defer stop()
		h, err, ok := next()
		for e, seqErr := range seq {
			if seqErr != nil {
				yield(dr.Extent{}, seqErr)
				return
			}
			for e.Len > 0 {
				for ok && err == nil && (h.Len <= 0 || h.End() <= e.Off) {
					h, err, ok = next()
				}
				if ok && err != nil {
					yield(dr.Extent{}, err)
					return
				}
				if !ok || h.Off >= e.End() {
					if !yield(e, nil) {
						return
					}
					break
				}
				if h.Off > e.Off && !yield(between(e, e.Off, h.Off), nil) {
					return
				}
				from, to := max(e.Off, h.Off), min(e.End(), h.End())
				gone(to - from)
				e = between(e, to, e.End())
			}
		}
	}
}

// inwards narrows extents to the whole blocks that they hold.
func inwards(seq extents, size int64) extents {
	return func(yield func(dr.Extent, error) bool) {
		for e, err := range seq {
			if !yield(inner(e, size), err) {
				return
			}
		}
	}
}

// inner returns the whole blocks within e; the disk's last block may be short.
func inner(e dr.Extent, size int64) dr.Extent {
	from := (e.Off + dr.SumBlock - 1) &^ (dr.SumBlock - 1)
	to := e.End() &^ (dr.SumBlock - 1)
	if e.End() >= size {
		to = size
	}
	return between(e, from, to)
}

// blockEnd rounds an end up to that of its block.
func blockEnd(end, size int64) int64 {
	return min((end+dr.SumBlock-1)&^(dr.SumBlock-1), size)
}

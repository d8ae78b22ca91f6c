package pageblob

import (
	"iter"
	"slices"
	"sort"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// noSegment stands where a piece's bytes are in no segment that is known.
const noSegment = -1

// isZero as a piece's place says that it reads as zeros.
const isZero = -1

// piece is a range of a disk, and where its bytes are.
type piece struct {
	off, n int64
	seg    int32 // the segment that says so, or noSegment
	at     int32 // where the bytes begin in its data, or isZero
}

func (p piece) end() int64 { return p.off + p.n }

// cut returns the part of p within [off, end), which must not be empty.
func (p piece) cut(off, end int64) piece {
	from, to := max(off, p.off), min(end, p.end())
	if p.at != isZero && p.seg != noSegment {
		p.at += int32(from - p.off)
	}
	p.off, p.n = from, to-from
	return p
}

// continues says that q may be one piece with p, which ends where q begins.
func (p piece) continues(q piece) bool {
	switch {
	case p.end() != q.off || p.seg != q.seg || (p.at == isZero) != (q.at == isZero):
		return false
	case p.at == isZero || p.seg == noSegment:
		return true
	}
	return int64(p.at)+p.n == int64(q.at)
}

// pieces are those of one disk, ascending; they don't overlap, and what is in
// none is the parent's. Putting one costs little at the end, where copies
// write, and moves what lies behind it elsewhere.
type pieces []piece

// first returns the index of the first piece that ends behind off.
func (l pieces) first(off int64) int {
	return sort.Search(len(l), func(i int) bool { return l[i].end() > off })
}

// put lays p over what is there.
func (l *pieces) put(p piece) {
	if p.n <= 0 {
		return
	}
	s := *l
	i := s.first(p.off)
	j := i + sort.Search(len(s)-i, func(k int) bool { return s[i+k].off >= p.end() })
	var with [3]piece
	n := 0
	right := piece{}
	if i < j && s[j-1].end() > p.end() {
		right = s[j-1].cut(p.end(), s[j-1].end())
	}
	switch {
	case i < j && s[i].off < p.off:
		with[0] = s[i].cut(s[i].off, p.off)
		n = 1
	case i > 0 && s[i-1].end() == p.off:
		i--
		with[0] = s[i]
		n = 1
	}
	add := func(q piece) {
		if n > 0 && with[n-1].continues(q) {
			with[n-1].n += q.n
			return
		}
		with[n] = q
		n++
	}
	add(p)
	if right.n > 0 {
		add(right)
	} else if j < len(s) && s[j].off == p.end() && with[n-1].continues(s[j]) {
		with[n-1].n += s[j].n
		j++
	}
	*l = slices.Replace(s, i, j, with[:n]...)
}

// within yields the range as pieces and gaps between them, for which known is
// false.
func (l pieces) within(off, end int64) iter.Seq2[piece, bool] {
	return func(yield func(p piece, known bool) bool) {
		for i := l.first(off); off < end; i++ {
			if i >= len(l) || l[i].off >= end {
				yield(piece{off: off, n: end - off, seg: noSegment}, false)
				return
			}
			p := l[i].cut(off, end)
			if p.off > off && !yield(piece{off: off, n: p.off - off, seg: noSegment}, false) {
				return
			}
			if !yield(p, true) {
				return
			}
			off = p.end()
		}
	}
}

// clipped returns a copy of what is within the range.
func (l pieces) clipped(off, end int64) pieces {
	var c pieces
	for p, known := range l.within(off, end) {
		if known {
			c = append(c, p)
		}
	}
	return c
}

// extents says what is there without saying where the bytes are.
func (l pieces) extents() []dr.Extent {
	var x extents
	for _, p := range l {
		x.add(p.off, p.end(), p.at == isZero)
	}
	return x
}

// extents joins those that touch and are alike.
type extents []dr.Extent

func (l *extents) add(off, end int64, zero bool) {
	if end <= off {
		return
	}
	if n := len(*l); n > 0 && (*l)[n-1].End() == off && (*l)[n-1].Zero == zero {
		(*l)[n-1].Len += end - off
		return
	}
	*l = append(*l, dr.Extent{Off: off, Len: end - off, Zero: zero})
}

package memory

import "sort"

// ranges are byte ranges in ascending order that neither overlap nor touch.
type ranges []span

type span struct{ off, end int64 }

// add unites the ranges with [off, end).
func (rs ranges) add(off, end int64) ranges {
	if off >= end {
		return rs
	}
	// Everything from i up to j overlaps or touches the new range.
	i := sort.Search(len(rs), func(i int) bool { return rs[i].end >= off })
	j := i
	for j < len(rs) && rs[j].off <= end {
		off, end = min(off, rs[j].off), max(end, rs[j].end)
		j++
	}
	if i == j {
		rs = append(rs, span{})
		copy(rs[i+1:], rs[i:])
	} else {
		rs = append(rs[:i+1], rs[j:]...)
	}
	rs[i] = span{off, end}
	return rs
}

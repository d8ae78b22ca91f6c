package vhdx

import "slices"

// ranges is sorted and without overlaps.
type ranges []span

type span struct{ off, len int64 }

func (s span) end() int64 { return s.off + s.len }

// search is the first range that ends after off.
func (r ranges) search(off int64) int {
	i, _ := slices.BinarySearchFunc(r, off, func(s span, off int64) int {
		if s.end() <= off {
			return -1
		}
		return 1
	})
	return i
}

// add takes [off, off+n), or refuses what is taken already in part.
func (r *ranges) add(off, n int64) bool {
	i := r.search(off)
	if i < len(*r) && (*r)[i].off < off+n {
		return false
	}
	*r = slices.Insert(*r, i, span{off, n})
	return true
}

// cover takes [off, off+n), whether parts of it are taken or not.
func (r *ranges) cover(off, n int64) {
	end := off + n
	i := r.search(off)
	j := i
	for ; j < len(*r) && (*r)[j].off < end; j++ {
		off, end = min(off, (*r)[j].off), max(end, (*r)[j].end())
	}
	*r = slices.Replace(*r, i, j, span{off, end - off})
}

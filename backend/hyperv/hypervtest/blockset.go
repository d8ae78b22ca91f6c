package hypervtest

import (
	"slices"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// span is [from, to) in blocks.
type span struct{ from, to int64 }

// blockSet is a set of blocks: spans, ascending, with gaps between them.
type blockSet []span

// add returns the set with [from, to) in it.
func (s blockSet) add(from, to int64) blockSet {
	if from >= to {
		return s
	}
	// Those that touch the new one become one with it.
	i, _ := slices.BinarySearchFunc(s, from, func(x span, v int64) int { return int(max(-1, min(1, x.to-v))) })
	j := i
	for j < len(s) && s[j].from <= to {
		from, to = min(from, s[j].from), max(to, s[j].to)
		j++
	}
	return slices.Replace(s, i, j, span{from, to})
}

func (s blockSet) union(o blockSet) blockSet {
	for _, x := range o {
		s = s.add(x.from, x.to)
	}
	return s
}

// ranges are the set's in bytes, of blocks of that size, up to the end.
func (s blockSet) ranges(block, end int64) []host.Range {
	var out []host.Range
	for _, x := range s {
		if r := (host.Range{Off: x.from * block, Len: min(x.to*block, end) - x.from*block}); r.Len > 0 {
			out = append(out, r)
		}
	}
	return out
}

package fleet

import (
	"cmp"
	"slices"
	"strings"
)

// share says how many shards of each area each member should have, by the area's
// place in the layout and the member's ID. Every member works it out from the
// same view, and so they agree. Areas that few reach come first; each shard goes
// to whoever has least in proportion to its weight. Where that is the same for
// several, those go first who hold more there than they were counted already: so
// that what is shared out fairly stays where it is.
func share(areas []Area, members []Member, holds map[Shard]string) []map[string]int {
	reach := make([][]Member, len(areas))
	held := make([]map[string]int, len(areas))
	order := make([]int, len(areas))
	for i, a := range areas {
		order[i] = i
		held[i] = map[string]int{}
		for n := range a.Shards {
			if m := holds[a.shard(n)]; m != "" {
				held[i][m]++
			}
		}
		for _, m := range members {
			if a.reachedBy(m) {
				reach[i] = append(reach[i], m)
			}
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(reach[a]), len(reach[b])) })
	load := map[string]int{}
	all := make([]map[string]int, len(areas))
	for _, i := range order {
		all[i] = map[string]int{}
		for range areas[i].Shards {
			var best *Member
			for j := range reach[i] {
				if m := &reach[i][j]; best == nil || before(*m, *best, load, all[i], held[i]) {
					best = m
				}
			}
			if best == nil {
				break // nobody reaches it
			}
			all[i][best.ID]++
			load[best.ID]++
		}
	}
	return all
}

// before reports whether a gets the next shard before b.
func before(a, b Member, load, got, held map[string]int) bool {
	// (load+1)/weight without fractions
	x, y := (load[a.ID]+1)*b.weight(), (load[b.ID]+1)*a.weight()
	if x != y {
		return x < y
	}
	x, y = held[a.ID]-got[a.ID], held[b.ID]-got[b.ID]
	if x != y {
		return x > y
	}
	return strings.Compare(a.ID, b.ID) < 0
}

func (m Member) weight() int { return max(1, m.Weight) }

// reachedBy reports whether a member reaches all sites of the area.
func (a Area) reachedBy(m Member) bool {
	if len(m.Sites) == 0 {
		return true
	}
	if len(a.Sites) == 0 {
		return false
	}
	for _, s := range a.Sites {
		if !slices.Contains(m.Sites, s) {
			return false
		}
	}
	return true
}

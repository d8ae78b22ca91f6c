package fleet

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// follow gives each area's shards out by the quotas, moving as few as it takes.
func follow(areas []Area, quotas []map[string]int, holds map[Shard]string) (moved int) {
	for i, a := range areas {
		have := map[string]int{}
		var free []Shard
		for n := range a.Shards {
			s := a.shard(n)
			if m := holds[s]; m != "" && have[m] < quotas[i][m] {
				have[m]++
				continue
			} else if m != "" {
				moved++
			}
			free = append(free, s)
		}
		for m, q := range quotas[i] {
			for have[m] < q && len(free) > 0 {
				holds[free[0]] = m
				free = free[1:]
				have[m]++
			}
		}
		for _, s := range free {
			delete(holds, s)
		}
	}
	return moved
}

func TestSharesAreFairAndStay(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		areas := Layout{Areas: []Area{{Name: "x", Shards: 1 + rnd.IntN(60)}, {Name: "y", Shards: 1 + rnd.IntN(60)}, {Name: "z", Shards: 1 + rnd.IntN(9)}}}.areas()
		n := 0
		for _, a := range areas {
			n += a.Shards
		}
		var members []Member
		holds := map[Shard]string{}
		for id := range 1 + rnd.IntN(8) {
			members = append(members, Member{ID: fmt.Sprint("m", id)})
		}
		for range 10 {
			quotas := share(areas, members, holds)
			load, total := map[string]int{}, 0
			for i, q := range quotas {
				sum := 0
				for m, k := range q {
					load[m] += k
					sum += k
				}
				require.Equal(t, areas[i].Shards, sum)
				total += sum
			}
			require.Equal(t, n, total)
			for _, m := range members {
				require.InDelta(t, n/len(members), load[m.ID], 1)
			}
			follow(areas, quotas, holds)
			require.Zero(t, follow(areas, share(areas, members, holds), holds), "what is fair stays")
			if rnd.IntN(2) == 0 && len(members) > 1 {
				gone := rnd.IntN(len(members))
				for s, m := range holds {
					if m == members[gone].ID {
						delete(holds, s)
					}
				}
				members = append(members[:gone:gone], members[gone+1:]...)
				continue
			}
			members = append(members, Member{ID: fmt.Sprint("n", rnd.Uint32())})
		}
	}
}

func TestAJoinMovesNoMoreThanItsShare(t *testing.T) {
	areas := Layout{Shards: 100}.areas()
	holds := map[Shard]string{}
	var members []Member
	for i := range 20 {
		members = append(members, Member{ID: fmt.Sprintf("m%02d", i)})
		moved := follow(areas, share(areas, members, holds), holds)
		if i > 0 {
			require.LessOrEqual(t, moved, 100/(i+1)+1, "worker %d", i+1)
		}
	}
}

func TestSharesHeedWeightsAndSites(t *testing.T) {
	areas := Layout{Areas: []Area{{Name: "x", Sites: []string{"a", "b"}, Shards: 40}, {Name: "y", Sites: []string{"c", "d"}, Shards: 20}, {Name: "z", Sites: []string{"e"}, Shards: 3}}}.areas()
	got := share(areas, []Member{
		{ID: "x", Sites: []string{"a", "b", "c"}}, {ID: "both", Sites: []string{"a", "b", "c", "d"}, Weight: 1}, {ID: "big", Weight: 2, Sites: []string{"a", "b", "d"}},
	}, nil)
	require.Equal(t, []map[string]int{{"x": 13, "big": 27}, {"both": 20}, {}}, got)
}

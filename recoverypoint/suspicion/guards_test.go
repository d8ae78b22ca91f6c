package suspicion_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/suspicion"
)

// Each row is on the edge of one limit: without it the verdict would be the
// other one.
func TestGuards(t *testing.T) {
	calm := dr.ChangeStats{Blocks: 1000, Known: 1000, Over: 1000}
	random := func(n, of int64) dr.ChangeStats { return dr.ChangeStats{Blocks: of, Dense: n} }
	turned := func(n, over int64) dr.ChangeStats {
		return dr.ChangeStats{Blocks: over, Known: over, Over: over, Turned: n, Grown: n<<15 + 1}
	}
	times := func(n int, s dr.ChangeStats) (all []dr.ChangeStats) {
		for range n {
			all = append(all, s)
		}
		return all
	}
	shrunk, both := turned(900, 1000), turned(40, 80)
	shrunk.Shrunk, both.Shrunk = 1<<30, 1<<30
	for name, c := range map[string]struct {
		past     []dr.ChangeStats
		last     []dr.ChangeStats
		accepted dr.PointID
		want     bool
	}{
		"turned":                                 {times(5, calm), times(1, turned(900, 1000)), "", true},
		"content shrank where it was":            {times(5, calm), times(1, shrunk), "", false},
		"growth in place alone":                  {times(5, calm), times(1, dr.ChangeStats{Blocks: 1000, Known: 1000, Over: 1000, Grown: 700 * 48 << 10}), "", true},
		"too few to tell":                        {times(5, calm), times(1, turned(50, 60)), "", false},
		"not much more than what was accepted":   {append(times(5, calm), turned(800, 1000), calm, calm, calm), times(1, turned(900, 1000)), "6", false},
		"one point is no slow attack":            {times(5, calm), times(1, turned(370, 1000)), "", false},
		"two are":                                {times(5, calm), times(2, turned(370, 1000)), "", true},
		"slow, and shrinking":                    {times(5, calm), times(8, both), "", false},
		"random, of a store that can't tell":     {times(6, random(10, 2000)), times(1, random(1900, 2000)), "", true},
		"random, and little past":                {times(3, random(10, 2000)), times(1, random(1900, 2000)), "", false},
		"random, and little":                     {times(6, random(10, 2000)), times(1, random(900, 1000)), "", false},
		"random, and not much more than once":    {append(times(6, random(10, 2000)), random(600, 2000)), times(1, random(1900, 2000)), "", false},
		"random, and only a part of what it did": {times(6, random(10, 2000)), times(1, random(1200, 2400)), "", false},
	} {
		points := []dr.Point{{ID: "0"}}
		for i, s := range append(c.past, c.last...) {
			s.Complete = true
			points = append(points, dr.Point{ID: dr.PointID(rune('1' + i)), Parent: points[i].ID, Changes: s})
		}
		v := suspicion.Judge(points, suspicion.Options{Accepted: func(id dr.PointID) bool { return id == c.accepted }})
		require.Equal(t, c.want, v[len(v)-1].Suspicious, "%s: %+v", name, v[len(v)-1])
	}
}

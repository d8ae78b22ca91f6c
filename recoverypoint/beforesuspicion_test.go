package recoverypoint

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// over links points into a chain of complete statistics.
func over(points ...dr.Point) []dr.Point {
	for i := range points {
		points[i].Changes.Complete = points[i].Changes.Over > 0
		if i > 0 {
			points[i].Parent = points[i-1].ID
		}
	}
	return points
}

func calm(p *dr.Point) { p.Changes = dr.ChangeStats{Known: 1000, Over: 1000} }
func hit(p *dr.Point) {
	p.Changes = dr.ChangeStats{Known: 1000, Over: 1000, Turned: 900, Grown: 1 << 24}
}

func TestLatestBeforeSuspicion(t *testing.T) {
	before := Choice{Option: LatestBeforeSuspicion}
	for rule, c := range map[string]struct {
		points []dr.Point
		want   dr.PointID
	}{
		"nothing suspicious: the latest processed":                         {over(pt("a", 0), pt("b", 1, calm), pt("c", 2)), "c"},
		"the newest before the streak":                                     {over(pt("a", 0), pt("b", 1, calm), pt("c", 2, hit), pt("d", 3, calm)), "b"},
		"what may have begun in a point without statistics is not offered": {over(pt("a", 0), pt("b", 1, calm), pt("c", 2), pt("d", 3, hit)), "b"},
	} {
		p, err := Choose(c.points, before)
		require.NoError(t, err, rule)
		require.Equal(t, c.want, p.ID, rule)
	}
	web := Candidate{"web", "g", over(pt("w1", 0, mark("m1", "web", "db")), pt("w2", 5, calm, mark("m2", "web", "db")), pt("w3", 9, calm))}
	db := Candidate{"db", "g", over(pt("d1", 0, mark("m1", "web", "db")), pt("d2", 5, hit, mark("m2", "web", "db")))}
	one := Candidate{"one", "", over(pt("o1", 0), pt("o2", 1, calm), pt("o3", 2, hit))}
	got, err := ChooseAll([]Candidate{web, db, one}, before)
	require.NoError(t, err)
	for i, want := range []dr.PointID{"w1", "d1", "o2"} {
		require.NoError(t, got[i].Err)
		require.Equal(t, want, got[i].Point.ID, "a group's common point from before suspicion of any member")
	}
	lost := Candidate{"db", "g", over(pt("d0", 0), pt("d2", 5, hit, mark("m2", "web", "db")))}
	got, err = ChooseAll([]Candidate{web, lost}, before)
	require.NoError(t, err)
	require.ErrorIs(t, got[0].Err, dr.ErrNoPoint)
	require.ErrorContains(t, got[0].Err, "before suspicion")
}

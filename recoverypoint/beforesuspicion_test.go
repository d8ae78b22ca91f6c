package recoverypoint

import (
	"maps"
	"slices"
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
	web := Candidate{Machine: "web", Group: "g", Points: over(pt("w1", 0, mark("m1", "web", "db")), pt("w2", 5, calm, mark("m2", "web", "db")), pt("w3", 9, calm))}
	db := Candidate{Machine: "db", Group: "g", Points: over(pt("d1", 0, mark("m1", "web", "db")), pt("d2", 5, hit, mark("m2", "web", "db")))}
	one := Candidate{Machine: "one", Group: "", Points: over(pt("o1", 0), pt("o2", 1, calm), pt("o3", 2, hit))}
	got, err := ChooseAll([]Candidate{web, db, one}, before)
	require.NoError(t, err)
	for i, want := range []dr.PointID{"w1", "d1", "o2"} {
		require.NoError(t, got[i].Err)
		require.Equal(t, want, got[i].Point.ID, "a group's common point from before suspicion of any member")
	}
	lost := Candidate{Machine: "db", Group: "g", Points: over(pt("d0", 0), pt("d2", 5, hit, mark("m2", "web", "db")))}
	got, err = ChooseAll([]Candidate{web, lost}, before)
	require.NoError(t, err)
	require.ErrorIs(t, got[0].Err, dr.ErrNoPoint)
	require.ErrorContains(t, got[0].Err, "before suspicion")
}

func TestAcceptedPointsAreOffered(t *testing.T) {
	m := Candidate{Machine: "m", Points: over(pt("a", 0), pt("b", 1, calm), pt("c", 2, hit), pt("d", 3, calm))}
	for accepted, want := range map[dr.PointID]dr.PointID{"": "b", "c": "d", "d": "d", "b": "b"} {
		m.Accepted = map[dr.PointID]string{accepted: "someone"}
		p, err := m.Choose(Choice{Option: LatestBeforeSuspicion})
		require.NoError(t, err)
		require.Equal(t, want, p.ID, "accepted %s", accepted)
		for _, group := range []string{"", "g"} {
			m.Group = group
			all, err := ChooseAll([]Candidate{m}, Choice{Option: LatestBeforeSuspicion})
			require.NoError(t, err)
			if group == "" {
				require.Equal(t, want, all[0].Point.ID)
			} else {
				require.ErrorIs(t, all[0].Err, dr.ErrNoPoint, "there are no marks")
			}
		}
	}
	marked := Candidate{Machine: "m", Group: "g", Points: over(pt("a", 0, mark("m1", "m")), pt("c", 2, hit, mark("m2", "m"))), Accepted: map[dr.PointID]string{"c": "someone"}}
	all, err := ChooseAll([]Candidate{marked}, Choice{Option: LatestBeforeSuspicion})
	require.NoError(t, err)
	require.Equal(t, dr.PointID("c"), all[0].Point.ID)
}

// Whatever of the rest retention takes, what is suspicious stays so.
func TestHeld(t *testing.T) {
	points := over(pt("a", 0), pt("b", 1, calm), pt("c", 2, hit), pt("d", 3, calm), pt("e", 4, calm), pt("f", 5, calm))
	keys := func(accepted ...dr.PointID) []dr.PointID {
		by := map[dr.PointID]string{}
		for _, id := range accepted {
			by[id] = "someone"
		}
		return slices.Sorted(maps.Keys(Held(points, by)))
	}
	require.Equal(t, []dr.PointID{"a", "b", "c"}, keys())
	require.Empty(t, keys("c"), "a false alarm holds nothing")
	require.Equal(t, []dr.PointID{"e"}, keys("e"), "or f would be suspicious again")
	require.Empty(t, Held(nil, nil))

	gone := Expired(points, Policy{Keep: 1}, points[5].Time.AddDate(0, 0, 9), Held(points, nil))
	require.Equal(t, []dr.PointID{"d", "e"}, gone)
	left := slices.DeleteFunc(slices.Clone(points), func(p dr.Point) bool { return slices.Contains(gone, p.ID) })
	require.Equal(t, points[:2], BeforeSuspicion(left, nil))

	back := append(slices.Clone(points), pt("g", 6, calm))
	back[6].Parent, back[6].Changes.Complete = "b", true
	require.Empty(t, Held(back, nil), "it went on from an earlier point")
}

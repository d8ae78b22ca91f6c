package recoverypoint

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestExpired(t *testing.T) {
	h := func(n int) int { return 60 * n }
	now := t0 // points are told in minutes before it
	thin := Policy{Keep: 72 * time.Hour, Dense: 2 * time.Hour, Every: time.Hour}
	for _, c := range []struct {
		rule   string
		policy Policy
		points []dr.Point
		pinned map[dr.PointID]string
		want   []dr.PointID
	}{
		{"the zero policy keeps everything", Policy{}, []dr.Point{pt("a", -h(9999)), pt("b", 0)}, nil, nil},
		{"VMware: 72 hours", VMwarePolicy(), []dr.Point{pt("a", -h(72)-1), pt("b", -h(72)), pt("c", 0)}, nil, []dr.PointID{"a"}},
		{"Hyper-V: 24 hours", HyperVPolicy(), []dr.Point{pt("a", -h(24)-1), pt("b", -h(24)), pt("c", 0)}, nil, []dr.PointID{"a"}},
		{"failback: 24 hours", FailbackPolicy(), []dr.Point{pt("a", -h(24)-1), pt("b", -h(24)), pt("c", 0)}, nil, []dr.PointID{"a"}},
		{"never the newest recovery point", HyperVPolicy(), []dr.Point{pt("a", -h(99)), pt("b", -h(98))}, nil, []dr.PointID{"a"}},
		{"the newest is the last of the store, whatever its clock said", HyperVPolicy(), []dr.Point{pt("a", -h(98)), pt("b", -h(99))}, nil, []dr.PointID{"a"}},
		{"never a pinned point", HyperVPolicy(), []dr.Point{pt("a", -h(99)), pt("b", -h(98)), pt("c", 0)}, map[dr.PointID]string{"a": "run"}, []dr.PointID{"b"}},
		{"never a pinned base", HyperVPolicy(), []dr.Point{pt("a", -h(99), base), pt("b", -h(98), base), pt("c", 0)}, map[dr.PointID]string{"a": "run"}, []dr.PointID{"b"}},
		{"never the newest point of all, the next is written over it", HyperVPolicy(), []dr.Point{pt("a", -h(99)), pt("b", -h(98)), pt("c", -h(97), base)}, nil, []dr.PointID{"a"}},
		{"a point of the future is kept", HyperVPolicy(), []dr.Point{pt("a", h(99)), pt("b", 0)}, nil, nil},
		{"a point without a time is kept", HyperVPolicy(), []dr.Point{pt("a", 0, func(p *dr.Point) { p.Time = time.Time{} }), pt("b", 0)}, nil, nil},
		{"application-consistent points expire like others", HyperVPolicy(), []dr.Point{pt("a", -h(99), app), pt("b", 0)}, nil, []dr.PointID{"a"}},
		{"the newest application-consistent point stays if the policy says so", Policy{Keep: time.Hour, KeepApplicationConsistent: true},
			[]dr.Point{pt("a", -h(99), app), pt("b", -h(98), app), pt("c", -h(97)), pt("d", 0)}, nil, []dr.PointID{"a", "c"}},
		{"older points are thinned to one an interval", thin, []dr.Point{pt("a", -h(5)-5), pt("b", -h(5)-3), pt("c", -h(4)-3), pt("d", -h(4)-2), pt("e", -5), pt("f", -4)}, nil, []dr.PointID{"b", "d"}},
		{"in an interval the application-consistent point stays", thin, []dr.Point{pt("a", -h(5)-5), pt("b", -h(5)-3, app), pt("c", 0)}, nil, []dr.PointID{"a"}},
		{"else the one with a group's mark", thin, []dr.Point{pt("a", -h(5)-5), pt("b", -h(5)-3, mark("m")), pt("c", 0)}, nil, []dr.PointID{"a"}},
		{"a pin is no reason to thin the interval to nothing", thin, []dr.Point{pt("a", -h(5)-5), pt("b", -h(5)-3), pt("c", 0)}, map[dr.PointID]string{"a": "run"}, nil},
		{"bases are not thinned", thin, []dr.Point{pt("a", -h(5)-5), pt("b", -h(5)-3, base), pt("c", 0)}, nil, nil},
		{"a policy that is not valid deletes nothing", Policy{Keep: -1}, []dr.Point{pt("a", -h(99)), pt("b", 0)}, nil, nil},
		{"no points", HyperVPolicy(), nil, nil, nil},
	} {
		t.Run(c.rule, func(t *testing.T) {
			require.Equal(t, c.want, Expired(c.points, c.policy, now, c.pinned))
		})
	}
}

// What must hold of any points, policy and pins.
func TestExpiredProperties(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 3000 {
		var points []dr.Point
		pinned := map[dr.PointID]string{}
		at := -rnd.IntN(6000)
		for i := range rnd.IntN(60) {
			at += rnd.IntN(300) - 20
			p := pt(fmt.Sprint("p", i), at)
			p.Consistency = dr.Consistency(1 + rnd.IntN(3))
			p.Base = rnd.IntN(10) == 0
			if rnd.IntN(8) == 0 {
				pinned[p.ID] = "somebody"
			}
			points = append(points, p)
		}
		policy := Policy{Keep: time.Duration(rnd.IntN(100)) * time.Hour, KeepApplicationConsistent: rnd.IntN(2) == 0}
		if rnd.IntN(2) == 0 {
			policy.Every = time.Duration(1+rnd.IntN(9)) * time.Hour
			policy.Dense = time.Duration(rnd.IntN(10)) * time.Hour
		}
		if policy.Validate() != nil {
			continue
		}
		now := t0.Add(time.Duration(rnd.IntN(2000)-500) * time.Minute)
		gone := Expired(points, policy, now, pinned)
		require.Equal(t, gone, Expired(slices.Clone(points), policy, now, pinned), "deterministic")

		left := slices.Clone(points)
		for _, id := range gone {
			i := slices.IndexFunc(left, func(p dr.Point) bool { return p.ID == id })
			require.GreaterOrEqual(t, i, 0, "each once, and of the points given")
			p := left[i]
			left = slices.Delete(left, i, i+1)
			require.NotContains(t, pinned, id)
			require.False(t, p.Time.After(now), "a point of the future")
			if policy.Every == 0 {
				require.Greater(t, now.Sub(p.Time), policy.Keep)
				require.NotZero(t, policy.Keep)
			}
			require.Greater(t, now.Sub(p.Time), policy.Dense, "a point of the dense part")
			// Stopped half way, it comes to the same end.
			if rnd.IntN(20) == 0 {
				require.Equal(t, gone[slices.Index(gone, id)+1:], append([]dr.PointID{}, Expired(left, policy, now, pinned)...), "after some were deleted")
			}
		}
		require.Empty(t, Expired(left, policy, now, pinned), "nothing more to delete")
		newest, err := Choose(points, Choice{})
		if err == nil {
			again, err := Choose(left, Choice{})
			require.NoError(t, err)
			require.Equal(t, newest.ID, again.ID, "never the newest recovery point")
		}
		if a, err := Choose(points, Choice{Option: LatestApplicationConsistent}); err == nil && policy.KeepApplicationConsistent {
			again, err := Choose(left, Choice{Option: LatestApplicationConsistent})
			require.NoError(t, err)
			require.Equal(t, a.ID, again.ID, "never the newest application-consistent point, if asked")
		}
		if len(points) > 0 {
			require.Equal(t, points[len(points)-1].ID, left[len(left)-1].ID, "never the newest of all")
		}
		if policy.Every > 0 {
			kept := map[int64]bool{}
			for _, p := range left {
				kept[policy.interval(p)] = true
			}
			for _, p := range points {
				require.True(t, kept[policy.interval(p)] || policy.Keep > 0 && now.Sub(p.Time) > policy.Keep || p.Base, "an interval was left with nothing")
			}
		}
	}
}

// A store that thins as time goes by ends as one that thins once.
func TestThinningIsStable(t *testing.T) {
	policy := Policy{Dense: 2 * time.Hour, Every: time.Hour}
	var all, live []dr.Point
	for i := range 600 {
		p := pt(fmt.Sprint("p", i), 5*i)
		if i%12 == 7 {
			app(&p)
		}
		all, live = append(all, p), append(live, p)
		gone := Expired(live, policy, p.Time, nil)
		live = slices.DeleteFunc(live, func(p dr.Point) bool { return slices.Contains(gone, p.ID) })
		once := Expired(all, policy, p.Time, nil)
		left := slices.DeleteFunc(slices.Clone(all), func(p dr.Point) bool { return slices.Contains(once, p.ID) })
		require.Equal(t, left, live, "after %d points", i+1)
	}
	require.Less(t, len(live), 80)
}

func TestPolicyValidate(t *testing.T) {
	for _, p := range []Policy{{}, VMwarePolicy(), HyperVPolicy(), FailbackPolicy(), {Every: time.Hour}, {Keep: 3 * time.Hour, Dense: time.Hour, Every: time.Hour}} {
		require.NoError(t, p.Validate())
	}
	for _, p := range []Policy{{Keep: -1}, {Dense: -1, Every: time.Hour}, {Every: -time.Second}, {RPO: -1}, {ApplicationEvery: -1},
		{Dense: time.Hour}, {Keep: time.Hour, Dense: time.Hour, Every: time.Hour}, {Every: 1500 * time.Millisecond}} {
		require.ErrorIs(t, p.Validate(), dr.ErrInvalid, "%+v", p)
	}
}

func TestThePolicySaysWhatReplicationShouldDo(t *testing.T) {
	p := VMwarePolicy()
	at := func(minutes int) time.Time { return t0.Add(time.Duration(minutes) * time.Minute) }
	points := []dr.Point{pt("a", 0, app), pt("b", 30), pt("base", 50, base)}
	require.False(t, p.Late(points, at(45)), "15 minutes after the newest recovery point")
	require.True(t, p.Late(points, at(46)))
	require.True(t, p.Late(nil, t0))
	require.False(t, Policy{}.Late(nil, t0))
	require.Equal(t, dr.CrashConsistent, p.Want(points, at(59)))
	require.Equal(t, dr.ApplicationConsistent, p.Want(points, at(60)))
	require.Equal(t, dr.ApplicationConsistent, p.Want(nil, t0))
	require.Equal(t, dr.CrashConsistent, Policy{}.Want(nil, t0))
}

// TestGroupPointsAreThinnedAlike also where the platforms' clocks put them on
// either side of an interval's end.
func TestGroupPointsAreThinnedAlike(t *testing.T) {
	hour := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	points := func(apart time.Duration) []dr.Point {
		var all []dr.Point
		for i := range 4 {
			at := hour.Add(time.Duration(i) * 30 * time.Minute)
			all = append(all, dr.Point{ID: dr.PointID(fmt.Sprint("p", i)), Time: at.Add(apart), Consistency: dr.CrashConsistent,
				Group: dr.GroupMark{Group: "g", ID: fmt.Sprint("m", i), Time: at}})
		}
		return all
	}
	p := Policy{Every: time.Hour}
	now := hour.Add(24 * time.Hour)
	early, late := Expired(points(-10*time.Millisecond), p, now, nil), Expired(points(10*time.Millisecond), p, now, nil)
	require.Equal(t, late, early)
	require.Equal(t, []dr.PointID{"p1"}, early, "the last is the newest")
}

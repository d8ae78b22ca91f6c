package recoverypoint

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var t0 = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

// pt is a point that is n minutes younger than t0.
func pt(id string, minutes int, more ...func(*dr.Point)) dr.Point {
	p := dr.Point{ID: dr.PointID(id), Machine: dr.Machine{ID: "m"}, Time: t0.Add(time.Duration(minutes) * time.Minute), Consistency: dr.CrashConsistent}
	for _, f := range more {
		f(&p)
	}
	return p
}

func app(p *dr.Point)  { p.Consistency = dr.ApplicationConsistent }
func fsc(p *dr.Point)  { p.Consistency = dr.FileSystemConsistent }
func base(p *dr.Point) { p.Base = true }

func mark(id string, members ...dr.MachineID) func(*dr.Point) {
	return func(p *dr.Point) { p.Group = dr.GroupMark{Group: "g", ID: id, Members: members} }
}

func TestChooseForOneMachine(t *testing.T) {
	history := []dr.Point{pt("base", -9, base), pt("a", 0), pt("b", 5, app), pt("c", 10, fsc), pt("d", 15), pt("base2", 20, base)}
	for _, c := range []struct {
		rule   string
		points []dr.Point
		choice Choice
		want   dr.PointID
		err    error
		says   []string
	}{
		{"Latest: the newest, once all that was received is processed", history, Choice{Option: Latest}, "d", nil, nil},
		{"the zero Choice is Latest", history, Choice{}, "d", nil, nil},
		{"Latest processed: the newest that is ready", history, Choice{Option: LatestProcessed}, "d", nil, nil},
		{"Latest app-consistent: the newest application-consistent point", history, Choice{Option: LatestApplicationConsistent}, "b", nil, nil},
		{"Custom: the point itself", history, Choice{Option: Custom, Point: "a"}, "a", nil, nil},
		{"the order of the store counts, not the clock", []dr.Point{pt("a", 60), pt("b", 0)}, Choice{}, "b", nil, nil},

		{"file-system consistency is not application consistency", []dr.Point{pt("c", 10, fsc)}, Choice{Option: LatestApplicationConsistent}, "", dr.ErrNoPoint,
			[]string{"machine m", "newest of 1 is c of 2024-05-06T07:18:09Z, file-system-consistent", "choose latest-processed"}},
		{"a base is never offered", []dr.Point{pt("base", 0, base)}, Choice{}, "", dr.ErrNoPoint, []string{"only a base", "wait for the first"}},
		{"a base is never offered, not even by name", history, Choice{Option: Custom, Point: "base"}, "", dr.ErrNoPoint, []string{"custom base", "newest of 4 is d"}},
		{"no point at all", nil, Choice{}, "", dr.ErrNoPoint, []string{"none at all"}},
		{"Custom: a point that has expired", history, Choice{Option: Custom, Point: "gone"}, "", dr.ErrNoPoint, []string{"custom gone", "newest of 4 is d", "expired"}},
		{"Latest multi-VM processed is for recovery plans", history, Choice{Option: LatestMultiVMProcessed}, "", dr.ErrInvalid, []string{"use latest-processed"}},
		{"Latest multi-VM app-consistent is for recovery plans", history, Choice{Option: LatestMultiVMApplicationConsistent}, "", dr.ErrInvalid, []string{"use latest-application-consistent"}},
		{"an option that does not exist", history, Choice{Option: "newest"}, "", dr.ErrInvalid, []string{"newest", "latest-processed"}},
		{"Custom needs a point", history, Choice{Option: Custom}, "", dr.ErrInvalid, nil},
		{"only Custom takes a point", history, Choice{Option: Latest, Point: "a"}, "", dr.ErrInvalid, []string{"custom"}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			got, err := Choose(c.points, c.choice)
			require.Equal(t, c.want, got.ID)
			require.ErrorIs(t, err, c.err)
			for _, s := range c.says {
				require.ErrorContains(t, err, s)
			}
		})
	}
}

func TestChooseForAPlan(t *testing.T) {
	one := Candidate{Machine: "one", Group: "", Points: []dr.Point{pt("1a", 0, app), pt("1b", 5)}}
	crash := Candidate{Machine: "crash", Group: "", Points: []dr.Point{pt("c", 0)}}
	web := Candidate{Machine: "web", Group: "g", Points: []dr.Point{pt("w1", 0, app, mark("m1", "web", "db")), pt("w2", 5, mark("m2", "web", "db")), pt("w3", 10, mark("m3", "web", "db")), pt("w4", 15, app)}}
	db := Candidate{Machine: "db", Group: "g", Points: []dr.Point{pt("d1", 0, app, mark("m1", "web", "db")), pt("d2", 6, mark("m2", "web", "db"))}}
	lone := Candidate{Machine: "lone", Group: "g", Points: []dr.Point{pt("l", 0)}}
	left := Candidate{Machine: "db", Group: "", Points: []dr.Point{pt("d1", 0, mark("m1"))}}
	half := Candidate{Machine: "half", Group: "g", Points: []dr.Point{pt("h1", 0, mark("m1")), pt("h2", 5, app, mark("m2"))}}
	based := Candidate{Machine: "db", Group: "g", Points: []dr.Point{pt("d1", 0, app, mark("m1")), pt("d2", 5, mark("m2"), base)}}
	elsewhere := Candidate{Machine: "db", Group: "g", Points: []dr.Point{pt("d1", 0, mark("m1")), pt("x2", 5, func(p *dr.Point) { p.Group = dr.GroupMark{Group: "other", ID: "m2"} })}}
	other := Candidate{Machine: "mail", Group: "h", Points: []dr.Point{pt("x1", 0, func(p *dr.Point) { p.Group = dr.GroupMark{Group: "h", ID: "m1"} }), pt("x2", 5)}}
	none := Candidate{Machine: "none", Group: "", Points: nil}
	for _, c := range []struct {
		rule   string
		plan   []Candidate
		option Option
		want   []dr.PointID // "" is an ErrNoPoint
	}{
		{"Latest: each machine its newest", []Candidate{one, web, db}, Latest, []dr.PointID{"1b", "w4", "d2"}},
		{"Latest processed: each machine its newest, whatever its group", []Candidate{one, web, db}, LatestProcessed, []dr.PointID{"1b", "w4", "d2"}},
		{"Latest app-consistent: each machine its own", []Candidate{one, web, db, crash}, LatestApplicationConsistent, []dr.PointID{"1a", "w4", "d1", ""}},
		{"Latest multi-VM processed: a group its latest common point, others the latest processed", []Candidate{one, web, db}, LatestMultiVMProcessed, []dr.PointID{"1b", "w2", "d2"}},
		{"Latest multi-VM app-consistent: a group its latest common app-consistent point, others their latest app-consistent", []Candidate{one, web, db, crash}, LatestMultiVMApplicationConsistent, []dr.PointID{"1a", "w1", "d1", ""}},
		{"every machine of the plan decides alike, in any order", []Candidate{db, web}, LatestMultiVMProcessed, []dr.PointID{"d2", "w2"}},
		{"a member that is not in the plan holds nothing up", []Candidate{web}, LatestMultiVMProcessed, []dr.PointID{"w3"}},
		{"no common point: no machine of the group gets one, the others do", []Candidate{web, lone, one}, LatestMultiVMProcessed, []dr.PointID{"", "", "1b"}},
		{"a member listed in the mark counts even if it has left the group", []Candidate{web, left}, LatestMultiVMProcessed, []dr.PointID{"w1", "d1"}},
		{"a common app-consistent point is app-consistent on all", []Candidate{web, half}, LatestMultiVMApplicationConsistent, []dr.PointID{"", ""}},
		{"a base is never common", []Candidate{web, based}, LatestMultiVMProcessed, []dr.PointID{"w1", "d1"}},
		{"the mark of another group is not common", []Candidate{web, elsewhere}, LatestMultiVMProcessed, []dr.PointID{"w1", "d1"}},
		{"two groups, each its own common point", []Candidate{web, db, other}, LatestMultiVMProcessed, []dr.PointID{"w2", "d2", "x1"}},
		{"a machine without points does not hold up the plan", []Candidate{none, one}, LatestProcessed, []dr.PointID{"", "1b"}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			got, err := ChooseAll(c.plan, Choice{Option: c.option})
			require.NoError(t, err)
			require.Len(t, got, len(c.want))
			for i, want := range c.want {
				require.Equal(t, c.plan[i].Machine, got[i].Machine)
				require.Equal(t, want, got[i].Point.ID)
				if want == "" {
					require.ErrorIs(t, got[i].Err, dr.ErrNoPoint)
					require.ErrorContains(t, got[i].Err, string(c.plan[i].Machine))
				} else {
					require.NoError(t, got[i].Err)
				}
			}
		})
	}

	t.Run("Custom: never a plan", func(t *testing.T) {
		_, err := ChooseAll([]Candidate{one}, Choice{Option: Custom, Point: "1a"})
		require.ErrorIs(t, err, dr.ErrInvalid)
	})
	t.Run("multi-VM options are for plans with a machine that has multi-VM consistency", func(t *testing.T) {
		_, err := ChooseAll([]Candidate{one, crash}, Choice{Option: LatestMultiVMProcessed})
		require.ErrorIs(t, err, dr.ErrInvalid)
		require.ErrorContains(t, err, "use latest-processed")
	})
	t.Run("no common point: the error names the group, what there is and the remedy", func(t *testing.T) {
		got, err := ChooseAll([]Candidate{web, half}, Choice{Option: LatestMultiVMApplicationConsistent})
		require.NoError(t, err)
		for _, s := range []string{"group g", "no common application-consistent moment", "newest of 4 is w4", "choose latest-application-consistent"} {
			require.ErrorContains(t, got[0].Err, s)
		}
	})
}

func TestChooseForFailback(t *testing.T) {
	web := Candidate{Machine: "web", Group: "g", Points: []dr.Point{pt("w1", 0, app, mark("m1", "web", "db")), pt("w2", 5, app)}}
	db := Candidate{Machine: "db", Group: "g", Points: []dr.Point{pt("d1", 0, app, mark("m1", "web", "db"))}}
	one := Candidate{Machine: "one", Group: "", Points: []dr.Point{pt("1a", 0, app), pt("1b", 5)}}
	none := Candidate{Machine: "none", Group: "", Points: []dr.Point{pt("base", 0, base)}}
	for _, c := range []struct {
		rule string
		plan []Candidate
		opt  Option
		want []dr.PointID
		err  error
	}{
		{"app-consistent: a single VM recovers to its latest app-consistent point", []Candidate{one}, LatestApplicationConsistent, []dr.PointID{"1a"}, nil},
		{"app-consistent: in a plan each replication group recovers to its common available point", []Candidate{web, db, one}, LatestApplicationConsistent, []dr.PointID{"w1", "d1", "1a"}, nil},
		{"Latest is recommended", []Candidate{web, db, one}, Latest, []dr.PointID{"w2", "d1", "1b"}, nil},
		{"a VM needs at least one recovery point", []Candidate{none}, Latest, nil, dr.ErrNoPoint},
		{"in a plan all VMs need at least one recovery point", []Candidate{one, none}, Latest, nil, dr.ErrNoPoint},
	} {
		t.Run(c.rule, func(t *testing.T) {
			got, err := ChooseFailback(c.plan, Choice{Option: c.opt})
			require.ErrorIs(t, err, c.err)
			var ids []dr.PointID
			for _, s := range got {
				require.NoError(t, s.Err)
				ids = append(ids, s.Point.ID)
			}
			require.Equal(t, c.want, ids)
		})
	}
}

func TestOnlyLatestNeedsProcessing(t *testing.T) {
	for _, o := range append(Options(), "") {
		require.Equal(t, o == Latest || o == "", Choice{Option: o}.NeedsProcessing(), o)
	}
}

func TestChoiceIsPlainData(t *testing.T) {
	b, err := json.Marshal(Choice{Option: Custom, Point: "p1"})
	require.NoError(t, err)
	require.JSONEq(t, `{"option":"custom","point":"p1"}`, string(b))
	var c Choice
	require.NoError(t, json.Unmarshal([]byte(`{}`), &c))
	require.NoError(t, c.Validate())
	require.Equal(t, "latest", c.String())
}

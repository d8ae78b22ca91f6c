package recoveryplan_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// written puts a point over the machine's newest, as a copy that measured.
func (w *world) written(id dr.ProtectionID, name dr.PointID, moment string, members []dr.MachineID, turned int64) {
	w.Helper()
	var last dr.Point
	for p, err := range w.stores[away].List(w.Context(), dr.MachineID(id)) {
		require.NoError(w, err)
		last = p
	}
	p := dr.Point{ID: name, Parent: last.ID, Time: last.Time.Add(time.Minute), Machine: last.Machine, Consistency: dr.CrashConsistent,
		Changes: dr.ChangeStats{Complete: true, Blocks: 1000, Known: 1000, Over: 1000, Turned: turned, Grown: turned << 16}}
	if moment != "" {
		p.Group = dr.GroupMark{Group: "orders", ID: moment, Members: members}
	}
	d, err := w.stores[away].Create(w.Context(), p)
	require.NoError(w, err)
	require.NoError(w, d.Commit(w.Context(), p))
	require.NoError(w, d.Close())
}

// One machine of a group was attacked between two common moments: none of the
// group may be started from the later one. A machine outside decides alone, and
// what a person accepted is no attack.
func TestAPlanTakesWhatIsFromBeforeSuspicionOfAnyMember(t *testing.T) {
	w := newWorld(t, shop()).protect()
	w.group("db1", "app1")
	members := []dr.MachineID{"db1", "app1"}
	w.written("db1", "db1-2", "moment-2", members, 900)
	w.written("app1", "app1-2", "moment-2", members, 0)
	w.written("web1", "web1-1", "", nil, 0)
	w.written("web1", "web1-2", "", nil, 900)
	w.written("web2", "web2-2", "", nil, 900)
	accept := func(id dr.ProtectionID, point dr.PointID) {
		_, err := w.env.Amend(t.Context(), id, func(p *dr.Protection) error { p.Accept(point, "someone"); return nil })
		require.NoError(t, err)
	}
	accept("web2", "web2-2")
	points := func() map[dr.ProtectionID]dr.PointID {
		r := w.must(recoveryplan.Test(w.plan, w.records(), recoveryplan.Options{Point: recoverypoint.LatestBeforeSuspicion}))
		require.Equal(t, 6, r.Count(recoveryplan.Done), "%+v", r)
		all := map[dr.ProtectionID]dr.PointID{}
		for _, id := range w.plan.Machines() {
			all[id] = w.record(id).Test.Point
		}
		w.must(recoveryplan.CleanUp(w.plan, w.records(), recoveryplan.Options{}))
		return all
	}
	got := points()
	require.EqualValues(t, "moment-1", got["db1"])
	require.EqualValues(t, "moment-1", got["app1"], "though nothing is wrong with app1 itself")
	require.EqualValues(t, "web1-1", got["web1"])
	require.EqualValues(t, "web2-2", got["web2"], "accepted")

	// A machine alone heeds the same.
	for id, want := range map[dr.ProtectionID]dr.PointID{"web1": "web1-1", "web2": "web2-2"} {
		st := w.do(failover.Test(w.record(id), dr.RunID("alone-"+id), failover.Options{Point: recoverypoint.Choice{Option: recoverypoint.LatestBeforeSuspicion}}))
		require.Equal(t, dr.RunDone, st.State, st.Reason)
		require.Equal(t, want, w.record(id).Test.Point)
		require.Equal(t, dr.RunDone, w.do(failover.CleanUp(w.record(id), "")).State)
	}

	accept("db1", "db1-2")
	got = points()
	require.EqualValues(t, "db1-2", got["db1"])
	require.EqualValues(t, "app1-2", got["app1"])
}

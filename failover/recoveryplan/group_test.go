package recoveryplan_test

import (
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

func unprotect(p dr.Protection) (dr.Plan, error) { return replication.Unprotect(p) }

// group makes points of a moment that the machines share: nobody writes here.
func (w *world) group(ids ...dr.ProtectionID) map[dr.ProtectionID]dr.PointID {
	w.Helper()
	w.inGroup(ids...)
	mark := dr.GroupMark{Group: "orders", ID: "moment-1"}
	for _, id := range ids {
		mark.Members = append(mark.Members, w.record(id).Active.Machine)
	}
	points := map[dr.ProtectionID]dr.PointID{}
	for _, id := range ids {
		p := w.record(id)
		c := replication.Cycle{Source: w.hosts[hq], Points: w.stores[away]}
		r, err := c.ReplicateAs(w.Context(), p.Active.Machine, "moment-1", dr.CrashConsistent, replication.CycleOptions{Group: mark})
		require.NoError(w, err)
		points[id] = r.Point.ID
	}
	return points
}

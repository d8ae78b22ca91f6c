package scheduler_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// Machines of a replication group are kept young together: each cycle is one of
// the whole group, once an interval, and its points share a mark.
func TestGroupsShareTheirMoments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t, 4, nil)
		for _, id := range []dr.ProtectionID{"p-vm0", "p-vm1", "p-vm2"} {
			_, err := y.env.Amend(t.Context(), id, func(p *dr.Protection) error { p.Group = "orders"; return nil })
			require.NoError(t, err)
		}
		s, err := scheduler.New(y.env, scheduler.Options{
			Policies: replication.Policies{"": {Every: 10 * time.Minute, Forward: recoverypoint.Policy{Keep: 24 * time.Hour, RPO: 15 * time.Minute}}},
			Observe:  func(e scheduler.Event) { require.NoError(t, e.Err) },
		})
		require.NoError(t, err)
		stop := live(t, s)
		time.Sleep(5 * time.Hour)
		st := s.Status()
		stop()
		require.Zero(t, st.Totals.Failures)
		marks := map[string]int{}
		for _, vm := range []dr.MachineID{"vm0", "vm1", "vm2"} {
			n := 0
			for p, err := range y.store.List(t.Context(), vm) {
				require.NoError(t, err)
				require.Equal(t, "orders", p.Group.Group, "every point is of a common moment")
				require.ElementsMatch(t, []dr.MachineID{"vm0", "vm1", "vm2"}, p.Group.Members)
				marks[p.Group.ID]++
				n++
			}
			require.InDelta(t, 30, n, 3, "one cycle an interval, not one for each member")
			y.holds(t, vm)
		}
		for id, n := range marks {
			require.Equal(t, 3, n, "mark %s", id)
		}
		for p, err := range y.store.List(t.Context(), "vm3") {
			require.NoError(t, err)
			require.True(t, p.Group.IsZero())
		}
	})
}

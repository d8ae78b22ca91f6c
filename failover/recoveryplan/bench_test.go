package recoveryplan_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

// What a plan of a hundred machines costs beside the machines' own flows.
func BenchmarkHundredMachines(b *testing.B) {
	p := recoveryplan.Plan{Name: "big", Groups: groups(5, 20)}
	b.Run("plan", func(b *testing.B) {
		var records []dr.Protection
		for _, id := range p.Machines() {
			records = append(records, dr.Protection{ID: id, Home: hq, Active: dr.Place{Site: hq, Machine: dr.MachineID(id)}, Standby: dr.Place{Site: away}, State: dr.Protected})
		}
		b.ReportAllocs()
		for b.Loop() {
			pl, err := recoveryplan.Planned(p, records, recoveryplan.Options{})
			require.NoError(b, err)
			_, err = pl.Frozen()
			require.NoError(b, err)
		}
	})
}

// A hundred machines fail over whole, and how long it took is told, the
// machines' own flows included.
func TestHundredMachines(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred machines")
	}
	p := recoveryplan.Plan{Name: "big", Groups: groups(5, 20)}
	w := newWorld(t, p).protect()
	was := w.contents()
	st := w.do(recoveryplan.Planned(p, w.records(), recoveryplan.Options{}))
	require.Equal(t, dr.RunDone, st.State, st.Reason)
	w.everywhere(away)
	w.same(was)
	t.Logf("%s for 100 machines in 5 groups, %d steps of the plan's own", st.Ended.Sub(st.Started), len(st.Steps))
}

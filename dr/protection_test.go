package dr

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var ev0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// The whole table of operations, written out once more and independently:
// every state, with everything that can stand beside it.
func TestAllowed(t *testing.T) {
	home, away := Place{Site: "home"}, Place{Site: "away"}
	test := &TestFailover{State: TestRunning}
	for name, c := range map[string]struct {
		p    Protection
		want []Operation
	}{
		"unprotected":   {Protection{State: Unprotected}, []Operation{OpProtect, OpUnprotect}},
		"synchronizing": {Protection{State: Synchronizing}, []Operation{OpReplicate, OpPause, OpUnprotect}},
		"synchronizing, paused": {Protection{State: Synchronizing, Replication: ReplicationPaused},
			[]Operation{OpResume, OpUnprotect}},
		"protected": {Protection{State: Protected},
			[]Operation{OpReplicate, OpPause, OpTestFailover, OpPlannedFailover, OpUnplannedFailover, OpUnprotect}},
		"protected, paused": {Protection{State: Protected, Replication: ReplicationPaused},
			[]Operation{OpResume, OpTestFailover, OpPlannedFailover, OpUnplannedFailover, OpUnprotect}},
		"protected, resync required": {Protection{State: Protected, Replication: ResyncRequired},
			[]Operation{OpReplicate, OpPause, OpTestFailover, OpPlannedFailover, OpUnplannedFailover, OpUnprotect}},
		"protected, drill": {Protection{State: Protected, Test: test},
			[]Operation{OpReplicate, OpPause, OpCleanUpTest, OpUnplannedFailover}},
		"protected, away": {Protection{State: Protected, Active: away},
			[]Operation{OpReplicate, OpPause, OpTestFailover, OpPlannedFailover, OpUnplannedFailover, OpFailback, OpUnprotect}},
		"failed over": {Protection{State: FailedOver, Failover: &Failover{}},
			[]Operation{OpChangePoint, OpCommit, OpCancelFailover}},
		"failed over, directly": {Protection{State: FailedOver, Failover: &Failover{Direct: true}},
			[]Operation{OpCommit, OpCancelFailover}},
		"failed over, drill": {Protection{State: FailedOver, Failover: &Failover{}, Test: test},
			[]Operation{OpCleanUpTest, OpChangePoint, OpCommit, OpCancelFailover}},
		"committed at home": {Protection{State: Committed}, []Operation{OpReprotect, OpUnprotect}},
		"committed away":    {Protection{State: Committed, Active: away}, []Operation{OpReprotect, OpFailback, OpUnprotect}},
		"protected away, drill": {Protection{State: Protected, Active: away, Test: test},
			[]Operation{OpReplicate, OpPause, OpCleanUpTest, OpUnplannedFailover}},
		"committed away, drill": {Protection{State: Committed, Active: away, Test: test}, []Operation{OpCleanUpTest}},
		"committed, drill":      {Protection{State: Committed, Test: test}, []Operation{OpCleanUpTest}},
		"no state":              {Protection{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c.p.ID, c.p.Home = "p", "home"
			if c.p.Active == (Place{}) {
				c.p.Active = home
			}
			require.ElementsMatch(t, c.want, c.p.Allowed())
			for _, r := range rules {
				err := c.p.Allow(r.op)
				allowed := false
				for _, op := range c.want {
					allowed = allowed || op == r.op
				}
				if allowed {
					require.NoError(t, err, r.op)
					continue
				}
				require.ErrorIs(t, err, ErrNotAllowed, r.op)
				require.ErrorContains(t, err, string(c.p.State))
				for _, op := range c.want {
					require.ErrorContains(t, err, string(op), "it names what is allowed")
				}
			}
		})
	}
}

func TestAllowSaysWhy(t *testing.T) {
	p := Protection{ID: "p", Home: "h", Active: Place{Site: "h"}, State: Protected, Replication: ReplicationPaused, Test: &TestFailover{State: TestFailed}}
	require.ErrorContains(t, p.Allow(OpReplicate), "paused")
	require.ErrorContains(t, p.Allow(OpTestFailover), "clean it up first")
	require.ErrorContains(t, p.Allow(OpFailback), "at home")
	require.ErrorIs(t, p.Allow("fly"), ErrInvalid)
}

func TestMoves(t *testing.T) {
	all := []State{"", Unprotected, Synchronizing, Protected, FailedOver, Committed}
	want := map[State]map[State]bool{
		"":            {Unprotected: true},
		Unprotected:   {Synchronizing: true},
		Synchronizing: {Protected: true, Committed: true, Unprotected: true},
		Protected:     {FailedOver: true, Unprotected: true},
		FailedOver:    {Committed: true, Protected: true},
		Committed:     {Synchronizing: true, FailedOver: true, Unprotected: true},
	}
	for _, from := range all {
		for _, to := range all {
			p := Protection{ID: "p", State: from}
			err := p.Move(to)
			if from == to || want[from][to] {
				require.NoError(t, err, "%q to %q", from, to)
				require.Equal(t, to, p.State)
				continue
			}
			require.ErrorIs(t, err, ErrNotAllowed, "%q to %q", from, to)
			require.Equal(t, from, p.State, "a refused move changes nothing")
		}
	}
}

func TestPinsAndPlaces(t *testing.T) {
	var p Protection
	p.Unpin("nobody")
	p.Pin("p1", "drill")
	p.Pin("p2", "drill")
	p.Pin("p3", "failover")
	p.Unpin("drill")
	require.Equal(t, map[PointID]string{"p3": "failover"}, p.Pins)
	p = Protection{ID: "x", Home: "h", Active: Place{Site: "h", Machine: "m1"}, Standby: Place{Site: "r", Machine: "m2"}}
	require.True(t, p.AtHome())
	p.Swap()
	require.False(t, p.AtHome())
	require.Equal(t, Place{Site: "r", Machine: "m2"}, p.Active)
	require.Equal(t, "protection/x", p.ID.Lock())
}

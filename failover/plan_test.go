package failover_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

var update = flag.Bool("update", false, "write testdata anew")

// record is a protection of machine vm1, at home at hq, in a state.
func record(s dr.State) dr.Protection {
	p := dr.Protection{
		ID: "app1", Home: "hq", State: s, Version: 7,
		Active: dr.Place{Site: "hq", Machine: "vm1"}, Standby: dr.Place{Site: "away"},
	}
	if s == dr.FailedOver {
		p.Active, p.Standby = dr.Place{Site: "away", Machine: "r1", Key: "replica/app1/away"}, p.Active
		p.Failover = &dr.Failover{Run: "r", Kind: failover.FlowPlanned, From: dr.Protected, Point: dr.Point{ID: "p9"}, Ran: true, Stopped: true}
	}
	return p
}

// A change of a plan is seen here: each step with what it comes after, where
// it runs, what takes it back, and what is special about it.
func TestPlans(t *testing.T) {
	var b strings.Builder
	show := func(what string, p dr.Plan, err error) {
		require.NoError(t, err, what)
		require.NoError(t, p.Validate())
		fmt.Fprintf(&b, "# %s\n%s\n", what, trace(p))
	}
	protected, over := record(dr.Protected), record(dr.FailedOver)
	p, err := failover.Planned(protected, failover.Options{})
	show("planned failover", p, err)
	p, err = failover.Unplanned(protected, failover.Options{})
	show("unplanned failover", p, err)
	p, err = failover.Unplanned(protected, failover.Options{Shutdown: true, ShutdownTimeout: time.Minute})
	show("unplanned failover, with shutdown and last replication", p, err)
	p, err = failover.Test(protected, "run1", failover.Options{})
	show("test failover", p, err)
	protected.Test = &dr.TestFailover{Run: "run1", Place: dr.Place{Site: "away", Machine: "t1"}}
	p, err = failover.CleanUp(protected, "")
	show("clean-up of a test failover", p, err)
	p, err = failover.ChangePoint(over, recoverypoint.Choice{}, failover.Options{})
	show("change of the point", p, err)
	p, err = failover.Commit(over, failover.CommitOptions{})
	show("commit", p, err)
	p, err = failover.Cancel(over)
	show("cancel of a failover", p, err)
	over.Failover.Ran = false
	p, err = failover.Cancel(over)
	show("cancel of a failover of a machine that was off", p, err)
	over.Home = "away"
	p, err = failover.Commit(over, failover.CommitOptions{})
	show("commit of a failback", p, err)
	p, err = failover.Commit(over, failover.CommitOptions{Discard: true})
	show("commit of a failback, without a base", p, err)

	golden(t, "testdata/plans.txt", b.String())
}

func golden(t *testing.T, file, got string) {
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "run with -update if this is meant")
}

// trace tells a plan in lines.
func trace(p dr.Plan) string {
	var b strings.Builder
	for i, s := range p.Steps {
		fmt.Fprintf(&b, "%-14s %-24s", s.ID, s.Action+s.Gate)
		if i > 0 && (len(s.After) != 1 || s.After[0] != p.Steps[i-1].ID) {
			fmt.Fprintf(&b, " after=%v", s.After)
		}
		if s.Queue != "" {
			fmt.Fprintf(&b, " at=%s", s.Queue)
		}
		if s.Undo != "" {
			fmt.Fprintf(&b, " undo=%s", s.Undo)
		}
		if s.NoReturn {
			b.WriteString(" no-return")
		}
		if s.Optional {
			b.WriteString(" optional")
		}
		if s.Attempts > 0 {
			fmt.Fprintf(&b, " attempts=%d", s.Attempts)
		}
		if s.Timeout > 0 {
			fmt.Fprintf(&b, " timeout=%s", s.Timeout)
		}
		if s.Silence > 0 {
			fmt.Fprintf(&b, " silence=%s", s.Silence)
		}
		if s.Patience > 0 {
			fmt.Fprintf(&b, " patience=%s", s.Patience)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Choices that make no sense are refused by the planners.
func TestOptionsRefused(t *testing.T) {
	p := record(dr.Protected)
	_, err := failover.Planned(p, failover.Options{Point: recoverypoint.Choice{Option: recoverypoint.LatestProcessed}})
	require.ErrorIs(t, err, dr.ErrInvalid)
	require.ErrorContains(t, err, "its own final point")
	_, err = failover.Unplanned(p, failover.Options{Point: recoverypoint.Choice{Option: recoverypoint.Custom}})
	require.ErrorIs(t, err, dr.ErrInvalid)
	_, err = failover.Test(p, "r", failover.Options{Point: recoverypoint.Choice{Option: "newest"}})
	require.ErrorIs(t, err, dr.ErrInvalid)
	over := record(dr.FailedOver)
	over.Failover.Direct = true
	_, err = failover.ChangePoint(over, recoverypoint.Choice{}, failover.Options{})
	require.ErrorIs(t, err, dr.ErrNotAllowed)
	require.ErrorContains(t, err, "there are no other points")
}

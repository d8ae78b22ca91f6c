package failback_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

var update = flag.Bool("update", false, "write testdata anew")

// A change of a plan is seen here: each step with where it runs, what takes it
// back, and what is special about it.
func TestPlans(t *testing.T) {
	var b strings.Builder
	show := func(what string, p dr.Plan, err error) {
		require.NoError(t, err, what)
		fmt.Fprintf(&b, "# %s\n", what)
		for i, s := range p.Steps {
			require.True(t, i == 0 || len(s.After) == 1 && s.After[0] == p.Steps[i-1].ID, "one after the other")
			act := s.Action
			if s.Gate != "" {
				act = "a person decides"
			}
			fmt.Fprintf(&b, "%-14s %-24s at=%s undo=%s", s.ID, act, s.Queue, s.Undo)
			for what, is := range map[string]bool{" no-return": s.NoReturn, " optional": s.Optional} {
				if is {
					b.WriteString(what)
				}
			}
			b.WriteByte('\n')
		}
		b.WriteByte('\n')
	}
	p := dr.Protection{
		ID: "app1", Home: hq, State: dr.Committed, Version: 7,
		Active: dr.Place{Site: away, Machine: "r1", Key: "k"}, Standby: dr.Place{Site: hq, Machine: vm},
	}
	pl, err := failback.Reprotect(p, failback.ReprotectOptions{})
	show("reprotect, original location", pl, err)
	pl, err = failback.Reprotect(p, failback.ReprotectOptions{Alternate: true})
	show("reprotect, alternate location", pl, err)
	pl, err = failback.Reprotect(p, failback.ReprotectOptions{Cold: true})
	show("reprotect, standby left cold", pl, err)
	pl, err = failback.Failback(p, failback.Options{Sync: failback.Before})
	show("failback, synchronize before", pl, err)
	pl, err = failback.Failback(p, failback.Options{Sync: failback.During})
	show("failback, synchronize during", pl, err)
	pl, err = failback.Failback(p, failback.Options{Sync: failback.During, Alternate: true})
	show("failback, synchronize during, alternate location", pl, err)
	p.State = dr.Protected
	pl, err = failback.Failback(p, failback.Options{})
	show("failback from recovery points", pl, err)
	if *update {
		require.NoError(t, os.WriteFile("testdata/plans.txt", []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile("testdata/plans.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), b.String(), "run with -update if this is meant")
}

// What makes no sense is refused by the planner.
func TestFailbackOptionsRefused(t *testing.T) {
	p := dr.Protection{ID: "app1", Home: hq, State: dr.Committed, Active: dr.Place{Site: away, Machine: "r1"}, Standby: dr.Place{Site: hq, Machine: vm}}
	_, err := failback.Failback(p, failback.Options{})
	require.ErrorIs(t, err, dr.ErrNotAllowed)
	require.ErrorContains(t, err, "needs at least one: reprotect first")
	p.State = dr.Protected
	_, err = failback.Failback(p, failback.Options{Alternate: true})
	require.ErrorIs(t, err, dr.ErrInvalid)
	_, err = failback.Failback(p, failback.Options{Sync: "later"})
	require.ErrorIs(t, err, dr.ErrInvalid)
	_, err = failback.Failback(p, failback.Options{Sync: failback.During, Options: failover.Options{Point: recoverypoint.Choice{Option: recoverypoint.LatestProcessed}}})
	require.ErrorIs(t, err, dr.ErrInvalid)
	p.Home = away
	_, err = failback.Failback(p, failback.Options{})
	require.ErrorIs(t, err, dr.ErrNotAllowed)
	require.ErrorContains(t, err, "the machine is at home")
}

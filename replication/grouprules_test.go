package replication_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// TestRuleGroupHasOneOSTypeAndOneTargetSite: "A replication group needs one OS
// type and one master target and reprotects together."
func TestRuleGroupHasOneOSTypeAndOneTargetSite(t *testing.T) {
	of := func(id, os string, change ...func(*dr.Protection)) dr.Protection {
		p := replication.New(dr.ProtectionID(id), dr.Place{Site: "home-" + id, Machine: dr.MachineID("vm-" + id)}, "away")
		p.Group, p.Last.Machine.OS = "g", os
		for _, c := range change {
			c(&p)
		}
		return p
	}
	for name, c := range map[string]struct {
		members []dr.Protection
		want    string // in the error; "": none
	}{
		"none":                      {nil, "no machine"},
		"one":                       {[]dr.Protection{of("a", "")}, ""},
		"alike":                     {[]dr.Protection{of("a", "ubuntu64Guest"), of("b", "linux"), of("c", "rhel8_64Guest")}, ""},
		"windows":                   {[]dr.Protection{of("a", "windows2019srv_64Guest"), of("b", "Windows"), of("c", "winXPProGuest")}, ""},
		"unknown types":             {[]dr.Protection{of("a", "otherGuest64"), of("b", ""), of("c", "darwin19_64Guest"), of("d", "windows")}, ""},
		"two types":                 {[]dr.Protection{of("a", ""), of("b", "linux"), of("c", "windows9Server64Guest")}, "b runs linux, and c runs windows9Server64Guest"},
		"two target sites":          {[]dr.Protection{of("a", ""), of("b", "", func(p *dr.Protection) { p.Standby.Site = "elsewhere" })}, "a is recovered at site away, and b at site elsewhere"},
		"two sides":                 {[]dr.Protection{of("a", ""), of("b", "", (*dr.Protection).Swap)}, "a and b run on different sides"},
		"another group":             {[]dr.Protection{of("a", ""), of("b", "", func(p *dr.Protection) { p.Group = "h" })}, `b is of group "h"`},
		"no group":                  {[]dr.Protection{of("a", "", func(p *dr.Protection) { p.Group = "" })}, "a names no group"},
		"machines of the same name": {[]dr.Protection{of("a", ""), of("b", "", func(p *dr.Protection) { p.Active.Machine = "vm-a" })}, "same ID, vm-a"},
	} {
		t.Run(name, func(t *testing.T) {
			err := replication.ValidateGroup(c.members)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, dr.ErrInvalid)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// TestRuleGroupReprotectsTogether: the other half of the same rule.
func TestRuleGroupReprotectsTogether(t *testing.T) {
	a, b, alone := dr.Protection{ID: "a", Group: "g"}, dr.Protection{ID: "b", Group: "g"}, dr.Protection{ID: "c"}
	all := []dr.Protection{a, b, alone, {ID: "d"}}
	for _, op := range []dr.Operation{dr.OpReprotect, dr.OpFailback} {
		err := replication.ValidateTogether(op, []dr.Protection{a, alone}, all)
		require.ErrorIs(t, err, dr.ErrInvalid)
		require.ErrorContains(t, err, "missing: b")
		require.NoError(t, replication.ValidateTogether(op, []dr.Protection{b, a, alone}, all))
		require.NoError(t, replication.ValidateTogether(op, []dr.Protection{alone}, all))
	}
	require.NoError(t, replication.ValidateTogether(dr.OpTestFailover, []dr.Protection{a}, all))
}

func TestGroupMembers(t *testing.T) {
	f := newFleet(t, 3, memory.Options{}, memstore.Options{}, nil)
	_, err := f.env.Amend(t.Context(), f.ids[1], func(p *dr.Protection) error { p.Group = "h"; return nil })
	require.NoError(t, err)
	members, err := f.env.GroupMembers(t.Context(), "g")
	require.NoError(t, err)
	require.Len(t, members, 2)
	_, err = f.env.GroupMembers(t.Context(), "none")
	require.ErrorIs(t, err, dr.ErrNotFound)
	_, err = f.env.GroupMembers(t.Context(), "")
	require.ErrorIs(t, err, dr.ErrInvalid)
	f.env.Records = struct{ dr.Records }{f.rec}
	_, err = f.env.GroupMembers(t.Context(), "g")
	require.ErrorIs(t, err, dr.ErrUnsupported)

	for _, ids := range [][]dr.ProtectionID{nil, {"p0", "p0"}} {
		_, err = f.env.ReplicateGroup(t.Context(), ids, dr.CrashConsistent, replication.GroupOptions{})
		require.ErrorIs(t, err, dr.ErrInvalid)
	}
	_, err = f.env.ReplicateGroup(t.Context(), f.ids, dr.CrashConsistent, replication.GroupOptions{Freeze: -1})
	require.ErrorIs(t, err, dr.ErrInvalid)
}

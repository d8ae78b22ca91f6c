package recoveryplan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/networks"
	"github.com/lifeboat-dr/lifeboat/failover/readiness"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

var (
	lan    = netip.MustParsePrefix("10.1.0.0/24")
	drLAN  = netip.MustParsePrefix("10.2.0.0/24")
	bubble = netip.MustParsePrefix("10.9.0.0/24")
)

// mapped is the shop with a network mapping, its machines on one network at
// 10.1.0.10 and up.
func mapped(t *testing.T) *world {
	p := shop()
	p.Networks = []networks.Mapping{{From: hq, To: away, Entries: []networks.Entry{{
		Network: "lan",
		Target:  networks.End{Network: "dr-lan", Prefixes: []netip.Prefix{drLAN}, Addresses: networks.Addresses{Prefixes: []networks.PrefixMap{{From: lan, To: drLAN}}}},
		Test:    &networks.End{Network: "bubble", Prefixes: []netip.Prefix{bubble}, Addresses: networks.Addresses{Prefixes: []networks.PrefixMap{{From: lan, To: bubble}}}},
	}}}}
	w := newWorldOf(t, p, func(i int, m *dr.Machine) {
		m.NICs = []dr.NIC{{ID: "nic0", Network: "lan", Addresses: []string{fmt.Sprintf("10.1.0.%d/24", 10+i)}}}
	})
	return w.protect()
}

func (w *world) placed(site string, m dr.MachineID) backend.Placement {
	w.Helper()
	p, err := w.hosts[site].Placement(m)
	require.NoError(w, err)
	return p
}

func TestNetworkMapping(t *testing.T) {
	w := mapped(t)
	w.must(recoveryplan.Test(w.plan, w.records(), recoveryplan.Options{}))
	at := w.placed(away, w.record("db2").Test.Place.Machine)
	require.Equal(t, "bubble", at.Cards["nic0"].Network)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.9.0.11/24")}, at.Cards["nic0"].Addresses)
	w.must(recoveryplan.CleanUp(w.plan, w.records(), recoveryplan.Options{}))

	w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
	at = w.placed(away, w.record("db2").Active.Machine)
	require.Equal(t, "dr-lan", at.Cards["nic0"].Network)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.2.0.11/24")}, at.Cards["nic0"].Addresses)

	// One machine comes home to itself, another is built anew there: it gets
	// its own address back.
	w.must(recoveryplan.Commit(w.plan, w.records(), recoveryplan.Options{}))
	w.plan.Groups[0].Machines[1].Alternate = true
	w.must(recoveryplan.Reprotect(w.plan, w.records(), recoveryplan.Options{}))
	w.must(recoveryplan.Failback(w.plan, w.records(), recoveryplan.Options{}))
	w.everywhere(hq)
	require.Equal(t, dr.MachineID("db1"), w.record("db1").Active.Machine)
	at = w.placed(hq, w.record("db2").Active.Machine)
	require.Equal(t, "lan", at.Cards["nic0"].Network)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.1.0.11/24")}, at.Cards["nic0"].Addresses)
}

// What a machine's own entry says wins over the mapping.
func TestOwnEntryWinsOverTheMapping(t *testing.T) {
	w := mapped(t)
	w.plan.Groups[0].Machines[0].Out = failover.Where{Name: "mine", Networks: map[string]string{"lan": "dmz"}}
	w.must(recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{}))
	at := w.placed(away, w.record("db1").Active.Machine)
	require.Equal(t, "mine", at.Name)
	require.Equal(t, "dmz", at.Networks["lan"])
	require.NotContains(t, at.Cards, "nic0")
}

func TestCardsThatNobodyMaps(t *testing.T) {
	w := mapped(t)
	w.plan.Networks[0].Entries[0].Network = "another"
	_, err := recoveryplan.Planned(w.plan, w.records(), recoveryplan.Options{})
	require.ErrorIs(t, err, dr.ErrInvalid)
	require.ErrorContains(t, err, `card nic0 on network "lan": no entry for the network`)
}

func TestConflictsAreFoundBeforeTheFailover(t *testing.T) {
	w := mapped(t)
	w.hosts[away].SetNetworks(
		backend.Network{Name: "dr-lan", Subnets: []backend.Subnet{{Prefixes: []netip.Prefix{drLAN}}}},
		backend.Network{Name: "bubble", Subnets: []backend.Subnet{{Prefixes: []netip.Prefix{bubble}}}},
	)
	codes := func() (all []string) {
		for _, f := range w.preview(recoveryplan.FlowPlanned, recoveryplan.Options{}).Findings {
			if f.Blocker {
				all = append(all, f.Code+" "+string(f.Machine))
			}
		}
		slices.Sort(all)
		return all
	}
	require.Empty(t, codes())
	twice := []netip.Prefix{netip.MustParsePrefix("10.2.0.77/24")}
	w.plan.Networks[0].Cards = []networks.CardRule{{Machine: "db1", Card: "nic0", Addresses: twice}, {Machine: "db2", Card: "nic0", Addresses: twice}}
	require.Contains(t, strings.Join(codes(), ","), networks.CodeTwice)
	w.plan.Networks[0].Cards = nil
	w.plan.Networks[0].Entries[0].Target.Network = "gone"
	require.Contains(t, strings.Join(codes(), ","), networks.CodeNoNetwork)
}

func TestMappingsThatMakeNoSense(t *testing.T) {
	p := shop()
	p.Networks = []networks.Mapping{{From: hq, To: hq}, {From: "a", To: "b"}, {From: "a", To: "b"}}
	err := p.Validate()
	require.ErrorContains(t, err, "want the names of two sites")
	require.ErrorContains(t, err, "two network mappings from")
}

// Readiness is part of a dry run where it is asked for: what fails blocks, what
// can't be told is said.
func TestReadinessInADryRun(t *testing.T) {
	w := newWorldOf(t, shop(), func(_ int, m *dr.Machine) { m.OS = "linux" }).protect()
	for _, id := range w.plan.Machines() {
		f := backend.Facts{OS: "linux", From: "agent", At: time.Now(), RemoteAccess: backend.Fact{Answer: backend.Yes}, Firewall: map[string]backend.Fact{"input": {Answer: backend.Yes}}}
		if id == "web1" {
			f.RemoteAccess = backend.Fact{Answer: backend.No, Detail: "ssh.service is masked"}
		}
		if id == "web2" {
			f.RemoteAccess = backend.Fact{}
		}
		require.NoError(t, w.hosts[hq].SetFacts(dr.MachineID(id), f))
	}
	find := func(flow string, id dr.ProtectionID) (all []recoveryplan.Finding) {
		v := w.preview(flow, recoveryplan.Options{}, recoveryplan.Readiness(w.planEnv(), readiness.Options{}, readiness.Plant{}))
		for _, f := range v.Findings {
			if f.Machine == id && strings.Contains(f.Code, "ssh") {
				all = append(all, f)
			}
		}
		return all
	}
	require.Empty(t, find(recoveryplan.FlowPlanned, "db1"))
	bad := find(recoveryplan.FlowPlanned, "web1")
	require.Len(t, bad, 1)
	require.True(t, bad[0].Blocker)
	require.Contains(t, bad[0].Text, "ssh.service is masked")
	require.NotEmpty(t, bad[0].Remedy)
	require.False(t, find(recoveryplan.FlowUnplanned, "web1")[0].Blocker)
	unknown := find(recoveryplan.FlowPlanned, "web2")
	require.Len(t, unknown, 1)
	require.False(t, unknown[0].Blocker)
	require.True(t, strings.HasPrefix(unknown[0].Text, "unknown: "))
}

package networks

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Every conflict has a line here, and nothing is found where there is none.
func TestCheck(t *testing.T) {
	type world struct {
		m        Mapping
		machines []dr.Machine
		test     bool
		inv      Inventory
	}
	fine := func() world {
		target := End{Network: "prod", Subnet: "app", Prefixes: []netip.Prefix{prefix("10.2.0.0/24")}, Addresses: byPrefix("10.1.0.0/24", "10.2.0.0/24")}
		one := dr.Machine{ID: "m1", NICs: []dr.NIC{{ID: "n", MAC: "00:50:56:00:00:01", Network: "lan", Addresses: []string{"10.1.0.10/24"}}}}
		two := dr.Machine{ID: "m2", NICs: []dr.NIC{{ID: "n", MAC: "00:50:56:00:00:02", Network: "lan", Addresses: []string{"10.1.0.11/24"}}}}
		return world{
			m:        Mapping{Entries: []Entry{{Network: "lan", Target: target, Test: &End{Network: "drill"}}}},
			machines: []dr.Machine{one, two},
			inv: Inventory{Networks: []backend.Network{
				{Name: "prod", ID: "1", Complete: true, Hosts: []string{"h1"}, Subnets: []backend.Subnet{{Name: "app", Prefixes: []netip.Prefix{prefix("10.2.0.0/24")}, First: 4, Last: 1}}},
				{Name: "drill", ID: "2", Complete: true, Isolated: backend.Yes},
				{Name: "far", ID: "3", Complete: true, Hosts: []string{"h2"}},
			}},
		}
	}
	at := func(w *world, address string) { w.machines[0].NICs[0].Addresses[0] = address }
	target := func(w *world) *End { return &w.m.Entries[0].Target }
	for name, c := range map[string]struct {
		change  func(w *world)
		code    string
		blocker bool
		unknown bool
	}{
		"fine":            {change: func(*world) {}},
		"a fine drill":    {change: func(w *world) { w.test = true }},
		"invalid":         {change: func(w *world) { target(w).Network = ""; target(w).Subnet = "" }, code: CodeInvalid, blocker: true},
		"unmapped":        {change: func(w *world) { w.machines[0].NICs[0].Network = "wan" }, code: CodeUnmapped, blocker: true},
		"listing failed":  {change: func(w *world) { w.inv = Inventory{Err: errors.New("down")} }, code: CodeUnknown, unknown: true},
		"no such network": {change: func(w *world) { target(w).Network = "none" }, code: CodeNoNetwork, blocker: true},
		"two of the name": {change: func(w *world) { w.inv.Networks[2].Name = "prod" }, code: CodeAmbiguous, blocker: true},
		"no such subnet":  {change: func(w *world) { target(w).Subnet = "none" }, code: CodeNoSubnet, blocker: true},
		"another region":  {change: func(w *world) { w.inv.Networks[0].Unusable = "it is in region mars" }, code: CodeUnusable, blocker: true},
		"hosts without it": {change: func(w *world) {
			w.machines[1].NICs = append(w.machines[1].NICs, dr.NIC{ID: "x", Network: "back"})
			w.m.Entries = append(w.m.Entries, Entry{Network: "back", Target: End{Network: "far"}})
		}, code: CodeNoHost, blocker: true},
		"one address, two machines":   {change: func(w *world) { at(w, "10.1.0.11/24") }, code: CodeTwice, blocker: true},
		"one address, nothing listed": {change: func(w *world) { at(w, "10.1.0.11/24"); w.inv = Inventory{Err: errors.New("down")} }, code: CodeTwice, blocker: true},
		"outside of the subnet":       {change: func(w *world) { target(w).Addresses = byPrefix("10.1.0.0/24", "10.3.0.0/24") }, code: CodeOutside, blocker: true},
		"another prefix":              {change: func(w *world) { w.inv.Networks[0].Subnets[0].Prefixes[0] = prefix("10.2.0.0/16") }, code: CodeOutside, blocker: true},
		"Azure's first four":          {change: func(w *world) { at(w, "10.1.0.3/24") }, code: CodeReserved, blocker: true},
		"Azure's last":                {change: func(w *world) { at(w, "10.1.0.255/24") }, code: CodeReserved, blocker: true},
		"a gateway's":                 {change: func(w *world) { target(w).Gateways = []netip.Addr{addr("10.2.0.10")} }, code: CodeReserved, blocker: true},
		"used": {change: func(w *world) {
			w.inv.Networks[0].Used = []backend.Use{{Address: addr("10.2.0.10"), Machine: "printer"}}
		}, code: CodeUsed, blocker: true},
		"used by its own standby": {change: func(w *world) {
			w.inv.Networks[0].Used = []backend.Use{{Address: addr("10.2.0.10"), Machine: "standby"}}
			w.inv.Own = []dr.MachineID{"standby"}
		}},
		"use unknown":  {change: func(w *world) { w.inv.Networks[0].Complete = false }, code: CodeUsedUnknown, unknown: true},
		"full":         {change: func(w *world) { full(w.machines, &w.inv.Networks[0]); target(w).Addresses = Addresses{DHCP: true} }, code: CodeFull, blocker: true},
		"DHCP unknown": {change: func(w *world) { target(w).Addresses = Addresses{DHCP: true} }, code: CodeDHCPUnknown, unknown: true},
		"no DHCP": {change: func(w *world) {
			target(w).Addresses = Addresses{DHCP: true}
			w.inv.Networks[0].Subnets[0].DHCP = backend.No
		}, code: CodeDHCPUnknown, blocker: true},
		"guest has it inside":   {change: func(w *world) { w.inv.Networks[0].Subnets[0].DHCP = backend.Yes }, code: CodeGuestStatic},
		"one MAC, two machines": {change: func(w *world) { w.machines[1].NICs[0].MAC = "00:50:56:00:00:01"; target(w).MAC = backend.KeepMAC }, code: CodeMAC, blocker: true},
		"MAC used at the target": {change: func(w *world) {
			w.inv.Networks[2].Used = []backend.Use{{MAC: "00:50:56:00:00:01"}}
			target(w).MAC = backend.KeepMAC
		}, code: CodeMAC, blocker: true},
		"drill in production":            {change: func(w *world) { w.test = true; w.m.Entries[0].Test.Network = "prod/app" }, code: CodeTestIsTarget, blocker: true},
		"drill peered to production":     {change: func(w *world) { w.test = true; w.inv.Networks[1].Reaches = []string{"1"} }, code: CodeTestReaches, blocker: true},
		"drill connected to the outside": {change: func(w *world) { w.test = true; w.inv.Networks[1].Isolated = backend.No }, code: CodeTestConnected},
		"drill's isolation unknown":      {change: func(w *world) { w.test = true; w.inv.Networks[1].Isolated = backend.Unknown }, code: CodeTestUnknown, unknown: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := fine()
			c.change(&w)
			found := Check(w.m, w.machines, w.test, w.inv)
			if c.code == "" {
				require.Empty(t, found)
				return
			}
			hit := 0
			for _, f := range found {
				require.NotEmpty(t, f.Text)
				require.NotEmpty(t, f.Remedy)
				if f.Code == c.code {
					hit++
					require.Equal(t, c.blocker, f.Blocker, f.Text)
					require.Equal(t, c.unknown, f.Unknown, f.Text)
				} else if c.code != CodeOutside && c.code != CodeTwice {
					require.Equal(t, c.code, f.Code, "nothing else is the matter: %s", f.Text)
				}
			}
			require.Positive(t, hit, "%+v", found)
		})
	}
}

// full leaves one address for two machines.
func full(_ []dr.Machine, n *backend.Network) {
	n.Subnets[0].Prefixes[0], n.Subnets[0].DHCP = prefix("10.2.0.0/29"), backend.Yes
	n.Used = []backend.Use{{Address: addr("10.2.0.4")}, {Address: addr("10.2.0.5")}}
}

func TestLookTellsWhatItCannot(t *testing.T) {
	require.ErrorIs(t, Look(t.Context(), memory.New(memory.Options{NoNetworks: true})).Err, dr.ErrUnsupported)
	b := memory.New(memory.Options{})
	require.ErrorIs(t, Look(t.Context(), b).Err, dr.ErrUnsupported, "nobody said which there are")
	b.SetNetworks(backend.Network{Name: "prod", ID: "1"})
	inv := Look(t.Context(), b, "standby")
	require.NoError(t, inv.Err)
	require.Equal(t, Inventory{Networks: []backend.Network{{Name: "prod", ID: "1"}}, Own: []dr.MachineID{"standby"}}, inv)
	b.FailNext(memory.OpNetworks, errors.New("down"))
	require.ErrorContains(t, Look(t.Context(), b).Err, "down")
}

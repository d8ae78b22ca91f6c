package networks_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/backend/vmware"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/networks"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// From vSphere to Azure and back: the machine gets its mapped address there, and
// its own one at home, where it is built again.
func TestAddressesGoOutAndComeHome(t *testing.T) {
	prefix := netip.MustParsePrefix
	sim := vmwaretest.New(t, vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{{Name: "DC0", Hosts: []string{"esx-0"}, Datastores: []vmwaretest.Datastore{{Name: "vmfs-0"}}, Networks: []string{"lan"}}}})
	const id = "11111111-2222-3333-4444-555555555555"
	_, err := sim.AddVM(vmwaretest.VMSpec{Name: "web", InstanceUUID: id, GuestID: "debian12_64Guest", Disks: []vmwaretest.DiskSpec{{Size: 4 << 20}}, NICs: []vmwaretest.NICSpec{{Network: "lan"}},
		Guest: vmwaretest.Guest{NICs: []vmwaretest.GuestNIC{{Addresses: []netip.Prefix{prefix("10.1.0.7/24")}}}}})
	require.NoError(t, err)
	home, err := vmware.Open(t.Context(), vmware.Options{URL: sim.URL, Insecure: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = home.Close(t.Context()) })

	cloud := azuretest.New(azuretest.Options{})
	t.Cleanup(cloud.Close)
	cloud.ResourceGroup("dr")
	cloud.Network("dr", "prod", map[string]string{"app": "10.2.0.0/24"})
	staging, err := cloud.Blobs().Container(t.Context(), "staging", "lifeboat")
	require.NoError(t, err)
	away, err := azure.Open(azure.Options{Subscription: cloud.Subscription(), Credential: cloud.Credential(), ARM: cloud.ClientOptions(), ResourceGroup: "dr", Location: cloud.Location(), Staging: staging,
		StorageAccount: "/subscriptions/" + cloud.Subscription() + "/resourceGroups/dr/providers/Microsoft.Storage/storageAccounts/staging", Poll: time.Millisecond})
	require.NoError(t, err)

	m := networks.Mapping{From: "home", To: "azure", Entries: []networks.Entry{{Network: "lan", Target: networks.End{Network: "prod", Subnet: "app",
		Addresses: networks.Addresses{Prefixes: []networks.PrefixMap{{From: prefix("10.1.0.0/24"), To: prefix("10.2.0.0/24")}}}}}}}
	move := func(m networks.Mapping, machine dr.Machine, to backend.Backend) dr.Machine {
		for _, f := range networks.Check(m, []dr.Machine{machine}, false, networks.Look(t.Context(), to)) {
			// The machine at home still runs: it has its address itself.
			require.True(t, !f.Blocker || f.Code == networks.CodeUsed && m.To == "home", "%+v", f)
		}
		w, err := m.Resolve(machine, false)
		require.NoError(t, err)
		r, err := to.Prepare(t.Context(), backend.Placement{Key: "k", Machine: machine, Networks: w.Networks, Cards: w.Cards})
		require.NoError(t, err)
		require.NoError(t, to.Start(t.Context(), r.ID))
		got, err := to.Machine(t.Context(), r.ID)
		require.NoError(t, err)
		require.Len(t, got.NICs, 1)
		return got
	}
	at, err := home.Machine(t.Context(), id)
	require.NoError(t, err)
	there := move(m, at, away)
	require.Equal(t, "prod/app", there.NICs[0].Network)
	require.Equal(t, []string{"10.2.0.7"}, there.NICs[0].Addresses)
	require.False(t, there.NICs[0].DHCP)
	back, err := m.Reverse()
	require.NoError(t, err)
	there.OS = "linux" // a point records what the source knew
	again := move(back, there, home)
	require.Equal(t, "lan", again.NICs[0].Network)
	require.Equal(t, []string{"10.1.0.7/24"}, again.NICs[0].Addresses)
}

// A failover carries the cards to the platform.
func TestAFailoverPassesCardsOn(t *testing.T) {
	end := func(name string) (roundtriptest.End, *memory.Backend) {
		b := memory.New(memory.Options{Site: name})
		return roundtriptest.End{Harness: backendtest.Simulated(b, b), Name: name}, b
	}
	home, _ := end("home")
	far, b := end("far")
	tr := roundtriptest.New(t, home, far)
	tr.Must(replication.Protect(tr.Record()))
	tr.Cycle()
	at, err := home.Backend.Machine(t.Context(), tr.Machine)
	require.NoError(t, err)
	m := networks.Mapping{Entries: []networks.Entry{{Network: "production", Target: networks.End{Network: "recovery"}}},
		Cards: []networks.CardRule{{Machine: at.Name, Card: "0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.2.0.7/24")}}}}
	w, err := m.Resolve(at, false)
	require.NoError(t, err)
	tr.Must(failover.Planned(tr.Record(), failover.Options{Where: w}))
	got, err := b.Machine(t.Context(), tr.Record().Active.Machine)
	require.NoError(t, err)
	require.Equal(t, "recovery", got.NICs[0].Network)
	require.Equal(t, []string{"10.2.0.7/24"}, got.NICs[0].Addresses)
}

package azure_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// at is where a card ended up.
type at struct {
	subnet, address string
	dynamic         bool
}

func (r *rig) at(t testing.TB, card armnetwork.Interface) at {
	t.Helper()
	p := card.Properties.IPConfigurations[0].Properties
	parts := strings.Split(strings.Trim(*p.Subnet.ID, "/"), "/")
	return at{parts[3] + "/" + parts[7] + "/" + parts[9], *p.PrivateIPAddress, *p.PrivateIPAllocationMethod == armnetwork.IPAllocationMethodDynamic}
}

func TestCards(t *testing.T) {
	static := func(network string, addresses ...string) dr.NIC {
		return dr.NIC{ID: "nic-" + network, Network: network, Addresses: addresses}
	}
	dhcp := dr.NIC{ID: "nic-lan", Network: "lan", Addresses: []string{"10.1.0.20"}, DHCP: true}
	sub := "/subscriptions/6b9f2e4c-3a51-4f0d-9c1e-2d7a80b4c5d6/resourceGroups/production/providers/Microsoft.Network/virtualNetworks/prod/subnets/default"
	for _, c := range []struct {
		name     string
		nics     []dr.NIC
		networks map[string]string
		isolated bool
		o        azure.PlacementOptions
		change   func(*azure.Options)
		want     []at
		refused  string // what the refusal says
	}{
		{name: "by name", nics: []dr.NIC{static("lan", "10.2.0.30")}, networks: map[string]string{"lan": "prod/app"}, want: []at{{"lifeboat/prod/app", "10.2.0.30", false}}},
		{name: "by group", nics: []dr.NIC{dhcp}, networks: map[string]string{"lan": "production/prod/default"}, want: []at{{"production/prod/default", "10.1.0.4", true}}},
		{name: "by resource ID", nics: []dr.NIC{dhcp}, networks: map[string]string{"lan": sub}, want: []at{{"production/prod/default", "10.1.0.4", true}}},
		{name: "mapped nowhere", nics: []dr.NIC{static("lan", "10.1.0.30/16")}, want: []at{{"lifeboat/prod/default", "10.1.0.30", false}}},
		{name: "mapped nowhere, placement's network", nics: []dr.NIC{static("lan", "10.1.0.30")}, o: azure.PlacementOptions{Network: "prod/app"}, want: []at{{"lifeboat/prod/app", "10.2.0.4", true}}},
		{name: "mapped nowhere, no default", nics: []dr.NIC{dhcp}, change: func(o *azure.Options) { o.Network = "" }, refused: "nothing says where card nic-lan"},
		{name: "no card", want: []at{{"lifeboat/prod/default", "10.1.0.4", true}}},
		{name: "left out", nics: []dr.NIC{static("lan", "10.1.0.30"), static("backup", "10.1.0.31")}, networks: map[string]string{"lan": ""}, want: []at{{"lifeboat/prod/default", "10.1.0.31", false}}},
		{name: "all left out", nics: []dr.NIC{static("lan", "10.1.0.30")}, networks: map[string]string{"lan": ""}, refused: "one card at least"},
		{name: "dynamic", nics: []dr.NIC{dhcp}, want: []at{{"lifeboat/prod/default", "10.1.0.4", true}}},
		{name: "address of another subnet", nics: []dr.NIC{static("lan", "192.168.7.7")}, want: []at{{"lifeboat/prod/default", "10.1.0.4", true}}},
		{name: "the address that the subnet has", nics: []dr.NIC{static("lan", "fe80::1", "192.168.7.7", "10.1.3.4/24")}, want: []at{{"lifeboat/prod/default", "10.1.3.4", false}}},
		{name: "address that Azure keeps", nics: []dr.NIC{static("lan", "10.1.0.1")}, want: []at{{"lifeboat/prod/default", "10.1.0.4", false}}},
		{name: "address taken", nics: []dr.NIC{static("lan", "10.1.0.9")}, want: []at{{"lifeboat/prod/default", "10.1.0.4", false}}},
		{name: "several cards", nics: []dr.NIC{static("lan", "10.1.0.30"), static("app", "10.2.0.30")}, networks: map[string]string{"app": "prod/app"},
			want: []at{{"lifeboat/prod/default", "10.1.0.30", false}, {"lifeboat/prod/app", "10.2.0.30", false}}},
		{name: "two cards of one address", nics: []dr.NIC{static("lan", "10.1.0.30"), static("lan2", "10.1.0.30")},
			want: []at{{"lifeboat/prod/default", "10.1.0.30", false}, {"lifeboat/prod/default", "10.1.0.4", false}}},
		{name: "several networks", nics: []dr.NIC{static("lan", "10.1.0.30"), static("app", "10.1.0.31")}, networks: map[string]string{"app": "production/prod/default"}, refused: "one virtual network"},
		{name: "by address", nics: []dr.NIC{dhcp}, o: azure.PlacementOptions{Addresses: map[string]string{"nic-lan": "10.1.9.9"}}, want: []at{{"lifeboat/prod/default", "10.1.9.9", false}}},
		{name: "by address, dynamic", nics: []dr.NIC{static("lan", "10.1.0.30")}, o: azure.PlacementOptions{Addresses: map[string]string{"nic-lan": ""}}, want: []at{{"lifeboat/prod/default", "10.1.0.4", true}}},
		{name: "by address, of another subnet", nics: []dr.NIC{dhcp}, o: azure.PlacementOptions{Addresses: map[string]string{"nic-lan": "10.7.9.9"}}, refused: "10.7.9.9"},
		{name: "by address, taken", nics: []dr.NIC{dhcp}, o: azure.PlacementOptions{Addresses: map[string]string{"nic-lan": "10.1.0.9"}}, refused: "10.1.0.9"},
		{name: "by address, of no card", nics: []dr.NIC{dhcp}, o: azure.PlacementOptions{Addresses: map[string]string{"nic-wan": "10.1.9.9"}}, refused: "nic-wan"},
		{name: "by address, another family", nics: []dr.NIC{dhcp}, o: azure.PlacementOptions{Addresses: map[string]string{"nic-lan": "2001:db8::1"}}, refused: "2001:db8::1"},
		{name: "no such subnet", nics: []dr.NIC{dhcp}, networks: map[string]string{"lan": "prod/none"}, refused: "subnet none"},
		{name: "no network's name", nics: []dr.NIC{dhcp}, networks: map[string]string{"lan": "prod"}, refused: "vnet/subnet"},
		{name: "a resource ID of something else", nics: []dr.NIC{dhcp}, networks: map[string]string{"lan": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/prod"}, refused: "no resource ID of a subnet"},
		{name: "no such security group", nics: []dr.NIC{dhcp}, o: azure.PlacementOptions{SecurityGroup: "none"}, refused: "none"},

		{name: "drill, the same subnet's name", nics: []dr.NIC{static("lan", "10.2.0.30")}, networks: map[string]string{"lan": "prod/app"}, isolated: true, want: []at{{"lifeboat/drill/app", "10.2.0.30", false}}},
		{name: "drill, the first by name", nics: []dr.NIC{static("lan", "10.1.0.30")}, isolated: true, want: []at{{"lifeboat/drill/aaa", "10.9.0.4", true}}},
		{name: "drill, left out", nics: []dr.NIC{static("lan", "10.1.0.30"), dhcp}, networks: map[string]string{"lan": ""}, isolated: true, refused: "one card at least"},
		{name: "drill, placement's network", nics: []dr.NIC{static("lan", "10.1.0.30")}, o: azure.PlacementOptions{Network: "production/prod"}, isolated: true, want: []at{{"production/prod/default", "10.1.0.30", false}}},
		{name: "drill, no network", nics: []dr.NIC{static("lan", "10.1.0.30")}, isolated: true, change: func(o *azure.Options) { o.DrillNetwork = "" }, refused: "isolates"},
		{name: "drill, mapped", nics: []dr.NIC{static("lan", "10.9.0.30")}, networks: map[string]string{"lan": "drill/aaa"}, isolated: true, change: func(o *azure.Options) { o.DrillNetwork = "" }, want: []at{{"lifeboat/drill/aaa", "10.9.0.30", false}}},
		{name: "drill, no such network", nics: []dr.NIC{dhcp}, o: azure.PlacementOptions{Network: "none"}, isolated: true, refused: "network none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, azuretest.Options{})
			if c.change != nil {
				c.change(&r.opts)
				r.a = r.open(t)
			}
			r.holdAddress(t, "10.1.0.9")
			before := r.cloud.Resources()
			m := web()
			m.NICs = c.nics
			place := func(p *backend.Placement) {
				options(c.o)(p)
				p.Networks, p.Isolated = c.networks, c.isolated
			}
			id, err := r.prepare(t, "k", m, place)
			if c.refused != "" {
				require.ErrorContains(t, err, c.refused)
				require.Equal(t, before, r.cloud.Resources())
				_, err := r.inventory(t)
				require.NoError(t, err)
				return
			}
			require.NoError(t, err)
			require.NoError(t, r.a.Start(context.Background(), id))
			var got []at
			for _, card := range r.cardsOf(t, id) {
				got = append(got, r.at(t, card))
			}
			require.Equal(t, c.want, got)
			require.NoError(t, r.a.Remove(context.Background(), id))
			require.Equal(t, before, r.cloud.Resources())
		})
	}
}

// holdAddress gives an address of the network to a card of somebody else.
func (r *rig) holdAddress(t testing.TB, address string) {
	t.Helper()
	ctx := context.Background()
	f := r.network(t)
	s, err := f.NewSubnetsClient().Get(ctx, group, "prod", "default", nil)
	require.NoError(t, err)
	p, err := f.NewInterfacesClient().BeginCreateOrUpdate(ctx, group, "theirs-"+strings.ReplaceAll(address, ".", "-"), armnetwork.Interface{Location: to.Ptr(r.cloud.Location()),
		Properties: &armnetwork.InterfacePropertiesFormat{IPConfigurations: []*armnetwork.InterfaceIPConfiguration{{Name: to.Ptr("ip"),
			Properties: &armnetwork.InterfaceIPConfigurationPropertiesFormat{Subnet: &armnetwork.Subnet{ID: s.ID},
				PrivateIPAllocationMethod: to.Ptr(armnetwork.IPAllocationMethodStatic), PrivateIPAddress: &address}}}}}, nil)
	require.NoError(t, err)
	_, err = p.PollUntilDone(ctx, nil)
	require.NoError(t, err)
}

// The address is taken after Azure has said that it is free.
func TestAddressTakenMeanwhile(t *testing.T) {
	for _, kept := range []bool{false, true} {
		r := newRig(t, azuretest.Options{})
		m := web()
		o := azure.PlacementOptions{}
		if kept {
			o.Addresses = map[string]string{"nic0": "10.1.0.20"}
		}
		id, err := r.prepare(t, "k", m, options(o))
		require.NoError(t, err)
		var once sync.Once
		r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
			if c.Method == "PUT" && strings.HasSuffix(c.Path, "/networkInterfaces/web-nic0") {
				once.Do(func() { r.holdAddress(t, "10.1.0.20") })
			}
			return nil
		})
		err = r.a.Start(context.Background(), id)
		r.cloud.OnCall(nil)
		if kept {
			require.ErrorContains(t, err, "PrivateIPAddressInUse")
			require.Contains(t, remedy(t, err), "addresses")
			require.NotContains(t, remedy(t, err), "tried again with the next")
		} else {
			require.NoError(t, err)
			require.Equal(t, at{"lifeboat/prod/default", "10.1.0.4", false}, r.at(t, r.cardsOf(t, id)[0]))
		}
		require.NoError(t, r.a.Remove(context.Background(), id))
	}
}

// A card of the name is somebody else's: it is neither taken nor deleted.
func TestCardOfSomebodyElse(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	id, err := r.prepare(t, "k", web())
	require.NoError(t, err)
	ctx := context.Background()
	f := r.network(t)
	s, err := f.NewSubnetsClient().Get(ctx, group, "prod", "default", nil)
	require.NoError(t, err)
	p, err := f.NewInterfacesClient().BeginCreateOrUpdate(ctx, group, "web-nic0", armnetwork.Interface{Location: to.Ptr(r.cloud.Location()), Properties: &armnetwork.InterfacePropertiesFormat{
		IPConfigurations: []*armnetwork.InterfaceIPConfiguration{{Name: to.Ptr("ip"), Properties: &armnetwork.InterfaceIPConfigurationPropertiesFormat{Subnet: &armnetwork.Subnet{ID: s.ID}}}}}}, nil)
	require.NoError(t, err)
	_, err = p.PollUntilDone(ctx, nil)
	require.NoError(t, err)
	require.ErrorIs(t, r.a.Start(ctx, id), dr.ErrExists)
	require.NoError(t, r.a.Remove(ctx, id))
	_, err = f.NewInterfacesClient().Get(ctx, group, "web-nic0", nil)
	require.NoError(t, err)
}

// What is mapped to another subnet between two attempts is moved there.
func TestCardsAfterAnotherPlacement(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	id, err := r.prepare(t, "k", web())
	require.NoError(t, err)
	r.cloud.FailLRO(func(c azuretest.Call) string {
		if c.Method == "PUT" && strings.Contains(c.Path, "/virtualMachines/") {
			return "AllocationFailed"
		}
		return ""
	})
	require.ErrorContains(t, r.a.Start(context.Background(), id), "AllocationFailed")
	r.cloud.FailLRO(nil)
	m := web()
	m.NICs = nil
	raw, err := json.Marshal(azure.PlacementOptions{Network: "prod/app"})
	require.NoError(t, err)
	_, err = r.prepare(t, "k", m, func(p *backend.Placement) { p.Options = raw })
	require.NoError(t, err)
	require.NoError(t, r.a.Start(context.Background(), id))
	require.Equal(t, "lifeboat/prod/app", r.at(t, r.cardsOf(t, id)[0]).subnet)
}

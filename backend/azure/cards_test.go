package azure_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// What a placement's card asks for is there when the machine runs, or nothing is
// made at all.
func TestCardsOfAPlacement(t *testing.T) {
	app := func(s ...string) backend.Card {
		c := backend.Card{Network: "prod", Subnet: "app"}
		for _, p := range s {
			c.Addresses = append(c.Addresses, netip.MustParsePrefix(p))
		}
		return c
	}
	for name, c := range map[string]struct {
		card     backend.Card
		o        azure.PlacementOptions
		isolated bool
		want     dr.NIC
		refused  string
	}{
		"address":                  {card: app("10.2.0.30/24"), want: dr.NIC{Network: "prod/app", Addresses: []string{"10.2.0.30"}}},
		"DHCP":                     {card: backend.Card{Network: "prod/app", DHCP: true}, want: dr.NIC{Network: "prod/app", Addresses: []string{"10.2.0.4"}, DHCP: true}},
		"in the drill's network":   {card: backend.Card{Network: "drill", Subnet: "aaa"}, isolated: true, want: dr.NIC{Network: "drill/aaa", Addresses: []string{"10.9.0.4"}, DHCP: true}},
		"the drill's subnet":       {card: backend.Card{Network: "drill", Subnet: "app"}, isolated: true, want: dr.NIC{Network: "drill/app", Addresses: []string{"10.2.0.4"}, DHCP: true}},
		"a drill in production":    {card: app("10.2.0.30/24"), isolated: true, refused: "drills go to"},
		"another prefix":           {card: app("10.2.0.30/25"), refused: "card nic-lan"},
		"outside":                  {card: app("10.7.0.30/24"), refused: "card nic-lan"},
		"IPv6":                     {card: app("2001:db8::1/64"), refused: "IPv4"},
		"two addresses":            {card: app("10.2.0.30/24", "10.2.0.31/24"), refused: "card nic-lan"},
		"taken":                    {card: backend.Card{Network: "prod", Subnet: "default", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.9/16")}}, refused: "10.1.0.9"},
		"DNS":                      {card: backend.Card{Network: "prod/app", DNS: []netip.Addr{netip.MustParseAddr("10.2.0.2")}}, refused: "DNS"},
		"its MAC":                  {card: backend.Card{Network: "prod/app", MAC: backend.KeepMAC}, refused: "hardware address"},
		"said by an option, too":   {card: app("10.2.0.30/24"), o: azure.PlacementOptions{Addresses: map[string]string{"nic-lan": "10.2.0.31"}}, refused: "both say"},
		"unconnected, the only":    {card: backend.Card{Unconnected: true}, refused: "one card at least"},
		"another subnet's gateway": {card: backend.Card{Network: "prod", Subnet: "app", Addresses: []netip.Prefix{netip.MustParsePrefix("10.2.0.30/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.2.0.1")}}, refused: "gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, azuretest.Options{})
			r.holdAddress(t, "10.1.0.9")
			before := r.cloud.Resources()
			m := web()
			m.NICs = []dr.NIC{{ID: "nic-lan", Network: "lan", Addresses: []string{"192.168.7.7"}, DHCP: c.want.DHCP}}
			id, err := r.prepare(t, "k", m, func(p *backend.Placement) {
				options(c.o)(p)
				p.Cards, p.Isolated = map[string]backend.Card{"nic-lan": c.card}, c.isolated
			})
			if c.refused != "" {
				require.ErrorContains(t, err, c.refused)
				require.Equal(t, before, r.cloud.Resources())
				return
			}
			require.NoError(t, err)
			require.NoError(t, r.a.Start(context.Background(), id))
			got, err := r.a.Machine(t.Context(), id)
			require.NoError(t, err)
			require.Len(t, got.NICs, 1)
			c.want.ID, c.want.MAC = got.NICs[0].ID, got.NICs[0].MAC
			require.Equal(t, c.want, got.NICs[0])
			nets, err := r.a.Networks(t.Context())
			require.NoError(t, err)
			found := false
			for _, n := range nets {
				for _, u := range n.Used {
					found = found || u.Machine == id && u.Address.String() == c.want.Addresses[0]
				}
			}
			require.True(t, found, "the listing knows who has the address: %+v", nets)
		})
	}
}

func TestNetworksAreListed(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	r.holdAddress(t, "10.1.0.9")
	nets, err := r.a.Networks(t.Context())
	require.NoError(t, err)
	require.Len(t, nets, 3)
	require.Equal(t, []string{"drill", "prod", sources + "/prod"}, []string{nets[0].Name, nets[1].Name, nets[2].Name})
	require.True(t, nets[1].Complete)
	require.Equal(t, netip.MustParseAddr("10.1.0.9"), nets[1].Used[0].Address)
	require.Len(t, nets[1].Subnets, 2)
	require.Equal(t, 4, nets[1].Subnets[0].First)
	require.Empty(t, nets[1].Unusable)
	r.opts.Location = "mars"
	nets, err = r.open(t).Networks(t.Context())
	require.NoError(t, err)
	require.Contains(t, nets[0].Unusable, "mars")
}

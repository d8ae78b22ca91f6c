package vmware

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestCardsAreToldToTheGuest(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	w := newVCenter(t, vmwaretest.Options{})
	v := connect(t, w.o)
	m := dr.Machine{ID: "elsewhere", Name: "web", OS: "linux", Disks: []dr.Disk{{ID: "os", Size: 1 << 20, Boot: true}},
		NICs: []dr.NIC{{ID: "a", Network: "lan", MAC: "00:50:56:00:00:77", Addresses: []string{"10.1.0.7/24"}}}}
	card := backend.Card{Network: "production", Addresses: []netip.Prefix{prefix("10.2.0.7/24")}, Gateways: []netip.Addr{addr("10.2.0.1")}, DNS: []netip.Addr{addr("10.2.0.9"), addr("10.2.0.2")}, MAC: backend.NewMAC}
	place := func(key string, c backend.Card) backend.Placement {
		return backend.Placement{Key: key, Machine: m, Cards: map[string]backend.Card{"a": c}}
	}
	r, err := v.Prepare(t.Context(), place("k", card))
	require.NoError(t, err)
	guest := func() *guestNet {
		x, err := v.find(t.Context(), r.ID)
		require.NoError(t, err)
		require.NotEqual(t, m.NICs[0].MAC, x.facts(nil).describe().NICs[0].MAC)
		return x.record.Guest
	}
	want := &guestNet{Host: "web", Domain: "localdomain", DNS: []string{"10.2.0.9", "10.2.0.2"}, Cards: []guestCard{{ID: "a", Addresses: []string{"10.2.0.7/24"}, Gateways: []string{"10.2.0.1"}}}}
	require.Equal(t, want, guest())

	// Asked again with another address it is told that one.
	card.Addresses = []netip.Prefix{prefix("10.2.0.8/24")}
	_, err = v.Prepare(t.Context(), place("k", card))
	require.NoError(t, err)
	want.Cards[0].Addresses = []string{"10.2.0.8/24"}
	require.Equal(t, want, guest())

	// And with another network it goes there, and stays whole.
	elsewhere := card
	elsewhere.Network = "isolated"
	for _, c := range []backend.Card{elsewhere, card} {
		again, err := v.Prepare(t.Context(), place("k", c))
		require.NoError(t, err)
		require.Equal(t, r, again)
		got, err := v.Machine(t.Context(), r.ID)
		require.NoError(t, err)
		require.Equal(t, c.Network, got.NICs[0].Network)
	}
	require.NoError(t, v.Start(t.Context(), r.ID))
	require.Nil(t, guest())
	require.NoError(t, v.Stop(t.Context(), r.ID))

	// An original, too, when it comes home.
	o := place("", card)
	o.Original, o.Machine.Disks = r.ID, nil
	_, err = v.Prepare(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, want.Cards, guest().Cards)

	m.OS = "windows"
	_, err = v.Prepare(t.Context(), place("w", card))
	require.ErrorIs(t, err, dr.ErrUnsupported)
	_, err = v.Prepare(t.Context(), place("w", backend.Card{Network: "production", Addresses: []netip.Prefix{prefix("10.1.0.7/24")}}))
	require.NoError(t, err, "what the guest has inside needs no telling")
	_, err = v.Prepare(t.Context(), place("x", backend.Card{Network: "production", Subnet: "app"}))
	require.ErrorIs(t, err, dr.ErrUnsupported)
	p := place("x", backend.Card{Network: "production", MAC: backend.KeepMAC})
	_, err = v.Prepare(t.Context(), p)
	require.ErrorIs(t, err, dr.ErrInvalid, "machine w has it")
	p.Cards["a"] = card
	p.Options = []byte(`{"gateways":{"a":["10.1.0.1"]}}`)
	_, err = v.Prepare(t.Context(), p)
	require.ErrorIs(t, err, dr.ErrInvalid)
}

func TestNetworksAreListed(t *testing.T) {
	w := newVCenter(t, vmwaretest.Options{})
	_, err := w.sim.AddVM(vmwaretest.VMSpec{Name: "web", InstanceUUID: "11111111-2222-3333-4444-555555555555", Disks: []vmwaretest.DiskSpec{{Size: 1 << 20}},
		NICs:  []vmwaretest.NICSpec{{Network: "production", MAC: "00:50:56:00:00:01"}},
		Guest: vmwaretest.Guest{NICs: []vmwaretest.GuestNIC{{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24")}}}}})
	require.NoError(t, err)
	nets, err := connect(t, w.o).Networks(t.Context())
	require.NoError(t, err)
	byName := map[string]backend.Network{}
	for _, n := range nets {
		byName[n.Name] = n
	}
	require.Contains(t, byName, "isolated")
	n := byName["production"]
	require.Len(t, n.Hosts, 2)
	require.Contains(t, n.Aliases, "/DC0/network/production")
	require.False(t, n.Complete)
	require.Equal(t, backend.Unknown, n.Isolated)
	require.Equal(t, []backend.Use{{Address: netip.MustParseAddr("10.0.0.7"), MAC: "00:50:56:00:00:01", Machine: "11111111-2222-3333-4444-555555555555", By: "machine web"}}, n.Used)
}

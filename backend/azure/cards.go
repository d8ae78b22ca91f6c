package azure

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Azure's DHCP gives a card its address, a static one too: what stands behind an
// address is the subnet's matter. So of a placement's cards these are honoured:
// network, subnet, one IPv4 address, DHCP. The rest is refused.

// checkCard refuses what Azure can't do of a card.
func checkCard(c backend.Card, id string, o PlacementOptions) error {
	refuse := func(what, remedy string) error {
		return remedied(fmt.Errorf("%w: card %s: %s", dr.ErrUnsupported, id, what), remedy)
	}
	if _, twice := o.Addresses[id]; twice && c.Addressing() {
		return remedied(fmt.Errorf("%w: card %s: the placement's cards and its option addresses both say what its address is", dr.ErrInvalid, id), "say it in one place")
	}
	switch {
	case len(c.Gateways) > 0:
		return refuse("Azure's subnets have their own gateway", "leave it out, and route by the subnet's route table")
	case len(c.DNS)+len(c.Search) > 0:
		return refuse("DNS servers can't be set of a card here", "set them of the virtual network")
	case c.MAC == backend.KeepMAC:
		return refuse("Azure gives every card a hardware address of its own", "leave mac out")
	case len(c.Addresses) > 1:
		return refuse("it should have several addresses, and one can be given", "add the others by a step of your own")
	case len(c.Addresses) == 1 && !c.Addresses[0].Addr().Is4():
		return refuse(fmt.Sprintf("address %s, and one of IPv4 can be given", c.Addresses[0]), "add it by a step of your own")
	}
	return nil
}

// honour gives the card that is to be made what was asked of it. A drill's card
// that was asked for elsewhere than in the drill's network is refused.
func (a *Azure) honour(c *card, asked backend.Card) error {
	if asked.Network != "" {
		name := asked.Network
		if asked.Subnet != "" {
			name += "/" + asked.Subnet
		}
		vnet, subnet, err := a.subnetRef(name)
		if err != nil {
			return err
		}
		if parts := strings.Split(c.Subnet, "/"); !strings.EqualFold(vnet.name, c.VNet.name) || !strings.EqualFold(vnet.group, c.VNet.group) || !strings.EqualFold(parts[len(parts)-1], subnet) {
			return remedied(fmt.Errorf("%w: card %s is to go to %s, and drills go to network %s", dr.ErrInvalid, c.ID, name, c.VNet.name), "map it to a subnet of the drill's network, or change Options.DrillNetwork")
		}
	}
	switch {
	case asked.DHCP:
		c.Address, c.Keep = "", false
	case len(asked.Addresses) == 1:
		want := asked.Addresses[0]
		c.Address, c.Keep = want.Addr().String(), true
		if !slices.ContainsFunc(c.ranges, func(p netip.Prefix) bool { return p == want.Masked() }) {
			return remedied(fmt.Errorf("%w: card %s should have the address %s, and its subnet is %s", dr.ErrInvalid, c.ID, want, c.ranges), "choose an address of the subnet, with the length of its prefix")
		}
	}
	return nil
}

// ownAddresses refuses to give a machine that is there other addresses.
func (a *Azure) ownAddresses(ctx context.Context, m *machine, p backend.Placement) error {
	asks := slices.ContainsFunc(p.Machine.NICs, func(n dr.NIC) bool { return p.Cards[n.ID].Addressing() })
	if !asks || m.vm == nil {
		return nil
	}
	have, err := a.cards(ctx, m)
	if err != nil {
		return err
	}
	for _, n := range p.Machine.NICs {
		c := p.Cards[n.ID]
		i := slices.IndexFunc(have, func(h dr.NIC) bool { return h.ID == n.ID })
		if c.Addressing() && (i < 0 || !c.Satisfied(have[i])) {
			return remedied(fmt.Errorf("%w: card %s: the machine keeps the addresses that its cards have", dr.ErrUnsupported, n.ID), "change them at Azure, or leave them out")
		}
	}
	return nil
}

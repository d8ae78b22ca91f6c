package backend

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Card says how one card of a placement's machine is connected, and which
// addresses its guest has there. What it leaves zero is as without it: the
// network as Placement.Networks says, the addresses as the backend and its
// Options do by themselves. No card is ever given a public address.
//
// What each platform can do is its own matter, told by its Prepare: a platform
// can have its DHCP give a card the address (Azure), or write it into the guest
// (vSphere: Linux only). What it can't do it refuses.
type Card struct {
	// Network is what the card is connected to, in the platform's words, in
	// place of Placement.Networks. Subnet is one of the network's by name,
	// where a platform's networks have subnets; it needs a Network.
	Network string `json:"network,omitempty"`
	Subnet  string `json:"subnet,omitempty"`
	// Unconnected leaves the card without a network. Nothing else may be set.
	Unconnected bool `json:"unconnected,omitempty"`

	// Addresses are the guest's static ones, with the length of the subnet's
	// prefix. DHCP has the guest ask for one; not both.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	DHCP      bool           `json:"dhcp,omitempty"`
	// Gateways, DNS servers and domains to Search that go with Addresses. On
	// a platform whose DHCP gives out static addresses too they are the
	// subnet's matter, and refused here.
	Gateways []netip.Addr `json:"gateways,omitempty"`
	DNS      []netip.Addr `json:"dns,omitempty"`
	Search   []string     `json:"search,omitempty"`

	// MAC is which hardware address a card gets that is made.
	MAC MAC `json:"mac,omitempty"`
}

// MAC is which hardware address a card gets. The zero value leaves it to the
// backend.
type MAC string

// Hardware addresses. A drill's card can't keep one: it would meet its original.
const (
	KeepMAC MAC = "keep" // the source card's
	NewMAC  MAC = "new"
)

// Addressing tells whether c says anything of what the guest has inside.
func (c Card) Addressing() bool {
	return c.DHCP || len(c.Addresses)+len(c.Gateways)+len(c.DNS)+len(c.Search) > 0
}

// Validate refuses with dr.ErrInvalid what makes sense on no platform.
func (c Card) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", dr.ErrInvalid, fmt.Sprintf(format, args...))
	}
	switch {
	case c.Unconnected && (c.Network != "" || c.Subnet != "" || c.MAC != "" || c.Addressing()):
		return bad("it is to be unconnected, and more is said of it")
	case c.Subnet != "" && c.Network == "":
		return bad("subnet %q of no network", c.Subnet)
	case c.DHCP && len(c.Addresses)+len(c.Gateways) > 0:
		return bad("both DHCP and addresses or gateways of its own")
	case c.MAC != "" && c.MAC != KeepMAC && c.MAC != NewMAC:
		return bad("mac %q; there are %q and %q", c.MAC, KeepMAC, NewMAC)
	case len(c.Gateways) > 0 && len(c.Addresses) == 0:
		return bad("gateways without an address")
	}
	for i, p := range c.Addresses {
		switch a := p.Addr(); {
		case !p.IsValid(), !usable(a):
			return bad("address %q: want one of a host, with the length of its prefix: \"10.0.0.5/24\"", p)
		case slices.ContainsFunc(c.Addresses[:i], func(q netip.Prefix) bool { return q.Addr() == a }):
			return bad("address %s twice", a)
		}
	}
	for _, a := range c.Gateways {
		if !usable(a) && !(a.IsValid() && a.IsLinkLocalUnicast()) {
			return bad("gateway %q is no address of a host", a)
		}
	}
	for _, a := range c.DNS {
		if !usable(a) {
			return bad("DNS server %q is no address of a host", a)
		}
	}
	return nil
}

// usable tells whether an address can be a machine's own. Zones and IPv4 inside
// of IPv6 are other spellings of what must be compared.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a.Zone() == "" && !a.Is4In6()
}

// CheckCards refuses with dr.ErrInvalid, naming the card, entries of p.Cards that
// make no sense or are of no card of p.Machine. Every backend's Prepare asks it
// first.
func (p Placement) CheckCards() error {
	holders := map[netip.Addr]string{}
	for _, id := range p.cardIDs() {
		c := p.Cards[id]
		n := 0
		for _, nic := range p.Machine.NICs {
			if nic.ID == id {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%w: the machine has %d cards %q, of which the placement's cards speak", dr.ErrInvalid, n, id)
		}
		if err := c.Validate(); err != nil {
			return fmt.Errorf("card %s: %w", id, err)
		}
		if p.Isolated && c.MAC == KeepMAC {
			return fmt.Errorf("%w: card %s: a drill's card can't keep the hardware address: it would meet its original", dr.ErrInvalid, id)
		}
		for _, a := range c.Addresses {
			if other, taken := holders[a.Addr()]; taken {
				return fmt.Errorf("%w: cards %s and %s would both have the address %s", dr.ErrInvalid, other, id, a.Addr())
			}
			holders[a.Addr()] = id
		}
	}
	return nil
}

func (p Placement) cardIDs() []string {
	ids := make([]string, 0, len(p.Cards))
	for id := range p.Cards {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Connection is what a card of p.Machine is connected to: as p.Cards says, else
// as p.Networks does; said is false where neither speaks of it. A subnet stands
// behind its network, "network/subnet". "" is no connection.
func (p Placement) Connection(n dr.NIC) (to string, said bool) {
	switch c := p.Cards[n.ID]; {
	case c.Unconnected:
		return "", true
	case c.Subnet != "":
		return c.Network + "/" + c.Subnet, true
	case c.Network != "":
		return c.Network, true
	}
	to, said = p.Networks[n.Network]
	return to, said
}

// Satisfied tells whether the guest of card n has inside what c asks for, so
// that nothing is to be done there.
func (c Card) Satisfied(n dr.NIC) bool {
	if len(c.Gateways)+len(c.DNS)+len(c.Search) > 0 {
		return false // nobody tells what it has
	}
	if c.DHCP {
		return n.DHCP
	}
	return len(c.Addresses) == 0 || !n.DHCP && !slices.ContainsFunc(c.Addresses, func(p netip.Prefix) bool {
		return !slices.ContainsFunc(n.Addresses, func(s string) bool {
			has, bits, err := ParseAddress(s)
			return err == nil && has == p.Addr() && (bits < 0 || bits == p.Bits())
		})
	})
}

// ParseAddress reads an address of a dr.NIC; bits is the length of its prefix, or
// -1 where it has none.
func ParseAddress(s string) (a netip.Addr, bits int, err error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		return p.Addr(), p.Bits(), err
	}
	a, err = netip.ParseAddr(s)
	return a, -1, err
}

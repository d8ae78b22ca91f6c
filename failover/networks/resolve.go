package networks

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// UnmappedError says which cards of a machine a mapping leaves open. It is a
// dr.ErrInvalid.
type UnmappedError struct {
	Machine dr.MachineID
	Cards   []Unmapped
}

// Unmapped is a card, and what the mapping doesn't say of it.
type Unmapped struct {
	Card, Network string
	Why           string
}

// Error names every card.
func (e *UnmappedError) Error() string {
	var all []string
	for _, c := range e.Cards {
		all = append(all, fmt.Sprintf("card %s on network %q: %s", c.Card, c.Network, c.Why))
	}
	return fmt.Sprintf("the network mapping says too little of machine %s: %s", e.Machine, strings.Join(all, "; "))
}

// Unwrap returns dr.ErrInvalid.
func (e *UnmappedError) Unwrap() error { return dr.ErrInvalid }

// Resolve makes the networks and cards of a machine's failover, or of a drill's
// if test. Name and Options of what it returns are empty. A mapping that leaves
// one card open is an *UnmappedError that names all such cards.
func (m Mapping) Resolve(machine dr.Machine, test bool) (failover.Where, error) {
	if err := m.Validate(); err != nil {
		return failover.Where{}, err
	}
	w := failover.Where{Networks: map[string]string{}, Cards: map[string]backend.Card{}}
	open := &UnmappedError{Machine: machine.ID}
	for i, nic := range machine.NICs {
		end, c, why := m.card(machine, i, test)
		if why != "" {
			open.Cards = append(open.Cards, Unmapped{nic.ID, nic.Network, why})
			continue
		}
		w.Cards[nic.ID] = c
		w.Networks[nic.Network], _ = (backend.Placement{Cards: map[string]backend.Card{"": {Network: end.Network, Subnet: end.Subnet, Unconnected: end.Unconnected}}}).Connection(dr.NIC{})
	}
	if len(open.Cards) > 0 {
		return failover.Where{}, open
	}
	return w, nil
}

// card decides one card, or says why it can't.
func (m Mapping) card(machine dr.Machine, i int, test bool) (end End, c backend.Card, why string) {
	nic := machine.NICs[i]
	at := slices.IndexFunc(m.Entries, func(e Entry) bool { return e.Network == nic.Network })
	if at < 0 {
		return end, c, "no entry for the network"
	}
	end = m.Entries[at].Target
	if test {
		if m.Entries[at].Test == nil {
			return end, c, "no test network"
		}
		end = *m.Entries[at].Test
	}
	c = backend.Card{Network: end.Network, Subnet: end.Subnet, Unconnected: end.Unconnected, MAC: end.MAC}
	if end.Unconnected {
		return end, c, ""
	}
	var ok bool
	if c.Addresses, c.DHCP, ok = m.explicit(machine, i, test); !ok {
		switch {
		case end.Addresses.zero():
			return end, c, ""
		case nic.DHCP || len(nic.Addresses) == 0 && end.Addresses.DHCP:
			c.DHCP = true
		default:
			if c.Addresses, why = mapped(nic, end); why != "" {
				if !end.Addresses.DHCP {
					return end, c, why
				}
				c.Addresses, c.DHCP = nil, true
			}
		}
	}
	if len(c.Addresses) > 0 {
		c.DNS, c.Search = end.DNS, end.Search
		for _, g := range end.Gateways { // of the families that the card has
			if slices.ContainsFunc(c.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() == g.Is4() }) {
				c.Gateways = append(c.Gateways, g)
			}
		}
	}
	if err := c.Validate(); err != nil {
		return end, c, err.Error()
	}
	return end, c, ""
}

func (m Mapping) explicit(machine dr.Machine, i int, test bool) ([]netip.Prefix, bool, bool) {
	for _, byName := range []bool{false, true} {
		for _, r := range m.Cards {
			if r.Machine != map[bool]string{false: string(machine.ID), true: machine.Name}[byName] {
				continue
			}
			if r.Card != machine.NICs[i].ID && (r.Card != strconv.Itoa(i) || slices.ContainsFunc(machine.NICs, func(n dr.NIC) bool { return n.ID == r.Card })) {
				continue
			}
			if test && (len(r.TestAddresses) > 0 || r.TestDHCP) {
				return r.TestAddresses, r.TestDHCP, true
			}
			if !test && (len(r.Addresses) > 0 || r.DHCP) {
				return r.Addresses, r.DHCP, true
			}
		}
	}
	return nil, false, false
}

// mapped exchanges the addresses of a card; all of them, or why not.
func mapped(nic dr.NIC, end End) (all []netip.Prefix, why string) {
	for _, s := range nic.Addresses {
		from, bits, err := backend.ParseAddress(s)
		if err != nil {
			return nil, fmt.Sprintf("address %q can't be read", s)
		}
		if from = from.Unmap().WithZone(""); from.IsLinkLocalUnicast() {
			continue // every card makes its own
		}
		to, n, ok := end.Addresses.to(from, end)
		if n < 0 && bits >= 0 && to.BitLen() == from.BitLen() {
			n = bits
		}
		switch {
		case !ok:
			return nil, fmt.Sprintf("no rule for its address %s", from)
		case n < 0:
			return nil, fmt.Sprintf("nothing says how long the prefix of %s is: give the target's prefixes", to)
		}
		all = append(all, netip.PrefixFrom(to, n))
	}
	if len(all) == 0 {
		return nil, "its addresses are unknown, and there is no DHCP"
	}
	return all, ""
}

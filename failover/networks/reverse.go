package networks

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Reverse is the mapping of the way back: m.Back's entries, and of the others
// what can be derived without a guess. What can't is dr.ErrInvalid and names the
// network: two networks that become one, an unconnected card, addresses that are
// given up for DHCP or by a rule for one card. The prefixes, gateways and DNS of
// the side that is gone back to are not in m: those addresses that were mapped
// by prefix or each come back with theirs, and DNS and gateways with m.Back only.
// Test networks are never derived.
func (m Mapping) Reverse() (Mapping, error) {
	if err := m.Validate(); err != nil {
		return Mapping{}, err
	}
	back := Mapping{From: m.To, To: m.From, Entries: slices.Clone(m.Back), Back: slices.Clone(m.Entries)}
	for _, e := range m.Entries {
		bad := func(why string) (Mapping, error) {
			return Mapping{}, fmt.Errorf("%w: the way back of network %q can't be derived: %s; say it in the mapping's back", dr.ErrInvalid, e.Network, why)
		}
		at := e.Target.name()
		if at != "" && slices.ContainsFunc(m.Back, func(b Entry) bool { return b.Network == at }) {
			continue
		}
		switch {
		case e.Target.Unconnected || e.Network == "":
			return bad("one of its sides is no network")
		case slices.ContainsFunc(back.Entries, func(b Entry) bool { return b.Network == at }):
			return bad("another network goes to " + at + " too")
		case e.Target.Addresses.DHCP:
			return bad("static addresses may have been given up for DHCP")
		case len(m.Cards) > 0:
			return bad("single cards have addresses of their own")
		}
		to := End{Network: e.Network, MAC: e.Target.MAC, Addresses: Addresses{Keep: e.Target.Addresses.Keep}}
		for _, p := range e.Target.Addresses.Prefixes {
			to.Addresses.Prefixes = append(to.Addresses.Prefixes, PrefixMap{From: p.To, To: p.From})
			to.Prefixes = append(to.Prefixes, p.From.Masked())
		}
		if e.Target.Addresses.Keep {
			to.Prefixes = append(to.Prefixes, e.Target.Prefixes...)
		}
		for a, b := range e.Target.Addresses.Each {
			if slices.ContainsFunc(e.Target.Addresses.Prefixes, func(p PrefixMap) bool { return p.To.Contains(b) && !p.From.Contains(a) }) {
				return bad(fmt.Sprintf("%s may stand for two addresses", b))
			}
			if to.Addresses.Each == nil {
				to.Addresses.Each = map[netip.Addr]netip.Addr{}
			}
			to.Addresses.Each[b] = a
		}
		back.Entries = append(back.Entries, Entry{Network: at, Target: to})
	}
	return back, back.Validate()
}

// name is what a card that is connected here says its network is.
func (e End) name() string {
	if e.Subnet != "" {
		return e.Network + "/" + e.Subnet
	}
	return e.Network
}

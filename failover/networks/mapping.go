package networks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Mapping says where the cards of one site's machines are connected at another.
// It is a value: safe to share as long as nobody changes it.
type Mapping struct {
	From string `json:"from,omitempty"` // site
	To   string `json:"to,omitempty"`
	// Entries by network of From, each there once.
	Entries []Entry `json:"entries,omitempty"`
	// Cards are addresses of single cards, which win over their network's.
	Cards []CardRule `json:"cards,omitempty"`
	// Back are entries of the way back, by network of To, in place of those
	// that Reverse would derive.
	Back []Entry `json:"back,omitempty"`
}

// Entry is what becomes of the cards of one network.
type Entry struct {
	Network string `json:"network"` // as dr.NIC.Network calls it
	Target  End    `json:"target"`
	// Test is the target of drills. Without it no machine that has a card on
	// the network can be drilled: production is never taken instead.
	Test *End `json:"test,omitempty"`
}

// End is a network at the target, with what holds there.
type End struct {
	// Network, Subnet, Unconnected, Gateways, DNS, Search and MAC are as in
	// backend.Card. Gateways, DNS and Search go with static addresses only.
	Network     string       `json:"network,omitempty"`
	Subnet      string       `json:"subnet,omitempty"`
	Unconnected bool         `json:"unconnected,omitempty"`
	Gateways    []netip.Addr `json:"gateways,omitempty"`
	DNS         []netip.Addr `json:"dns,omitempty"`
	Search      []string     `json:"search,omitempty"`
	MAC         backend.MAC  `json:"mac,omitempty"`
	// Prefixes are those of the subnet.
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
	// Addresses is how guests come by theirs. The zero value says nothing of
	// them: the backend does what it does by itself.
	Addresses Addresses `json:"addresses,omitzero"`
}

// Addresses is a plan of static addresses. For each address of a card the first
// rule that fits counts, in the order of the fields. Cards that ask DHCP go on
// doing so. An address that no rule fits is an error, never a guess.
type Addresses struct {
	// Each exchanges single addresses.
	Each map[netip.Addr]netip.Addr `json:"each,omitempty"`
	// Prefixes exchange the prefix and keep the host part.
	Prefixes []PrefixMap `json:"prefixes,omitempty"`
	// Keep keeps an address that lies in the End's Prefixes.
	Keep bool `json:"keep,omitempty"`
	// DHCP has a card ask for an address that no rule gives one.
	DHCP bool `json:"dhcp,omitempty"`
}

// PrefixMap exchanges a prefix: 10.1.0.0/24 to 10.2.0.0/24. Both are as long.
type PrefixMap struct {
	From netip.Prefix `json:"from"`
	To   netip.Prefix `json:"to"`
}

// CardRule gives one card its addresses at the target, explicitly.
type CardRule struct {
	Machine string `json:"machine"` // ID, or else the name
	Card    string `json:"card"`    // ID, or else the place among the cards, from "0"
	// Addresses, or DHCP, for failovers; those of drills stand apart, and a
	// rule that says nothing of them does not count there.
	Addresses     []netip.Prefix `json:"addresses,omitempty"`
	DHCP          bool           `json:"dhcp,omitempty"`
	TestAddresses []netip.Prefix `json:"testAddresses,omitempty"`
	TestDHCP      bool           `json:"testDHCP,omitempty"`
}

// Map exchanges the prefix of an address and keeps the host part; false if From
// doesn't hold it.
func (m PrefixMap) Map(a netip.Addr) (netip.Addr, bool) {
	if m.validate() != nil || !m.From.Contains(a) {
		return netip.Addr{}, false
	}
	host, out := a.AsSlice(), m.To.Masked().Addr().AsSlice()
	for i := range out {
		bits := min(max(m.To.Bits()-8*i, 0), 8)
		out[i] |= host[i] & byte(0xff>>bits)
	}
	to, ok := netip.AddrFromSlice(out)
	return to, ok
}

func (m PrefixMap) validate() error {
	if !m.From.IsValid() || !m.To.IsValid() || m.From.Bits() != m.To.Bits() || m.From.Addr().BitLen() != m.To.Addr().BitLen() {
		return fmt.Errorf("%w: prefix %s to %s: want two of one length and one family", dr.ErrInvalid, m.From, m.To)
	}
	return nil
}

func (a Addresses) zero() bool { return len(a.Each)+len(a.Prefixes) == 0 && !a.Keep && !a.DHCP }

// to is the address that takes the place of one, with its prefix length, or -1
// where the plan doesn't know it.
func (a Addresses) to(from netip.Addr, end End) (netip.Addr, int, bool) {
	if x, ok := a.Each[from]; ok {
		return x, end.bits(x), true
	}
	for _, m := range a.Prefixes {
		if x, ok := m.Map(from); ok {
			if n := end.bits(x); n >= 0 {
				return x, n, true
			}
			return x, m.To.Bits(), true
		}
	}
	if n := end.bits(from); a.Keep && n >= 0 {
		return from, n, true
	}
	return netip.Addr{}, 0, false
}

func (e End) bits(a netip.Addr) int {
	for _, p := range e.Prefixes {
		if p.Contains(a) {
			return p.Bits()
		}
	}
	return -1
}

// Validate refuses with dr.ErrInvalid what makes sense at no site.
func (m Mapping) Validate() error {
	for _, list := range [][]Entry{m.Entries, m.Back} {
		for i, e := range list {
			if slices.ContainsFunc(list[:i], func(x Entry) bool { return x.Network == e.Network }) {
				return fmt.Errorf("%w: network %q is mapped twice", dr.ErrInvalid, e.Network)
			}
			if err := e.Target.validate(); err != nil {
				return fmt.Errorf("network %q, target: %w", e.Network, err)
			}
			if e.Test != nil {
				if err := e.Test.validate(); err != nil {
					return fmt.Errorf("network %q, test: %w", e.Network, err)
				}
				if e.Test.MAC == backend.KeepMAC {
					return fmt.Errorf("%w: network %q, test: a drill's card can't keep the hardware address", dr.ErrInvalid, e.Network)
				}
			}
		}
	}
	for _, r := range m.Cards {
		if r.Machine == "" || r.Card == "" {
			return fmt.Errorf("%w: a rule for a card without a machine or a card", dr.ErrInvalid)
		}
		for _, c := range []backend.Card{{Addresses: r.Addresses, DHCP: r.DHCP}, {Addresses: r.TestAddresses, DHCP: r.TestDHCP}} {
			if err := c.Validate(); err != nil {
				return fmt.Errorf("machine %s, card %s: %w", r.Machine, r.Card, err)
			}
		}
	}
	return nil
}

func (e End) validate() error {
	c := backend.Card{Network: e.Network, Subnet: e.Subnet, Unconnected: e.Unconnected, MAC: e.MAC, DNS: e.DNS, Search: e.Search}
	if err := c.Validate(); err != nil {
		return err
	}
	if e.Network == "" && !e.Unconnected {
		return fmt.Errorf("%w: neither a network nor unconnected", dr.ErrInvalid)
	}
	for _, p := range e.Prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("%w: prefix %q", dr.ErrInvalid, p)
		}
	}
	for _, g := range e.Gateways {
		if !g.IsValid() || g.Is4In6() {
			return fmt.Errorf("%w: gateway %q", dr.ErrInvalid, g)
		}
	}
	for i, m := range e.Addresses.Prefixes {
		if err := m.validate(); err != nil {
			return err
		}
		for _, x := range e.Addresses.Prefixes[:i] {
			if x.From.Overlaps(m.From) || x.To.Overlaps(m.To) {
				return fmt.Errorf("%w: prefixes %s to %s and %s to %s overlap", dr.ErrInvalid, x.From, x.To, m.From, m.To)
			}
		}
	}
	seen := map[netip.Addr]bool{}
	for from, to := range e.Addresses.Each {
		if !from.IsValid() || !to.IsValid() || seen[to] {
			return fmt.Errorf("%w: address %s to %s: no address, or given twice", dr.ErrInvalid, from, to)
		}
		seen[to] = true
	}
	return nil
}

// Parse reads a mapping from JSON and validates it. Fields that it doesn't know
// are refused.
func Parse(b []byte) (Mapping, error) {
	var m Mapping
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Mapping{}, fmt.Errorf("%w: network mapping: %w", dr.ErrInvalid, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Mapping{}, fmt.Errorf("%w: network mapping: there is something behind it", dr.ErrInvalid)
	}
	return m, m.Validate()
}

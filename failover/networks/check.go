package networks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Codes of findings: stable, for programs.
const (
	CodeInvalid       = "network-mapping-invalid"
	CodeUnmapped      = "network-card-unmapped"
	CodeUnknown       = "network-inventory-unknown" // the target tells nothing of its networks
	CodeNoNetwork     = "network-not-found"
	CodeAmbiguous     = "network-ambiguous"
	CodeNoSubnet      = "network-subnet-not-found"
	CodeUnusable      = "network-unusable"       // another region, no host that reaches it
	CodeNoHost        = "network-no-common-host" // no host reaches all networks of one machine
	CodeTwice         = "network-address-twice"  // within what is checked
	CodeOutside       = "network-address-outside-subnet"
	CodeReserved      = "network-address-reserved"
	CodeUsed          = "network-address-used"
	CodeUsedUnknown   = "network-address-use-unknown"
	CodeFull          = "network-subnet-full"
	CodeDHCPUnknown   = "network-dhcp-unknown"
	CodeGuestStatic   = "network-guest-static" // the target's DHCP gives addresses, and the guest doesn't ask
	CodeMAC           = "network-mac-twice"
	CodeTestIsTarget  = "network-test-is-production"
	CodeTestReaches   = "network-test-reaches-production"
	CodeTestConnected = "network-test-not-isolated"
	CodeTestUnknown   = "network-test-isolation-unknown"
)

// Finding is a conflict, or what can't be told. Of what isn't there nothing is
// wrong, only if no finding is Unknown: not telling is never fine.
type Finding struct {
	Machine dr.MachineID `json:"machine,omitempty"`
	Name    string       `json:"name,omitempty"` // the machine's
	Card    string       `json:"card,omitempty"`
	Unknown bool         `json:"unknown,omitempty"`
	// Problem: a Blocker keeps the failover from succeeding, or has two
	// machines meet. The others are for a person to weigh.
	backend.Problem
}

// Inventory is what is at the target.
type Inventory struct {
	Networks []backend.Network `json:"networks,omitempty"`
	// Err says why nothing is known of them.
	Err error `json:"-"`
	// Own are machines at the target that stand for those that are checked:
	// the addresses that they have are no conflict.
	Own []dr.MachineID `json:"own,omitempty"`
}

// Look asks a backend for its networks. What goes wrong is in Err. own as in
// Inventory.
func Look(ctx context.Context, b any, own ...dr.MachineID) Inventory {
	l, ok := dr.As[backend.NetworkLister](b)
	if !ok {
		return Inventory{Err: fmt.Errorf("%w: the platform doesn't tell of its networks", dr.ErrUnsupported), Own: own}
	}
	nets, err := l.Networks(ctx)
	return Inventory{Networks: nets, Err: err, Own: own}
}

// Check compares what would become of the machines' cards, in a failover or in a
// drill, with what is at the target. It is pure; findings are in the order of the
// machines. None means that nothing is in the way.
func Check(m Mapping, machines []dr.Machine, test bool, inv Inventory) []Finding {
	c := &check{inv: inv, holders: map[holder]string{}, macs: map[string]string{}, dhcp: map[subnetKey]int{}, static: map[subnetKey][]netip.Addr{}, seen: map[string]bool{}}
	if err := m.Validate(); err != nil {
		c.add(Finding{Problem: backend.Problem{Code: CodeInvalid, Blocker: true, Text: err.Error(), Remedy: "correct the mapping"}})
		return c.found
	}
	if inv.Err != nil {
		remedy := "see to it that the target can be asked, or compare the mapping with it by hand"
		var typed *dr.Error
		if errors.As(inv.Err, &typed) && typed.Remedy != "" {
			remedy = typed.Remedy
		}
		c.add(Finding{Unknown: true, Problem: backend.Problem{Code: CodeUnknown, Text: "the target's networks could not be listed: " + inv.Err.Error(), Remedy: remedy}})
	}
	for _, machine := range machines {
		c.machine(m, machine, test)
	}
	c.room()
	return c.found
}

type check struct {
	inv     Inventory
	found   []Finding
	holders map[holder]string // who gets an address
	macs    map[string]string
	dhcp    map[subnetKey]int // cards that ask
	static  map[subnetKey][]netip.Addr
	seen    map[string]bool // what is said of a network is said once
}

// holder is an address on a network: the same one on two networks that don't
// meet is no conflict.
type holder struct {
	network string
	addr    netip.Addr
}

type subnetKey struct {
	net  *backend.Network
	name string
}

func (c *check) add(f Finding) { c.found = append(c.found, f) }

// once adds what is said of a network.
func (c *check) once(f Finding) {
	if key := f.Code + "\x00" + f.Text; !c.seen[key] {
		c.seen[key] = true
		c.add(f)
	}
}

func (c *check) machine(m Mapping, machine dr.Machine, test bool) {
	var hosts [][]string
	for i, nic := range machine.NICs {
		end, card, why := m.card(machine, i, test)
		say := func(code string, blocker bool, remedy, format string, args ...any) Finding {
			return Finding{Machine: machine.ID, Name: machine.Name, Card: nic.ID, Problem: backend.Problem{Code: code, Blocker: blocker, Remedy: remedy, Text: fmt.Sprintf(format, args...)}}
		}
		if why != "" {
			c.add(say(CodeUnmapped, true, "say in the mapping where it goes, or that it stays unconnected", "card %s on network %q of machine %s: %s", nic.ID, nic.Network, machine.ID, why))
			continue
		}
		if card.Unconnected {
			continue
		}
		c.mac(say, machine, nic, card, end, test)
		net := c.network(say, end)
		if net == nil {
			c.address(say, machine, nic, card, end, nil, backend.Subnet{})
			continue
		}
		if net.Unusable != "" {
			c.add(say(CodeUnusable, true, "choose another network", "machines can't be connected to network %s: %s", net.Name, net.Unusable))
		}
		if net.Hosts != nil {
			hosts = append(hosts, net.Hosts)
		}
		if test {
			c.isolation(say, m, net)
		}
		sub, ok := c.subnet(say, end, net)
		if ok {
			c.address(say, machine, nic, card, end, net, sub)
		}
	}
	if len(hosts) > 1 && !slices.ContainsFunc(hosts[0], func(h string) bool {
		return !slices.ContainsFunc(hosts, func(x []string) bool { return !slices.Contains(x, h) })
	}) {
		c.add(Finding{Machine: machine.ID, Name: machine.Name, Problem: backend.Problem{Code: CodeNoHost, Blocker: true,
			Text: fmt.Sprintf("no host reaches all the networks of machine %s", machine.ID), Remedy: "map its cards to networks that one host has"}})
	}
}

type saying func(code string, blocker bool, remedy, format string, args ...any) Finding

func (c *check) lookup(end End) (found []*backend.Network) {
	for i := range c.inv.Networks {
		n := &c.inv.Networks[i]
		if n.Name == end.Network || n.ID == end.Network || slices.Contains(n.Aliases, end.Network) {
			found = append(found, n)
		}
	}
	if len(found) == 0 && end.Subnet == "" { // "network/subnet" in one word
		if i := strings.LastIndex(end.Network, "/"); i > 0 {
			return c.lookup(End{Network: end.Network[:i], Subnet: end.Network[i+1:]})
		}
	}
	return found
}

func (c *check) network(say saying, end End) *backend.Network {
	if c.inv.Err != nil {
		return nil
	}
	switch found := c.lookup(end); len(found) {
	case 1:
		return found[0]
	case 0:
		c.add(say(CodeNoNetwork, true, "make the network, or correct the mapping", "there is no network %q at the target", end.Network))
	default:
		c.add(say(CodeAmbiguous, true, "write its path or ID", "%d networks at the target are called %q", len(found), end.Network))
	}
	return nil
}

// subnet is the one that a card goes to; of a network of which no subnets are
// known it is what the mapping says.
func (c *check) subnet(say saying, end End, net *backend.Network) (backend.Subnet, bool) {
	name := end.Subnet
	if name == "" && end.Network != net.Name && end.Network != net.ID && !slices.Contains(net.Aliases, end.Network) {
		name = end.Network[strings.LastIndex(end.Network, "/")+1:]
	}
	for _, s := range net.Subnets {
		if name != "" && strings.EqualFold(s.Name, name) || name == "" && len(net.Subnets) == 1 {
			return s, true
		}
	}
	if name != "" {
		c.add(say(CodeNoSubnet, true, "make the subnet, or correct the mapping", "network %s has no subnet %q", net.Name, name))
		return backend.Subnet{}, false
	}
	return backend.Subnet{Prefixes: end.Prefixes}, true
}

// mac finds hardware addresses that two would have.
func (c *check) mac(say saying, machine dr.Machine, nic dr.NIC, card backend.Card, end End, test bool) {
	mac := strings.ToLower(nic.MAC)
	if mac == "" || test || card.MAC == backend.NewMAC {
		return
	}
	who := string(machine.ID) + "/" + nic.ID
	if other, twice := c.macs[mac]; twice {
		c.add(say(CodeMAC, card.MAC == backend.KeepMAC, "give one of the cards a new hardware address", "cards %s and %s have the hardware address %s both", other, who, mac))
	}
	c.macs[mac] = who
	if card.MAC != backend.KeepMAC {
		return // the backend keeps it only where it is free
	}
	for _, n := range c.inv.Networks {
		for _, u := range n.Used {
			if strings.EqualFold(u.MAC, mac) && !slices.Contains(c.inv.Own, u.Machine) {
				c.add(say(CodeMAC, true, "remove the other machine, or take a new hardware address", "card %s should keep the hardware address %s, which %s has at the target", who, mac, whose(u)))
				return
			}
		}
	}
}

func whose(u backend.Use) string {
	switch {
	case u.By != "":
		return u.By
	case u.Machine != "":
		return "machine " + string(u.Machine)
	}
	return "something else"
}

// address checks what a card is given. net is nil where nothing is known of it.
func (c *check) address(say saying, machine dr.Machine, nic dr.NIC, card backend.Card, end End, net *backend.Network, sub backend.Subnet) {
	key, at := subnetKey{net, sub.Name}, end.Network
	if net != nil {
		at = net.ID
	}
	if card.DHCP && net != nil {
		c.dhcp[key]++
		if sub.DHCP != backend.Yes {
			f := say(CodeDHCPUnknown, sub.DHCP == backend.No, "see that a DHCP server serves it, or give its machines static addresses", "whether DHCP is served on network %s can't be told", net.Name)
			if f.Unknown = sub.DHCP != backend.No; !f.Unknown {
				f.Text = "no DHCP is served on network " + net.Name
			}
			f.Machine, f.Name, f.Card = "", "", ""
			c.once(f)
		}
	}
	for _, p := range card.Addresses {
		a, who := p.Addr(), string(machine.ID)+"/"+nic.ID
		if other, twice := c.holders[holder{at, a}]; twice {
			c.add(say(CodeTwice, true, "give one of them another address", "cards %s and %s would both have the address %s", other, who, a))
		}
		c.holders[holder{at, a}] = who
		c.static[key] = append(c.static[key], a)
		prefixes := sub.Prefixes
		if len(prefixes) == 0 {
			prefixes = end.Prefixes
		}
		i := slices.IndexFunc(prefixes, func(x netip.Prefix) bool { return x.Contains(a) })
		switch {
		case i < 0 && len(prefixes) > 0:
			c.add(say(CodeOutside, true, "choose an address of the subnet", "address %s does not lie in the subnet, which is %s", a, prefixes))
		case i >= 0 && prefixes[i].Bits() != p.Bits():
			c.add(say(CodeOutside, true, "correct the mapping's prefixes", "address %s: the subnet is %s", p, prefixes[i]))
		case i >= 0 && reserved(a, prefixes[i], sub) || slices.Contains(end.Gateways, a) || slices.Contains(end.DNS, a):
			c.add(say(CodeReserved, true, "choose another address", "address %s is the subnet's own: its first or last, the platform's, a gateway's or a DNS server's", a))
		}
		if net == nil {
			continue
		}
		for _, u := range net.Used {
			if u.Address == a && !slices.Contains(c.inv.Own, u.Machine) {
				c.add(say(CodeUsed, true, "free the address, or choose another", "address %s is used by %s", a, whose(u)))
			}
		}
		if !net.Complete {
			c.once(Finding{Unknown: true, Problem: backend.Problem{Code: CodeUsedUnknown, Text: "not every address in use on network " + net.Name + " is known", Remedy: "see that the mapping's addresses are free: machines that are off and other devices tell nothing"}})
		}
		if sub.DHCP == backend.Yes && !nic.DHCP && !(backend.Card{Addresses: []netip.Prefix{p}}).Satisfied(nic) {
			c.add(say(CodeGuestStatic, false, "have the guest ask DHCP before it fails over, or change its address by a step of your own", "the target gives card %s the address %s by DHCP, and its guest seems to have %v written inside", nic.ID, a, nic.Addresses))
		}
	}
}

// reserved tells whether an address at either end of a prefix is no machine's.
func reserved(a netip.Addr, p netip.Prefix, s backend.Subnet) bool {
	first, last := ends(p, s)
	for x, n := p.Masked().Addr(), 0; n < first; x, n = x.Next(), n+1 {
		if x == a {
			return true
		}
	}
	for n := 0; n < last; n++ {
		if a = a.Next(); !a.IsValid() || !p.Contains(a) {
			return true
		}
	}
	return false
}

// ends are how many addresses at either end of a prefix are no machine's: the
// platform's, and of IPv4 the network's own and the broadcast address.
func ends(p netip.Prefix, s backend.Subnet) (first, last int) {
	first, last = min(max(s.First, 0), 64), min(max(s.Last, 0), 64)
	if p.Addr().Is4() && p.Bits() < 31 {
		first, last = max(first, 1), max(last, 1)
	}
	return first, last
}

// room compares the cards that ask DHCP with the addresses that are left.
func (c *check) room() {
	for i := range c.inv.Networks {
		net := &c.inv.Networks[i]
		for _, sub := range net.Subnets {
			key := subnetKey{net, sub.Name}
			if c.dhcp[key] == 0 {
				continue
			}
			free, counted := 0, false
			for _, p := range sub.Prefixes {
				if !p.Addr().Is4() {
					continue
				}
				first, last := ends(p, sub)
				free, counted = free+1<<(32-p.Bits())-first-last, true
				gone := map[netip.Addr]bool{}
				for _, u := range net.Used {
					if !slices.Contains(c.inv.Own, u.Machine) {
						gone[u.Address] = true
					}
				}
				for _, a := range c.static[key] {
					gone[a] = true
				}
				for a := range gone {
					if p.Contains(a) && !reserved(a, p, sub) {
						free--
					}
				}
			}
			if counted && free < c.dhcp[key] {
				c.add(Finding{Problem: backend.Problem{Code: CodeFull, Blocker: true, Remedy: "free addresses, or choose a larger subnet",
					Text: fmt.Sprintf("%d cards ask subnet %s of network %s for an address, which has %d left", c.dhcp[key], sub.Name, net.Name, max(free, 0))}})
			}
		}
	}
}

// isolation compares a drill's network with those of production.
func (c *check) isolation(say saying, m Mapping, net *backend.Network) {
	for _, e := range m.Entries {
		for _, prod := range c.lookup(e.Target) {
			switch {
			case prod.ID == net.ID:
				c.add(say(CodeTestIsTarget, true, "choose another test network", "test network %s is the one that failovers go to", net.Name))
				return
			case slices.Contains(net.Reaches, prod.ID) || slices.Contains(prod.Reaches, net.ID):
				c.add(say(CodeTestReaches, true, "choose a test network that reaches nothing", "test network %s reaches network %s, which failovers go to", net.Name, prod.Name))
				return
			}
		}
	}
	switch net.Isolated {
	case backend.Yes:
	case backend.No:
		c.once(Finding{Problem: backend.Problem{Code: CodeTestConnected, Text: "test network " + net.Name + " is connected to the outside", Remedy: "choose a test network that reaches nothing"}})
	default:
		c.once(Finding{Unknown: true, Problem: backend.Problem{Code: CodeTestUnknown, Text: "whether test network " + net.Name + " reaches anything can't be told", Remedy: "see that it has no way to production"}})
	}
}

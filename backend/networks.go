package backend

import (
	"context"
	"net/netip"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// NetworkLister is an ability of backends: which networks there are, so that a
// conflict is found before a failover meets it.
type NetworkLister interface {
	// Networks tells of every network that the account sees, in the order of
	// their names. It changes nothing. What can't be told of a network is left
	// unknown; what can't be told of all of them is an error.
	Networks(ctx context.Context) ([]Network, error)
}

// Network is one that cards can be connected to.
type Network struct {
	// Name is what Placement.Networks and Card.Network may call it, and so
	// are Aliases; ID never changes. Names may be there twice.
	Name    string   `json:"name"`
	Aliases []string `json:"aliases,omitempty"`
	ID      string   `json:"id"`
	// Subnets are what is known of its addresses: none where a platform
	// knows nothing of them.
	Subnets []Subnet `json:"subnets,omitempty"`
	// Used are addresses that something has there, as far as Complete says.
	// An entry may carry an address, a hardware address, or both.
	Used []Use `json:"used,omitempty"`
	// Complete says that Used holds every address in use. Else there may be
	// more: of machines that are off or that tell nothing, of other devices.
	Complete bool `json:"complete,omitempty"`
	// Isolated: nothing in it reaches anything outside of it.
	Isolated Answer `json:"isolated,omitempty"`
	// Reaches are the IDs of networks that machines in it can reach without a
	// router that this library knows of in between: peered, or on one wire.
	Reaches []string `json:"reaches,omitempty"`
	// Hosts are where machines can be connected to it; nil: wherever
	// machines are made.
	Hosts []string `json:"hosts,omitempty"`
	// Unusable says why no machine that is made here can be connected to it:
	// another region, no host that reaches it. "": it can.
	Unusable string `json:"unusable,omitempty"`
}

// Subnet is a part of a network that has addresses.
type Subnet struct {
	Name     string         `json:"name,omitempty"`
	Prefixes []netip.Prefix `json:"prefixes,omitempty"` // masked
	// First and Last are how many addresses at either end of each prefix the
	// platform keeps for itself, beyond what the Internet's own rules do.
	First int `json:"first,omitempty"`
	Last  int `json:"last,omitempty"`
	// DHCP: a machine that asks is given an address, and a static one only
	// by asking: the platform knows which (Azure). Yes, no, or unknown.
	DHCP Answer `json:"dhcp,omitempty"`
}

// Use is an address that something has.
type Use struct {
	Address netip.Addr   `json:"address,omitzero"`
	MAC     string       `json:"mac,omitempty"` // "00:50:56:01:02:03"
	Machine dr.MachineID `json:"machine,omitempty"`
	By      string       `json:"by,omitempty"` // for people: a machine's name, a card's
}

package vmware

import (
	"context"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var _ backend.NetworkLister = (*VSphere)(nil)

// Networks implements backend.NetworkLister. vSphere knows no subnets, nor
// whether a network is isolated. Addresses in use are those that VMware Tools
// tell, and the cards' hardware addresses; of machines that are off, of other
// devices and of DHCP servers nothing is known.
func (v *VSphere) Networks(ctx context.Context) ([]backend.Network, error) {
	all, err := v.networks(ctx)
	return all, fail("list networks", "", "", -1, err)
}

func (v *VSphere) networks(ctx context.Context) ([]backend.Network, error) {
	inv, err := v.inventory(ctx)
	if err != nil {
		return nil, err
	}
	used, err := v.usedAddresses(ctx)
	if err != nil {
		return nil, err
	}
	var all []backend.Network
	hosts := keys(inv, inv.hosts, func(types.ManagedObjectReference) bool { return true })
	for _, ref := range keys(inv, inv.networks, func(types.ManagedObjectReference) bool { return true }) {
		path := inv.path(ref)
		n := backend.Network{Name: inv.entities[ref].name, ID: ref.Value, Used: used[ref], Hosts: []string{}}
		// A placement may name it by any end of its path.
		for i := range path {
			if path[i] == '/' {
				n.Aliases = append(n.Aliases, path[i+1:])
			}
		}
		n.Aliases = append(n.Aliases, path)
		for _, h := range hosts {
			if f := inv.hosts[h]; f.trouble == "" && slices.Contains(f.networks, ref) {
				n.Hosts = append(n.Hosts, inv.path(h))
			}
		}
		if len(n.Hosts) == 0 {
			n.Unusable = "no host that can be used reaches it"
		}
		all = append(all, n)
	}
	slices.SortStableFunc(all, func(a, b backend.Network) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// usedAddresses are those of all machines' cards, by network.
func (v *VSphere) usedAddresses(ctx context.Context) (map[types.ManagedObjectReference][]backend.Use, error) {
	used := map[types.ManagedObjectReference][]backend.Use{}
	for page, err := range v.below(ctx, pageSize, types.PropertySpec{Type: "VirtualMachine", PathSet: []string{"name", "config.instanceUuid", "config.hardware.device", "guest.net"}}) {
		if err != nil {
			return nil, err
		}
		for _, o := range page {
			vm, err := loadMachine(o)
			if err != nil {
				return nil, err
			}
			if vm.Config == nil {
				continue
			}
			for _, c := range cardsOf(vm.Config.Hardware.Device) {
				card := c.GetVirtualEthernetCard()
				at, ok := networkRef(card)
				if !ok {
					continue
				}
				by := backend.Use{Machine: dr.MachineID(strings.ToLower(vm.Config.InstanceUuid)), By: "machine " + vm.Name, MAC: strings.ToLower(card.MacAddress)}
				n := len(used[at])
				if g := guestNIC(vm.Guest, card); g != nil {
					for _, s := range addressesOf(g) {
						if a, _, err := backend.ParseAddress(s); err == nil && !a.IsLinkLocalUnicast() {
							x := by
							x.Address = a
							used[at] = append(used[at], x)
						}
					}
				}
				if len(used[at]) == n {
					used[at] = append(used[at], by)
				}
			}
		}
	}
	return used, nil
}

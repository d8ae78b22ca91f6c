package azure

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Networks implements backend.NetworkLister: the virtual networks of the
// subscription. Azure keeps the first four addresses of a subnet and the last
// ("Virtual network FAQ"). A network that is peered or has a gateway isn't
// isolated; of others it can't be told, because the Internet may be reached.
func (a *Azure) Networks(ctx context.Context) ([]backend.Network, error) {
	all, err := a.networks(ctx)
	return all, fail("list networks", "", "", -1, err)
}

func (a *Azure) networks(ctx context.Context) ([]backend.Network, error) {
	used, known, err := a.usedAddresses(ctx)
	if err != nil {
		return nil, err
	}
	var all []backend.Network
	for pages := a.vnets.NewListAllPager(nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain(err)
		}
		for _, v := range page.Value {
			at, err := parseID(deref(v.ID))
			if err != nil {
				return nil, err
			}
			n := backend.Network{ID: strings.ToLower(deref(v.ID)), Name: at.group + "/" + at.name, Aliases: []string{deref(v.ID)}, Complete: true}
			if strings.EqualFold(at.group, a.opts.ResourceGroup) {
				n.Name, n.Aliases = at.name, append(n.Aliases, at.group+"/"+at.name)
			}
			if in := strings.ToLower(strings.ReplaceAll(deref(v.Location), " ", "")); in != a.opts.Location {
				n.Unusable = fmt.Sprintf("it is in region %s, and machines are made in %s", in, a.opts.Location)
			}
			if v.Properties != nil {
				describeNetwork(&n, *v.Properties, used, known)
			}
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(x, y backend.Network) int { return strings.Compare(x.Name+"\x00"+x.ID, y.Name+"\x00"+y.ID) })
	return all, nil
}

func describeNetwork(n *backend.Network, p armnetwork.VirtualNetworkPropertiesFormat, used map[string][]backend.Use, known map[string]bool) {
	for _, s := range p.Subnets {
		x := backend.Subnet{Name: deref(s.Name), First: 4, Last: 1, DHCP: backend.Yes}
		for _, r := range rangesOf(*s) {
			if r = r.Masked(); !slices.Contains(x.Prefixes, r) {
				x.Prefixes = append(x.Prefixes, r)
			}
		}
		n.Subnets = append(n.Subnets, x)
		n.Used = append(n.Used, used[strings.ToLower(deref(s.ID))]...)
		if strings.EqualFold(x.Name, "GatewaySubnet") {
			n.Isolated = backend.No
		}
		if s.Properties == nil {
			continue
		}
		for _, c := range s.Properties.IPConfigurations {
			if !known[strings.ToLower(deref(c.ID))] {
				n.Complete = false // a load balancer's, a gateway's, or of a card that can't be seen
			}
		}
	}
	for _, peer := range p.VirtualNetworkPeerings {
		n.Isolated = backend.No
		if peer.Properties != nil && peer.Properties.RemoteVirtualNetwork != nil {
			n.Reaches = append(n.Reaches, strings.ToLower(deref(peer.Properties.RemoteVirtualNetwork.ID)))
		}
	}
}

// usedAddresses are those of the cards that the account sees, by subnet, and the
// configurations that they are of.
func (a *Azure) usedAddresses(ctx context.Context) (used map[string][]backend.Use, known map[string]bool, err error) {
	used, known = map[string][]backend.Use{}, map[string]bool{}
	for pages := a.nics.NewListAllPager(nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, nil, explain(err)
		}
		for _, n := range page.Value {
			if n.Properties == nil {
				continue
			}
			by := backend.Use{By: "card " + deref(n.Name), Machine: dr.MachineID(deref(n.Tags[tagMachine])),
				MAC: strings.ToLower(strings.ReplaceAll(deref(n.Properties.MacAddress), "-", ":"))}
			for _, c := range n.Properties.IPConfigurations {
				if c.Properties == nil || c.Properties.Subnet == nil {
					continue
				}
				x := by
				if x.Address, err = netip.ParseAddr(deref(c.Properties.PrivateIPAddress)); err != nil {
					continue // it has none yet
				}
				known[strings.ToLower(deref(c.ID))] = true
				sub := strings.ToLower(deref(c.Properties.Subnet.ID))
				used[sub] = append(used[sub], x)
			}
		}
	}
	return used, known, nil
}

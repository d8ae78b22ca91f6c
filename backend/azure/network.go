package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// card is a network card that is to be made.
type card struct {
	ID     string
	Subnet string // resource ID
	VNet   place
	// Address is the one that it should have, "" for a dynamic one. Keep says
	// that it must be this and no other.
	Address string
	Keep    bool
	ranges  []netip.Prefix // of the subnet
}

func (c card) holds(address string) bool {
	a, err := netip.ParseAddr(address)
	return err == nil && slices.ContainsFunc(c.ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}

// rangesOf are the prefixes of a subnet.
func rangesOf(s armnetwork.Subnet) (all []netip.Prefix) {
	if s.Properties == nil {
		return nil
	}
	for _, text := range append(slices.Clone(s.Properties.AddressPrefixes), s.Properties.AddressPrefix) {
		if p, err := netip.ParsePrefix(deref(text)); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// subnetRef reads "vnet/subnet", "group/vnet/subnet" or a resource ID.
func (a *Azure) subnetRef(s string) (vnet place, subnet string, err error) {
	if strings.HasPrefix(s, "/subscriptions/") {
		parts := strings.Split(strings.Trim(s, "/"), "/")
		if len(parts) == 10 && strings.EqualFold(parts[8], "subnets") {
			return place{parts[3], parts[7]}, parts[9], nil
		}
		return place{}, "", fmt.Errorf("%w: %q is no resource ID of a subnet", dr.ErrInvalid, s)
	}
	switch parts := strings.Split(s, "/"); {
	case len(parts) == 2 && parts[0] != "" && parts[1] != "":
		return place{a.opts.ResourceGroup, parts[0]}, parts[1], nil
	case len(parts) == 3 && parts[0] != "" && parts[1] != "" && parts[2] != "":
		return place{parts[0], parts[1]}, parts[2], nil
	}
	return place{}, "", fmt.Errorf("%w: network %q: want \"vnet/subnet\" or \"group/vnet/subnet\"", dr.ErrInvalid, s)
}

// vnetRef reads "vnet", "group/vnet" or a resource ID.
func (a *Azure) vnetRef(s string) (place, error) {
	if strings.HasPrefix(s, "/subscriptions/") {
		return parseID(s)
	}
	switch parts := strings.Split(s, "/"); {
	case len(parts) == 1 && s != "":
		return place{a.opts.ResourceGroup, s}, nil
	case len(parts) == 2 && parts[0] != "" && parts[1] != "":
		return place{parts[0], parts[1]}, nil
	}
	return place{}, fmt.Errorf("%w: network %q: want \"vnet\" or \"group/vnet\"", dr.ErrInvalid, s)
}

// plan decides where a machine's cards go. One that is mapped to "" is left
// out: Azure has no card without a network. A drill's cards are all in the
// drill's virtual network, whatever they are mapped to.
func (a *Azure) plan(ctx context.Context, p backend.Placement, o PlacementOptions) ([]card, error) {
	nics := p.Machine.NICs
	if len(nics) == 0 {
		nics = []dr.NIC{{ID: "nic0", DHCP: true}}
	}
	for id := range o.Addresses {
		if !slices.ContainsFunc(nics, func(n dr.NIC) bool { return n.ID == id }) {
			return nil, fmt.Errorf("%w: placement option addresses: the machine has no card %s", dr.ErrInvalid, id)
		}
	}
	var cards []card
	for _, nic := range nics {
		asked := p.Cards[nic.ID]
		if err := checkCard(asked, nic.ID, o); err != nil {
			return nil, err
		}
		to, mapped := p.Connection(nic)
		if mapped && to == "" {
			continue
		}
		if !mapped {
			to = a.opts.Network
			if o.Network != "" && !p.Isolated {
				to = o.Network
			}
		}
		var c card
		var err error
		if p.Isolated {
			c, err = a.drillCard(ctx, nic, to, mapped, o)
		} else {
			c, err = a.productionCard(ctx, nic, to)
		}
		if err != nil {
			return nil, err
		}
		c.ID = nic.ID
		if at, ok := o.Addresses[nic.ID]; ok {
			c.Address, c.Keep = at, at != ""
		}
		if err := a.honour(&c, asked); err != nil {
			return nil, err
		}
		if c.Keep && !c.holds(c.Address) {
			return nil, remedied(fmt.Errorf("%w: card %s should have the address %s, which its subnet %s doesn't", dr.ErrInvalid, c.ID, c.Address, c.Subnet), "choose an address of the subnet (placement option addresses)")
		}
		if len(cards) > 0 && (!strings.EqualFold(c.VNet.name, cards[0].VNet.name) || !strings.EqualFold(c.VNet.group, cards[0].VNet.group)) {
			return nil, remedied(fmt.Errorf("%w: cards %s and %s go to different virtual networks, and all cards of a machine at Azure are in one virtual network", dr.ErrInvalid, cards[0].ID, c.ID), "map them to subnets of one network, or leave cards out")
		}
		cards = append(cards, c)
	}
	if len(cards) == 0 {
		return nil, fmt.Errorf("%w: every card of the machine is mapped to no network, and a machine at Azure has one card at least", dr.ErrInvalid)
	}
	return cards, nil
}

func (a *Azure) productionCard(ctx context.Context, nic dr.NIC, to string) (card, error) {
	if to == "" {
		return card{}, remedied(fmt.Errorf("%w: nothing says where card %s of network %q goes", dr.ErrInvalid, nic.ID, nic.Network), "map the network (the flow's Networks), or set Options.Network or the placement option network")
	}
	vnet, subnet, err := a.subnetRef(to)
	if err != nil {
		return card{}, err
	}
	s, err := a.subnets.Get(ctx, vnet.group, vnet.name, subnet, nil)
	if err != nil {
		return card{}, noNetwork(fmt.Errorf("subnet %s of network %s in group %s: %w", subnet, vnet.name, vnet.group, explain(err)))
	}
	return card{Subnet: deref(s.ID), VNet: vnet, Address: wanted(nic, s.Subnet), ranges: rangesOf(s.Subnet)}, nil
}

func noNetwork(err error) error {
	if isNotFound(err) {
		return remedied(err, "make the network first, or correct its name")
	}
	return err
}

// drillCard puts a card into the drill's network: into the subnet that is named
// as the one that it would have in production, or else into the first by name.
// A network that the card is mapped to says which virtual network, if there is
// no other word of it.
func (a *Azure) drillCard(ctx context.Context, nic dr.NIC, to string, mapped bool, o PlacementOptions) (card, error) {
	name := o.Network
	if name == "" {
		name = a.opts.DrillNetwork
	}
	var like string
	if to != "" {
		if production, subnet, err := a.subnetRef(to); err == nil {
			like = subnet
			if name == "" && mapped {
				name = production.group + "/" + production.name
			}
		}
	}
	if name == "" {
		return card{}, remedied(fmt.Errorf("%w: nothing says which network isolates card %s", dr.ErrInvalid, nic.ID), "set Options.DrillNetwork or the placement option network to a virtual network that reaches nothing")
	}
	vnet, err := a.vnetRef(name)
	if err != nil {
		// A subnet was named where a network is enough.
		v, subnet, err2 := a.subnetRef(name)
		if err2 != nil {
			return card{}, err
		}
		vnet, like = v, subnet
	}
	var all []*armnetwork.Subnet
	for pages := a.subnets.NewListPager(vnet.group, vnet.name, nil); pages.More(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return card{}, noNetwork(fmt.Errorf("network %s in group %s: %w", vnet.name, vnet.group, explain(err)))
		}
		all = append(all, page.Value...)
	}
	if len(all) == 0 {
		return card{}, fmt.Errorf("%w: network %s has no subnet", dr.ErrInvalid, vnet.name)
	}
	slices.SortFunc(all, func(x, y *armnetwork.Subnet) int {
		return strings.Compare(strings.ToLower(deref(x.Name)), strings.ToLower(deref(y.Name)))
	})
	s := all[0]
	if i := slices.IndexFunc(all, func(s *armnetwork.Subnet) bool { return strings.EqualFold(deref(s.Name), like) }); i >= 0 {
		s = all[i]
	}
	return card{Subnet: deref(s.ID), VNet: vnet, Address: wanted(nic, *s), ranges: rangesOf(*s)}, nil
}

// wanted is the first static address of a card that the subnet has.
func wanted(nic dr.NIC, s armnetwork.Subnet) string {
	if nic.DHCP {
		return ""
	}
	c := card{ranges: rangesOf(s)}
	for _, text := range nic.Addresses {
		text, _, _ = strings.Cut(text, "/")
		if addr, err := netip.ParseAddr(text); err == nil && addr.Is4() && c.holds(text) {
			return addr.String()
		}
	}
	return ""
}

func cardName(vm string, i int) string { return fmt.Sprintf("%s-nic%d", vm, i) }

// connect makes a machine's cards, or finds them made. A static address that
// somebody else has is exchanged for the next that is free, unless it was asked
// for by name.
func (a *Azure) connect(ctx context.Context, r *record, cards []card, o PlacementOptions) ([]string, error) {
	ids := make([]string, len(cards))
	for i, c := range cards { // one by one: they compete for addresses
		name := cardName(r.Name, i)
		if have, err := a.nics.Get(ctx, r.Group, name, nil); err == nil {
			if deref(have.Tags[tagMachine]) != string(r.ID) {
				return nil, fmt.Errorf("%w: there is a card %s of somebody else in resource group %s", dr.ErrExists, name, r.Group)
			}
			if state := have.Properties; state != nil && deref(state.ProvisioningState) == armnetwork.ProvisioningStateSucceeded && onSubnet(state, c.Subnet) {
				ids[i] = deref(have.ID)
				continue
			}
		} else if !isNotFound(err) {
			return nil, explain(err)
		}
		id, err := a.makeCard(ctx, r, name, c, o)
		if err != nil {
			return nil, fmt.Errorf("card %s: %w", c.ID, err)
		}
		ids[i] = id
	}
	return ids, nil
}

func onSubnet(p *armnetwork.InterfacePropertiesFormat, subnet string) bool {
	return len(p.IPConfigurations) > 0 && p.IPConfigurations[0].Properties != nil && p.IPConfigurations[0].Properties.Subnet != nil &&
		sameID(deref(p.IPConfigurations[0].Properties.Subnet.ID), subnet)
}

func (a *Azure) makeCard(ctx context.Context, r *record, name string, c card, o PlacementOptions) (string, error) {
	for try := 0; ; try++ {
		ip := &armnetwork.InterfaceIPConfigurationPropertiesFormat{Primary: to.Ptr(true), Subnet: &armnetwork.Subnet{ID: to.Ptr(c.Subnet)},
			PrivateIPAllocationMethod: to.Ptr(armnetwork.IPAllocationMethodDynamic)}
		address, err := a.free(ctx, c)
		if err != nil {
			return "", err
		}
		if address != "" {
			ip.PrivateIPAllocationMethod, ip.PrivateIPAddress = to.Ptr(armnetwork.IPAllocationMethodStatic), to.Ptr(address)
		}
		props := &armnetwork.InterfacePropertiesFormat{IPConfigurations: []*armnetwork.InterfaceIPConfiguration{{Name: to.Ptr("ip"), Properties: ip}}}
		if o.SecurityGroup != "" {
			props.NetworkSecurityGroup = &armnetwork.SecurityGroup{ID: to.Ptr(a.groupID("networkSecurityGroups", o.SecurityGroup))}
		}
		p, err := a.nics.BeginCreateOrUpdate(ctx, r.Group, name, armnetwork.Interface{Location: to.Ptr(a.opts.Location), Tags: a.tags(r, "", ""), Properties: props}, nil)
		resp, err := await(ctx, a, p, err)
		if err == nil {
			return deref(resp.ID), nil
		}
		if _, code := codeOf(err); code == "PrivateIPAddressInUse" && !c.Keep && try < 5 {
			continue // it was taken between the question and the answer
		} else if code == "PrivateIPAddressInUse" && c.Keep {
			return "", remedied(fmt.Errorf("%w: %w", errRefused, explain(err)), keptRemedy)
		}
		return "", explain(err)
	}
}

const keptRemedy = "free the address, or ask for another (placement option addresses)"

// kept refuses addresses that were asked for and are somebody else's.
func (a *Azure) kept(ctx context.Context, cards []card) error {
	for _, c := range cards {
		if !c.Keep {
			continue
		}
		r, err := a.vnets.CheckIPAddressAvailability(ctx, c.VNet.group, c.VNet.name, c.Address, nil)
		if err != nil {
			return explain(err)
		}
		if !deref(r.Available) {
			return remedied(fmt.Errorf("%w: card %s should have the address %s, which is taken", errRefused, c.ID, c.Address), keptRemedy)
		}
	}
	return nil
}

// free is the address that a card wants if it is free, else the next that is.
func (a *Azure) free(ctx context.Context, c card) (string, error) {
	if c.Address == "" || c.Keep {
		return c.Address, nil
	}
	r, err := a.vnets.CheckIPAddressAvailability(ctx, c.VNet.group, c.VNet.name, c.Address, nil)
	if err != nil {
		return "", explain(err)
	}
	if deref(r.Available) {
		return c.Address, nil
	}
	if len(r.AvailableIPAddresses) > 0 {
		next := deref(r.AvailableIPAddresses[0])
		a.opts.Log.Info("the card's address is taken; it gets the next", "card", c.ID, "address", c.Address, "next", next)
		return next, nil
	}
	return "", remedied(errors.New("the subnet has no free address"), "choose another subnet")
}

// groupID is the ID of a resource of the replicas' group, given by name or ID.
func (a *Azure) groupID(kind, name string) string {
	if strings.HasPrefix(name, "/subscriptions/") {
		return name
	}
	return a.networkID(kind, place{a.opts.ResourceGroup, name})
}

// cards describes a machine's network cards.
func (a *Azure) cards(ctx context.Context, m *machine) ([]dr.NIC, error) {
	if m.vm.Properties.NetworkProfile == nil {
		return nil, nil
	}
	refs := m.vm.Properties.NetworkProfile.NetworkInterfaces
	nics := make([]dr.NIC, len(refs))
	err := a.all(ctx, len(refs), func(ctx context.Context, i int) error {
		at, err := parseID(deref(refs[i].ID))
		if err != nil {
			return err
		}
		n, err := a.nics.Get(ctx, at.group, at.name, nil)
		if err != nil {
			if isNotFound(err) {
				return nil
			}
			return explain(err)
		}
		nics[i] = dr.NIC{ID: at.name}
		if n.Properties == nil {
			return nil
		}
		nics[i].MAC = strings.ReplaceAll(deref(n.Properties.MacAddress), "-", ":")
		for _, c := range n.Properties.IPConfigurations {
			if c.Properties == nil {
				continue
			}
			if ip := deref(c.Properties.PrivateIPAddress); ip != "" {
				nics[i].Addresses = append(nics[i].Addresses, ip)
			}
			nics[i].DHCP = deref(c.Properties.PrivateIPAllocationMethod) == armnetwork.IPAllocationMethodDynamic
			if c.Properties.Subnet != nil {
				nics[i].Network = a.networkName(deref(c.Properties.Subnet.ID))
			}
		}
		return nil
	}, nil)
	return slices.DeleteFunc(nics, func(n dr.NIC) bool { return n.ID == "" }), err
}

// networkName is what a placement may call a subnet.
func (a *Azure) networkName(id string) string {
	parts := strings.Split(strings.Trim(id, "/"), "/")
	if len(parts) != 10 {
		return id
	}
	if strings.EqualFold(parts[3], a.opts.ResourceGroup) {
		return parts[7] + "/" + parts[9]
	}
	return parts[3] + "/" + parts[7] + "/" + parts[9]
}

// dropCard deletes a card. One that isn't there is no error.
func (a *Azure) dropCard(ctx context.Context, at place) error {
	p, err := a.nics.BeginDelete(ctx, at.group, at.name, nil)
	if _, err = await(ctx, a, p, err); err != nil {
		if status, _ := codeOf(err); status != http.StatusNotFound {
			return explain(err)
		}
	}
	return nil
}

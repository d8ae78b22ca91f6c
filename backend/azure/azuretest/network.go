package azuretest

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
)

// virtualNetwork has subnets, which are resources of their own.
type virtualNetwork struct {
	entry
	space []*string
}

// subnet has addresses, of which Azure keeps the first four and the last.
type subnet struct {
	entry
	of     *virtualNetwork
	prefix netip.Prefix
	group  *string // of security
}

func networkRoutes() []route {
	const at = network + "virtualNetworks/*"
	return slices.Concat(listRoutes[*virtualNetwork]("Microsoft.Network/virtualNetworks"), []route{
		handle("GET", at, show[*virtualNetwork]),
		handle("PUT", at, (*Cloud).putNetwork),
		handle("GET", at+"/CheckIPAddressAvailability", (*Cloud).checkAddress),
		handle("GET", at+"/subnets/*", show[*subnet]),
		handle("GET", at+"/subnets", func(c *Cloud, q *request) (reply, error) {
			n, err := need[*virtualNetwork](c, q.owner(1))
			if err != nil {
				return reply{}, err
			}
			return page(c, q, func(s *subnet) bool { return s.of == n }, func(s *subnet) any { return s.show(c) })
		}),
	})
}

// provisioned is the state as network resources tell it.
func (e *entry) provisioned() *armnetwork.ProvisioningState {
	return to.Ptr(armnetwork.ProvisioningState(e.state))
}

func (n *virtualNetwork) subnets(c *Cloud) []*subnet {
	return all(c, func(s *subnet) bool { return s.of == n })
}

func (n *virtualNetwork) view(c *Cloud) any {
	m := armnetwork.VirtualNetwork{
		ID: &n.id, Name: &n.name, Type: &n.kind, Location: &n.location, Tags: n.tags,
		Properties: &armnetwork.VirtualNetworkPropertiesFormat{
			AddressSpace: &armnetwork.AddressSpace{AddressPrefixes: n.space}, ProvisioningState: n.provisioned(),
		},
	}
	for _, s := range n.subnets(c) {
		m.Properties.Subnets = append(m.Properties.Subnets, to.Ptr(s.show(c)))
	}
	return m
}

func (s *subnet) view(c *Cloud) any { return s.show(c) }

func (s *subnet) show(c *Cloud) armnetwork.Subnet {
	m := armnetwork.Subnet{
		ID: &s.id, Name: &s.name, Type: &s.kind,
		Properties: &armnetwork.SubnetPropertiesFormat{AddressPrefix: to.Ptr(s.prefix.String()), ProvisioningState: s.provisioned()},
	}
	if s.group != nil {
		m.Properties.NetworkSecurityGroup = &armnetwork.SecurityGroup{ID: s.group}
	}
	for _, n := range all[*nic](c, nil) {
		for _, ip := range n.addresses {
			if ip.subnet == s {
				m.Properties.IPConfigurations = append(m.Properties.IPConfigurations, &armnetwork.IPConfiguration{ID: to.Ptr(n.id + "/ipConfigurations/" + ip.name)})
			}
		}
	}
	return m
}

// reserved tells whether Azure keeps an address for itself.
func (s *subnet) reserved(a netip.Addr) bool {
	first := s.prefix.Masked().Addr()
	for range 4 {
		if a == first {
			return true
		}
		first = first.Next()
	}
	return !s.prefix.Contains(a.Next())
}

// holder returns the interface that has an address, if any.
func (s *subnet) holder(c *Cloud, a netip.Addr) *nic {
	for _, n := range all[*nic](c, nil) {
		for _, ip := range n.addresses {
			if ip.subnet == s && ip.addr == a {
				return n
			}
		}
	}
	return nil
}

// first returns up to n free addresses, the lowest first.
func (s *subnet) first(c *Cloud, n int, taken map[netip.Addr]bool) []netip.Addr {
	used := maps.Clone(taken)
	if used == nil {
		used = map[netip.Addr]bool{}
	}
	for _, n := range all[*nic](c, nil) {
		for _, ip := range n.addresses {
			if ip.subnet == s {
				used[ip.addr] = true
			}
		}
	}
	var free []netip.Addr
	for a := s.prefix.Masked().Addr(); s.prefix.Contains(a) && len(free) < n; a = a.Next() {
		if !used[a] && !s.reserved(a) {
			free = append(free, a)
		}
	}
	return free
}

func (c *Cloud) checkAddress(q *request) (reply, error) {
	n, err := need[*virtualNetwork](c, q.owner(1))
	if err != nil {
		return reply{}, err
	}
	a, err := netip.ParseAddr(q.query.Get("ipAddress"))
	if err != nil {
		return reply{}, refuse(http.StatusBadRequest, "InvalidIPAddressFormat", "%q is no address", q.query.Get("ipAddress"))
	}
	for _, s := range n.subnets(c) {
		if !s.prefix.Contains(a) {
			continue
		}
		platform := s.reserved(a)
		m := armnetwork.IPAddressAvailabilityResult{Available: to.Ptr(!platform && s.holder(c, a) == nil), IsPlatformReserved: &platform}
		if !*m.Available {
			for _, free := range s.first(c, 5, nil) {
				m.AvailableIPAddresses = append(m.AvailableIPAddresses, to.Ptr(free.String()))
			}
		}
		return ok(m)
	}
	return reply{}, refuse(http.StatusBadRequest, "PrivateIPAddressNotInAnySubnet", "Private static IP address %s does not belong to the range of any subnet in the virtual network %s.", a, n.name)
}

// Network makes a virtual network, whose subnets are given by name as CIDR, in
// a resource group that it makes if need be. It panics if a CIDR is none.
func (c *Cloud) Network(group, name string, subnets map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := &virtualNetwork{entry: c.made(c.makeGroup(group), "Microsoft.Network/virtualNetworks", name, nil, nil)}
	n.state = "Succeeded"
	if err := c.setSubnets(n, subnets); err != nil {
		panic(fmt.Sprintf("azuretest: network %s: %v", name, err))
	}
	c.put(n)
	c.watch()
}

// watch makes the region's Network Watcher, which Azure does with the first
// virtual network.
func (c *Cloud) watch() {
	if len(all[*watcher](c, nil)) == 0 {
		w := &watcher{c.made(c.makeGroup("NetworkWatcherRG"), "Microsoft.Network/networkWatchers", "NetworkWatcher_"+c.o.Location, nil, nil)}
		w.state = "Succeeded"
		c.put(w)
	}
}

func (c *Cloud) setSubnets(n *virtualNetwork, subnets map[string]string) error {
	for _, sub := range slices.Sorted(maps.Keys(subnets)) {
		p, err := netip.ParsePrefix(subnets[sub])
		if err != nil || !p.Addr().Is4() || p.Bits() > 29 {
			return refuse(http.StatusBadRequest, "InvalidCIDRNotation", "the address prefix %s of subnet %s is not fit", subnets[sub], sub)
		}
		s, had := look[*subnet](c, n.id+"/subnets/"+sub)
		if !had {
			s = &subnet{entry: c.child(&n.entry, "subnets", sub), of: n}
			c.put(s)
		}
		s.prefix = p.Masked()
		if len(n.space) == 0 || !slices.ContainsFunc(n.space, func(x *string) bool { return *x == p.Masked().String() }) {
			n.space = append(n.space, to.Ptr(p.Masked().String()))
		}
	}
	return nil
}

func (c *Cloud) putNetwork(q *request) (reply, error) {
	m, err := decode[armnetwork.VirtualNetwork](q)
	if err != nil {
		return reply{}, err
	}
	n, had := look[*virtualNetwork](c, q.id)
	if had {
		if err := c.free(&n.entry); err != nil {
			return reply{}, err
		}
	} else {
		e, err := c.entry(q, "Microsoft.Network/virtualNetworks", m.Location, m.Tags, nil)
		if err != nil {
			return reply{}, err
		}
		n = &virtualNetwork{entry: e}
	}
	subnets, groups := map[string]string{}, map[string]*string{}
	if m.Properties != nil {
		for _, s := range m.Properties.Subnets {
			if s.Properties != nil {
				subnets[val(s.Name)] = val(s.Properties.AddressPrefix)
				if g := s.Properties.NetworkSecurityGroup; g != nil {
					groups[val(s.Name)] = g.ID
				}
			}
		}
		if m.Properties.AddressSpace != nil {
			n.space = m.Properties.AddressSpace.AddressPrefixes
		}
	}
	if err := c.setSubnets(n, subnets); err != nil {
		return reply{}, err
	}
	for _, s := range n.subnets(c) {
		if _, keep := subnets[s.name]; !keep {
			c.drop(s)
		}
		s.group = groups[s.name]
	}
	n.tags = m.Tags
	c.put(n)
	c.watch()
	op := c.accept(q, "Updating", &n.entry)
	return reply{status: created(had), body: n.view(c), op: op}, nil
}

func created(had bool) int {
	if had {
		return http.StatusOK
	}
	return http.StatusCreated
}

func lastName(id string) string { return id[strings.LastIndex(id, "/")+1:] }

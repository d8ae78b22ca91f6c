package azuretest

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
)

// nic is a network interface.
type nic struct {
	entry
	model     armnetwork.Interface // as it was asked for
	addresses []address
	guid      string
	mac       string // once a machine has it
	owner     *vm
}

// address is one of an interface's IP configurations.
type address struct {
	name    string
	subnet  *subnet
	addr    netip.Addr
	static  bool
	primary bool
	public  *publicIP
}

func interfaceRoutes() []route {
	const at = network + "networkInterfaces/*"
	return slices.Concat(listRoutes[*nic]("Microsoft.Network/networkInterfaces"), []route{
		handle("GET", at, show[*nic]),
		handle("PUT", at, (*Cloud).putInterface),
		handle("PATCH", at, (*Cloud).patchInterface),
		handle("DELETE", at, (*Cloud).deleteInterface),
	})
}

func (n *nic) accelerated() bool { return val(n.model.Properties.EnableAcceleratedNetworking) }

func (n *nic) vnet() *virtualNetwork { return n.addresses[0].subnet.of }

func (n *nic) view(c *Cloud) any { return n.show(c) }

func (n *nic) show(*Cloud) armnetwork.Interface {
	m, p := n.model, *n.model.Properties
	m.ID, m.Name, m.Type, m.Location, m.Tags, m.Properties = &n.id, &n.name, &n.kind, &n.location, n.tags, &p
	p.ProvisioningState, p.ResourceGUID = n.provisioned(), &n.guid
	if n.owner != nil {
		p.VirtualMachine = &armnetwork.SubResource{ID: &n.owner.id}
		p.Primary = to.Ptr(n.owner.nics[0] == n)
	}
	if n.mac != "" {
		p.MacAddress = &n.mac
	}
	p.IPConfigurations = nil
	for i, a := range n.addresses {
		asked := *n.model.Properties.IPConfigurations[i]
		ip := *asked.Properties
		ip.Primary, ip.PrivateIPAddress, ip.ProvisioningState = to.Ptr(a.primary), to.Ptr(a.addr.String()), n.provisioned()
		ip.PrivateIPAllocationMethod = to.Ptr(armnetwork.IPAllocationMethodDynamic)
		if a.static {
			ip.PrivateIPAllocationMethod = to.Ptr(armnetwork.IPAllocationMethodStatic)
		}
		ip.PrivateIPAddressVersion = to.Ptr(armnetwork.IPVersionIPv4)
		ip.Subnet = &armnetwork.Subnet{ID: &a.subnet.id}
		if a.public != nil {
			ip.PublicIPAddress = &armnetwork.PublicIPAddress{ID: &a.public.id}
			if asked.Properties.PublicIPAddress.Properties != nil {
				ip.PublicIPAddress.Properties = asked.Properties.PublicIPAddress.Properties
			}
		}
		asked.ID, asked.Properties = to.Ptr(n.id+"/ipConfigurations/"+a.name), &ip
		asked.Type = to.Ptr("Microsoft.Network/networkInterfaces/ipConfigurations")
		p.IPConfigurations = append(p.IPConfigurations, &asked)
	}
	return m
}

func (c *Cloud) putInterface(q *request) (reply, error) {
	m, err := decode[armnetwork.Interface](q)
	if err != nil {
		return reply{}, err
	}
	n, had := look[*nic](c, q.id)
	if had {
		if err := c.free(&n.entry); err != nil {
			return reply{}, err
		}
	} else {
		e, err := c.entry(q, "Microsoft.Network/networkInterfaces", m.Location, m.Tags, nil)
		if err != nil {
			return reply{}, err
		}
		n = &nic{entry: e, guid: c.newID()}
	}
	list, err := c.addresses(n, m)
	if err != nil {
		return reply{}, err
	}
	if n.owner != nil && n.accelerated() != val(m.Properties.EnableAcceleratedNetworking) && n.owner.allocated() {
		return reply{}, notAllowed("accelerated networking of %s can be changed while VM %s is deallocated only", n.name, n.owner.name)
	}
	op := c.accept(q, "Updating", &n.entry)
	if op.code == "" || !had {
		n.model, n.tags, n.addresses = m, m.Tags, list
		if n.model.Properties.EnableAcceleratedNetworking == nil {
			n.model.Properties.EnableAcceleratedNetworking = to.Ptr(false)
		}
	}
	if !had {
		c.put(n)
	}
	return reply{status: created(had), body: n.view(c), op: op}, nil
}

// addresses allocates those that a model asks for. An interface that is there
// keeps a dynamic one that it has in the same subnet.
func (c *Cloud) addresses(n *nic, m armnetwork.Interface) ([]address, error) {
	if m.Properties == nil || len(m.Properties.IPConfigurations) == 0 {
		return nil, refuse(http.StatusBadRequest, "NetworkInterfaceMustHaveOneIpConfiguration", "network interface %s has no IP configuration", n.name)
	}
	if g := m.Properties.NetworkSecurityGroup; g != nil {
		if _, err := refer[*securityGroup](c, val(g.ID), n.id); err != nil {
			return nil, err
		}
	}
	var list []address
	taken := map[netip.Addr]bool{}
	primaries := 0
	for i, conf := range m.Properties.IPConfigurations {
		p := conf.Properties
		if p == nil || p.Subnet == nil {
			return nil, refuse(http.StatusBadRequest, "SubnetIsRequired", "an IP configuration of %s has no subnet", n.name)
		}
		s, err := refer[*subnet](c, val(p.Subnet.ID), n.id)
		if err != nil {
			return nil, err
		}
		if i > 0 && s.of != list[0].subnet.of {
			return nil, refuse(http.StatusBadRequest, "IPConfigurationsOnSameNicCannotUseDifferentVnets", "IP configurations of %s are in different virtual networks", n.name)
		}
		a := address{name: val(conf.Name), subnet: s, primary: val(p.Primary) || len(m.Properties.IPConfigurations) == 1}
		if a.static = val(p.PrivateIPAllocationMethod) == armnetwork.IPAllocationMethodStatic; a.static {
			a.addr, err = c.static(n, s, val(p.PrivateIPAddress), taken)
		} else {
			a.addr, err = c.dynamic(n, s, a.name, taken)
		}
		if err != nil {
			return nil, err
		}
		if p.PublicIPAddress != nil {
			if a.public, err = c.attachPublic(n, val(p.PublicIPAddress.ID)); err != nil {
				return nil, err
			}
		}
		if a.primary {
			primaries++
		}
		taken[a.addr] = true
		list = append(list, a)
	}
	if primaries != 1 {
		return nil, refuse(http.StatusBadRequest, "NetworkInterfaceMustHaveOnePrimaryIpConfiguration", "network interface %s must have one primary IP configuration", n.name)
	}
	return list, nil
}

func (c *Cloud) static(n *nic, s *subnet, text string, taken map[netip.Addr]bool) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return a, refuse(http.StatusBadRequest, "StaticIPAddressMustBeSpecified", "IP configuration of %s is static and names no address: %q", n.name, text)
	case !s.prefix.Contains(a):
		return a, refuse(http.StatusBadRequest, "PrivateIPAddressNotInSubnet", "Private static IP address %s does not belong to the range of subnet prefix %s.", a, s.prefix)
	case s.reserved(a):
		return a, refuse(http.StatusBadRequest, "PrivateIPAddressInReservedRange", "Private static IP address %s falls within reserved IP range of subnet prefix %s.", a, s.prefix)
	}
	if h := s.holder(c, a); h != nil && h != n || taken[a] {
		by := n.id
		if h != nil {
			by = h.id
		}
		return a, refuse(http.StatusBadRequest, "PrivateIPAddressInUse", "IP configuration of %s is using the private IP address %s which is already allocated to resource %s.", n.id, a, by)
	}
	return a, nil
}

func (c *Cloud) dynamic(n *nic, s *subnet, name string, taken map[netip.Addr]bool) (netip.Addr, error) {
	for _, old := range n.addresses {
		if old.subnet == s && old.name == name && !taken[old.addr] {
			return old.addr, nil
		}
	}
	free := s.first(c, 1, taken)
	if len(free) == 0 {
		return netip.Addr{}, refuse(http.StatusBadRequest, "SubnetIsFull", "Subnet %s with address prefix %s does not have enough capacity.", s.name, s.prefix)
	}
	return free[0], nil
}

func (c *Cloud) patchInterface(q *request) (reply, error) {
	m, err := decode[armnetwork.TagsObject](q)
	if err != nil {
		return reply{}, err
	}
	n, err := need[*nic](c, q.id)
	if err != nil {
		return reply{}, err
	}
	if err := c.free(&n.entry); err != nil {
		return reply{}, err
	}
	n.tags = m.Tags
	return ok(n.view(c))
}

func (c *Cloud) deleteInterface(q *request) (reply, error) {
	n, had := look[*nic](c, q.id)
	switch {
	case !had:
		return gone()
	case c.free(&n.entry) != nil:
		return reply{}, c.free(&n.entry)
	case n.owner != nil:
		return reply{}, refuse(http.StatusBadRequest, "NicInUse", "Network Interface %s is used by existing resource %s. In order to delete the network interface, it must be dissociated from the resource.", n.id, n.owner.id)
	}
	op := c.accept(q, "Deleting", &n.entry)
	op.end = func() { c.drop(n) }
	return accepted(op)
}

// removeInterface takes with it the public addresses that are to be deleted
// with it.
func (c *Cloud) removeInterface(n *nic) {
	for i, a := range n.addresses {
		if a.public == nil {
			continue
		}
		asked := n.model.Properties.IPConfigurations[i].Properties.PublicIPAddress
		with := asked.Properties != nil && val(asked.Properties.DeleteOption) == armnetwork.DeleteOptionsDelete ||
			val(a.public.model.Properties.DeleteOption) == armnetwork.DeleteOptionsDelete
		if with && c.lockOn(a.public.id, true) == nil {
			c.drop(a.public)
		}
	}
	c.drop(n)
}

// plug gives the interface an address on the wire.
func (c *Cloud) plug(n *nic) {
	if n.mac == "" {
		c.count++
		n.mac = fmt.Sprintf("00-0D-3A-%02X-%02X-%02X", c.count>>16&0xff, c.count>>8&0xff, c.count&0xff)
	}
}

package azuretest

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
)

// watcher is a Network Watcher, which tells what rules do to traffic.
type watcher struct{ entry }

func (w *watcher) view(*Cloud) any {
	return armnetwork.Watcher{
		ID: &w.id, Name: &w.name, Type: &w.kind, Location: &w.location, Tags: w.tags,
		Properties: &armnetwork.WatcherPropertiesFormat{ProvisioningState: w.provisioned()},
	}
}

func flowRoutes() []route {
	const at = network + "networkWatchers/*"
	return slices.Concat(listRoutes[*watcher]("Microsoft.Network/networkWatchers"), []route{
		handle("GET", at, show[*watcher]),
		handle("PUT", at, (*Cloud).putWatcher),
		handle("POST", at+"/ipFlowVerify", (*Cloud).verifyFlow),
		handle("POST", network+"networkInterfaces/*/effectiveNetworkSecurityGroups", (*Cloud).effectiveGroups),
	})
}

func (c *Cloud) putWatcher(q *request) (reply, error) {
	m, err := decode[armnetwork.Watcher](q)
	if err != nil {
		return reply{}, err
	}
	w, had := look[*watcher](c, q.id)
	if !had {
		e, err := c.entry(q, "Microsoft.Network/networkWatchers", m.Location, nil, nil)
		if err != nil {
			return reply{}, err
		}
		if len(all[*watcher](c, nil)) > 0 {
			return reply{}, refuse(http.StatusConflict, "NetworkWatcherCountLimitReached", "there is a Network Watcher in %s already", c.o.Location)
		}
		e.state = "Succeeded"
		w = &watcher{e}
		c.put(w)
	}
	w.tags = m.Tags
	return reply{status: created(had), body: w.view(c)}, nil
}

// groupsOf are the security groups that traffic of an interface passes: from
// outside the subnet's comes first.
func (n *nic) groupsOf(c *Cloud) []*securityGroup {
	var list []*securityGroup
	add := func(id *string) {
		if g, ok := look[*securityGroup](c, val(id)); ok {
			list = append(list, g)
		}
	}
	add(n.addresses[0].subnet.group)
	if ref := n.model.Properties.NetworkSecurityGroup; ref != nil {
		add(ref.ID)
	}
	return list
}

func (c *Cloud) effectiveGroups(q *request) (reply, error) {
	n, err := need[*nic](c, q.owner(1))
	if err != nil {
		return reply{}, err
	}
	if err := c.free(&n.entry); err != nil {
		return reply{}, err
	}
	if n.owner == nil || n.owner.power != running {
		return reply{}, refuse(http.StatusBadRequest, "NetworkInterfaceNotAttachedToRunningVM", "network interface %s must be attached to a running VM", n.id)
	}
	var list []*armnetwork.EffectiveNetworkSecurityGroup
	for _, g := range n.groupsOf(c) {
		m := &armnetwork.EffectiveNetworkSecurityGroup{NetworkSecurityGroup: &armnetwork.SubResource{ID: &g.id}, Association: &armnetwork.EffectiveNetworkSecurityGroupAssociation{}}
		if s := n.addresses[0].subnet; s.group != nil && cleanID(*s.group) == cleanID(g.id) {
			m.Association.Subnet = &armnetwork.SubResource{ID: &s.id}
		} else {
			m.Association.NetworkInterface = &armnetwork.SubResource{ID: &n.id}
		}
		for _, r := range slices.Concat(g.rules(c), g.defaultRules()) {
			m.EffectiveSecurityRules = append(m.EffectiveSecurityRules, r.effective())
		}
		list = append(list, m)
	}
	op := c.accept(q, "", &entry{}) // nothing is busy with it
	op.result = func() any { return armnetwork.EffectiveNetworkSecurityGroupListResult{Value: list} }
	return accepted(op)
}

// label is a rule's name as checks tell it.
func (r *securityRule) label() string { return lastName(r.kind) + "/" + r.name }

func (r *securityRule) effective() *armnetwork.EffectiveNetworkSecurityRule {
	p := r.model
	protocol := armnetwork.EffectiveSecurityRuleProtocolAll
	switch *p.Protocol {
	case armnetwork.SecurityRuleProtocolTCP:
		protocol = armnetwork.EffectiveSecurityRuleProtocolTCP
	case armnetwork.SecurityRuleProtocolUDP:
		protocol = armnetwork.EffectiveSecurityRuleProtocolUDP
	}
	return &armnetwork.EffectiveNetworkSecurityRule{
		Name: to.Ptr(r.label()), Priority: p.Priority, Access: p.Access, Direction: p.Direction, Protocol: &protocol,
		SourceAddressPrefix: p.SourceAddressPrefix, SourceAddressPrefixes: p.SourceAddressPrefixes,
		SourcePortRange: p.SourcePortRange, SourcePortRanges: p.SourcePortRanges,
		DestinationAddressPrefix: p.DestinationAddressPrefix, DestinationAddressPrefixes: p.DestinationAddressPrefixes,
		DestinationPortRange: p.DestinationPortRange, DestinationPortRanges: p.DestinationPortRanges,
	}
}

func (c *Cloud) verifyFlow(q *request) (reply, error) {
	if _, err := need[*watcher](c, q.owner(1)); err != nil {
		return reply{}, err
	}
	m, err := decode[armnetwork.VerificationIPFlowParameters](q)
	if err != nil {
		return reply{}, err
	}
	v, err := need[*vm](c, val(m.TargetResourceID))
	if err != nil {
		return reply{}, err
	}
	local, err1 := netip.ParseAddr(val(m.LocalIPAddress))
	remote, err2 := netip.ParseAddr(val(m.RemoteIPAddress))
	from, err3 := strconv.ParseUint(val(m.LocalPort), 10, 16)
	at, err4 := strconv.ParseUint(val(m.RemotePort), 10, 16)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil || m.Direction == nil || m.Protocol == nil {
		return reply{}, refuse(http.StatusBadRequest, "InvalidRequest", "a flow has a direction, a protocol, and two addresses with ports")
	}
	i := slices.IndexFunc(v.nics, func(n *nic) bool {
		return (m.TargetNicResourceID == nil || alike(n.id, *m.TargetNicResourceID)) &&
			slices.ContainsFunc(n.addresses, func(a address) bool { return a.addr == local })
	})
	if i < 0 {
		return reply{}, refuse(http.StatusBadRequest, "InvalidRequest", "VM %s has no address %s", v.id, local)
	}
	f := flow{
		inbound: *m.Direction == armnetwork.DirectionInbound, protocol: string(*m.Protocol),
		vnet: v.nics[i].vnet(), local: local, remote: remote, localPort: int(from), remotePort: int(at),
	}
	access, rule := f.judge(c, v.nics[i].groupsOf(c))
	op := c.accept(q, "", &entry{})
	op.result = func() any { return armnetwork.VerificationIPFlowResult{Access: &access, RuleName: &rule} }
	return accepted(op)
}

// flow is a packet.
type flow struct {
	inbound               bool
	protocol              string
	vnet                  *virtualNetwork
	local, remote         netip.Addr
	localPort, remotePort int
}

// judge tells what the groups do to it, and by which rule: all must allow it.
func (f flow) judge(c *Cloud, groups []*securityGroup) (armnetwork.Access, string) {
	if !f.inbound {
		slices.Reverse(groups)
	}
	rule := ""
	for _, g := range groups {
		for _, r := range slices.Concat(g.rules(c), g.defaultRules()) {
			if !f.matches(r.model) {
				continue
			}
			rule = r.label()
			if *r.model.Access == armnetwork.SecurityRuleAccessDeny {
				return armnetwork.AccessDeny, rule
			}
			break
		}
	}
	return armnetwork.AccessAllow, rule
}

func (f flow) matches(p armnetwork.SecurityRulePropertiesFormat) bool {
	src, srcPort, dst, dstPort := f.local, f.localPort, f.remote, f.remotePort
	if f.inbound {
		src, srcPort, dst, dstPort = dst, dstPort, src, srcPort
	}
	return (*p.Direction == armnetwork.SecurityRuleDirectionInbound) == f.inbound &&
		(*p.Protocol == armnetwork.SecurityRuleProtocolAsterisk || alike(string(*p.Protocol), f.protocol)) &&
		slices.ContainsFunc(both(p.SourceAddressPrefix, p.SourceAddressPrefixes), func(x string) bool { return f.covers(x, src) }) &&
		slices.ContainsFunc(both(p.DestinationAddressPrefix, p.DestinationAddressPrefixes), func(x string) bool { return f.covers(x, dst) }) &&
		slices.ContainsFunc(both(p.SourcePortRange, p.SourcePortRanges), func(x string) bool { return inPorts(x, srcPort) }) &&
		slices.ContainsFunc(both(p.DestinationPortRange, p.DestinationPortRanges), func(x string) bool { return inPorts(x, dstPort) })
}

// covers tells whether an address prefix or a service tag has an address.
func (f flow) covers(prefix string, a netip.Addr) bool {
	inside := slices.ContainsFunc(f.vnet.space, func(s *string) bool {
		p, err := netip.ParsePrefix(*s)
		return err == nil && p.Contains(a)
	})
	switch strings.ToLower(prefix) {
	case "*", "any":
		return true
	case "virtualnetwork":
		return inside
	case "internet":
		return !inside && !a.IsPrivate()
	}
	if p, err := netip.ParsePrefix(prefix); err == nil {
		return p.Contains(a)
	}
	one, err := netip.ParseAddr(prefix)
	return err == nil && one == a // other service tags have no addresses here
}

func both(one *string, more []*string) []string {
	var list []string
	if val(one) != "" {
		list = append(list, *one)
	}
	for _, s := range more {
		list = append(list, val(s))
	}
	return list
}

func rulePrefixes(p *armnetwork.SecurityRulePropertiesFormat) []string {
	return slices.Concat(both(p.SourceAddressPrefix, p.SourceAddressPrefixes), both(p.DestinationAddressPrefix, p.DestinationAddressPrefixes))
}

func rulePorts(p *armnetwork.SecurityRulePropertiesFormat) []string {
	return slices.Concat(both(p.SourcePortRange, p.SourcePortRanges), both(p.DestinationPortRange, p.DestinationPortRanges))
}

func validPrefix(s string) bool {
	if strings.ContainsAny(s, "./:") { // an address, or a tag of a region
		_, err := netip.ParsePrefix(s)
		_, err2 := netip.ParseAddr(s)
		return err == nil || err2 == nil || s[0] >= 'A' && s[0] <= 'Z'
	}
	return s != ""
}

// ports reads "*", "22" or "8000-8080".
func ports(s string) (first, last int, ok bool) {
	if s == "*" {
		return 0, 65535, true
	}
	a, b, is := strings.Cut(s, "-")
	if !is {
		b = a
	}
	x, err := strconv.ParseUint(a, 10, 16)
	y, err2 := strconv.ParseUint(b, 10, 16)
	return int(x), int(y), err == nil && err2 == nil && x <= y
}

func inPorts(s string, port int) bool {
	first, last, ok := ports(s)
	return ok && port >= first && port <= last
}

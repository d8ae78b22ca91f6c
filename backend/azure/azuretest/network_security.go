package azuretest

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
)

// securityGroup filters the traffic of interfaces and subnets.
type securityGroup struct{ entry }

// securityRule is a resource of its own.
type securityRule struct {
	entry
	of    *securityGroup
	model armnetwork.SecurityRulePropertiesFormat
}

func securityRoutes() []route {
	const (
		at   = network + "networkSecurityGroups/*"
		rule = at + "/securityRules/*"
	)
	return slices.Concat(listRoutes[*securityGroup]("Microsoft.Network/networkSecurityGroups"), []route{
		handle("GET", at, show[*securityGroup]),
		handle("PUT", at, (*Cloud).putSecurityGroup),
		handle("DELETE", at, (*Cloud).deleteSecurityGroup),
		handle("GET", rule, show[*securityRule]),
		handle("PUT", rule, (*Cloud).putSecurityRule),
		handle("DELETE", rule, (*Cloud).deleteSecurityRule),
		handle("GET", at+"/securityRules", func(c *Cloud, q *request) (reply, error) {
			g, err := need[*securityGroup](c, q.owner(1))
			if err != nil {
				return reply{}, err
			}
			return page(c, q, func(r *securityRule) bool { return r.of == g }, func(r *securityRule) any { return r.show() })
		}),
	})
}

// rules are the group's own, by priority.
func (g *securityGroup) rules(c *Cloud) []*securityRule {
	list := all(c, func(r *securityRule) bool { return r.of == g })
	slices.SortStableFunc(list, func(a, b *securityRule) int { return cmp.Compare(*a.model.Priority, *b.model.Priority) })
	return list
}

// defaultRules are in every group, after its own.
func (g *securityGroup) defaultRules() []*securityRule {
	rule := func(name string, priority int32, d armnetwork.SecurityRuleDirection, a armnetwork.SecurityRuleAccess, from, to string) *securityRule {
		r := &securityRule{of: g, entry: entry{
			id: g.id + "/defaultSecurityRules/" + name, kind: g.kind + "/defaultSecurityRules", name: name, state: "Succeeded",
		}}
		protocol, star := armnetwork.SecurityRuleProtocolAsterisk, "*"
		r.model = armnetwork.SecurityRulePropertiesFormat{
			Priority: &priority, Direction: &d, Access: &a, Protocol: &protocol, SourceAddressPrefix: &from, DestinationAddressPrefix: &to,
			SourcePortRange: &star, DestinationPortRange: &star,
		}
		return r
	}
	const (
		in, out     = armnetwork.SecurityRuleDirectionInbound, armnetwork.SecurityRuleDirectionOutbound
		allow, deny = armnetwork.SecurityRuleAccessAllow, armnetwork.SecurityRuleAccessDeny
	)
	return []*securityRule{
		rule("AllowVnetInBound", 65000, in, allow, "VirtualNetwork", "VirtualNetwork"),
		rule("AllowAzureLoadBalancerInBound", 65001, in, allow, "AzureLoadBalancer", "*"),
		rule("DenyAllInBound", 65500, in, deny, "*", "*"),
		rule("AllowVnetOutBound", 65000, out, allow, "VirtualNetwork", "VirtualNetwork"),
		rule("AllowInternetOutBound", 65001, out, allow, "*", "Internet"),
		rule("DenyAllOutBound", 65500, out, deny, "*", "*"),
	}
}

func (r *securityRule) view(*Cloud) any { return r.show() }

func (r *securityRule) show() armnetwork.SecurityRule {
	p := r.model
	p.ProvisioningState = r.provisioned()
	return armnetwork.SecurityRule{ID: &r.id, Name: &r.name, Type: &r.kind, Properties: &p}
}

func (g *securityGroup) view(c *Cloud) any {
	p := &armnetwork.SecurityGroupPropertiesFormat{ProvisioningState: g.provisioned(), SecurityRules: []*armnetwork.SecurityRule{}}
	for _, r := range g.rules(c) {
		p.SecurityRules = append(p.SecurityRules, to.Ptr(r.show()))
	}
	for _, r := range g.defaultRules() {
		p.DefaultSecurityRules = append(p.DefaultSecurityRules, to.Ptr(r.show()))
	}
	for _, n := range g.interfaces(c) {
		p.NetworkInterfaces = append(p.NetworkInterfaces, &armnetwork.Interface{ID: &n.id})
	}
	for _, s := range g.subnets(c) {
		p.Subnets = append(p.Subnets, &armnetwork.Subnet{ID: &s.id})
	}
	return armnetwork.SecurityGroup{ID: &g.id, Name: &g.name, Type: &g.kind, Location: &g.location, Tags: g.tags, Properties: p}
}

func (g *securityGroup) interfaces(c *Cloud) []*nic {
	return all(c, func(n *nic) bool {
		ref := n.model.Properties.NetworkSecurityGroup
		return ref != nil && cleanID(val(ref.ID)) == cleanID(g.id)
	})
}

func (g *securityGroup) subnets(c *Cloud) []*subnet {
	return all(c, func(s *subnet) bool { return s.group != nil && cleanID(*s.group) == cleanID(g.id) })
}

// checkRules refuses rules that are none, or of which two clash.
func checkRules(rules []*armnetwork.SecurityRule) error {
	type place struct {
		direction armnetwork.SecurityRuleDirection
		priority  int32
	}
	taken := map[place]string{}
	for _, r := range rules {
		p, name := r.Properties, val(r.Name)
		if p == nil || p.Access == nil || p.Direction == nil || p.Protocol == nil || p.Priority == nil {
			return refuse(http.StatusBadRequest, "SecurityRuleMissingRequiredField", "security rule %s needs access, direction, protocol and priority", name)
		}
		if *p.Priority < 100 || *p.Priority > 4096 {
			return refuse(http.StatusBadRequest, "SecurityRuleInvalidPriority", "Security rule has invalid Priority. Value provided: %d Allowed range 100-4096.", *p.Priority)
		}
		for _, x := range rulePrefixes(p) {
			if !validPrefix(x) {
				return refuse(http.StatusBadRequest, "SecurityRuleInvalidAddressPrefix", "Security rule %s has invalid address prefix %q.", name, x)
			}
		}
		for _, x := range rulePorts(p) {
			if _, _, ok := ports(x); !ok {
				return refuse(http.StatusBadRequest, "SecurityRuleInvalidPortRange", "Security rule %s has invalid port range %q.", name, x)
			}
		}
		at := place{*p.Direction, *p.Priority}
		if other, clash := taken[at]; clash {
			return refuse(http.StatusBadRequest, "SecurityRuleConflict", "Security rule %s conflicts with rule %s. Rules cannot have the same Priority and Direction.", name, other)
		}
		taken[at] = name
	}
	return nil
}

func (c *Cloud) putSecurityGroup(q *request) (reply, error) {
	m, err := decode[armnetwork.SecurityGroup](q)
	if err != nil {
		return reply{}, err
	}
	var rules []*armnetwork.SecurityRule
	if m.Properties != nil {
		rules = m.Properties.SecurityRules
	}
	if err := checkRules(rules); err != nil {
		return reply{}, err
	}
	g, had := look[*securityGroup](c, q.id)
	if had {
		if err := c.free(&g.entry); err != nil {
			return reply{}, err
		}
	} else {
		e, err := c.entry(q, "Microsoft.Network/networkSecurityGroups", m.Location, m.Tags, nil)
		if err != nil {
			return reply{}, err
		}
		g = &securityGroup{e}
		c.put(g)
	}
	op := c.accept(q, "Updating", &g.entry)
	if op.code == "" {
		g.tags = m.Tags
		for _, old := range g.rules(c) { // those of the body are all
			c.drop(old)
		}
		for _, r := range rules {
			c.put(&securityRule{entry: c.child(&g.entry, "securityRules", val(r.Name)), of: g, model: *r.Properties})
		}
	}
	return reply{status: created(had), body: g.view(c), op: op}, nil
}

func (c *Cloud) deleteSecurityGroup(q *request) (reply, error) {
	g, had := look[*securityGroup](c, q.id)
	if !had {
		return gone()
	}
	if err := c.free(&g.entry); err != nil {
		return reply{}, err
	}
	var user string
	for _, n := range g.interfaces(c) {
		user = n.id
	}
	for _, s := range g.subnets(c) {
		user = s.id
	}
	if user != "" {
		return reply{}, refuse(http.StatusBadRequest, "InUseNetworkSecurityGroupCannotBeDeleted", "Network security group %s cannot be deleted because it is in use by %s.", g.id, user)
	}
	op := c.accept(q, "Deleting", &g.entry)
	op.end = func() {
		for _, r := range g.rules(c) {
			c.drop(r)
		}
		c.drop(g)
	}
	return accepted(op)
}

func (c *Cloud) putSecurityRule(q *request) (reply, error) {
	m, err := decode[armnetwork.SecurityRule](q)
	if err != nil {
		return reply{}, err
	}
	g, err := parent[*securityGroup](c, q)
	if err != nil {
		return reply{}, err
	}
	if err := c.free(&g.entry); err != nil {
		return reply{}, err
	}
	m.Name = to.Ptr(q.name())
	rules := []*armnetwork.SecurityRule{&m}
	for _, r := range g.rules(c) {
		if !alike(r.name, q.name()) {
			rules = append(rules, to.Ptr(r.show()))
		}
	}
	if err := checkRules(rules); err != nil {
		return reply{}, err
	}
	r, had := look[*securityRule](c, q.id)
	if !had {
		r = &securityRule{entry: c.child(&g.entry, "securityRules", q.name()), of: g, model: *m.Properties}
		c.put(r)
	}
	op := c.accept(q, "Updating", &r.entry, &g.entry)
	if op.code == "" {
		r.model = *m.Properties
	}
	if !had {
		op.failed = func() { c.drop(r) }
	}
	return reply{status: created(had), body: r.view(c), op: op}, nil
}

func (c *Cloud) deleteSecurityRule(q *request) (reply, error) {
	r, had := look[*securityRule](c, q.id)
	if !had {
		return gone()
	}
	if err := c.free(&r.of.entry); err != nil {
		return reply{}, err
	}
	op := c.accept(q, "Deleting", &r.entry, &r.of.entry)
	op.end = func() { c.drop(r) }
	return accepted(op)
}

package azure

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Allowed is the result of ActionAllow.
type Allowed struct {
	Group string `json:"group"` // resource ID of the network security group
	Rule  string `json:"rule"`
	Ports []int  `json:"ports"`
	// SubnetGroup is the subnet's own network security group, which must let
	// them through too; it is everybody's, and never changed.
	SubnetGroup string `json:"subnetGroup,omitempty"`
	// Open says that both groups let them through, as Azure applies them to the
	// card; Denied names the rules that don't. Neither is set where Azure would
	// not tell.
	Open   bool     `json:"open"`
	Denied []string `json:"denied,omitempty"`
}

// Priorities of rules that this library makes: from here on, so that others may
// come before them.
const (
	firstPriority = 1000
	lastPriority  = 4096 // Azure's
)

// allow is the code of ActionAllow.
func (a *Azure) allow(ctx context.Context, m *machine, in AccessInput, c *dr.Call) (any, error) {
	name := "lifeboat-" + short("rule", string(c.Run), c.Step, string(m.id))[:8]
	at, card, err := a.firstCard(ctx, m)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		return nil, a.disallow(ctx, m, card, name, c)
	}
	from, err := source(in.From)
	if err != nil {
		return nil, dr.Permanent(err)
	}
	group, err := a.guard(ctx, m, at, card)
	if err != nil {
		return nil, err
	}
	out := Allowed{Group: deref(group.ID), Rule: name, Ports: in.ports(m)}
	rule := armnetwork.SecurityRulePropertiesFormat{
		Access: to.Ptr(armnetwork.SecurityRuleAccessAllow), Direction: to.Ptr(armnetwork.SecurityRuleDirectionInbound), Protocol: to.Ptr(armnetwork.SecurityRuleProtocolTCP),
		SourceAddressPrefix: to.Ptr(from), SourcePortRange: to.Ptr("*"), DestinationAddressPrefix: to.Ptr("*"),
		Description: to.Ptr("Lifeboat, run " + string(c.Run))}
	for _, p := range out.Ports {
		rule.DestinationPortRanges = append(rule.DestinationPortRanges, to.Ptr(strconv.Itoa(p)))
	}
	if deref(group.Tags[tagMachine]) != string(m.id) {
		// Others are behind the same group: they must not be opened too. What is
		// put into it, Remove can't know by a tag.
		rule.DestinationAddressPrefix = card.Properties.IPConfigurations[0].Properties.PrivateIPAddress
		if err := a.noteRule(ctx, m, out.Group, name); err != nil {
			return nil, err
		}
	}
	if err := a.putRule(ctx, out.Group, name, rule); err != nil {
		return nil, err
	}
	if out.SubnetGroup, err = a.subnetGroup(ctx, card); err != nil {
		return nil, err
	}
	a.judge(ctx, at, card, from, &out)
	return out, nil
}

// noteRule records a rule in somebody else's group before it is made.
func (a *Azure) noteRule(ctx context.Context, m *machine, group, name string) error {
	if !m.has {
		return nil // of a machine that Remove doesn't delete the undo takes it back
	}
	_, err := a.update(ctx, m.id, nil, func(r *record) error {
		id := group + "/securityRules/" + name
		if slices.Contains(r.Rules, id) {
			return errUnchanged
		}
		r.Rules = append(r.Rules, id)
		return nil
	})
	return err
}

// putRule gives a rule a priority that is free, and the one that it has if it is
// there.
func (a *Azure) putRule(ctx context.Context, group, name string, rule armnetwork.SecurityRulePropertiesFormat) error {
	at, err := parseID(group)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		g, err := a.guards.Get(ctx, at.group, at.name, nil)
		if err != nil {
			return explain(err)
		}
		priority, err := freePriority(g.SecurityGroup, name)
		if err != nil {
			return err
		}
		rule.Priority = &priority
		p, err := a.rules.BeginCreateOrUpdate(ctx, at.group, at.name, name, armnetwork.SecurityRule{Properties: &rule}, nil)
		_, err = await(ctx, a, p, err)
		if _, code := codeOf(err); code == "SecurityRuleConflict" && try < 8 {
			continue // it was taken between the question and the answer
		}
		return explain(err)
	}
}

func freePriority(g armnetwork.SecurityGroup, name string) (int32, error) {
	used := map[int32]bool{}
	if g.Properties != nil {
		for _, r := range g.Properties.SecurityRules {
			switch {
			case r.Properties == nil:
			case strings.EqualFold(deref(r.Name), name):
				return deref(r.Properties.Priority), nil
			case deref(r.Properties.Direction) == armnetwork.SecurityRuleDirectionInbound:
				used[deref(r.Properties.Priority)] = true
			}
		}
	}
	for p := int32(firstPriority); p <= lastPriority; p++ {
		if !used[p] {
			return p, nil
		}
	}
	return 0, remedied(fmt.Errorf("%w: network security group %s has no priority from %d to %d left", errRefused, deref(g.Name), firstPriority, lastPriority), "remove rules of it")
}

// source is a prefix, an address, or "Internet", which is Azure's word for all.
func source(from string) (string, error) {
	if strings.EqualFold(from, "Internet") {
		return "Internet", nil
	}
	if p, err := netip.ParsePrefix(from); err == nil && p.Bits() > 0 {
		return p.Masked().String(), nil
	}
	if at, err := netip.ParseAddr(from); err == nil && !at.IsUnspecified() && at.Zone() == "" {
		return at.String(), nil
	}
	return "", fmt.Errorf("%w: from %q: want who may connect, \"203.0.113.0/24\", or \"Internet\" for everybody", dr.ErrInvalid, from)
}

// guard is the card's security group, made if it has none.
func (a *Azure) guard(ctx context.Context, m *machine, at place, card armnetwork.Interface) (armnetwork.SecurityGroup, error) {
	if g := card.Properties.NetworkSecurityGroup; g != nil {
		where, err := parseID(deref(g.ID))
		if err != nil {
			return armnetwork.SecurityGroup{}, err
		}
		have, err := a.guards.Get(ctx, where.group, where.name, nil)
		return have.SecurityGroup, explain(err)
	}
	own := place{m.at.group, m.at.name + "-guard"}
	have, err := a.guards.Get(ctx, own.group, own.name, nil)
	if err == nil && deref(have.Tags[tagMachine]) != string(m.id) {
		return armnetwork.SecurityGroup{}, taken("network security group", own)
	}
	if isNotFound(err) {
		p, err := a.guards.BeginCreateOrUpdate(ctx, own.group, own.name, armnetwork.SecurityGroup{Location: m.vm.Location, Tags: a.ownTags(m)}, nil)
		made, err := await(ctx, a, p, err)
		if err != nil {
			return armnetwork.SecurityGroup{}, explain(err)
		}
		have.SecurityGroup = made.SecurityGroup
	} else if err != nil {
		return armnetwork.SecurityGroup{}, explain(err)
	}
	return have.SecurityGroup, a.changeCard(ctx, at, func(p *armnetwork.InterfacePropertiesFormat) bool {
		if p.NetworkSecurityGroup != nil {
			return false // somebody was faster: the next attempt takes that one
		}
		p.NetworkSecurityGroup = &armnetwork.SecurityGroup{ID: have.ID}
		return true
	})
}

// disallow deletes the rule, and the group if it was made for it and has no
// other: without one, the card is as open as it was.
func (a *Azure) disallow(ctx context.Context, m *machine, card armnetwork.Interface, rule string, c *dr.Call) error {
	var was Allowed
	if raw := c.Results[c.Step]; len(raw) > 0 {
		_ = json.Unmarshal(raw, &was) // another version's result is none
	}
	groups := []string{was.Group, a.networkID("networkSecurityGroups", place{m.at.group, m.at.name + "-guard"})}
	if g := card.Properties.NetworkSecurityGroup; g != nil {
		groups = append(groups, deref(g.ID))
	}
	for _, id := range unique(groups) {
		if id == "" {
			continue
		}
		if err := a.dropRule(ctx, id, rule); err != nil {
			return err
		}
		at, err := parseID(id)
		if err != nil {
			return err
		}
		g, err := a.guards.Get(ctx, at.group, at.name, nil)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return explain(err)
		}
		if g.Properties == nil || len(g.Properties.SecurityRules) == 0 {
			if err := a.dropGuard(ctx, m.id, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropRule deletes a rule of ours. One that isn't there is no error.
func (a *Azure) dropRule(ctx context.Context, group, name string) error {
	at, err := parseID(group)
	if err != nil || !strings.HasPrefix(name, "lifeboat-") {
		return err
	}
	p, err := a.rules.BeginDelete(ctx, at.group, at.name, name, nil)
	if _, err := await(ctx, a, p, err); err != nil && !isNotFound(err) {
		return explain(err)
	}
	return nil
}

// dropGuard takes a group that was made for a machine off all cards, and deletes
// it. One that isn't there, or is another's, is no error.
func (a *Azure) dropGuard(ctx context.Context, id dr.MachineID, at place) error {
	have, err := a.guards.Get(ctx, at.group, at.name, nil)
	if isNotFound(err) || err == nil && deref(have.Tags[tagMachine]) != string(id) {
		return nil
	}
	if err != nil {
		return explain(err)
	}
	if have.Properties != nil {
		for _, n := range have.Properties.NetworkInterfaces {
			card, err := parseID(deref(n.ID))
			if err != nil {
				return err
			}
			err = a.changeCard(ctx, card, func(p *armnetwork.InterfacePropertiesFormat) bool {
				p.NetworkSecurityGroup = nil
				return true
			})
			if err != nil && !isNotFound(err) {
				return err
			}
		}
	}
	p, err := a.guards.BeginDelete(ctx, at.group, at.name, nil)
	if _, err = await(ctx, a, p, err); err != nil && !isNotFound(err) {
		return explain(err)
	}
	return nil
}

func (a *Azure) subnetGroup(ctx context.Context, card armnetwork.Interface) (string, error) {
	s := card.Properties.IPConfigurations[0].Properties.Subnet
	if s == nil {
		return "", nil
	}
	vnet, subnet, err := a.subnetRef(deref(s.ID))
	if err != nil {
		return "", err
	}
	have, err := a.subnets.Get(ctx, vnet.group, vnet.name, subnet, nil)
	if err != nil {
		return "", explain(err)
	}
	if have.Properties == nil || have.Properties.NetworkSecurityGroup == nil {
		return "", nil
	}
	return deref(have.Properties.NetworkSecurityGroup.ID), nil
}

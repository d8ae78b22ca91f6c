package azure

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
)

// judge asks Azure which rules it applies to a card, and tells whether they let
// everybody in who was to be let in. Where it won't tell (to ask is a privilege
// of its own) nothing is said.
func (a *Azure) judge(ctx context.Context, at place, card armnetwork.Interface, from string, out *Allowed) {
	p, err := a.nics.BeginListEffectiveNetworkSecurityGroups(ctx, at.group, at.name, nil)
	r, err := await(ctx, a, p, err)
	if err != nil {
		a.opts.Log.Info("Azure doesn't tell the rules of a card", "card", at.name, "why", explain(err))
		return
	}
	to, err := netip.ParseAddr(deref(card.Properties.IPConfigurations[0].Properties.PrivateIPAddress))
	if err != nil {
		return
	}
	out.Denied = nil
	for _, g := range r.Value {
		name := ""
		if g.NetworkSecurityGroup != nil {
			name = deref(g.NetworkSecurityGroup.ID)
			name = name[strings.LastIndexByte(name, '/')+1:]
		}
		for _, port := range out.Ports {
			if rule := deniedBy(g.EffectiveSecurityRules, from, to, port); rule != "" {
				out.Denied = append(out.Denied, fmt.Sprintf("%s of group %s, port %d", rule, name, port))
			}
		}
	}
	out.Open = len(out.Denied) == 0
}

// deniedBy is the rule of a group that keeps some of those out who are at from,
// "" if it lets all of them in. The first rule that a packet fits decides.
func deniedBy(rules []*armnetwork.EffectiveNetworkSecurityRule, from string, to netip.Addr, port int) string {
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(x, y *armnetwork.EffectiveNetworkSecurityRule) int {
		return cmp.Compare(deref(x.Priority), deref(y.Priority))
	})
	for _, r := range rules {
		p := deref(r.Protocol)
		if deref(r.Direction) != armnetwork.SecurityRuleDirectionInbound || p != armnetwork.EffectiveSecurityRuleProtocolAll && p != armnetwork.EffectiveSecurityRuleProtocolTCP {
			continue
		}
		ports := joined(r.DestinationPortRange, r.DestinationPortRanges, nil)
		targets := joined(r.DestinationAddressPrefix, r.DestinationAddressPrefixes, r.ExpandedDestinationAddressPrefix)
		at := netip.PrefixFrom(to, to.BitLen()).String()
		if !slices.ContainsFunc(ports, func(s string) bool { return inPorts(s, port) }) ||
			!slices.ContainsFunc(targets, func(s string) bool { return s == "VirtualNetwork" || covers(s, at) }) {
			continue
		}
		sources := joined(r.SourceAddressPrefix, r.SourceAddressPrefixes, r.ExpandedSourceAddressPrefix)
		switch deref(r.Access) {
		case armnetwork.SecurityRuleAccessAllow:
			if slices.ContainsFunc(sources, func(s string) bool { return covers(s, from) }) {
				return ""
			}
		default:
			if slices.ContainsFunc(sources, func(s string) bool { return meets(s, from) }) {
				return "rule " + deref(r.Name)
			}
		}
	}
	return "no rule"
}

func joined(one *string, more, expanded []*string) []string {
	var all []string
	for _, s := range append(append([]*string{one}, more...), expanded...) {
		if deref(s) != "" {
			all = append(all, *s)
		}
	}
	return all
}

// prefixOf reads a prefix or an address.
func prefixOf(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), true
	}
	at, err := netip.ParseAddr(s)
	return netip.PrefixFrom(at, at.BitLen()), err == nil
}

func anybody(s string) bool { return s == "*" || s == "0.0.0.0/0" || strings.EqualFold(s, "Any") }

// covers tells whether a rule's source holds all of from.
func covers(rule, from string) bool {
	r, isPrefix := prefixOf(rule)
	f, ok := prefixOf(from)
	switch {
	case anybody(rule) || strings.EqualFold(rule, from):
		return true
	case strings.EqualFold(rule, "Internet"):
		return ok && !f.Addr().IsPrivate() && f.Bits() >= 8
	}
	return ok && isPrefix && r.Addr().BitLen() == f.Addr().BitLen() && r.Bits() <= f.Bits() && r.Contains(f.Addr())
}

// meets tells whether a rule's source holds any of from. Tags whose addresses
// nobody knows here are taken to.
func meets(rule, from string) bool {
	r, isPrefix := prefixOf(rule)
	f, ok := prefixOf(from)
	if anybody(rule) || !isPrefix || !ok {
		return true
	}
	return r.Overlaps(f)
}

// inPorts reads "*", "22" or "8000-8080".
func inPorts(s string, port int) bool {
	if s == "*" {
		return true
	}
	first, last, is := strings.Cut(s, "-")
	if !is {
		last = first
	}
	x, err1 := strconv.Atoi(first)
	y, err2 := strconv.Atoi(last)
	return err1 == nil && err2 == nil && x <= port && port <= y
}

package vmware

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// guestNet is what a guest is told about its network when it starts for the
// first time. It is kept in the record until then.
type guestNet struct {
	Host   string      `json:"host"`
	Domain string      `json:"domain"`
	DNS    []string    `json:"dns,omitempty"`
	Search []string    `json:"search,omitempty"`
	Cards  []guestCard `json:"cards"` // in the order of the machine's
}

type guestCard struct {
	ID        string   `json:"id"`
	DHCP      bool     `json:"dhcp,omitempty"`
	Addresses []string `json:"addresses,omitempty"` // with the length of their prefix
	Gateways  []string `json:"gateways,omitempty"`
}

// guestNetOf is what the guest of m is to be told: the addresses of m's cards,
// and the rest as the options say, else as it was. nil if there is nothing to
// tell, as all cards ask DHCP. s may be nil.
func guestNetOf(m dr.Machine, o PlaceOptions, s *saved) (*guestNet, error) {
	if !slices.ContainsFunc(m.NICs, func(n dr.NIC) bool { return !n.DHCP && len(n.Addresses) > 0 }) {
		return nil, nil
	}
	return guestNetOfAll(m, o, s)
}

// guestNetOfAll is guestNetOf also where all cards ask DHCP.
func guestNetOfAll(m dr.Machine, o PlaceOptions, s *saved) (*guestNet, error) {
	var was savedGuest
	if s != nil {
		was = s.Guest
	}
	g := &guestNet{Host: hostName(cmp.Or(was.Host, m.Name, string(m.ID))), Domain: cmp.Or(was.Domain, "localdomain"), DNS: was.DNS, Search: was.Search}
	if len(o.DNS) > 0 {
		g.DNS = o.DNS
	}
	if len(o.Search) > 0 {
		g.Search = o.Search
	}
	for _, n := range m.NICs {
		c := guestCard{ID: n.ID, DHCP: n.DHCP || len(n.Addresses) == 0, Gateways: was.Gateways[n.ID]}
		if to, ok := o.Gateways[n.ID]; ok {
			c.Gateways = to
		}
		if c.DHCP {
			c.Gateways = nil
		} else {
			c.Addresses = n.Addresses
		}
		g.Cards = append(g.Cards, c)
	}
	if m.OS != "linux" {
		return nil, &explained{fmt.Errorf("%w: addresses can be set in Linux only, and this is %s", dr.ErrUnsupported, cmp.Or(m.OS, "an unknown system")),
			"vSphere would set those of Windows by Sysprep, which takes the machine's identity: use DHCP, or a step of your own that sets them in the guest"}
	}
	_, err := g.spec(nil)
	return g, err
}

var notHost = regexp.MustCompile(`[^A-Za-z0-9-]+`)

// hostName makes a host name of a name for people.
func hostName(s string) string {
	s, _, _ = strings.Cut(s, ".")
	s = strings.Trim(notHost.ReplaceAllString(s, "-"), "-")
	if len(s) > 63 {
		s = strings.TrimRight(s[:63], "-")
	}
	return cmp.Or(s, "localhost")
}

// spec is the customization. macs, of the machine's cards in their order, tie
// addresses to cards; nil leaves it to the order.
func (g *guestNet) spec(macs []string) (types.CustomizationSpec, error) {
	spec := types.CustomizationSpec{
		Identity: &types.CustomizationLinuxPrep{
			HostName: &types.CustomizationFixedName{Name: g.Host},
			Domain:   g.Domain,
		},
		GlobalIPSettings: types.CustomizationGlobalIPSettings{DnsServerList: g.DNS, DnsSuffixList: g.Search},
	}
	if len(macs) != len(g.Cards) || slices.Contains(macs, "") {
		macs = make([]string, len(g.Cards))
	}
	for i, c := range g.Cards {
		a, err := c.settings()
		if err != nil {
			return spec, fmt.Errorf("card %s: %w", c.ID, err)
		}
		spec.NicSettingMap = append(spec.NicSettingMap, types.CustomizationAdapterMapping{MacAddress: macs[i], Adapter: a})
	}
	return spec, nil
}

func (c guestCard) settings() (types.CustomizationIPSettings, error) {
	set := types.CustomizationIPSettings{Ip: &types.CustomizationDhcpIpGenerator{}}
	if c.DHCP {
		return set, nil
	}
	var v6 types.CustomizationIPSettingsIpV6AddressSpec
	four := false
	for _, s := range c.Addresses {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return set, &explained{fmt.Errorf("%w: address %q: %w", dr.ErrInvalid, s, err), "write it with the length of its prefix: \"10.0.0.5/24\""}
		}
		if p.Addr().Is6() {
			v6.Ip = append(v6.Ip, &types.CustomizationFixedIpV6{IpAddress: p.Addr().String(), SubnetMask: int32(p.Bits())})
			continue
		}
		if four {
			return set, &explained{fmt.Errorf("%w: a second IPv4 address, %s", dr.ErrUnsupported, s), "vSphere can set one a card: set the others by a step of your own"}
		}
		four = true
		set.Ip = &types.CustomizationFixedIp{IpAddress: p.Addr().String()}
		set.SubnetMask = net.IP(net.CIDRMask(p.Bits(), 32)).String()
	}
	for _, s := range c.Gateways {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return set, fmt.Errorf("%w: gateway: %w", dr.ErrInvalid, err)
		}
		if a.Is6() {
			v6.Gateway = append(v6.Gateway, a.String())
		} else {
			set.Gateway = append(set.Gateway, a.String())
		}
	}
	if len(v6.Ip) > 0 {
		set.IpV6Spec = &v6
	}
	return set, nil
}

// customize has a stopped machine's guest take on its addresses when it starts
// next. The machine's lock must be held. Asked again before that start it does
// nothing.
func (v *VSphere) customize(ctx context.Context, m *machine, g *guestNet) error {
	var macs []string
	for _, c := range cardsOf(m.config.Hardware.Device) {
		macs = append(macs, c.GetVirtualEthernetCard().MacAddress)
	}
	if len(macs) != len(g.Cards) {
		return &explained{fmt.Errorf("%w: the machine has %d cards, and the addresses are for %d", dr.ErrConflict, len(macs), len(g.Cards)), "give it the cards that it was made with, or set the addresses by a step of your own"}
	}
	spec, err := g.spec(macs)
	if err != nil {
		return err
	}
	_, err = v.effect(ctx, m, func(ctx context.Context) (*object.Task, error) {
		return object.NewVirtualMachine(v.client, m.ref).Customize(ctx, spec)
	})
	switch faultOf(err).(type) {
	case types.CustomizationPending, *types.CustomizationPending:
		return nil
	case types.UncustomizableGuest, *types.UncustomizableGuest, types.CustomizationFault, *types.CustomizationFault:
		return &explained{fmt.Errorf("%w: vSphere can't set addresses in this guest: %w", dr.ErrUnsupported, err), "see that the original has VMware Tools and Perl or cloud-init, or set the addresses by a step of your own"}
	}
	return err
}

package offline

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// card is what the guest's configuration says of a network card.
type card struct {
	name, mac string
	dhcp      bool
	from      string
}

// dhcp says whether the first card gets its address by DHCP. Where the
// configurations differ, and none names the first card's MAC, it's unknown.
func (g *guest) dhcp() backend.Fact {
	const what = "DHCP"
	cards := g.configured()
	if len(cards) == 0 {
		if by, _ := g.enabled("NetworkManager.service"); by != "" {
			return g.fact(what, backend.Yes, "NetworkManager is started by %s, and asks DHCP for cards without a profile", by)
		}
		return g.fact(what, backend.Unknown, "no configuration of a card was found")
	}
	answer := func(c card) backend.Fact {
		a := backend.No
		if c.dhcp {
			a = backend.Yes
		}
		return g.fact(what, a, "%s of /%s", c.name, c.from)
	}
	if len(g.machine.NICs) > 0 {
		for _, c := range cards {
			if c.mac != "" && strings.EqualFold(c.mac, g.machine.NICs[0].MAC) {
				return answer(c)
			}
		}
	}
	for _, c := range cards[1:] {
		if c.dhcp != cards[0].dhcp {
			return g.fact(what, backend.Unknown, "%s of /%s and %s of /%s differ, and which is the first card can't be told", cards[0].name, cards[0].from, c.name, c.from)
		}
	}
	return answer(cards[0])
}

// configured lists the cards of all configurations.
func (g *guest) configured() (cards []card) {
	for _, read := range []func() []card{g.netplan, g.ifupdown, g.networkManager, g.ifcfg, g.networkd} {
		cards = append(cards, read()...)
	}
	return cards
}

func (g *guest) netplan() (list []card) {
	for _, name := range g.glob("etc/netplan", "*.yaml") {
		text, _ := g.text(name)
		var doc struct {
			Network struct {
				Ethernets map[string]struct {
					DHCP4     bool `yaml:"dhcp4"`
					Addresses []yaml.Node
					Match     struct {
						MAC string `yaml:"macaddress"`
					}
				}
			}
		}
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			g.unknown("/%s: it can't be parsed", name)
			continue
		}
		var names []string
		for n := range doc.Network.Ethernets {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			e := doc.Network.Ethernets[n]
			list = append(list, card{n, e.Match.MAC, e.DHCP4, name})
		}
	}
	return list
}

func (g *guest) ifupdown() (list []card) {
	for _, name := range append([]string{"etc/network/interfaces"}, g.glob("etc/network/interfaces.d", "*")...) {
		text, _ := g.text(name)
		for _, l := range lines(text) {
			f := strings.Fields(l)
			if len(f) == 4 && f[0] == "iface" && f[2] == "inet" && f[3] != "loopback" && f[3] != "manual" {
				list = append(list, card{name: f[1], dhcp: f[3] == "dhcp", from: name})
			}
		}
	}
	return list
}

// sections splits an INI file; keys are "section.key" in lower case.
func sections(text string) map[string]string {
	list, in := map[string]string{}, ""
	for _, l := range lines(text) {
		if strings.HasPrefix(l, "[") {
			in = strings.ToLower(strings.Trim(l, "[]"))
		} else if k, v, ok := strings.Cut(l, "="); ok {
			k = in + "." + strings.ToLower(strings.TrimSpace(k))
			if _, there := list[k]; !there {
				list[k] = strings.TrimSpace(v)
			}
		}
	}
	return list
}

func (g *guest) networkManager() (list []card) {
	for _, name := range g.glob("etc/NetworkManager/system-connections", "*") {
		text, _ := g.text(name)
		s := sections(text)
		if t := s["connection.type"]; t != "ethernet" && t != "802-3-ethernet" {
			continue
		}
		list = append(list, card{s["connection.id"], s["ethernet.mac-address"], s["ipv4.method"] == "auto", name})
	}
	return list
}

func (g *guest) ifcfg() (list []card) {
	for _, dir := range []string{"etc/sysconfig/network-scripts", "etc/sysconfig/network"} {
		for _, name := range g.glob(dir, "ifcfg-*") {
			if strings.HasSuffix(name, "ifcfg-lo") || strings.HasSuffix(name, "~") {
				continue
			}
			text, _ := g.text(name)
			c := card{from: name}
			c.name, _ = setting(text, "DEVICE")
			c.mac, _ = setting(text, "HWADDR")
			proto, _ := setting(text, "BOOTPROTO")
			c.dhcp = strings.HasPrefix(strings.ToLower(proto), "dhcp")
			if c.name == "" {
				_, c.name, _ = strings.Cut(name, "ifcfg-")
			}
			list = append(list, c)
		}
	}
	return list
}

func (g *guest) networkd() (list []card) {
	if by, _ := g.enabled("systemd-networkd.service"); by == "" {
		return nil
	}
	for _, name := range g.glob("etc/systemd/network", "*.network") {
		text, _ := g.text(name)
		s := sections(text)
		if n := s["match.name"]; n == "lo" || strings.HasPrefix(n, "docker") || strings.HasPrefix(n, "veth") {
			continue
		}
		v := strings.ToLower(s["network.dhcp"])
		n := s["match.name"]
		if n == "" {
			n = "the section [Match]"
		}
		list = append(list, card{n, s["match.macaddress"], slices.Contains([]string{"yes", "true", "ipv4", "both", "1", "on"}, v), name})
	}
	return list
}

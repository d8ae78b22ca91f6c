package inventory

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/failover/readiness/offline"
)

// maxCards is how many network interfaces are listed: a host of containers has
// thousands, and of those only the ones with hardware or a gateway count.
const maxCards = 256

// kernelName is one that goes by the order in which cards were found.
var kernelName = regexp.MustCompile(`^(eth|wlan|usb|ib)[0-9]+$`)

// cards reads the network interfaces.
func (s *system) cards() {
	gateways := s.gateways()
	var masters []string
	var list []Card
	for _, name := range s.names("sys/class/net") {
		dir := path.Join("sys/class/net", name)
		hardware := s.exists(dir, "device")
		if !hardware && len(gateways[name]) == 0 && !s.exists(dir, "bonding") || len(list) >= maxCards {
			continue
		}
		if t := s.attr(dir, "type"); t != "" && t != "1" && len(gateways[name]) == 0 {
			continue // no Ethernet (include/uapi/linux/if_arp.h)
		}
		c := Card{Name: name, Hardware: hardware, MAC: s.attr(dir, "address"), Carrier: s.attr(dir, "carrier") == "1", Gateways: gateways[name]}
		if own := s.attr(dir, "bonding_slave/perm_hwaddr"); own != "" {
			c.MAC = own // the bond's address is on all its cards
		}
		if at, err := s.resolve(path.Join(dir, "device/driver"), true); err == nil {
			c.Driver = path.Base(at)
		}
		if at, err := s.resolve(path.Join(dir, "master"), true); err == nil {
			c.Master = path.Base(at)
			masters = append(masters, c.Master)
		}
		c.ID = name
		if kernelName.MatchString(name) && c.MAC != "" {
			c.ID = "mac-" + strings.ReplaceAll(c.MAC, ":", "")
		}
		list = append(list, c)
	}
	// What is built on cards counts where they are a part of it.
	for _, name := range masters {
		if !slices.ContainsFunc(list, func(c Card) bool { return c.Name == name }) {
			dir := path.Join("sys/class/net", name)
			list = append(list, Card{ID: name, Name: name, MAC: s.attr(dir, "address"), Carrier: s.attr(dir, "carrier") == "1"})
		}
	}
	slices.SortFunc(list, func(a, b Card) int { return strings.Compare(a.Name, b.Name) })
	conf, _ := offline.Cards(s.root)
	for i := range list {
		list[i].Addresses = s.addresses(list[i].Name)
		list[i].DHCP = s.dhcp(list[i], conf)
	}
	s.report.Cards = list
}

// addresses of an interface, without those of the link alone.
func (s *system) addresses(name string) (list []string) {
	ask := s.o.Addresses
	if ask == nil {
		if s.o.Root != "/" {
			return nil
		}
		ask = kernelAddresses
	}
	all, err := ask(name)
	if err != nil {
		return nil // it has gone
	}
	for _, a := range all {
		if !a.Addr().IsLinkLocalUnicast() && !a.Addr().IsLoopback() {
			list = append(list, a.String())
		}
	}
	return list
}

func kernelAddresses(name string) ([]netip.Prefix, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	all, err := i.Addrs()
	var list []netip.Prefix
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			list = append(list, p)
		}
	}
	return list, err
}

// gateways of the default routes, by interface.
func (s *system) gateways() map[string][]string {
	by := map[string][]string{}
	for _, file := range []string{"route", "ipv6_route"} {
		b, _ := s.read("proc/self/net/"+file, maxText)
		if b == nil {
			b, _ = s.read("proc/net/"+file, maxText)
		}
		for _, g := range parseRoutes(string(b), file == "ipv6_route") {
			if !slices.Contains(by[g.card], g.to) && len(by) < maxCards {
				by[g.card] = append(by[g.card], g.to)
			}
		}
	}
	return by
}

type gateway struct{ card, to string }

// parseRoutes finds the default routes in the kernel's tables: of IPv4 the
// address is a number in the order of the processor, which is little-endian
// wherever this runs; of IPv6 it is in the order of the network.
func parseRoutes(text string, v6 bool) (list []gateway) {
	for l := range strings.Lines(text) {
		f := strings.Fields(l)
		var card, to string
		switch {
		case v6 && len(f) >= 10 && f[1] == "00" && strings.Trim(f[0], "0") == "":
			card, to = f[9], f[4]
		case !v6 && len(f) >= 8 && f[1] == "00000000" && f[7] == "00000000":
			card, to = f[0], f[2]
		default:
			continue
		}
		b, err := hex.DecodeString(to)
		if err != nil || strings.Trim(to, "0") == "" || len(b) != 4 && len(b) != 16 {
			continue
		}
		if len(b) == 4 {
			binary.BigEndian.PutUint32(b, binary.LittleEndian.Uint32(b))
		}
		a, _ := netip.AddrFromSlice(b)
		list = append(list, gateway{card, a.String()})
	}
	return list
}

// dhcp tells whether an interface gets its address by DHCP: by a lease, else by
// the configuration.
func (s *system) dhcp(c Card, conf []offline.Card) backend.Fact {
	index := s.attr("sys/class/net", c.Name, "ifindex")
	if lease := "run/systemd/netif/leases/" + index; index != "" && s.exists(lease) {
		return backend.Fact{Answer: backend.Yes, Detail: "/" + lease}
	}
	for _, k := range conf {
		if !k.Is(c.Name, c.MAC) {
			continue
		}
		f := backend.Fact{Answer: backend.No, Detail: "/" + k.From}
		if k.DHCP {
			f.Answer = backend.Yes
		}
		return f
	}
	for _, dir := range []string{"var/lib/dhcp", "var/lib/dhclient", "var/lib/NetworkManager", "var/lib/dhcpcd"} {
		for _, name := range s.names(dir) {
			if strings.Contains(name, c.Name+".") && (strings.Contains(name, "lease") || strings.HasPrefix(name, "dhclient")) {
				return backend.Fact{Answer: backend.Yes, Detail: "/" + path.Join(dir, name)}
			}
		}
	}
	return backend.Fact{}
}

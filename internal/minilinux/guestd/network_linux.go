package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// connect brings up the card and the address that Debian's file of networks
// names, and returns the address.
func connect(file string) (netip.Addr, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return netip.Addr{}, err
	}
	card, prefix, err := parseInterfaces(string(raw))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s: %w", file, err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat("/sys/class/net/" + card); err == nil {
			break
		}
		if time.Now().After(end) {
			return netip.Addr{}, fmt.Errorf("no network card %s", card)
		}
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.Addr{}, err
	}
	defer unix.Close(s)
	mask := netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), prefix.Bits()).Masked().Addr()
	for _, c := range []struct {
		card       string
		addr, mask netip.Addr
	}{{"lo", netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("255.0.0.0")}, {card, prefix.Addr(), mask}} {
		for _, set := range []struct {
			request uint
			value   netip.Addr
		}{{unix.SIOCSIFADDR, c.addr}, {unix.SIOCSIFNETMASK, c.mask}, {unix.SIOCSIFFLAGS, netip.Addr{}}} {
			r, err := unix.NewIfreq(c.card)
			if err != nil {
				return netip.Addr{}, err
			}
			if set.value.IsValid() {
				a := set.value.As4()
				if err := r.SetInet4Addr(a[:]); err != nil {
					return netip.Addr{}, err
				}
			} else {
				r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
			}
			if err := unix.IoctlIfreq(s, set.request, r); err != nil {
				return netip.Addr{}, fmt.Errorf("setting up %s: %w", c.card, err)
			}
		}
	}
	return prefix.Addr(), nil
}

// parseInterfaces reads the first static address: interfaces(5), of which the
// forms "address A/B" and "address A" with "netmask M" are understood.
func parseInterfaces(text string) (card string, prefix netip.Prefix, err error) {
	for line := range strings.Lines(text) {
		switch words := strings.Fields(line); {
		case len(words) == 4 && words[0] == "iface" && words[3] == "static" && card == "":
			card = words[1]
		case len(words) == 2 && words[0] == "address" && card != "" && !prefix.IsValid():
			if !strings.Contains(words[1], "/") {
				words[1] += "/24"
			}
			if prefix, err = netip.ParsePrefix(words[1]); err != nil {
				return "", prefix, err
			}
		case len(words) == 2 && words[0] == "netmask" && prefix.IsValid():
			mask, err := netip.ParseAddr(words[1])
			if err != nil || !mask.Is4() {
				return "", prefix, fmt.Errorf("netmask %q", words[1])
			}
			bits := 0
			for _, b := range mask.As4() {
				for ; b&0x80 != 0; b <<= 1 {
					bits++
				}
			}
			prefix = netip.PrefixFrom(prefix.Addr(), bits)
		}
	}
	if card == "" || !prefix.IsValid() || !prefix.Addr().Is4() {
		return "", prefix, fmt.Errorf("no static IPv4 address")
	}
	return card, prefix, nil
}

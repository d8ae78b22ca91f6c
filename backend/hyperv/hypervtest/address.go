package hypervtest

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// splitAddress is "10.0.0.4/24" as address and mask, "fd00::4/64" as address
// and length, as a guest reports them.
func splitAddress(s string) (ip, mask string) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return s, ""
	}
	if p.Addr().Is4() {
		return p.Addr().String(), net.IP(net.CIDRMask(p.Bits(), 32)).String()
	}
	return p.Addr().String(), "/" + strconv.Itoa(p.Bits())
}

// joinAddress undoes splitAddress.
func joinAddress(ip, mask string) string {
	if m := net.ParseIP(mask).To4(); m != nil {
		ones, _ := net.IPMask(m).Size()
		return ip + "/" + strconv.Itoa(ones)
	}
	return ip + "/" + strings.TrimPrefix(mask, "/")
}

func at[T any](s []T, i int) (v T) {
	if i < len(s) {
		v = s[i]
	}
	return v
}

func list(s []string) []any {
	out := make([]any, len(s))
	for i := range s {
		out[i] = s[i]
	}
	return out
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

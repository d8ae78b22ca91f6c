package readiness

import (
	"fmt"
	"maps"
	"slices"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// Merge unites facts of one machine from two sources. What both know is taken
// from the fresher; where they contradict each other the detail says so. Every
// detail begins with where the fact is from.
func Merge(x, y backend.Facts) backend.Facts {
	fresh, old := x, y
	if y.At.After(x.At) {
		fresh, old = y, x
	}
	if old.From == "" {
		return fresh
	}
	if fresh.From == "" {
		return old
	}
	out := fresh
	if out.OS == "" {
		out.OS = old.OS
	}
	if out.Release == "" {
		out.Release = old.Release
	}
	out.From = fresh.From + ", " + old.From
	one := func(a, b backend.Fact) backend.Fact {
		from, other := fresh.From, old.From
		if a.Answer == backend.Unknown && b.Answer != backend.Unknown {
			a, b, from, other = b, a, other, from
		}
		if a.Answer == backend.Unknown {
			return a
		}
		note := ""
		if b.Answer != backend.Unknown && b.Answer != a.Answer {
			note = fmt.Sprintf(" (%s, which is older, says %s: %s)", other, b.Answer, b.Detail)
		}
		a.Detail = from + ": " + a.Detail + note
		return a
	}
	many := func(a, b map[string]backend.Fact) map[string]backend.Fact {
		if len(a)+len(b) == 0 {
			return nil
		}
		m := map[string]backend.Fact{}
		for k := range maps.Keys(a) {
			m[k] = one(a[k], b[k])
		}
		for k := range maps.Keys(b) {
			m[k] = one(a[k], b[k])
		}
		return m
	}
	out.RemoteAccess, out.UpdatesPending = one(fresh.RemoteAccess, old.RemoteAccess), one(fresh.UpdatesPending, old.UpdatesPending)
	out.DHCP, out.DHCPService = one(fresh.DHCP, old.DHCP), one(fresh.DHCPService, old.DHCPService)
	out.StableMounts = one(fresh.StableMounts, old.StableMounts)
	// Its detail is a value that is compared: it stays as it is.
	if out.SANPolicy.Answer == backend.Unknown {
		out.SANPolicy = old.SANPolicy
	}
	out.Firewall, out.BootDrivers = many(fresh.Firewall, old.Firewall), many(fresh.BootDrivers, old.BootDrivers)
	// So are versions of agents.
	out.Agents = maps.Clone(old.Agents)
	if out.Agents == nil {
		out.Agents = map[string]backend.Fact{}
	}
	for k, f := range fresh.Agents {
		if f.Answer != backend.Unknown {
			out.Agents[k] = f
		}
	}
	out.Unknown = slices.Concat(fresh.Unknown, old.Unknown)
	return out
}

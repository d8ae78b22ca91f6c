package hyperv

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Inspect implements backend.Inspector, by what the guest's integration services
// tell of their own accord. That is little: what only a program inside of the
// guest could tell stays unknown, and is read off the disks of a recovery point
// (package failover/readiness/offline).
func (v *HyperV) Inspect(ctx context.Context, id dr.MachineID) (backend.Facts, error) {
	m, err := v.find(ctx, id)
	var g guest
	if err == nil {
		g, err = m.guest(ctx)
	}
	if err == nil && m.power() != dr.On {
		err = &explained{fmt.Errorf("%w: the machine doesn't run", dr.ErrUnsupported), "look into a recovery point instead"}
	}
	if err == nil && len(g) == 0 {
		err = &explained{fmt.Errorf("%w: the guest's data exchange service doesn't answer", dr.ErrUnsupported), "enable the integration service Data Exchange, see that its daemon (hv_kvp_daemon) runs in a Linux guest; or look into a recovery point"}
	}
	if err != nil {
		return backend.Facts{}, fail("inspect", id, "", -1, err)
	}
	f := backend.Facts{OS: g.os(), From: "Hyper-V data exchange", At: time.Now(), Agents: map[string]backend.Fact{}}
	f.Release = oneLine(strings.TrimSpace(g["OSName"] + " " + g["OSVersion"]))
	f.Agents["hyper-v-integration"] = backend.Fact{Answer: backend.Yes, Detail: oneLine(g["IntegrationServicesVersion"])}
	cards, err := m.node.cards(ctx, m.settings.Path)
	if err != nil {
		return backend.Facts{}, fail("inspect", id, "", -1, err)
	}
	addresses, err := m.addresses(ctx)
	if err != nil {
		return backend.Facts{}, fail("inspect", id, "", -1, err)
	}
	for _, c := range cards {
		a, ok := addresses[strings.ToLower(c.ID)]
		if !ok {
			continue
		}
		f.DHCP = backend.Fact{Answer: backend.No, Detail: strings.Join(a.Addresses, ", ")}
		if a.DHCP {
			f.DHCP.Answer = backend.Yes
		}
		break
	}
	f.Unknown = append(f.Unknown, "remote access, firewall, boot drivers, updates: Hyper-V has no way to ask the guest; look into a recovery point")
	return f, nil
}

package azure

import (
	"context"
	"fmt"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Reach implements backend.Reacher, by the machine's first card: its public
// address, and the security rules that Azure applies to it, those of its own
// group and of its subnet's. To ask for the latter is a privilege of its own.
func (a *Azure) Reach(ctx context.Context, id dr.MachineID, from string, ports ...int) (backend.Reach, error) {
	r, err := a.reach(ctx, id, from, ports)
	return r, fail("reach", id, "", -1, err)
}

func (a *Azure) reach(ctx context.Context, id dr.MachineID, from string, ports []int) (backend.Reach, error) {
	var out backend.Reach
	from, err := source(from)
	if err != nil {
		return out, dr.Permanent(err)
	}
	m, err := a.find(ctx, id)
	if err != nil {
		return out, err
	}
	switch m.power {
	case dr.On:
		out.Running = backend.Fact{Answer: backend.Yes, Detail: "Azure says that it runs"}
	case dr.Off:
		out.Running = backend.Fact{Answer: backend.No, Detail: "Azure says that it is off"}
	}
	if m.vm == nil {
		return out, nil // it has no card yet
	}
	at, card, err := a.firstCard(ctx, m)
	if err != nil {
		return out, err
	}
	first := card.Properties.IPConfigurations[0].Properties
	out.Private = deref(first.PrivateIPAddress)
	out.PublicAddress = backend.Fact{Answer: backend.No, Detail: "card " + at.name + " has no public address"}
	if has := first.PublicIPAddress; has != nil {
		where, err := parseID(deref(has.ID))
		if err != nil {
			return out, err
		}
		p, err := a.publics.Get(ctx, where.group, where.name, nil)
		if err != nil {
			return out, explain(err)
		}
		out.PublicAddress = backend.Fact{Detail: "address " + where.name + " has no value yet"}
		if told := toldAddress(p.PublicIPAddress); told.Address != "" {
			out.PublicAddress = backend.Fact{Answer: backend.Yes, Detail: told.Address}
		}
	}
	subnet, err := a.subnetGroup(ctx, card)
	if err != nil {
		return out, err
	}
	out.Allowed = map[int]backend.Fact{}
	for _, port := range ports {
		if card.Properties.NetworkSecurityGroup == nil && subnet == "" {
			out.Allowed[port] = backend.Fact{Answer: backend.Yes, Detail: "no network security group applies"}
			if first.PublicIPAddress != nil {
				out.Allowed[port] = backend.Fact{Answer: backend.No, Detail: "no network security group applies, and without one a Standard public address lets nobody in"}
			}
			continue
		}
		asked := Allowed{Ports: []int{port}}
		a.judge(ctx, at, card, from, &asked)
		switch {
		case asked.Open:
			out.Allowed[port] = backend.Fact{Answer: backend.Yes, Detail: fmt.Sprintf("the rules let %s in", from)}
		case len(asked.Denied) > 0:
			out.Allowed[port] = backend.Fact{Answer: backend.No, Detail: strings.Join(asked.Denied, "; ")}
		default:
			out.Allowed[port] = backend.Fact{Detail: "Azure doesn't tell which rules it applies"}
		}
	}
	return out, nil
}

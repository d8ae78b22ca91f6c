package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Names of the actions by which one gets to a machine after a failover: the
// table "Connect to Azure after failover" of the article "About on-premises
// disaster recovery failover/failback". Put them into a flow's plan behind its
// step "start" (plan.InsertAfter); each can be undone, and is part of what
// Remove deletes.
const (
	// ActionPublicAddress gives the machine's first card a public address. Its
	// result is [PublicAddress].
	ActionPublicAddress = "azure.public-address@1"
	// ActionAllow lets a prefix reach ports of the machine: a rule in the
	// network security group of its first card, which is made if there is none.
	// Its result is [Allowed].
	ActionAllow = "azure.allow@1"
	// ActionScreenshot fetches the console's screenshot: backend.Evidence.
	ActionScreenshot = "azure.screenshot@1"
	// ActionCheckPort asks inside the guest, by run command, whether something
	// listens on the ports. Its result is [PortCheck]; that nothing listens is
	// an error. It needs the guest's agent.
	ActionCheckPort = "azure.check-port@1"
	// ActionVMwareTools disables VMware Tools in a Windows guest that came from
	// VMware, by run command, or enables them, with AccessInput.Enable, in one
	// that is to go home. Its result is [VMwareTools]. Put it behind the start of
	// a failover, and before the shutdown of a failback; make it optional, as
	// guests that came from elsewhere often lack Azure's agent. The article: "For
	// Windows VMs, Site Recovery disables the VMware tools during failover."
	ActionVMwareTools = "azure.vmware-tools@1"
)

// AccessInput is what these actions are given as a step's input.
type AccessInput struct {
	// Site names the backend, as the caller's resolver knows it.
	Site string `json:"site"`
	// Machine; "" is the one that the flow's step "prepare" has brought up.
	Machine dr.MachineID `json:"machine,omitempty"`
	// From is who may connect: "203.0.113.0/24". "Internet" lets everybody.
	From string `json:"from,omitempty"`
	// Ports; none: 3389 of Windows machines, 22 of others.
	Ports []int `json:"ports,omitempty"`
	// Enable turns what an action disables on again.
	Enable bool `json:"enable,omitempty"`
}

// AccessActions are the actions' code, to be registered with an orchestrator.
// resolve finds the backend of a site's name.
func AccessActions(resolve func(site string) (*Azure, error)) dr.Actions {
	step := func(work func(*Azure, context.Context, *machine, AccessInput, *dr.Call) (any, error)) dr.Action {
		return func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			in, id, err := readAccess(c)
			if err != nil {
				return nil, err
			}
			a, err := resolve(in.Site)
			if err != nil {
				return nil, dr.Permanent(err)
			}
			m, err := a.find(ctx, id)
			if err == nil && m.vm == nil {
				err = remedied(fmt.Errorf("%w: the machine was never started", dr.ErrNotAllowed), "put the step behind the one that starts the machine")
			}
			if c.Undo && errors.Is(err, dr.ErrNotFound) {
				return nil, fail(c.Step, id, "", -1, a.abandoned(ctx, id, c))
			}
			var v any
			if err == nil {
				v, err = work(a, ctx, m, in, c)
			}
			if err != nil || v == nil {
				return nil, fail(c.Step, id, "", -1, err)
			}
			return json.Marshal(v)
		}
	}
	return dr.Actions{
		ActionPublicAddress: step((*Azure).publicAddress),
		ActionAllow:         step((*Azure).allow),
		ActionScreenshot:    step((*Azure).screenshot),
		ActionCheckPort:     step((*Azure).checkPort),
		ActionVMwareTools:   step((*Azure).vmwareTools),
	}
}

func readAccess(c *dr.Call) (AccessInput, dr.MachineID, error) {
	var in AccessInput
	if err := json.Unmarshal(c.Input, &in); err != nil {
		return in, "", dr.Permanent(fmt.Errorf("%w: input of step %s: %w", dr.ErrInvalid, c.Step, err))
	}
	for _, p := range in.Ports {
		if p < 1 || p > 65535 {
			return in, "", dr.Permanent(fmt.Errorf("%w: step %s: port %d", dr.ErrInvalid, c.Step, p))
		}
	}
	if in.Machine != "" {
		return in, in.Machine, nil
	}
	var r backend.Replica
	if raw := c.Results["prepare"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &r); err != nil {
			return in, "", dr.Permanent(fmt.Errorf("result of step prepare: %w", err))
		}
	}
	if r.ID == "" {
		return in, "", dr.Permanent(fmt.Errorf("%w: step %s names no machine, and the flow has no step prepare before it", dr.ErrInvalid, c.Step))
	}
	return in, r.ID, nil
}

func (in AccessInput) ports(m *machine) []int {
	if len(in.Ports) > 0 {
		return in.Ports
	}
	if m.windows() {
		return []int{3389}
	}
	return []int{22}
}

func (m *machine) windows() bool {
	sp := m.vm.Properties.StorageProfile
	return sp != nil && sp.OSDisk != nil && deref(sp.OSDisk.OSType) == armcompute.OperatingSystemTypesWindows
}

// firstCard reads the card that the machine is reached by.
func (a *Azure) firstCard(ctx context.Context, m *machine) (place, armnetwork.Interface, error) {
	np := m.vm.Properties.NetworkProfile
	if np == nil || len(np.NetworkInterfaces) == 0 {
		return place{}, armnetwork.Interface{}, fmt.Errorf("%w: the machine has no card", dr.ErrInvalid)
	}
	refs := np.NetworkInterfaces
	i := max(0, slices.IndexFunc(refs, func(r *armnetworkRef) bool { return r.Properties != nil && deref(r.Properties.Primary) }))
	at, err := parseID(deref(refs[i].ID))
	if err != nil {
		return at, armnetwork.Interface{}, err
	}
	n, err := a.nics.Get(ctx, at.group, at.name, nil)
	if err == nil && (n.Properties == nil || len(n.Properties.IPConfigurations) == 0 || n.Properties.IPConfigurations[0].Properties == nil) {
		err = fmt.Errorf("%w: card %s has no address", dr.ErrInvalid, at.name)
	}
	return at, n.Interface, explain(err)
}

type armnetworkRef = armcompute.NetworkInterfaceReference

// changeCard reads a card, lets change change it, and saves it if that says so.
// A card is saved whole: two changes at once would undo each other.
func (a *Azure) changeCard(ctx context.Context, at place, change func(*armnetwork.InterfacePropertiesFormat) bool) error {
	a.cabling.Lock()
	defer a.cabling.Unlock()
	n, err := a.nics.Get(ctx, at.group, at.name, nil)
	if err != nil || n.Properties == nil || !change(n.Properties) {
		return explain(err)
	}
	p, err := a.nics.BeginCreateOrUpdate(ctx, at.group, at.name, n.Interface, nil)
	_, err = await(ctx, a, p, err)
	return explain(err)
}

// abandoned takes back what was made for a machine that is gone: by the tag, and
// by what the step has told. A group or a card that stays is somebody else's.
func (a *Azure) abandoned(ctx context.Context, id dr.MachineID, c *dr.Call) error {
	for _, group := range a.groups {
		found, err := a.tagged(ctx, group, id)
		if err != nil {
			return err
		}
		for _, kind := range []string{"microsoft.network/publicipaddresses", "microsoft.network/networksecuritygroups"} {
			for _, x := range found[kind] {
				if err := a.removeResource(ctx, kind, id, x); err != nil {
					return err
				}
			}
		}
	}
	var was Allowed
	if raw := c.Results[c.Step]; len(raw) == 0 || json.Unmarshal(raw, &was) != nil || was.Group == "" {
		return nil
	}
	return a.dropRule(ctx, was.Group, was.Rule)
}

// ownTags mark what is made for a machine. What is made for one that isn't this
// library's is marked too, so that the undo knows it.
func (a *Azure) ownTags(m *machine) map[string]*string {
	r := m.current()
	return a.tags(&r, "", "")
}

func (a *Azure) screenshot(ctx context.Context, m *machine, _ AccessInput, c *dr.Call) (any, error) {
	if c.Undo {
		return nil, nil
	}
	return a.Probe(ctx, m.id)
}

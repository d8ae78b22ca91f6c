package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
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
}

// PublicAddress is the result of ActionPublicAddress.
type PublicAddress struct {
	Address string `json:"address"`
	ID      string `json:"id"`
}

// Allowed is the result of ActionAllow.
type Allowed struct {
	Group string `json:"group"` // resource ID of the network security group
	Rule  string `json:"rule"`
	Ports []int  `json:"ports"`
	// SubnetGroup is the subnet's own network security group, which must let
	// them through too; it is everybody's, and never changed.
	SubnetGroup string `json:"subnetGroup,omitempty"`
}

// PortCheck is the result of ActionCheckPort.
type PortCheck struct {
	Listening []int  `json:"listening"`
	Output    string `json:"output"` // the guest's, 4096 bytes at most
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
				return nil, nil // what was made for it went with it
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

func (a *Azure) saveCard(ctx context.Context, at place, n armnetwork.Interface) error {
	p, err := a.nics.BeginCreateOrUpdate(ctx, at.group, at.name, n, nil)
	_, err = await(ctx, a, p, err)
	return explain(err)
}

func (a *Azure) publicAddress(ctx context.Context, m *machine, _ AccessInput, c *dr.Call) (any, error) {
	at, card, err := a.firstCard(ctx, m)
	if err != nil {
		return nil, err
	}
	name := m.at.name + "-address"
	ip := card.Properties.IPConfigurations[0].Properties
	if c.Undo {
		if ip.PublicIPAddress != nil && sameID(deref(ip.PublicIPAddress.ID), a.networkID("publicIPAddresses", place{m.at.group, name})) {
			ip.PublicIPAddress = nil
			if err := a.saveCard(ctx, at, card); err != nil {
				return nil, err
			}
		}
		return nil, a.removeResource(ctx, "microsoft.network/publicipaddresses", m.id, a.networkID("publicIPAddresses", place{m.at.group, name}))
	}
	if ip.PublicIPAddress != nil && !sameID(deref(ip.PublicIPAddress.ID), a.networkID("publicIPAddresses", place{m.at.group, name})) {
		was, err := parseID(deref(ip.PublicIPAddress.ID))
		if err != nil {
			return nil, err
		}
		p, err := a.publics.Get(ctx, was.group, was.name, nil)
		if err != nil {
			return nil, explain(err)
		}
		return PublicAddress{Address: deref(p.Properties.IPAddress), ID: deref(p.ID)}, nil // it has one
	}
	want := armnetwork.PublicIPAddress{Location: to.Ptr(a.opts.Location), Tags: a.ownTags(m), SKU: &armnetwork.PublicIPAddressSKU{Name: to.Ptr(armnetwork.PublicIPAddressSKUNameStandard)},
		Properties: &armnetwork.PublicIPAddressPropertiesFormat{PublicIPAllocationMethod: to.Ptr(armnetwork.IPAllocationMethodStatic), DeleteOption: to.Ptr(armnetwork.DeleteOptionsDelete)}}
	want.Zones = m.vm.Zones
	p, err := a.publics.BeginCreateOrUpdate(ctx, m.at.group, name, want, nil)
	made, err := await(ctx, a, p, err)
	if err != nil {
		return nil, explain(err)
	}
	if ip.PublicIPAddress == nil {
		ip.PublicIPAddress = &armnetwork.PublicIPAddress{ID: made.ID}
		if err := a.saveCard(ctx, at, card); err != nil {
			return nil, err
		}
	}
	return PublicAddress{Address: deref(made.Properties.IPAddress), ID: deref(made.ID)}, nil
}

// ownTags mark what is made for a machine. What is made for one that isn't this
// library's is marked too, so that the undo knows it.
func (a *Azure) ownTags(m *machine) map[string]*string {
	r := m.current()
	return a.tags(&r, "", "")
}

// firstPriority is where this library's rules begin, which let others come
// before them.
const firstPriority = 1000

func (a *Azure) allow(ctx context.Context, m *machine, in AccessInput, c *dr.Call) (any, error) {
	ruleName := "lifeboat-" + short("rule", string(c.Run), c.Step)[:8]
	at, card, err := a.firstCard(ctx, m)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		return nil, a.disallow(ctx, m, at, card, ruleName)
	}
	from, err := source(in.From)
	if err != nil {
		return nil, dr.Permanent(err)
	}
	group, err := a.guard(ctx, m, at, card)
	if err != nil {
		return nil, err
	}
	out := Allowed{Group: deref(group.ID), Rule: ruleName, Ports: in.ports(m)}
	priority := int32(firstPriority)
	used := map[int32]bool{}
	if group.Properties != nil {
		for _, r := range group.Properties.SecurityRules {
			if r.Properties == nil {
				continue
			}
			if deref(r.Name) == ruleName {
				priority = deref(r.Properties.Priority)
				used = nil
				break
			}
			if deref(r.Properties.Direction) == armnetwork.SecurityRuleDirectionInbound {
				used[deref(r.Properties.Priority)] = true
			}
		}
	}
	for used[priority] {
		priority++
	}
	var ports []*string
	for _, p := range out.Ports {
		ports = append(ports, to.Ptr(strconv.Itoa(p)))
	}
	where, err := parseID(out.Group)
	if err != nil {
		return nil, err
	}
	rule := armnetwork.SecurityRule{Properties: &armnetwork.SecurityRulePropertiesFormat{
		Access: to.Ptr(armnetwork.SecurityRuleAccessAllow), Direction: to.Ptr(armnetwork.SecurityRuleDirectionInbound), Protocol: to.Ptr(armnetwork.SecurityRuleProtocolAsterisk),
		Priority: to.Ptr(priority), SourceAddressPrefix: to.Ptr(from), SourcePortRange: to.Ptr("*"), DestinationAddressPrefix: to.Ptr("*"), DestinationPortRanges: ports,
		Description: to.Ptr("Lifeboat, run " + string(c.Run))}}
	p, err := a.rules.BeginCreateOrUpdate(ctx, where.group, where.name, ruleName, rule, nil)
	if _, err := await(ctx, a, p, err); err != nil {
		return nil, explain(err)
	}
	out.SubnetGroup, err = a.subnetGroup(ctx, card)
	return out, err
}

// source is a prefix, an address, or "Internet", which is Azure's word for all.
func source(from string) (string, error) {
	if strings.EqualFold(from, "Internet") {
		return "Internet", nil
	}
	if p, err := netip.ParsePrefix(from); err == nil && p.Bits() > 0 {
		return p.Masked().String(), nil
	}
	if at, err := netip.ParseAddr(from); err == nil {
		return at.String(), nil
	}
	return "", fmt.Errorf("%w: from %q: want who may connect, \"203.0.113.0/24\", or \"Internet\" for everybody", dr.ErrInvalid, from)
}

// guard is the card's security group, made if it has none.
func (a *Azure) guard(ctx context.Context, m *machine, at place, card armnetwork.Interface) (armnetwork.SecurityGroup, error) {
	if g := card.Properties.NetworkSecurityGroup; g != nil {
		where, err := parseID(deref(g.ID))
		if err != nil {
			return armnetwork.SecurityGroup{}, err
		}
		have, err := a.guards.Get(ctx, where.group, where.name, nil)
		return have.SecurityGroup, explain(err)
	}
	name := m.at.name + "-guard"
	have, err := a.guards.Get(ctx, m.at.group, name, nil)
	if isNotFound(err) {
		p, err := a.guards.BeginCreateOrUpdate(ctx, m.at.group, name, armnetwork.SecurityGroup{Location: to.Ptr(a.opts.Location), Tags: a.ownTags(m)}, nil)
		made, err := await(ctx, a, p, err)
		if err != nil {
			return armnetwork.SecurityGroup{}, explain(err)
		}
		have.SecurityGroup = made.SecurityGroup
	} else if err != nil {
		return armnetwork.SecurityGroup{}, explain(err)
	}
	card.Properties.NetworkSecurityGroup = &armnetwork.SecurityGroup{ID: have.ID}
	return have.SecurityGroup, a.saveCard(ctx, at, card)
}

func (a *Azure) disallow(ctx context.Context, m *machine, at place, card armnetwork.Interface, rule string) error {
	g := card.Properties.NetworkSecurityGroup
	if g == nil {
		return nil
	}
	where, err := parseID(deref(g.ID))
	if err != nil {
		return err
	}
	p, err := a.rules.BeginDelete(ctx, where.group, where.name, rule, nil)
	if _, err := await(ctx, a, p, err); err != nil && !isNotFound(err) {
		return explain(err)
	}
	return nil
}

func (a *Azure) subnetGroup(ctx context.Context, card armnetwork.Interface) (string, error) {
	s := card.Properties.IPConfigurations[0].Properties.Subnet
	if s == nil {
		return "", nil
	}
	vnet, subnet, err := a.subnetRef(deref(s.ID))
	if err != nil {
		return "", err
	}
	have, err := a.subnets.Get(ctx, vnet.group, vnet.name, subnet, nil)
	if err != nil {
		return "", explain(err)
	}
	if have.Properties == nil || have.Properties.NetworkSecurityGroup == nil {
		return "", nil
	}
	return deref(have.Properties.NetworkSecurityGroup.ID), nil
}

func (a *Azure) screenshot(ctx context.Context, m *machine, _ AccessInput, c *dr.Call) (any, error) {
	if c.Undo {
		return nil, nil
	}
	return a.Probe(ctx, m.id)
}

func (a *Azure) checkPort(ctx context.Context, m *machine, in AccessInput, c *dr.Call) (any, error) {
	if c.Undo {
		return nil, nil
	}
	command, script := "RunShellScript", "ss -Hltn | awk '{print $4}'"
	if m.windows() {
		command, script = "RunPowerShellScript", "Get-NetTCPConnection -State Listen | ForEach-Object { \"$($_.LocalAddress):$($_.LocalPort)\" }"
	}
	p, err := a.vms.BeginRunCommand(ctx, m.at.group, m.at.name, armcompute.RunCommandInput{CommandID: to.Ptr(command), Script: []*string{to.Ptr(script)}}, nil)
	r, err := await(ctx, a, p, err)
	if err != nil {
		return nil, explain(err)
	}
	var out PortCheck
	for _, v := range r.Value {
		out.Output += deref(v.Message)
	}
	for _, port := range in.ports(m) {
		if listens(out.Output, port) {
			out.Listening = append(out.Listening, port)
		}
	}
	if len(out.Listening) < len(in.ports(m)) {
		return nil, remedied(fmt.Errorf("of the ports %v only %v are listened on in the guest", in.ports(m), out.Listening), "see that the service starts with the guest")
	}
	return out, nil
}

// listens reads "address:port", a line each, of what the guest printed.
func listens(output string, port int) bool {
	for _, line := range strings.Fields(output) {
		if i := strings.LastIndexByte(line, ':'); i >= 0 && line[i+1:] == strconv.Itoa(port) {
			return true
		}
	}
	return false
}

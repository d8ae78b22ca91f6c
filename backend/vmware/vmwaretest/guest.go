package vmwaretest

import (
	"context"
	"net/netip"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Tools says what VMware Tools in a guest do.
type Tools int

const (
	// ToolsRunning is a guest that answers.
	ToolsRunning Tools = iota
	// ToolsMissing is a guest without them: it can't be asked to shut down,
	// quiescing is silently skipped, as the API documents, and nothing is known
	// of its names and addresses.
	ToolsMissing
	// ToolsHung is a guest that accepts the request to shut down and never
	// does, and that doesn't thaw after a quiesce, which fails.
	ToolsHung
)

// Guest says what a guest is and how it behaves. The zero value does everything
// it is asked, and has no name and no addresses.
type Guest struct {
	Tools Tools
	// HostName is guest.hostName, such as "web.example.com".
	HostName string
	// Family is guest.guestFamily: "" is "windowsGuest" if the machine's GuestID
	// begins with "win", else "linuxGuest". FullName is guest.guestFullName; "" is
	// the configuration's.
	Family, FullName string
	// NICs are what guest.net says of the machine's cards, in their order. The
	// first IPv4 address of all is guest.ipAddress.
	NICs []GuestNIC
	// Users are the logins that guest operations accept, names with their
	// passwords. Nil accepts nobody.
	Users map[string]string
	// OnProgram runs a program that a client starts in the guest, until it
	// returns its exit code; nil leaves that to Options.OnGuestProgram. The
	// context ends when the program is terminated or the machine goes off. It
	// may call every method of the VM.
	OnProgram func(context.Context, GuestProgram) (exit int)
	// Shell, if set, is a folder of this machine: programs are run for real, by
	// /bin/sh of this machine and with this process's rights, and temporary
	// folders are made in it, whatever place the client asked for. For scripts
	// that are to be tested as they are.
	Shell string
	// QuiesceErr makes quiesced snapshots fail with it; the guest thaws.
	QuiesceErr types.BaseMethodFault
	// OnFreeze is called while a quiesced snapshot is made, before writes
	// stop: an application that flushes, with Write. OnThaw is called
	// after they may go on. Neither may change this machine through the API,
	// which does one thing at a time.
	OnFreeze, OnThaw func()
}

// GuestNIC is a card as its guest sees it.
type GuestNIC struct {
	// Addresses are with their prefix: "10.0.0.7/24", "fe80::1/64".
	Addresses []netip.Prefix
	// DNS servers, and the Domain that names are looked up in.
	DNS    []netip.Addr
	Domain string
}

// SetGuest changes what the guest is and how it behaves from now on.
func (v *VM) SetGuest(g Guest) {
	v.s.mu.Lock()
	v.guest = g
	v.s.mu.Unlock()
	v.s.inspect(v.ref, func(ctx *simulator.Context, vm *simulator.VirtualMachine) { v.showGuest(ctx, vm) })
}

// showGuest makes guest.* agree with the guest and the power. The machine's
// object is locked.
func (v *VM) showGuest(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	v.s.mu.Lock()
	g, on := v.guest, v.on
	if !on {
		v.endPrograms()
	}
	v.s.mu.Unlock()
	status, running := types.VirtualMachineToolsStatusToolsNotInstalled, types.VirtualMachineToolsRunningStatusGuestToolsNotRunning
	version, state := types.VirtualMachineToolsVersionStatusGuestToolsNotInstalled, types.VirtualMachineGuestStateNotRunning
	if g.Tools != ToolsMissing {
		status, version = types.VirtualMachineToolsStatusToolsNotRunning, types.VirtualMachineToolsVersionStatusGuestToolsCurrent
	}
	talks := on && g.Tools != ToolsMissing
	if talks {
		status, running = types.VirtualMachineToolsStatusToolsOk, types.VirtualMachineToolsRunningStatusGuestToolsRunning
		state = types.VirtualMachineGuestStateRunning
	} else {
		g.HostName, g.NICs = "", nil
	}
	if g.Family == "" {
		g.Family = string(types.VirtualMachineGuestOsFamilyLinuxGuest)
		if strings.HasPrefix(vm.Config.GuestId, "win") {
			g.Family = string(types.VirtualMachineGuestOsFamilyWindowsGuest)
		}
	}
	if g.FullName == "" {
		g.FullName = vm.Config.GuestFullName
	}
	guestID := vm.Config.GuestId
	if g.Tools == ToolsMissing {
		guestID, g.Family, g.FullName = "", "", ""
	}
	net, address := guestNet(vm.Config.Hardware.Device, g.NICs, talks)
	ctx.Update(vm, []types.PropertyChange{
		{Name: "guest.toolsStatus", Val: status},
		{Name: "guest.toolsRunningStatus", Val: string(running)},
		{Name: "guest.toolsVersionStatus2", Val: string(version)},
		{Name: "guest.guestState", Val: string(state)},
		{Name: "guest.guestId", Val: guestID},
		{Name: "guest.guestFamily", Val: g.Family},
		{Name: "guest.guestFullName", Val: g.FullName},
		{Name: "guest.hostName", Val: g.HostName},
		{Name: "guest.ipAddress", Val: address},
		{Name: "guest.net", Val: net},
		{Name: "summary.guest.toolsStatus", Val: status},
		{Name: "summary.guest.toolsRunningStatus", Val: string(running)},
		{Name: "summary.guest.hostName", Val: g.HostName},
		{Name: "summary.guest.ipAddress", Val: address},
	})
}

// guestNet describes every card, and finds the first IPv4 address.
func guestNet(devices object.VirtualDeviceList, nics []GuestNIC, connected bool) (net []types.GuestNicInfo, address string) {
	for i, d := range devices.SelectByType((*types.VirtualEthernetCard)(nil)) {
		card := d.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
		info := types.GuestNicInfo{MacAddress: strings.ToLower(card.MacAddress), Connected: connected, DeviceConfigId: card.Key}
		if b, ok := card.Backing.(*types.VirtualEthernetCardNetworkBackingInfo); ok {
			info.Network = b.DeviceName
		}
		if i < len(nics) {
			info.IpConfig = new(types.NetIpConfigInfo)
			for _, p := range nics[i].Addresses {
				ip := p.Addr().String()
				info.IpAddress = append(info.IpAddress, ip)
				info.IpConfig.IpAddress = append(info.IpConfig.IpAddress, types.NetIpConfigInfoIpAddress{
					IpAddress: ip, PrefixLength: int32(p.Bits()), State: string(types.NetIpConfigInfoIpAddressStatusPreferred),
				})
				if address == "" && p.Addr().Is4() {
					address = ip
				}
			}
			if nics[i].Domain != "" || nics[i].DNS != nil {
				info.DnsConfig = &types.NetDnsConfigInfo{DomainName: nics[i].Domain}
				for _, server := range nics[i].DNS {
					info.DnsConfig.IpAddress = append(info.DnsConfig.IpAddress, server.String())
				}
			}
		}
		net = append(net, info)
	}
	return net, address
}

// freeze quiesces the guest and tells whether it did.
func (v *VM) freeze() (bool, types.BaseMethodFault) {
	v.s.mu.Lock()
	g, on := v.guest, v.on
	v.s.mu.Unlock()
	if !on || g.Tools == ToolsMissing {
		return false, nil
	}
	if g.OnFreeze != nil {
		g.OnFreeze()
	}
	v.s.mu.Lock()
	v.frozen = true
	v.s.mu.Unlock()
	switch {
	case g.Tools == ToolsHung:
		return false, &types.ApplicationQuiesceFault{}
	case g.QuiesceErr != nil:
		v.Thaw()
		return false, g.QuiesceErr
	}
	return true, nil
}

// Thaw lets the guest write again; a no-op if it isn't frozen.
func (v *VM) Thaw() {
	v.s.mu.Lock()
	was, f := v.frozen, v.guest.OnThaw
	v.frozen = false
	v.s.mu.Unlock()
	if was && f != nil {
		f()
	}
}

// Frozen tells whether the guest's writes are held.
func (v *VM) Frozen() bool {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	return v.frozen
}

package vmware

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// facts are what a machine, or a snapshot of it, is described from. A snapshot
// has its own config and disks; the rest is the machine's.
type facts struct {
	id     dr.MachineID
	name   string
	power  dr.Power
	config types.VirtualMachineConfigInfo
	disks  []vdisk
	guest  *types.GuestInfo // nil: nothing is known
	at     whereabouts
	around entities // may be nil
}

// whereabouts is where a machine is; what isn't known is nil.
type whereabouts struct{ folder, host, pool *types.ManagedObjectReference }

// facts gathers what was read of the machine. known may be nil; what it names
// is described by name.
func (m *machine) facts(known entities) facts {
	return facts{
		id: m.id, name: m.props.Name, power: powerOf(m.props.Runtime), config: m.config, disks: m.disks, guest: m.props.Guest,
		at:     whereabouts{m.props.Parent, m.props.Runtime.Host, m.props.ResourcePool},
		around: known,
	}
}

// describe tells what the machine is like without asking anybody: so it can't
// name what the machine only refers to, its place and its port groups.
func (m *machine) describe() dr.Machine { return m.facts(nil).describe() }

// facts gathers what is known of a machine, and asks for the names of what is
// around it; those that can't be had are left out. The names serve snapshots of
// the machine as well.
func (v *VSphere) facts(ctx context.Context, m *machine) facts {
	f := m.facts(entities{})
	if err := v.around(ctx, f.around, f.refers()...); err != nil {
		v.options.Log.DebugContext(ctx, "names around the machine are unknown", "machine", m.id, "error", err)
	}
	return f
}

// refers lists what describing the machine needs names of.
func (f facts) refers() []types.ManagedObjectReference {
	var refs []types.ManagedObjectReference
	for _, r := range []*types.ManagedObjectReference{f.at.folder, f.at.host, f.at.pool} {
		if r != nil {
			refs = append(refs, *r)
		}
	}
	for _, c := range cardsOf(f.config.Hardware.Device) {
		if n, ok := networkRef(c.GetVirtualEthernetCard()); ok {
			refs = append(refs, n)
		}
	}
	return refs
}

// describe is the machine in the words of dr.
func (f facts) describe() dr.Machine {
	m := dr.Machine{
		ID: f.id, Name: f.name, Power: f.power,
		Disks:    make([]dr.Disk, 0, len(f.disks)),
		Firmware: firmwareOf(f.config.Firmware),
		CPUs:     int(f.config.Hardware.NumCPU),
		Memory:   int64(f.config.Hardware.MemoryMB) << 20,
		OS:       osOf(f.guest, f.config.GuestId),
		Config:   f.save().encode(),
	}
	if o := f.config.BootOptions; o != nil {
		m.SecureBoot = isTrue(o.EfiSecureBootEnabled)
	}
	for _, d := range f.disks {
		m.Disks = append(m.Disks, dr.Disk{ID: d.id, Name: d.label, Size: d.size, Boot: d.boot})
	}
	for _, c := range cardsOf(f.config.Hardware.Device) {
		m.NICs = append(m.NICs, f.nic(c.GetVirtualEthernetCard()))
	}
	return m
}

func (f facts) nic(c *types.VirtualEthernetCard) dr.NIC {
	n := dr.NIC{ID: nicID(c.Key), MAC: c.MacAddress, Network: f.network(c)}
	g := guestNIC(f.guest, c)
	if n.Network == "" && g != nil {
		n.Network = g.Network
	}
	if on := c.Connectable; on != nil && !on.StartConnected && !on.Connected {
		n.Network = "" // whatever it would be connected to, it isn't
	}
	if g == nil {
		return n
	}
	n.Addresses, n.DHCP = addressesOf(g), dhcpOf(g)
	return n
}

// nicID names a card by the key of its device, which is its own for as long as
// it is attached.
func nicID(key int32) string { return fmt.Sprintf("nic-%d", key) }

// network is the name of what a card is connected to, or "".
func (f facts) network(c *types.VirtualEthernetCard) string {
	if ref, ok := networkRef(c); ok && f.around[ref].name != "" {
		return f.around[ref].name
	}
	switch b := c.Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		return b.DeviceName
	case *types.VirtualEthernetCardOpaqueNetworkBackingInfo:
		if c.DeviceInfo != nil { // "nsx.LogicalSwitch: 0f6c…" tells people more than nothing
			return c.DeviceInfo.GetDescription().Summary
		}
		return b.OpaqueNetworkId
	}
	return ""
}

// networkRef is the object of the network that a card is connected to.
func networkRef(c *types.VirtualEthernetCard) (types.ManagedObjectReference, bool) {
	switch b := c.Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		if b.Network != nil {
			return *b.Network, true
		}
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		if b.Port.PortgroupKey != "" { // the key is the object's own
			return types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey}, true
		}
	}
	return types.ManagedObjectReference{}, false
}

// cardsOf lists network cards by their key, the order in which the guest finds
// them.
func cardsOf(devices []types.BaseVirtualDevice) []types.BaseVirtualEthernetCard {
	var cards []types.BaseVirtualEthernetCard
	for _, d := range devices {
		if c, ok := d.(types.BaseVirtualEthernetCard); ok {
			cards = append(cards, c)
		}
	}
	slices.SortStableFunc(cards, func(a, b types.BaseVirtualEthernetCard) int {
		return int(a.GetVirtualEthernetCard().Key - b.GetVirtualEthernetCard().Key)
	})
	return cards
}

// guestNIC is what the guest says of a card, or nil.
func guestNIC(g *types.GuestInfo, c *types.VirtualEthernetCard) *types.GuestNicInfo {
	if g == nil {
		return nil
	}
	for i := range g.Net {
		if g.Net[i].DeviceConfigId == c.Key {
			return &g.Net[i]
		}
	}
	for i := range g.Net {
		// Tools that don't know the device say -1.
		if g.Net[i].DeviceConfigId <= 0 && c.MacAddress != "" && strings.EqualFold(g.Net[i].MacAddress, c.MacAddress) {
			return &g.Net[i]
		}
	}
	return nil
}

// addressesOf lists a card's addresses in the guest, with the length of their
// prefix where it is known. Those that cards give themselves are left out.
func addressesOf(g *types.GuestNicInfo) []string {
	var all []string
	add := func(s string, bits int32) {
		a, err := netip.ParseAddr(s)
		if err != nil || a.IsLinkLocalUnicast() || a.IsLoopback() || a.IsUnspecified() {
			return
		}
		s = a.WithZone("").String()
		if p, err := a.WithZone("").Prefix(int(bits)); err == nil && bits > 0 {
			s += fmt.Sprintf("/%d", p.Bits())
		}
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	if g.IpConfig != nil && len(g.IpConfig.IpAddress) > 0 {
		for _, a := range g.IpConfig.IpAddress {
			add(a.IpAddress, a.PrefixLength)
		}
		return all
	}
	for _, a := range g.IpAddress {
		add(a, 0)
	}
	return all
}

// dhcpOf tells whether a card gets its addresses from the network. The guest's
// own settings count most, then where its IPv4 addresses came from, and then
// whether it has its DNS servers from DHCP, which all tools tell.
func dhcpOf(g *types.GuestNicInfo) bool {
	if c := g.IpConfig; c != nil {
		if c.Dhcp != nil && c.Dhcp.Ipv4 != nil {
			return c.Dhcp.Ipv4.Enable
		}
		told, dhcp := false, false
		for _, a := range c.IpAddress {
			if a.Origin == "" || strings.Contains(a.IpAddress, ":") {
				continue
			}
			told = true
			dhcp = dhcp || a.Origin == string(types.NetIpConfigInfoIpAddressOriginDhcp)
		}
		if told {
			return dhcp
		}
		if c.Dhcp != nil && c.Dhcp.Ipv6 != nil && c.Dhcp.Ipv6.Enable {
			return true
		}
	}
	return g.DnsConfig != nil && g.DnsConfig.Dhcp
}

// tellsDHCP tells whether the guest says anything that dhcpOf reads: silence is
// no static address.
func tellsDHCP(g *types.GuestNicInfo) bool {
	if c := g.IpConfig; c != nil {
		if c.Dhcp != nil && (c.Dhcp.Ipv4 != nil || c.Dhcp.Ipv6 != nil) {
			return true
		}
		for _, a := range c.IpAddress {
			if a.Origin != "" && !strings.Contains(a.IpAddress, ":") {
				return true
			}
		}
	}
	return g.DnsConfig != nil
}

// powerOf tells whether a machine runs. One that is suspended does not run, but
// is not off either: it goes on where it was. Of one whose host doesn't answer
// only the last state is known.
func powerOf(r types.VirtualMachineRuntimeInfo) dr.Power {
	if r.ConnectionState != "" && r.ConnectionState != types.VirtualMachineConnectionStateConnected {
		return ""
	}
	switch r.PowerState {
	case types.VirtualMachinePowerStatePoweredOn:
		return dr.On
	case types.VirtualMachinePowerStatePoweredOff:
		return dr.Off
	}
	return ""
}

func firmwareOf(s string) dr.Firmware {
	switch types.GuestOsDescriptorFirmwareType(s) {
	case types.GuestOsDescriptorFirmwareTypeBios:
		return dr.BIOS
	case types.GuestOsDescriptorFirmwareTypeEfi:
		return dr.UEFI
	}
	return ""
}

// linuxes are how IDs of guests begin that are Linux without saying so.
var linuxes = []string{"rhel", "redhat", "centos", "rocky", "almalinux", "oracle", "ubuntu", "debian", "sles", "suse", "opensuse",
	"fedora", "coreos", "asianux", "amazonlinux", "vmwarephoton", "crxpod", "crxsys", "mandrake", "mandriva", "turbolinux", "nld9", "oes", "sjds"}

// osOf is "linux", "windows", or vSphere's own ID of the guest. What runs counts
// more than what was configured.
func osOf(g *types.GuestInfo, id string) string {
	if g != nil {
		switch types.VirtualMachineGuestOsFamily(g.GuestFamily) {
		case types.VirtualMachineGuestOsFamilyWindowsGuest:
			return "windows"
		case types.VirtualMachineGuestOsFamilyLinuxGuest:
			return "linux"
		}
	}
	low := strings.ToLower(id)
	if strings.HasPrefix(low, "win") {
		return "windows"
	}
	if strings.Contains(low, "linux") || slices.ContainsFunc(linuxes, func(p string) bool { return strings.HasPrefix(low, p) }) {
		return "linux"
	}
	return id
}

func isTrue(b *bool) bool { return b != nil && *b }

package vmware

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Preflight implements [backend.Preflighter]. Its codes, with * where capture
// would fail or lie:
//
//   - of the machine: "template"*, "host-disconnected"*, "torn"*,
//     "device-passthrough"*, "device-nvdimm"*, "suspended", "fault-tolerance",
//     "encrypted", "vtpm", "consolidation-needed", "snapshots-foreign",
//     "host-maintenance", "no-disks";
//   - of disks: "disk-independent"*, "disk-nonpersistent"*, "disk-raw"*,
//     "disk-shared"*, "disk-bus-sharing"*, "disk-duplicate-uuid"*,
//     "disk-backing"*, "disk-sectors"*, "disk-no-uuid", "datastore-space";
//   - of change tracking: "tracking-unsupported", "tracking-off";
//   - of the guest: "tools-missing", "tools-stopped", "disk-enable-uuid",
//     "addresses-static".
func (v *VSphere) Preflight(ctx context.Context, id dr.MachineID) ([]backend.Problem, error) {
	m, err := v.find(ctx, id)
	if err != nil {
		return nil, fail("preflight", id, "", -1, err)
	}
	s, err := v.surroundings(ctx, m)
	if err != nil {
		return nil, fail("preflight", id, "", -1, err)
	}
	return findings(m, s), nil
}

// surroundings are what a machine depends on.
type surroundings struct {
	host   string // "" where it isn't known
	state  types.HostSystemConnectionState
	leaves bool // the host is in maintenance, or enters it
	stores map[types.ManagedObjectReference]types.DatastoreSummary
}

func (v *VSphere) surroundings(ctx context.Context, m *machine) (surroundings, error) {
	s := surroundings{stores: map[types.ManagedObjectReference]types.DatastoreSummary{}}
	var ask []types.ObjectSpec
	for _, ref := range m.props.Datastore {
		ask = append(ask, types.ObjectSpec{Obj: ref})
	}
	if h := m.props.Runtime.Host; h != nil {
		ask = append(ask, types.ObjectSpec{Obj: *h})
	}
	if len(ask) == 0 {
		return s, nil
	}
	for page, err := range v.pages(ctx, pageSize, types.PropertyFilterSpec{
		ObjectSet: ask,
		PropSet: []types.PropertySpec{
			{Type: "Datastore", PathSet: []string{"summary"}},
			{Type: "HostSystem", PathSet: []string{"name", "runtime.connectionState", "runtime.inMaintenanceMode"}},
		},
		ReportMissingObjectsInResults: types.NewBool(true),
	}) {
		if err != nil {
			return s, err
		}
		for _, o := range page {
			if o.Obj.Type == "HostSystem" {
				var h mo.HostSystem
				if err := mo.LoadObjectContent([]types.ObjectContent{o}, &h); err != nil {
					return s, err
				}
				s.host, s.state, s.leaves = h.Name, h.Runtime.ConnectionState, h.Runtime.InMaintenanceMode
				continue
			}
			var d mo.Datastore
			if err := mo.LoadObjectContent([]types.ObjectContent{o}, &d); err != nil {
				return s, err
			}
			s.stores[o.Obj] = d.Summary
		}
	}
	return s, nil
}

// findings judges what was read of a machine.
func findings(m *machine, s surroundings) []backend.Problem {
	var all []backend.Problem
	for _, f := range []func(*machine, surroundings) []backend.Problem{stateFindings, deviceFindings, diskFindings, roomFindings, trackingFindings, guestFindings} {
		all = append(all, f(m, s)...)
	}
	return all
}

// problems collects findings.
type problems []backend.Problem

func (p *problems) block(code string, disk dr.DiskID, text, remedy string) {
	*p = append(*p, backend.Problem{Code: code, Disk: disk, Text: text, Remedy: remedy, Blocker: true})
}

func (p *problems) warn(code string, disk dr.DiskID, text, remedy string) {
	*p = append(*p, backend.Problem{Code: code, Disk: disk, Text: text, Remedy: remedy})
}

func stateFindings(m *machine, s surroundings) []backend.Problem {
	var p problems
	r := m.props.Runtime
	if m.config.Template {
		p.block("template", "", "it is a template, of which no snapshot can be made", "convert it to a machine, or protect the machines made of it")
	}
	if m.record.Torn {
		p.block("torn", "", fmt.Sprintf("point %s was being copied to its disks", m.record.For), "copy a point to it to the end")
	}
	state := s.state
	if state == "" && r.ConnectionState == types.VirtualMachineConnectionStateDisconnected {
		state = types.HostSystemConnectionStateDisconnected
	}
	switch {
	case state != "" && state != types.HostSystemConnectionStateConnected:
		p.block("host-disconnected", "", fmt.Sprintf("its host %s is %s", s.host, spaced(string(state))), "connect the host to the vCenter again, or let the machine be started on another")
	case r.ConnectionState != "" && r.ConnectionState != types.VirtualMachineConnectionStateConnected:
		p.block("host-disconnected", "", fmt.Sprintf("the machine is %s", spaced(string(r.ConnectionState))), "make its files reachable again, or register it anew")
	case s.leaves:
		p.warn("host-maintenance", "", fmt.Sprintf("its host %s is in maintenance mode", s.host), "move the machine to another host: what runs on this one may be stopped")
	}
	if r.PowerState == types.VirtualMachinePowerStateSuspended {
		p.warn("suspended", "", "it is suspended: what is in its memory isn't in its disks, points are crash-consistent, and it can't be shut down",
			"resume it")
	}
	switch r.FaultToleranceState {
	case "", types.VirtualMachineFaultToleranceStateNotConfigured:
	default:
		p.warn("fault-tolerance", "", "fault tolerance is on: snapshots may be refused, and changes may not be tracked",
			"turn fault tolerance off if captures fail; a replica has none")
	}
	if r.ConsolidationNeeded {
		p.warn("consolidation-needed", "", "its disks need consolidation: files of a snapshot that was removed are left",
			"consolidate its disks if captures fail; a lock of another backup is often the cause")
	}
	if names := m.foreign(); len(names) > 0 {
		p.warn("snapshots-foreign", "", fmt.Sprintf("it has snapshots that this library didn't make (%d): capture works, but change tracking can't be turned on, disks can't grow, and the machine can't be failed back to", len(names)),
			"remove them when they are no longer needed")
	}
	return p
}

// spaced is a word of the API for people: "notResponding" is "not responding".
func spaced(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte(' ')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func deviceFindings(m *machine, _ surroundings) []backend.Problem {
	var p problems
	if m.config.KeyId != nil {
		p.warn("encrypted", "", "it is encrypted: points hold its content in plain, unless their store encrypts, and replicas are not encrypted",
			"give the account Cryptographer.Access, have the store encrypt, and choose an encrypted storage policy at the target")
	}
	for _, dev := range m.config.Hardware.Device {
		switch d := dev.(type) {
		case *types.VirtualTPM:
			p.warn("vtpm", "", "it has a virtual TPM, whose content no replica has: what is sealed by it (BitLocker, for one) asks for its recovery key",
				"keep the recovery keys at hand, and unseal before a planned failover")
		case *types.VirtualPCIPassthrough:
			if _, shared := d.Backing.(*types.VirtualPCIPassthroughVmiopBackingInfo); !shared && !m.off() {
				p.block("device-passthrough", "", "it runs with a PCI device of its host, and then no snapshot can be made", "remove the device, or capture it while it is off")
			}
		case *types.VirtualSriovEthernetCard:
			if !m.off() {
				p.block("device-passthrough", "", "it runs with an SR-IOV card, and then no snapshot can be made", "use a vmxnet3 card, or capture it while it is off")
			}
		case *types.VirtualNVDIMM:
			p.block("device-nvdimm", "", "it has persistent memory, of which no snapshot can be made", "move what is there to a disk")
		}
	}
	return p
}

func diskFindings(m *machine, _ surroundings) []backend.Problem {
	var p problems
	if len(m.disks) == 0 {
		p.warn("no-disks", "", "it has no disks: a replica would be empty", "")
	}
	shared := map[int32]types.VirtualSCSISharing{}
	devices := map[int32]*types.VirtualDisk{}
	for _, dev := range m.config.Hardware.Device {
		if c, ok := dev.(types.BaseVirtualSCSIController); ok {
			if s := c.GetVirtualSCSIController(); s.SharedBus != "" && s.SharedBus != types.VirtualSCSISharingNoSharing {
				shared[s.Key] = s.SharedBus
			}
		}
		if d, ok := dev.(*types.VirtualDisk); ok {
			devices[d.Key] = d
		}
	}
	seen := map[string]string{}
	for _, d := range m.disks {
		switch mode := types.VirtualDiskMode(d.mode); mode {
		case types.VirtualDiskModeIndependent_persistent, types.VirtualDiskModeIndependent_nonpersistent:
			p.block("disk-independent", d.id, d.label+" is independent: snapshots leave it out", "power the machine off and set its mode to dependent, or detach it")
		case types.VirtualDiskModeNonpersistent, types.VirtualDiskModeUndoable:
			p.block("disk-nonpersistent", d.id, fmt.Sprintf("%s is %s: no snapshot can be made of it", d.label, mode), "power the machine off and set its mode to dependent")
		}
		if d.raw {
			p.block("disk-raw", d.id, d.label+" is a raw device in physical mode: snapshots leave it out", "change the mapping to virtual mode, or protect the device from inside the guest")
		}
		if d.shared {
			p.block("disk-shared", d.id, d.label+" is written by several machines (multi-writer): no snapshot can be made of it", "protect what is on it with the cluster's own means, or detach it")
		}
		if dev := devices[d.key]; dev != nil {
			if bus, ok := shared[dev.ControllerKey]; ok {
				p.block("disk-bus-sharing", d.id, fmt.Sprintf("%s is on a controller that shares its bus (%s): no snapshot can be made of it while it runs", d.label, bus),
					"power the machine off and set the controller's bus sharing to none")
			}
			if !knownBacking(dev) {
				p.block("disk-backing", d.id, fmt.Sprintf("%s lies on %s, of which no snapshot can be made", d.label, strings.TrimPrefix(fmt.Sprintf("%T", dev.Backing), "*types.")), "move it to a datastore for disks")
				continue
			}
		}
		if d.size%512 != 0 || d.size == 0 {
			p.block("disk-sectors", d.id, fmt.Sprintf("%s has %d bytes, which is no whole number of 512-byte sectors", d.label, d.size), "check its descriptor")
		}
		uuid := strings.ToLower(d.uuid)
		switch first, twice := seen[uuid]; {
		case uuid == "":
			p.warn("disk-no-uuid", d.id, d.label+" has no UUID: it is known by its device key, and becomes another disk when it is detached and attached", "move it with storage vMotion, which gives it one")
		case twice:
			p.block("disk-duplicate-uuid", d.id, fmt.Sprintf("%s has the same UUID as %s: which is which can't be told", d.label, first), "detach one of them and give it another UUID (vmkfstools -J setuuid)")
		default:
			seen[uuid] = d.label
		}
	}
	return p
}

// knownBacking tells whether a disk is of a kind that snapshots are made of.
func knownBacking(d *types.VirtualDisk) bool {
	switch d.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo, *types.VirtualDiskSeSparseBackingInfo, *types.VirtualDiskSparseVer2BackingInfo,
		*types.VirtualDiskRawDiskMappingVer1BackingInfo:
		return true
	}
	return false
}

// extraOf looks up a text of extraConfig, whose keys know no case.
func extraOf(extra []types.BaseOptionValue, key string) string {
	for _, o := range extra {
		if v := o.GetOptionValue(); strings.EqualFold(v.Key, key) {
			s, _ := v.Value.(string)
			return s
		}
	}
	return ""
}

const minRoom = 10 << 30

// roomFindings warns of datastores where a snapshot may not find room to grow.
func roomFindings(m *machine, s surroundings) []backend.Problem {
	var p problems
	for _, d := range m.disks {
		st, ok := s.stores[d.datastore]
		if !ok || st.Capacity <= 0 || st.FreeSpace >= minRoom && st.FreeSpace >= st.Capacity/10 {
			continue
		}
		p.warn("datastore-space", d.id, fmt.Sprintf("datastore %s of %s has %s of %s free: a snapshot grows there while a copy is read, and a full datastore stops machines",
			st.Name, d.label, inGiB(st.FreeSpace), inGiB(st.Capacity)), "make room, or move the disk")
	}
	return p
}

func inGiB(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

func trackingFindings(m *machine, _ surroundings) []backend.Problem {
	var p problems
	n, err := strconv.Atoi(strings.TrimPrefix(m.config.Version, "vmx-"))
	switch {
	case err == nil && n < 7:
		p.warn("tracking-unsupported", "", fmt.Sprintf("hardware version %d has no change tracking: every cycle compares whole disks", n), "upgrade its virtual hardware")
	case isTrue(m.config.ChangeTrackingEnabled):
	case len(m.foreign()) > 0:
		p.warn("tracking-off", "", "change tracking is off, and can't be turned on while there are snapshots: every cycle compares whole disks", "remove the snapshots; the next capture turns it on")
	}
	return p
}

func guestFindings(m *machine, _ surroundings) []backend.Problem {
	var p problems
	f := m.facts(nil)
	os := osOf(f.guest, m.config.GuestId)
	if g := f.guest; g != nil {
		switch {
		case g.ToolsVersionStatus2 == string(types.VirtualMachineToolsVersionStatusGuestToolsNotInstalled) || g.ToolsStatus == types.VirtualMachineToolsStatusToolsNotInstalled:
			p.warn("tools-missing", "", "VMware Tools are not installed: points are crash-consistent, and the guest can't be asked to shut down", "install VMware Tools or open-vm-tools")
		case f.power == dr.On && g.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning):
			p.warn("tools-stopped", "", "VMware Tools are not running: points are crash-consistent, and the guest can't be asked to shut down", "start them in the guest")
		}
	}
	if on := extraOf(m.config.ExtraConfig, "disk.enableUUID"); (os == "linux" || os == "windows") && !strings.EqualFold(on, "TRUE") {
		p.warn("disk-enable-uuid", "", "the guest can't see its disks' UUIDs (disk.enableUUID isn't TRUE): names by them, which survive a move to another controller, don't exist, and application-consistent snapshots of Windows may fail",
			"power the machine off and set disk.enableUUID to TRUE in its advanced configuration")
	}
	for _, n := range f.describe().NICs {
		if n.DHCP || len(n.Addresses) == 0 {
			continue
		}
		remedy := "let the failover set the addresses (the placement's option addresses), use networks with the same subnets, or DHCP"
		if os == "windows" {
			remedy = "use networks with the same subnets, DHCP, or a step of your own that sets the address in the guest"
		}
		p.warn("addresses-static", "", fmt.Sprintf("card %s on %q has the static address %s: at another site it may not be reachable there", n.ID, n.Network, strings.Join(n.Addresses, ", ")), remedy)
	}
	return p
}

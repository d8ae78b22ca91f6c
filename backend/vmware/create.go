package vmware

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// creation is a machine that is to be made.
type creation struct {
	id     dr.MachineID
	target target
	spec   types.VirtualMachineConfigSpec
	record record // as it is in spec
	slots  map[dr.DiskID]slot
	boot   []bootable
}

// bootable is an entry of a boot order: a disk, a card by its place among the
// machine's, or whatever there is of its kind.
type bootable struct {
	disk dr.DiskID
	card int
	kind string // "disk", "nic", "cdrom", "floppy"
}

// creation decides everything about the machine that p asks for. Nothing is
// made yet.
func (v *VSphere) creation(ctx context.Context, p backend.Placement, o PlaceOptions) (creation, error) {
	s, err := parseSaved(p.Machine.Config)
	if err != nil {
		return creation{}, err
	}
	t, err := v.place(ctx, p, o, s)
	if err != nil {
		return creation{}, err
	}
	used, err := v.taken(ctx, identity(p, o, s))
	if err != nil {
		return creation{}, err
	}
	c, err := createSpec(p, o, s, t, used)
	if err != nil {
		return c, err
	}
	if c.record.Fences, _, err = c.record.Fences.Admit(ctx); err == nil { // nothing is remembered of what isn't there
		c.spec.ExtraConfig = append(withoutRecord(c.spec.ExtraConfig), c.record.encode(c.id))
	}
	return c, err
}

// createSpec is the specification of a new machine: built as s says if that is
// known, which may be nil, else as suits its firmware and system.
func createSpec(p backend.Placement, o PlaceOptions, s *saved, t target, used ids) (creation, error) {
	c := creation{id: machineFor(p.Key), target: t}
	if p.Key == "" {
		return c, fmt.Errorf("%w: the placement has no key", dr.ErrInvalid)
	}
	name, err := nameOf(p)
	if err != nil {
		return c, err
	}
	if s == nil {
		s = &saved{}
	}
	keep := identity(p, o, s)
	for _, n := range p.Machine.NICs {
		if mac := unicastMAC(n.MAC); p.Cards[n.ID].MAC == backend.KeepMAC && (mac == "" || used[mac]) {
			return c, &explained{fmt.Errorf("%w: card %s can't keep the hardware address %q: it is none, or another machine here has it", dr.ErrInvalid, n.ID, n.MAC), "remove the other machine, or ask for a new address"}
		}
	}
	maps.DeleteFunc(keep, func(id string, _ bool) bool { return used[id] })
	c.spec = baseSpec(p, o, s, t)
	c.spec.Name, c.spec.InstanceUuid = name, string(c.id)
	if uuid := strings.ToLower(s.UUID); keep[uuid] {
		c.spec.Uuid = uuid
	}
	c.record = record{Key: p.Key, Made: true, New: true, Disks: map[string]dr.DiskID{}}
	b := newBoard(s, p.Machine)
	disks, err := b.add(p.Key, p.Machine.Disks, t.disks, o.thin(), keep, c.record.Disks)
	if err != nil {
		return c, err
	}
	c.slots = b.slots()
	c.spec.DeviceChange = append(b.controllerChanges(), disks...)
	cards, checks, err := cardSpecs(p, s, t, keep)
	if err != nil {
		return c, err
	}
	c.spec.DeviceChange = append(c.spec.DeviceChange, cards...)
	if v := s.Video; v != nil {
		c.spec.DeviceChange = append(c.spec.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd,
			Device: &types.VirtualMachineVideoCard{VirtualDevice: types.VirtualDevice{Key: -500},
				VideoRamSizeInKB: v.MemoryKB, NumDisplays: v.Displays, UseAutoDetect: &v.Auto, Enable3DSupport: &v.ThreeD}})
	}
	c.boot = bootOf(s, p.Machine)
	if c.record.Guest, err = guestNetFor(p, o, s); err != nil {
		return c, err
	}
	c.spec.ExtraConfig = append(extraSpec(s, checks), c.record.encode(c.id))
	return c, nil
}

// baseSpec is a machine without devices.
func baseSpec(p backend.Placement, o PlaceOptions, s *saved, t target) types.VirtualMachineConfigSpec {
	m := p.Machine
	spec := types.VirtualMachineConfigSpec{
		Annotation:            annotate(cmp.Or(m.Name, string(m.ID)), s.Annotation),
		Version:               hardwareFor(o, s, t),
		GuestId:               cmp.Or(s.GuestID, guestFor(m.OS)),
		Files:                 &types.VirtualMachineFileInfo{VmPathName: "[" + t.datastore + "]"},
		NumCPUs:               int32(min(max(m.CPUs, 1), 4096)),
		MemoryMB:              1024,
		ChangeTrackingEnabled: types.NewBool(true),
		CpuHotAddEnabled:      &s.CPUHotAdd, CpuHotRemoveEnabled: &s.CPUHotRemove, MemoryHotAddEnabled: &s.MemoryHotAdd,
		MemoryReservationLockedToMax: &s.MemoryLocked, NestedHVEnabled: &s.NestedHV,
		Firmware: string(types.GuestOsDescriptorFirmwareTypeBios),
	}
	if m.Memory > 0 {
		spec.MemoryMB = max((m.Memory+4<<20-1)>>22<<2, 4) // in steps of 4 MB
	}
	if n := s.CoresPerSocket; n > 0 && spec.NumCPUs%n == 0 {
		spec.NumCoresPerSocket = &n
	}
	uefi := m.Firmware == dr.UEFI
	if uefi {
		spec.Firmware = string(types.GuestOsDescriptorFirmwareTypeEfi)
	}
	if b := s.Boot; b != nil || uefi && m.SecureBoot {
		boot := &types.VirtualMachineBootOptions{}
		if b != nil {
			boot.BootDelay, boot.BootRetryEnabled, boot.BootRetryDelay, boot.NetworkBootProtocol = b.DelayMS, &b.Retry, b.RetryMS, b.Network
		}
		if uefi {
			boot.EfiSecureBootEnabled = types.NewBool(m.SecureBoot)
		}
		spec.BootOptions = boot
	}
	if s.Latency != "" {
		spec.LatencySensitivity = &types.LatencySensitivity{Level: types.LatencySensitivitySensitivityLevel(s.Latency)}
	}
	if x := s.Tools; x != nil {
		spec.Tools = &types.ToolsConfigInfo{AfterPowerOn: &x.AfterPowerOn, AfterResume: &x.AfterResume, BeforeGuestStandby: &x.BeforeStandby,
			BeforeGuestShutdown: &x.BeforeShutdown, BeforeGuestReboot: &x.BeforeReboot, ToolsUpgradePolicy: x.Upgrade, SyncTimeWithHost: &x.SyncTime}
	}
	return spec
}

// annotate tells people where the machine comes from, once however often it went
// there and back.
func annotate(name, was string) string {
	const made = "Made by Lifeboat for "
	if strings.HasPrefix(was, made) {
		_, was, _ = strings.Cut(was, "\n")
	}
	return strings.TrimSpace(made + name + ".\n" + was)
}

// hardwareFor is the version to make; "" lets the server choose.
func hardwareFor(o PlaceOptions, s *saved, t target) string {
	switch {
	case o.HardwareVersion != "":
		return o.HardwareVersion
	case t.hardware != "" && s.Hardware != "" && older(t.hardware, s.Hardware):
		return t.hardware
	}
	return s.Hardware
}

// guestFor is the ID of a guest of which only its kind is known. These IDs are
// older than any hardware version that is still made.
func guestFor(os string) string {
	switch {
	case os == "linux":
		return string(types.VirtualMachineGuestOsIdentifierOtherLinux64Guest)
	case os == "windows":
		return string(types.VirtualMachineGuestOsIdentifierWindows8Server64Guest)
	case slices.Contains(types.VirtualMachineGuestOsIdentifier("").Values(), types.VirtualMachineGuestOsIdentifier(os)):
		return os
	}
	return string(types.VirtualMachineGuestOsIdentifierOtherGuest64)
}

// extraSpec is what the machine's extraConfig begins with.
func extraSpec(s *saved, more []types.BaseOptionValue) []types.BaseOptionValue {
	all := []types.BaseOptionValue{&types.OptionValue{Key: "disk.enableUUID", Value: "TRUE"}}
	for _, k := range slices.Sorted(maps.Keys(s.Extra)) {
		if !strings.EqualFold(k, "disk.enableUUID") {
			all = append(all, &types.OptionValue{Key: k, Value: s.Extra[k]})
		}
	}
	return append(all, more...)
}

// cardSpecs are the network cards of the machine, and the extraConfig that goes
// with their addresses.
func cardSpecs(p backend.Placement, s *saved, t target, keep ids) (cards []types.BaseVirtualDeviceConfigSpec, extra []types.BaseOptionValue, err error) {
	const maxCards = 10
	if n := len(p.Machine.NICs); n > maxCards {
		return nil, nil, fmt.Errorf("%w: the machine has %d network cards, and %d is the most", dr.ErrInvalid, n, maxCards)
	}
	for i, n := range p.Machine.NICs {
		kind, was := cardFor(p.Machine.OS), savedNIC{WakeOnLAN: true}
		if j := slices.IndexFunc(s.NICs, func(x savedNIC) bool { return x.ID == n.ID }); j >= 0 {
			was = s.NICs[j]
			kind = was.Type
		}
		backing, connected := t.spare, false
		if i < len(t.cards) && t.cards[i] != nil {
			backing, connected = t.cards[i], !was.Disconnected
		}
		dev, err := object.EthernetCardTypes().CreateEthernetCard(kind, backing)
		if err != nil {
			return nil, nil, err
		}
		card := dev.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
		card.Key = int32(-4000 - i)
		card.WakeOnLanEnabled = &was.WakeOnLAN
		// A guest must not connect what was left unconnected.
		card.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: connected, AllowGuestControl: connected}
		card.AddressType = string(types.VirtualEthernetCardMacTypeGenerated)
		if was.Slot > 0 {
			card.SlotInfo = &types.VirtualDevicePciBusSlotInfo{PciSlotNumber: was.Slot}
		}
		if mac := unicastMAC(n.MAC); keep[mac] {
			var unchecked bool
			card.MacAddress = mac
			card.AddressType, unchecked = macType(mac)
			if unchecked {
				extra = append(extra, &types.OptionValue{Key: fmt.Sprintf("ethernet%d.checkMACAddress", i), Value: "FALSE"})
			}
			delete(keep, mac) // two cards can't share it
		}
		cards = append(cards, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: dev})
	}
	return cards, extra, nil
}

// macType is how an address is to be called that a card is given. Hosts refuse
// those of VMware's own ranges outside of the one for manual addresses, unless
// they are told not to look.
func macType(mac string) (kind string, unchecked bool) {
	const assigned, manual = string(types.VirtualEthernetCardMacTypeAssigned), string(types.VirtualEthernetCardMacTypeManual)
	switch mac[:8] {
	case "00:50:56":
		switch {
		case mac[9:11] >= "80" && mac[9:11] <= "bf": // what vCenters give out
			return assigned, false
		case mac[9:11] <= "3f":
			return manual, false
		}
		return manual, true
	case "00:0c:29", "00:05:69", "00:1c:14":
		return manual, true
	}
	return manual, false
}

// cardFor is a card that a system has a driver for from the start.
func cardFor(os string) string {
	if os == "linux" {
		return "vmxnet3"
	}
	return "e1000e"
}

// controllerFor is a controller that a system has a driver for from the start.
func controllerFor(os string) string {
	if os == "linux" {
		return "pvscsi"
	}
	return "lsilogic-sas"
}

// perController and maxDisks are what every version of vSphere can do.
const (
	perController = 15
	maxDisks      = 4 * perController
)

// names tells which UUID belongs to which disk, by where the disks are: the
// record's Disks, should the server have given the disks other UUIDs than those
// it was asked for.
func (c creation) names(devices []types.BaseVirtualDevice) (map[string]dr.DiskID, error) {
	return namesAt(devices, c.slots)
}

// bootOf is the machine's boot order, without what it no longer has.
func bootOf(s *saved, m dr.Machine) []bootable {
	if s.Boot == nil {
		return nil
	}
	var order []bootable
	for _, entry := range s.Boot.Order {
		kind, key, _ := strings.Cut(entry, ":")
		switch kind {
		case "disk":
			if i := slices.IndexFunc(s.Disks, func(d savedDisk) bool { return fmt.Sprint(d.Key) == key }); i >= 0 {
				if _, ok := m.Disk(s.Disks[i].ID); ok {
					order = append(order, bootable{kind: kind, disk: s.Disks[i].ID})
				}
			}
		case "nic":
			if i := slices.IndexFunc(m.NICs, func(n dr.NIC) bool { return n.ID == "nic-"+key }); i >= 0 {
				order = append(order, bootable{kind: kind, card: i})
			}
		case "cdrom", "floppy":
			order = append(order, bootable{kind: kind})
		}
	}
	return order
}

// bootOrder is the boot order of the machine that was made, for a change after
// its making: only then do its devices have keys. nil is the firmware's own.
func (c creation) bootOrder(devices []types.BaseVirtualDevice) ([]types.BaseVirtualMachineBootOptionsBootableDevice, error) {
	if len(c.boot) == 0 {
		return nil, nil
	}
	uuids, err := c.names(devices)
	if err != nil {
		return nil, err
	}
	at := map[dr.DiskID]int32{}
	for _, d := range disksOf(devices, uuids) {
		at[d.id] = d.key
	}
	cards := cardsOf(devices)
	var order []types.BaseVirtualMachineBootOptionsBootableDevice
	for _, b := range c.boot {
		switch b.kind {
		case "disk":
			order = append(order, &types.VirtualMachineBootOptionsBootableDiskDevice{DeviceKey: at[b.disk]})
		case "nic":
			if b.card < len(cards) {
				order = append(order, &types.VirtualMachineBootOptionsBootableEthernetDevice{DeviceKey: cards[b.card].GetVirtualEthernetCard().Key})
			}
		case "cdrom":
			order = append(order, &types.VirtualMachineBootOptionsBootableCdromDevice{})
		case "floppy":
			order = append(order, &types.VirtualMachineBootOptionsBootableFloppyDevice{})
		}
	}
	return order, nil
}

// addDisks makes the disks that a replica lacks, beside its own files unless the
// options name a datastore, and tells their UUIDs. Nothing to add is nil.
func addDisks(m *machine, p backend.Placement, o PlaceOptions) (changes []types.BaseVirtualDeviceConfigSpec, names map[string]dr.DiskID, err error) {
	var lacking []dr.Disk
	stores := map[dr.DiskID]string{}
	home := m.facts(nil).savePlace().Datastore
	for _, d := range p.Machine.Disks {
		if _, ok := m.disk(d.ID); !ok {
			lacking = append(lacking, d)
			stores[d.ID] = cmp.Or(o.DiskDatastores[d.ID], o.Datastore, home)
			stores[d.ID] = stores[d.ID][strings.LastIndex(stores[d.ID], "/")+1:] // of a path
		}
	}
	if len(lacking) == 0 {
		return nil, nil, nil
	}
	if n := len(m.disks) + len(lacking); n > maxDisks {
		return nil, nil, fmt.Errorf("%w: the machine would have %d disks, and %d is the most", dr.ErrInvalid, n, maxDisks)
	}
	b := boardOf(m)
	names = map[string]dr.DiskID{}
	disks, err := b.add(p.Key, lacking, stores, o.thin(), nil, names)
	if err != nil {
		return nil, nil, err
	}
	return append(b.controllerChanges(), disks...), names, nil
}

// growDisks makes a replica's disks as large as they are to be. Disks don't
// shrink, and don't grow under a snapshot.
func growDisks(m *machine, want []dr.Disk) ([]types.BaseVirtualDeviceConfigSpec, error) {
	var changes []types.BaseVirtualDeviceConfigSpec
	for _, d := range want {
		have, ok := m.disk(d.ID)
		if !ok || have.size == d.Size {
			continue
		}
		bad := func(err error, remedy string) error {
			return &dr.Error{Op: "grow the disk", Machine: m.id, Disk: d.ID, Off: -1, Err: err, Remedy: remedy}
		}
		if d.Size < have.size {
			return nil, bad(fmt.Errorf("%w: it has %d bytes, and should have %d: disks don't shrink", dr.ErrInvalid, have.size, d.Size), "remove the replica; the next one is made anew")
		}
		if err := checkSize(d); err != nil {
			return nil, err
		}
		if m.props.Snapshot != nil {
			return nil, bad(fmt.Errorf("%w: the machine has snapshots", dr.ErrConflict), "remove them: disks can't grow under a snapshot")
		}
		dev, ok := object.VirtualDeviceList(m.config.Hardware.Device).FindByKey(have.key).(*types.VirtualDisk)
		if !ok {
			return nil, bad(dr.ErrNotFound, "")
		}
		grown := *dev
		grown.CapacityInBytes, grown.CapacityInKB = d.Size, d.Size>>10
		changes = append(changes, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: &grown})
	}
	return changes, nil
}

package vmware

import (
	"cmp"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
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

// slot is a disk's place, which it keeps whatever its device's key becomes.
type slot struct {
	class     string // of the controller
	bus, unit int32
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
	return createSpec(p, o, s, t, used)
}

// ids are UUIDs and MAC addresses, in lower case.
type ids map[string]bool

// identity lists what a machine would keep of its original's, if it is free.
func identity(p backend.Placement, o PlaceOptions, s *saved) ids {
	all := ids{}
	if p.Isolated {
		return all // a drill's machine could meet its original
	}
	if o.KeepUUID == nil || *o.KeepUUID {
		if s != nil && instanceUUID.MatchString(strings.ToLower(s.UUID)) {
			all[strings.ToLower(s.UUID)] = true
		}
		for _, d := range p.Machine.Disks {
			if diskUUID.MatchString(string(d.ID)) {
				all[string(d.ID)] = true
			}
		}
	}
	if o.KeepMAC == nil || *o.KeepMAC {
		for _, n := range p.Machine.NICs {
			if mac := unicastMAC(n.MAC); mac != "" {
				all[mac] = true
			}
		}
	}
	return all
}

// diskUUID is what vSphere's own UUIDs of disks look like. Guests see others as
// disks of another maker.
var diskUUID = regexp.MustCompile(`^6000c29[0-9a-f](-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// taken tells which of these some machine here has.
func (v *VSphere) taken(ctx context.Context, ask ids) (ids, error) {
	used := ids{}
	if len(ask) == 0 {
		return used, nil
	}
	see := func(s string) {
		if s = strings.ToLower(s); ask[s] {
			used[s] = true
		}
	}
	for page, err := range v.below(ctx, pageSize, types.PropertySpec{Type: "VirtualMachine", PathSet: []string{"config.uuid", "config.hardware.device"}}) {
		if err != nil {
			return nil, err
		}
		for _, o := range page {
			var vm mo.VirtualMachine
			if vm, err = loadMachine(o); err != nil {
				return nil, err
			}
			if vm.Config == nil {
				continue
			}
			see(vm.Config.Uuid)
			for _, c := range cardsOf(vm.Config.Hardware.Device) {
				see(c.GetVirtualEthernetCard().MacAddress)
			}
			for _, d := range disksOf(vm.Config.Hardware.Device, nil) {
				see(d.uuid)
			}
		}
	}
	return used, nil
}

// unicastMAC is an address as vSphere writes it, or "" if a card can't have it.
func unicastMAC(s string) string {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return ""
	}
	return mac.String()
}

// namespace makes our UUIDs others than those that anybody else derives.
var namespace = [16]byte{0x3e, 0x8b, 0x0d, 0x52, 0x64, 0x1f, 0x4c, 0x0a, 0x9d, 0x27, 0x5a, 0xe1, 0x70, 0xb6, 0x2c, 0x93}

// machineFor is the instance UUID (RFC 9562, version 5) of the machine that is
// made for a placement's key: who asks again, after an answer was lost, finds
// the machine by it.
func machineFor(key string) dr.MachineID {
	h := derive("machine", key)
	h[6], h[8] = h[6]&0x0f|0x50, h[8]&0x3f|0x80
	return dr.MachineID(formatUUID(h))
}

// diskFor is the UUID of the disk that stands for another in that machine. It
// begins as those that VMware gives out, as guests know its disks by that.
func diskFor(key string, disk dr.DiskID) string {
	h := derive("disk", key, string(disk))
	h[0], h[1], h[2], h[3] = 0x60, 0x00, 0xc2, h[3]&0x0f|0x90
	return formatUUID(h)
}

func derive(parts ...string) [16]byte {
	sum := sha1.New()
	sum.Write(namespace[:])
	for _, p := range parts {
		fmt.Fprintf(sum, "%d:%s", len(p), p)
	}
	return [16]byte(sum.Sum(nil)[:16])
}

func formatUUID(h [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:])
}

// maxName is the length of a machine's name, in bytes.
const maxName = 80

var strange = regexp.MustCompile(`[^\p{L}\p{N} ._-]+`)

// nameOf is the name of the machine that p asks for. A derived one is the same
// whenever it is asked for, so that a folder can't hold two of them.
func nameOf(p backend.Placement) (string, error) {
	if p.Name != "" {
		if len(p.Name) > maxName || !utf8.ValidString(p.Name) {
			return "", &explained{fmt.Errorf("%w: the name %q has %d bytes", dr.ErrInvalid, p.Name, len(p.Name)), "give it one of at most 80 bytes"}
		}
		return p.Name, nil
	}
	sum := sha256.Sum256([]byte(p.Key))
	end := "-replica-" + hex.EncodeToString(sum[:4])
	if p.Isolated {
		end = "-drill-" + hex.EncodeToString(sum[:4])
	}
	base := strings.Trim(strange.ReplaceAllString(strings.ToValidUTF8(cmp.Or(p.Machine.Name, string(p.Machine.ID)), ""), "-"), " .-")
	if base == "" {
		base = "machine"
	}
	for len(base)+len(end) > maxName {
		_, n := utf8.DecodeLastRuneInString(base)
		base = base[:len(base)-n]
	}
	return base + end, nil
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
	if o.Addresses {
		if c.record.Guest, err = guestNetOf(p.Machine, o, s); err != nil {
			return c, err
		}
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

// board is where disks are put: the controllers, and who is on their units.
type board struct {
	kind        string // of controllers that are added
	controllers []savedController
	fresh       int // how many of them, from the end, are to be made
	units       map[[2]int32]dr.DiskID
	at          map[dr.DiskID][2]int32
}

// newBoard is that of a machine which is made: with the controllers that it had,
// and its disks where they were.
func newBoard(s *saved, m dr.Machine) *board {
	b := &board{kind: controllerFor(m.OS), units: map[[2]int32]dr.DiskID{}, at: map[dr.DiskID][2]int32{}}
	moved := map[int32]int32{}
	for i, c := range s.Controllers {
		moved[c.Key] = int32(-100 - i)
		c.Key, c.Sharing = moved[c.Key], ""
		b.controllers = append(b.controllers, c)
	}
	b.fresh = len(b.controllers)
	b.learn()
	for _, d := range s.Disks {
		key, known := moved[d.Controller]
		if _, still := m.Disk(d.ID); known && still {
			b.put(d.ID, key, d.Unit)
		}
	}
	return b
}

// boardOf is that of a machine which is there.
func boardOf(m *machine) *board {
	s := m.facts(nil).save()
	b := &board{kind: controllerFor(osOf(m.props.Guest, m.config.GuestId)), controllers: s.Controllers, units: map[[2]int32]dr.DiskID{}, at: map[dr.DiskID][2]int32{}}
	b.learn()
	for _, dev := range m.config.Hardware.Device { // CD drives can be on SCSI too
		if d := dev.GetVirtualDevice(); d.UnitNumber != nil {
			b.units[[2]int32{d.ControllerKey, *d.UnitNumber}] = ""
		}
	}
	for _, d := range s.Disks {
		b.put(d.ID, d.Controller, d.Unit)
	}
	return b
}

// learn makes more controllers be of the type that the machine knows.
func (b *board) learn() {
	for _, c := range b.controllers {
		if controllerClasses[c.Type].name == "scsi" {
			b.kind = c.Type
			return
		}
	}
}

func (b *board) put(id dr.DiskID, controller, unit int32) {
	b.units[[2]int32{controller, unit}], b.at[id] = id, [2]int32{controller, unit}
}

// perController and maxDisks are what every version of vSphere can do.
const (
	perController = 15
	maxDisks      = 4 * perController
)

// find finds a free unit of a SCSI controller, or adds a controller.
func (b *board) find() (controller, unit int32, ok bool) {
	buses := map[int32]bool{}
	for _, c := range b.controllers {
		class := controllerClasses[c.Type]
		if class.name != "scsi" {
			continue
		}
		buses[c.Bus] = true
		if c.Sharing != "" && c.Sharing != string(types.VirtualSCSISharingNoSharing) {
			continue
		}
		for u := int32(0); u <= perController; u++ {
			if _, busy := b.units[[2]int32{c.Key, u}]; !busy && class.has(u) {
				return c.Key, u, true
			}
		}
	}
	for bus := int32(0); bus < 4; bus++ {
		if !buses[bus] {
			c := savedController{Type: b.kind, Key: int32(-100 - len(b.controllers)), Bus: bus}
			b.controllers = append(b.controllers, c)
			b.fresh++
			return c.Key, 0, true
		}
	}
	return 0, 0, false
}

// add puts disks on the board, those that are on it where they are, and says
// how to make them. The boot disk of those that have no place yet comes first.
// names learns which UUID is whose.
func (b *board) add(key string, disks []dr.Disk, stores map[dr.DiskID]string, thin bool, keep ids, names map[string]dr.DiskID) ([]types.BaseVirtualDeviceConfigSpec, error) {
	if len(disks) > maxDisks {
		return nil, fmt.Errorf("%w: the machine has %d disks, and %d is the most", dr.ErrInvalid, len(disks), maxDisks)
	}
	order := slices.Clone(disks)
	slices.SortStableFunc(order, func(x, y dr.Disk) int {
		switch {
		case x.Boot == y.Boot:
			return 0
		case x.Boot:
			return -1
		}
		return 1
	})
	var changes []types.BaseVirtualDeviceConfigSpec
	for i, d := range order {
		if err := checkSize(d); err != nil {
			return nil, err
		}
		at, ok := b.at[d.ID]
		if !ok {
			if at[0], at[1], ok = b.find(); !ok {
				return nil, &dr.Error{Op: "create the machine", Disk: d.ID, Off: -1, Err: fmt.Errorf("%w: all its SCSI controllers are full", dr.ErrInvalid)}
			}
			b.put(d.ID, at[0], at[1])
		}
		uuid := diskFor(key, d.ID)
		if keep[string(d.ID)] {
			uuid = string(d.ID)
		}
		if other, twice := names[uuid]; twice {
			return nil, fmt.Errorf("%w: the machine has disk %s twice", dr.ErrInvalid, other)
		}
		names[uuid] = d.ID
		dev := &types.VirtualDisk{CapacityInBytes: d.Size, CapacityInKB: d.Size >> 10}
		dev.Key, dev.ControllerKey, dev.UnitNumber = int32(-2000-i), at[0], types.NewInt32(at[1])
		dev.Backing = &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[" + stores[d.ID] + "]"},
			DiskMode:                     string(types.VirtualDiskModePersistent), ThinProvisioned: &thin, Uuid: uuid,
		}
		changes = append(changes, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd,
			FileOperation: types.VirtualDeviceConfigSpecFileOperationCreate, Device: dev})
	}
	return changes, nil
}

// maxDisk is the size of the largest disk.
const maxDisk = 62 << 40

func checkSize(d dr.Disk) error {
	bad := func(why, remedy string) error {
		return &dr.Error{Op: "create the disk", Disk: d.ID, Off: -1, Err: fmt.Errorf("%w: %s has %d bytes: %s", dr.ErrInvalid, cmp.Or(d.Name, "it"), d.Size, why), Remedy: remedy}
	}
	switch {
	case d.Size <= 0:
		return bad("there is nothing to hold", "leave it out")
	case d.Size%1024 != 0:
		return bad("vSphere counts in KiB", "grow the original by one sector of 512 bytes, which no guest minds")
	case d.Size > maxDisk:
		return bad("62 TiB is the most", "leave it out, and protect it by other means")
	}
	return nil
}

// controllerChanges makes the controllers that are not there.
func (b *board) controllerChanges() []types.BaseVirtualDeviceConfigSpec {
	var changes []types.BaseVirtualDeviceConfigSpec
	for _, c := range b.controllers[len(b.controllers)-b.fresh:] {
		changes = append(changes, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: c.device()})
	}
	return changes
}

// device is the controller to make. Buses are never shared: what shared one
// can't be protected.
func (c savedController) device() types.BaseVirtualDevice {
	base := types.VirtualController{BusNumber: c.Bus}
	base.Key = c.Key
	if c.Slot > 0 {
		base.SlotInfo = &types.VirtualDevicePciBusSlotInfo{PciSlotNumber: c.Slot}
	}
	scsi := types.VirtualSCSIController{VirtualController: base, SharedBus: types.VirtualSCSISharingNoSharing, ScsiCtlrUnitNumber: 7}
	switch c.Type {
	case "lsilogic":
		return &types.VirtualLsiLogicController{VirtualSCSIController: scsi}
	case "lsilogic-sas":
		return &types.VirtualLsiLogicSASController{VirtualSCSIController: scsi}
	case "buslogic":
		return &types.VirtualBusLogicController{VirtualSCSIController: scsi}
	case "sata":
		return &types.VirtualAHCIController{VirtualSATAController: types.VirtualSATAController{VirtualController: base}}
	case "nvme":
		return &types.VirtualNVMEController{VirtualController: base}
	case "ide":
		base.SlotInfo = nil
		return &types.VirtualIDEController{VirtualController: base}
	}
	return &types.ParaVirtualSCSIController{VirtualSCSIController: scsi}
}

func (b *board) slots() map[dr.DiskID]slot {
	all := map[dr.DiskID]slot{}
	for id, at := range b.at {
		for _, c := range b.controllers {
			if c.Key == at[0] {
				all[id] = slot{controllerClasses[c.Type].name, c.Bus, at[1]}
			}
		}
	}
	return all
}

// names tells which UUID belongs to which disk, by where the disks are: the
// record's Disks, should the server have given the disks other UUIDs than those
// it was asked for.
func (c creation) names(devices []types.BaseVirtualDevice) (map[string]dr.DiskID, error) {
	return namesAt(devices, c.slots)
}

func namesAt(devices []types.BaseVirtualDevice, slots map[dr.DiskID]slot) (map[string]dr.DiskID, error) {
	buses := map[int32]slot{}
	for _, dev := range devices {
		if kind := controllerKind(dev); kind != "" {
			c := dev.(types.BaseVirtualController).GetVirtualController()
			buses[c.Key] = slot{class: controllerClasses[kind].name, bus: c.BusNumber}
		}
	}
	uuids := map[slot]string{}
	for _, d := range disksOf(devices, nil) {
		dev := object.VirtualDeviceList(devices).FindByKey(d.key).GetVirtualDevice()
		at := buses[dev.ControllerKey]
		if dev.UnitNumber != nil {
			at.unit = *dev.UnitNumber
		}
		uuids[at] = strings.ToLower(d.uuid)
	}
	names := map[string]dr.DiskID{}
	for _, id := range slices.Sorted(maps.Keys(slots)) {
		uuid := uuids[slots[id]]
		if uuid == "" || names[uuid] != "" {
			return nil, &dr.Error{Op: "find the disk that was made", Disk: id, Off: -1,
				Err: fmt.Errorf("%w: there is none of its own at unit %d of %s %d", dr.ErrNotFound, slots[id].unit, slots[id].class, slots[id].bus)}
		}
		names[uuid] = id
	}
	return names, nil
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

package vmware

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// slot is a disk's place, which it keeps whatever its device's key becomes.
type slot struct {
	class     string // of the controller
	bus, unit int32
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

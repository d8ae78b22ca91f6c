package vmware

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// machine is a machine as it is now, with what was read of it.
type machine struct {
	id     dr.MachineID
	ref    types.ManagedObjectReference
	config types.VirtualMachineConfigInfo
	props  mo.VirtualMachine
	record record
	unread error // why the record could not be read; see findAny
	disks  []vdisk
	began  bool // tracking was begun by this process just now

	seen    time.Time // when it was asked for
	guard   guard
	version string // of the configuration that was read; "" once we have changed it
}

// machineProps are what describing a machine needs.
var machineProps = []string{"name", "config", "runtime", "guest", "snapshot", "parent", "resourcePool", "datastore"}

// instanceUUID is what IDs of machines look like.
var instanceUUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// find finds a machine by its ID. ErrNotFound if there is none, ErrAmbiguous if
// two carry the same instance UUID.
func (v *VSphere) find(ctx context.Context, id dr.MachineID) (*machine, error) {
	m, err := v.findAny(ctx, id)
	if err == nil {
		err = m.unread
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// findAny is find for what needs no record, of a machine whose record may be
// damaged.
func (v *VSphere) findAny(ctx context.Context, id dr.MachineID) (*machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !instanceUUID.MatchString(string(id)) {
		return nil, fmt.Errorf("%w: %q is no instance UUID", dr.ErrNotFound, id)
	}
	refs, err := object.NewSearchIndex(v.client).FindAllByUuid(ctx, nil, string(id), true, types.NewBool(true))
	if err != nil {
		return nil, explain(err)
	}
	switch len(refs) {
	case 0:
		return nil, fmt.Errorf("%w: no machine has this instance UUID", dr.ErrNotFound)
	case 1:
		return v.lookAny(ctx, refs[0].Reference())
	}
	return nil, fmt.Errorf("%w: %d machines have this instance UUID", dr.ErrAmbiguous, len(refs))
}

// look reads a machine.
func (v *VSphere) look(ctx context.Context, ref types.ManagedObjectReference) (*machine, error) {
	m, err := v.lookAny(ctx, ref)
	if err == nil {
		err = m.unread
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// lookAny is look for what needs no record.
func (v *VSphere) lookAny(ctx context.Context, ref types.ManagedObjectReference) (*machine, error) {
	var props mo.VirtualMachine
	seen := time.Now()
	if err := property.DefaultCollector(v.client).RetrieveOne(ctx, ref, machineProps, &props); err != nil {
		return nil, explain(err)
	}
	m, err := machineAny(props)
	if err == nil {
		m.seen = seen
	}
	return m, err
}

// machineOf makes sense of what was read. A machine whose configuration can't
// be read (disconnected, inaccessible) is an error.
func machineOf(props mo.VirtualMachine) (*machine, error) {
	m, err := machineAny(props)
	if err == nil {
		err = m.unread
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// machineAny is machineOf for what needs no record: one that can't be read is
// no error, but in unread.
func machineAny(props mo.VirtualMachine) (*machine, error) {
	if props.Config == nil {
		return nil, fmt.Errorf("vSphere can't read the machine's configuration: it is %s", props.Runtime.ConnectionState)
	}
	m := &machine{id: dr.MachineID(strings.ToLower(props.Config.InstanceUuid)), ref: props.Self, config: *props.Config, props: props, version: props.Config.ChangeVersion}
	m.record, m.unread = parseRecord(m.config.ExtraConfig, m.id)
	m.disks = disksOf(m.config.Hardware.Device, m.record.Disks)
	return m, nil
}

// off tells whether the machine is known to be off.
func (m *machine) off() bool {
	return powerOf(m.props.Runtime) == dr.Off
}

func (m *machine) disk(id dr.DiskID) (vdisk, bool) {
	i := slices.IndexFunc(m.disks, func(d vdisk) bool { return d.id == id })
	if i < 0 {
		return vdisk{}, false
	}
	return m.disks[i], true
}

// twins refuses a machine two of whose disks have one ID: what is meant for the
// one would be read from, or written to, the other.
func (m *machine) twins() error {
	seen := map[dr.DiskID]vdisk{}
	for _, d := range m.disks {
		if first, ok := seen[d.id]; ok {
			return &dr.Error{Op: "tell disks apart", Machine: m.id, Disk: d.id, Off: -1, Err: fmt.Errorf("%w: %s (%s) and %s (%s) have one UUID", dr.ErrAmbiguous, first.label, first.file, d.label, d.file),
				Remedy: "detach one of them, or give it another UUID (vmkfstools -J setuuid)"}
		}
		seen[d.id] = d
	}
	return nil
}

// vdisk is a disk of a machine, or of a snapshot of it.
type vdisk struct {
	id        dr.DiskID
	uuid      string // of the backing, as vSphere writes it; "" where it tells none
	label     string // "Hard disk 1"
	key       int32
	size      int64
	file      string // "[datastore] folder/name.vmdk"
	delta     bool   // file has parents
	datastore types.ManagedObjectReference
	changeID  string
	mode      string // a types.VirtualDiskMode
	raw       bool   // a raw device in physical mode: snapshots leave it out
	shared    bool   // written by several machines
	boot      bool
}

// disksOf lists the disks among devices, in the order of their controllers and
// units. names gives IDs to disks by their UUID.
func disksOf(devices []types.BaseVirtualDevice, names map[string]dr.DiskID) []vdisk {
	var all []vdisk
	type slot struct{ bus, unit int32 }
	slots := map[int32]slot{}
	for _, dev := range devices {
		d, ok := dev.(*types.VirtualDisk)
		if !ok {
			continue
		}
		x := vdisk{key: d.Key, size: d.CapacityInBytes}
		if x.size == 0 {
			x.size = d.CapacityInKB << 10
		}
		if d.DeviceInfo != nil {
			x.label = d.DeviceInfo.GetDescription().Label
		}
		if f, ok := d.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
			info := f.GetVirtualDeviceFileBackingInfo()
			x.file = info.FileName
			if info.Datastore != nil {
				x.datastore = *info.Datastore
			}
		}
		switch b := d.Backing.(type) {
		case *types.VirtualDiskFlatVer2BackingInfo:
			x.uuid, x.mode, x.changeID, x.delta = b.Uuid, b.DiskMode, b.ChangeId, b.Parent != nil
			x.shared = b.Sharing == string(types.VirtualDiskSharingSharingMultiWriter)
		case *types.VirtualDiskSeSparseBackingInfo:
			x.uuid, x.mode, x.changeID, x.delta = b.Uuid, b.DiskMode, b.ChangeId, b.Parent != nil
		case *types.VirtualDiskSparseVer2BackingInfo:
			x.uuid, x.mode, x.changeID, x.delta = b.Uuid, b.DiskMode, b.ChangeId, b.Parent != nil
		case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
			x.uuid, x.mode, x.changeID, x.delta = b.Uuid, b.DiskMode, b.ChangeId, b.Parent != nil
			x.raw = b.CompatibilityMode == string(types.VirtualDiskCompatibilityModePhysicalMode)
			x.shared = b.Sharing == string(types.VirtualDiskSharingSharingMultiWriter)
		}
		x.id = names[strings.ToLower(x.uuid)]
		if x.id == "" {
			x.id = diskID(x)
		}
		unit := int32(0)
		if d.UnitNumber != nil {
			unit = *d.UnitNumber
		}
		slots[d.Key] = slot{d.ControllerKey, unit}
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b vdisk) int {
		x, y := slots[a.key], slots[b.key]
		if x.bus != y.bus {
			return int(x.bus - y.bus)
		}
		if x.unit != y.unit {
			return int(x.unit - y.unit)
		}
		return int(a.key - b.key)
	})
	if len(all) > 0 {
		all[0].boot = true // vSphere tells no boot disk: firmware tries the first
	}
	return all
}

// diskID is a disk's own ID: its UUID, or, where it has none, the key of its
// device, which stays as long as the disk stays attached.
func diskID(d vdisk) dr.DiskID {
	if d.uuid == "" {
		return dr.DiskID(fmt.Sprintf("key-%d", d.key))
	}
	return dr.DiskID(strings.ToLower(d.uuid))
}

package vmware

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// HotAdd reads and writes disks by attaching them to the machine that this
// program runs in, the appliance, where the guest system shows them as block
// devices. It needs no VDDK and is as fast as the storage.
//
// What is read is the snapshot's file, attached in a mode that discards writes.
// What is written is the own disk of a machine that is off; until the draft is
// closed that machine can't be started. Disks are detached, and never deleted.
//
// The appliance must be on a host that has the datastores, in the vCenter that
// Options name, and have "disk.enableUUID" set to TRUE in its advanced
// configuration: Linux then finds a disk by its UUID. Keep its system from
// using disks by itself: no automatic mounts, and LVM and multipath told to
// leave foreign disks alone. A device that LVM or a mount has taken is not
// opened for writing.
//
// A disk is attached on a paravirtual SCSI controller, one of which is added
// where none has room. Two disks of one UUID, such as two snapshots of a disk,
// can't be attached at once.
//
// # Orphans
//
// Before a disk is attached, it is recorded in the appliance's extraConfig
// ("lifeboathotadd.ID", one for each disk) with a lock file in StateDir, which the system unlocks when
// this process ends, however it does. At the next open, or by [HotAdd.Sweep],
// disks that are recorded and whose process is gone are detached, and no others.
//
// # Change tracking
//
// What is written here is written past the machine whose disk it is: whether its
// own tracking sees it is not known. Compare whole disks after a failback by
// HotAdd, or let the machine's tracking begin anew.
//
// # Not verified on
//
// No disk of a real vSphere was attached, and no device of a real guest opened:
// in tests the simulator attaches, and its bytes are read in process; the search
// for devices runs on a made-up /dev and /sys. Not known are: the name that a
// running machine shows for the file of a disk in nonpersistent mode, which is
// why orphans are known by their place and UUID also; how soon a guest shows a
// new disk; how many disks a host attaches to one machine at a time.
type HotAdd struct {
	// Appliance is the machine that this program runs in, by its instance UUID.
	Appliance dr.MachineID
	// Open opens the attached disk of a UUID, "6000c29a-...", in the guest; it
	// waits until the disk shows. nil is the way of Linux, by
	// /dev/disk/by-id; elsewhere it is needed.
	Open func(ctx context.Context, uuid string, write bool) (BlockDevice, error)
	// StateDir keeps lock files by which processes in the appliance know of one
	// another; all must name the same folder. "" is the system's for temporary
	// files.
	StateDir string

	mu    sync.Mutex
	owner string          // of what this process attaches
	held  io.Closer       // the owner's lock, while mine has anything
	mine  map[string]bool // what it attached; false: could not be detached, and is to be swept
}

// BlockDevice is an open disk inside the guest. Its methods are used
// concurrently, except Close. One that also has
//
//	Zero(off, n int64) error
//
// is asked to zero ranges; errors.ErrUnsupported leaves them unchanged.
type BlockDevice interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size is in bytes.
	Size() (int64, error)
	// Sync makes what was written durable.
	Sync() error
}

const (
	// hotAddKey begins the extraConfig keys of what is attached: one value for
	// each disk, so that several processes don't overwrite one another's.
	hotAddKey = "lifeboathotadd."
	// Controllers of a machine, and disks on one: unit 7 is the controller.
	hotAddBuses, hotAddUnits, hotAddReserved = 4, 16, 7
	// hotAddEnd bounds the detaching of a disk when its device is closed.
	hotAddEnd = 10 * time.Minute
	// hotAddChunk is read or written at once, between looks at the context.
	hotAddChunk = 4 << 20
	// hotAddTries is how often a change is asked for while other tasks run.
	hotAddTries = 6
)

// String returns "hotadd".
func (h *HotAdd) String() string { return "hotadd" }

func (h *HotAdd) refuse(d diskRef, write bool) string {
	switch {
	case !instanceUUID.MatchString(string(h.Appliance)):
		return "HotAdd.Appliance is not the instance UUID of the machine that this program runs in"
	case h.Open == nil && !guestDisks:
		return "HotAdd.Open is not set, and only Linux has a default"
	case d.machine == h.Appliance:
		return "a machine can't attach its own disks again"
	case d.uuid == "":
		return "the disk has no UUID by which the guest could find it"
	case write && d.snapshot != nil:
		return "a snapshot can't be written"
	case d.snapshot == nil && d.running:
		return "the machine is running: its disk is locked, and there is no snapshot to read"
	}
	return ""
}

func (h *HotAdd) open(ctx context.Context, v *VSphere, d diskRef, write bool) (device, error) {
	a, uuid, err := h.attach(ctx, v, d, write)
	if err != nil {
		return nil, err
	}
	detach := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), hotAddEnd)
		defer cancel()
		return h.detach(ctx, v, a)
	}
	dev, err := h.find(ctx, uuid, d.size, write)
	if err != nil {
		return nil, errors.Join(err, detach())
	}
	g := &guestDisk{dev: dev, detach: detach}
	if write {
		return &guestDiskWritable{guestDisk: g}, nil
	}
	return g, nil
}

// find opens the device in the guest.
func (h *HotAdd) find(ctx context.Context, uuid string, size int64, write bool) (BlockDevice, error) {
	open := h.Open
	if open == nil {
		open = openGuestDisk
	}
	dev, err := open(ctx, uuid, write)
	if err != nil {
		return nil, fmt.Errorf("the attached disk %s could not be opened in the appliance: %w", uuid, err)
	}
	got, err := dev.Size()
	if err == nil && got != size {
		err = fmt.Errorf("the attached disk %s has %d bytes in the appliance, and %d in vSphere: it is another disk, or it was resized meanwhile", uuid, got, size)
	}
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return dev, nil
}

// Sweep detaches the disks that a process of this library attached to the
// appliance and left there when it ended. Disks of processes that run, or of
// which that can't be known (their lock file is gone, and the appliance has not
// been restarted since), stay; the log tells of these.
func (h *HotAdd) Sweep(ctx context.Context, v *VSphere) error {
	if no := h.refuse(diskRef{uuid: "any"}, false); no != "" {
		return fmt.Errorf("%w: %s", dr.ErrInvalid, no)
	}
	unlock, err := v.locks.Lock(ctx, h.Appliance)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := h.appliance(ctx, v)
	if err == nil {
		_, err = h.sweep(ctx, v, m)
	}
	return fail("sweep attached disks", h.Appliance, "", -1, err)
}

// appliance reads the appliance as it is now. Its lock is held.
func (h *HotAdd) appliance(ctx context.Context, v *VSphere) (*machine, error) {
	m, err := v.find(ctx, h.Appliance)
	if err != nil {
		return nil, advise(fmt.Errorf("the appliance %s: %w", h.Appliance, err), "set HotAdd.Appliance to the instance UUID of the machine that this program runs in")
	}
	return m, nil
}

// attach attaches the disk and returns the UUID that the guest finds it by.
func (h *HotAdd) attach(ctx context.Context, v *VSphere, d diskRef, write bool) (attached, string, error) {
	none := attached{}
	unlock, err := v.locks.Lock(ctx, h.Appliance)
	if err != nil {
		return none, "", err
	}
	defer unlock()
	m, err := h.appliance(ctx, v)
	if err != nil {
		return none, "", err
	}
	if m, err = h.sweep(ctx, v, m); err != nil {
		return none, "", err
	}
	for _, x := range m.disks {
		if strings.EqualFold(x.uuid, d.uuid) {
			return none, "", advise(fmt.Errorf("%w: a disk of the UUID %s is attached to the appliance already, as %s", dr.ErrBusy, d.uuid, x.file),
				"only one moment of a disk can be attached at a time: wait until the other is closed")
		}
	}
	changes, a, err := slotFor(m.config.Hardware.Device, d, write)
	if err != nil {
		return none, "", err
	}
	if err := h.own(&a); err != nil {
		return none, "", err
	}
	undo := func(err error) error {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), hotAddEnd)
		defer cancel()
		// A task that nobody waits for any more may yet attach the disk. Tasks on
		// a machine don't overlap: once this one is done, that one is. If it
		// can't be done the disk stays recorded.
		if late := note(end, v, m, a); late != nil {
			h.disown(a)
			return errors.Join(err, fmt.Errorf("%s may still be attached to the appliance: %w", a.File, explain(late)))
		}
		return errors.Join(err, h.detachLocked(end, v, a))
	}
	if err := note(ctx, v, m, a); err != nil {
		return none, "", undo(fmt.Errorf("record the disk on the appliance: %w", explain(err)))
	}
	if err := change(ctx, v, m, types.VirtualMachineConfigSpec{DeviceChange: changes}); err != nil {
		return none, "", undo(fmt.Errorf("attach %s to the appliance: %w", d.file, explain(err)))
	}
	now, err := h.appliance(ctx, v)
	if err != nil {
		return none, "", undo(err)
	}
	disk := deviceOf(now, a)
	if disk == nil {
		return none, "", undo(fmt.Errorf("attach %s to the appliance: vSphere says that it is done, and shows no disk", d.file))
	}
	for _, x := range now.disks {
		if x.key == disk.Key && x.uuid != "" {
			return a, strings.ToLower(x.uuid), nil
		}
	}
	return a, strings.ToLower(d.uuid), nil
}

// slotFor finds a place for a disk, or makes one with a new controller.
func slotFor(devices object.VirtualDeviceList, d diskRef, write bool) ([]types.BaseVirtualDeviceConfigSpec, attached, error) {
	a := attached{ID: rand.Text(), File: d.file, UUID: strings.ToLower(d.uuid), Bus: -1}
	used := map[int32]map[int32]bool{} // units, by controller
	for _, dev := range devices {
		x := dev.GetVirtualDevice()
		if x.UnitNumber != nil {
			if used[x.ControllerKey] == nil {
				used[x.ControllerKey] = map[int32]bool{}
			}
			used[x.ControllerKey][*x.UnitNumber] = true
		}
	}
	var changes []types.BaseVirtualDeviceConfigSpec
	var controller int32
	buses := map[int32]bool{}
	for _, dev := range devices {
		c, ok := dev.(types.BaseVirtualSCSIController)
		if !ok {
			continue
		}
		bus := c.GetVirtualSCSIController().BusNumber
		buses[bus] = true
		if _, ok := dev.(*types.ParaVirtualSCSIController); !ok || a.Bus >= 0 {
			continue
		}
		key := dev.GetVirtualDevice().Key
		for unit := int32(0); unit < hotAddUnits && a.Bus < 0; unit++ {
			if unit != hotAddReserved && !used[key][unit] {
				controller, a.Bus, a.Unit = key, bus, unit
			}
		}
	}
	for bus := int32(0); bus < hotAddBuses && a.Bus < 0; bus++ {
		if buses[bus] {
			continue
		}
		const fresh = -101
		c := &types.ParaVirtualSCSIController{}
		c.Key, c.BusNumber, c.SharedBus = fresh, bus, types.VirtualSCSISharingNoSharing
		changes = append(changes, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: c})
		controller, a.Bus, a.Unit = fresh, bus, 0
	}
	if a.Bus < 0 {
		return nil, a, advise(fmt.Errorf("%w: the appliance has no room for another disk", dr.ErrBusy),
			fmt.Sprintf("its %d SCSI controllers have %d disks each at most: lower Options.PerHost or Options.Total, or detach disks", hotAddBuses, hotAddUnits-1))
	}
	mode := types.VirtualDiskModeIndependent_nonpersistent
	if write {
		mode = types.VirtualDiskModePersistent
	}
	backing := &types.VirtualDiskFlatVer2BackingInfo{DiskMode: string(mode)}
	backing.FileName = d.file
	if d.place.datastore.Value != "" {
		backing.Datastore = &d.place.datastore
	}
	disk := new(types.VirtualDisk)
	disk.Key, disk.ControllerKey, disk.UnitNumber, disk.Backing = -102, controller, &a.Unit, backing
	return append(changes, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: disk}), a, nil
}

// deviceOf finds the disk that was attached: in its place, with its UUID as far
// as both are known. Whatever else is in that place now is not it.
func deviceOf(m *machine, a attached) *types.VirtualDisk {
	devices := object.VirtualDeviceList(m.config.Hardware.Device)
	for _, x := range m.disks {
		disk, _ := devices.FindByKey(x.key).(*types.VirtualDisk)
		if disk == nil || disk.UnitNumber == nil || *disk.UnitNumber != a.Unit {
			continue
		}
		c, ok := devices.FindByKey(disk.ControllerKey).(types.BaseVirtualSCSIController)
		if !ok || c.GetVirtualSCSIController().BusNumber != a.Bus {
			continue
		}
		if sameFile := x.file == a.File; sameFile || x.uuid != "" && strings.EqualFold(x.uuid, a.UUID) {
			return disk
		}
	}
	return nil
}

func (h *HotAdd) detach(ctx context.Context, v *VSphere, a attached) error {
	unlock, err := v.locks.Lock(ctx, h.Appliance)
	if err != nil {
		return err
	}
	defer unlock()
	return fail("detach", h.Appliance, "", -1, h.detachLocked(ctx, v, a))
}

// detachLocked detaches the disk, if it is attached, then forgets it. A disk
// that can't be detached stays recorded, for the next sweep.
func (h *HotAdd) detachLocked(ctx context.Context, v *VSphere, a attached) error {
	h.disown(a)
	m, err := h.appliance(ctx, v)
	if err == nil {
		err = h.remove(ctx, v, m, a)
	}
	if err != nil {
		return advise(fmt.Errorf("%s may still be attached to the appliance: %w", a.File, explain(err)), "it is detached at the next use of HotAdd, or by HotAdd.Sweep; until then its snapshot can't be removed, or its machine not started")
	}
	return nil
}

// remove detaches the disks as far as they are attached, and forgets them. Their
// files stay.
func (h *HotAdd) remove(ctx context.Context, v *VSphere, m *machine, all ...attached) error {
	var disks []types.BaseVirtualDeviceConfigSpec
	var notes []types.BaseOptionValue
	for _, a := range all {
		if disk := deviceOf(m, a); disk != nil {
			// Without a file operation the file is kept.
			disks = append(disks, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: disk})
		}
		notes = append(notes, &types.OptionValue{Key: hotAddKey + a.ID, Value: ""})
	}
	if len(disks) > 0 {
		if err := change(ctx, v, m, types.VirtualMachineConfigSpec{DeviceChange: disks}); err != nil {
			return err
		}
	}
	if err := change(ctx, v, m, types.VirtualMachineConfigSpec{ExtraConfig: notes}); err != nil {
		return err
	}
	for _, a := range all {
		h.forget(a)
	}
	return nil
}

// change reconfigures the appliance, when whatever else works on it is done.
func change(ctx context.Context, v *VSphere, m *machine, spec types.VirtualMachineConfigSpec) error {
	for n := 1; ; n++ {
		err := v.reconfigure(ctx, m, spec)
		switch faultOf(err).(type) {
		case types.TaskInProgress, *types.TaskInProgress:
		default:
			return err
		}
		if n == hotAddTries {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(n) * 500 * time.Millisecond):
		}
	}
}

const (
	ownerRuns ownerState = iota
	ownerGone
	ownerUnknown
)

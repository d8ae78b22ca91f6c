package vmwaretest

import (
	"fmt"
	"slices"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// What an administrator does behind the back of the program under test. These
// go past faults, latency and counters.

// AddSnapshot makes a snapshot that isn't quiesced, such as a foreign one, or
// one that an earlier run of the program left behind.
func (v *VM) AddSnapshot(name, description string) (types.ManagedObjectReference, error) {
	ref, err := v.administer("add a snapshot", &simulator.Method{
		Name: "CreateSnapshot_Task", This: v.ref,
		Body: &types.CreateSnapshot_Task{This: v.ref, Name: name, Description: description},
	}, createSnapshot)
	if err != nil {
		return types.ManagedObjectReference{}, err
	}
	return ref.(types.ManagedObjectReference), nil
}

// RemoveSnapshot removes a snapshot and merges its links.
func (v *VM) RemoveSnapshot(snapshot types.ManagedObjectReference) error {
	_, err := v.administer("remove a snapshot", &simulator.Method{
		Name: "RemoveSnapshot_Task", This: snapshot, Body: &types.RemoveSnapshot_Task{This: snapshot},
	}, removeSnapshot)
	return err
}

// Revert gives the disks what a snapshot froze, turns the machine off, and
// begins a new epoch of change tracking.
func (v *VM) Revert(snapshot types.ManagedObjectReference) error {
	_, err := v.administer("revert", &simulator.Method{
		Name: "RevertToSnapshot_Task", This: snapshot, Body: &types.RevertToSnapshot_Task{This: snapshot},
	}, revertToSnapshot)
	return err
}

// Relocate moves all disks to another datastore, as storage vMotion does.
func (v *VM) Relocate(datastore string) error {
	ds := v.s.datastore(datastore)
	if ds == nil {
		return fmt.Errorf("vmwaretest: relocate %s: no datastore %q", v.ref.Value, datastore)
	}
	self := ds.Self
	_, err := v.administer("relocate", &simulator.Method{
		Name: "RelocateVM_Task", This: v.ref,
		Body: &types.RelocateVM_Task{This: v.ref, Spec: types.VirtualMachineRelocateSpec{Datastore: &self}},
	}, relocate)
	return err
}

// Attach attaches a VMDK that exists, by its datastore path, such as the frozen
// link of another machine's snapshot, and returns the disk's device key. See
// [VM.Device] for the bytes.
func (v *VM) Attach(file string, mode types.VirtualDiskMode) (int32, error) {
	before := v.Disks()
	err := v.reconfigureDevices(func(devices object.VirtualDeviceList) (types.BaseVirtualDevice, error) {
		controller, err := devices.FindDiskController("")
		if err != nil {
			return nil, err
		}
		disk := devices.CreateDisk(controller, types.ManagedObjectReference{}, file)
		backing := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		backing.DiskMode, backing.Datastore = string(mode), nil
		return disk, nil
	}, types.VirtualDeviceConfigSpecOperationAdd)
	if err != nil {
		return 0, fmt.Errorf("vmwaretest: attach %q to %s: %w", file, v.ref.Value, err)
	}
	for _, key := range v.Disks() {
		if !slices.Contains(before, key) {
			return key, nil
		}
	}
	return 0, fmt.Errorf("vmwaretest: attach %q to %s: %w", file, v.ref.Value, ErrNoDisk)
}

// Detach removes a disk from the machine and keeps its files.
func (v *VM) Detach(disk int32) error {
	err := v.reconfigureDevices(func(devices object.VirtualDeviceList) (types.BaseVirtualDevice, error) {
		d := devices.FindByKey(disk)
		if d == nil {
			return nil, ErrNoDisk
		}
		return d, nil
	}, types.VirtualDeviceConfigSpecOperationRemove)
	if err != nil {
		return fmt.Errorf("vmwaretest: detach disk %d of %s: %w", disk, v.ref.Value, err)
	}
	return nil
}

func (v *VM) reconfigureDevices(choose func(object.VirtualDeviceList) (types.BaseVirtualDevice, error), op types.VirtualDeviceConfigSpecOperation) error {
	var device types.BaseVirtualDevice
	var err error
	v.s.inspect(v.ref, func(_ *simulator.Context, vm *simulator.VirtualMachine) {
		device, err = choose(cloneDisks(vm.Config.Hardware.Device))
	})
	if err != nil {
		return err
	}
	_, err = v.administer("reconfigure", &simulator.Method{
		Name: "ReconfigVM_Task", This: v.ref,
		Body: &types.ReconfigVM_Task{This: v.ref, Spec: types.VirtualMachineConfigSpec{
			DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{Operation: op, Device: device}},
		}},
	}, reconfigure)
	return err
}

// administer makes a call on this machine, or one of its snapshots.
func (v *VM) administer(what string, m *simulator.Method, f override) (types.AnyType, error) {
	ctx := v.s.context()
	if ctx.Map.Get(v.ref) == nil || ctx.Map.Get(m.This) == nil {
		return nil, fmt.Errorf("vmwaretest: %s of %s: %s is gone", what, v.ref.Value, m.This.Value)
	}
	result, fault := v.s.wait(ctx, f(v.s, ctx, m))
	if fault != nil {
		return nil, fmt.Errorf("vmwaretest: %s of %s: %T %+v", what, v.ref.Value, fault, fault)
	}
	return result, nil
}

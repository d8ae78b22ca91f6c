package vmwaretest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Errors of guests.
var (
	// ErrOff says that a guest can't do anything because its machine is off.
	ErrOff = errors.New("vmwaretest: machine is powered off")
	// ErrFrozen says that the guest's file systems are frozen.
	ErrFrozen = errors.New("vmwaretest: guest is frozen")
	// ErrNoDisk says that the machine has no such disk.
	ErrNoDisk = errors.New("vmwaretest: no such disk")
)

// VM is one machine, seen from the inside and from behind: what its guest
// does, and what befalls it. What a vSphere client does to it goes through the
// API instead. All methods are safe for concurrent use.
type VM struct {
	s   *Simulator
	ref types.ManagedObjectReference

	// guarded by s.mu
	last                chan struct{} // closed when the last change that was asked for is over
	on, frozen          bool
	tracking            bool
	consolidationNeeded bool
	failConsolidation   int
	disks               map[int32]*vmdkFile // the link that is written now
	independent         map[int32]bool
	readOnly            map[int32]bool
	shared              map[int32]bool
	snapshots           map[types.ManagedObjectReference]map[int32]*frozen
	loose               []*vmdkFile // links of removed snapshots, until consolidation
	guest               Guest
	customizations      []types.CustomizationSpec
	pending             *types.CustomizationSpec // to be applied with the next start
	scratch             map[int32]*content       // what was written to nonpersistent disks
	exports             int                      // leases and writers that hold its disks
	programs            []*program
	inGuest             map[string]*guestFile
}

// VM finds a machine by its managed object, also one that a client made. nil
// if it is gone.
func (s *Simulator) VM(ref types.ManagedObjectReference) *VM {
	if _, ok := s.model.Map().Get(ref).(*simulator.VirtualMachine); !ok {
		return nil
	}
	return s.machine(ref)
}

// machine finds the state of a machine, or begins it.
func (s *Simulator) machine(ref types.ManagedObjectReference) *VM {
	s.mu.Lock()
	v := s.machines[ref]
	s.mu.Unlock()
	if v != nil {
		return v
	}
	s.inspect(ref, func(ctx *simulator.Context, vm *simulator.VirtualMachine) { v = s.refresh(ctx, vm) })
	if v == nil {
		v = &VM{s: s, ref: ref} // gone meanwhile; it has no disks
	}
	return v
}

// refresh makes the state agree with the devices after vcsim changed them. The
// machine's lock is held, s.mu is not.
func (s *Simulator) refresh(ctx *simulator.Context, vm *simulator.VirtualMachine) *VM {
	s.mu.Lock()
	v := s.machines[vm.Self]
	if v == nil {
		v = &VM{s: s, ref: vm.Self, snapshots: map[types.ManagedObjectReference]map[int32]*frozen{}, scratch: map[int32]*content{}}
		s.machines[vm.Self] = v
	}
	v.on = vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
	before := v.disks
	v.disks = map[int32]*vmdkFile{}
	v.independent, v.readOnly, v.shared = map[int32]bool{}, map[int32]bool{}, map[int32]bool{}
	devices := cloneDisks(vm.Config.Hardware.Device)
	for _, d := range disksOf(devices) {
		f := s.file(fileName(d), d.CapacityInBytes)
		v.disks[d.Key] = f
		if size := f.content.Size(); d.CapacityInBytes < size {
			d.CapacityInBytes, d.CapacityInKB = size, size/1024
		}
		s.extend(f, d.CapacityInBytes)
		if d.DiskObjectId == "" {
			s.objectID++
			d.DiskObjectId = fmt.Sprintf("%d-%d", s.objectID, d.Key)
		}
		switch b := d.Backing.(type) {
		case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
			// Snapshots leave out what is physical.
			v.independent[d.Key] = b.CompatibilityMode == string(types.VirtualDiskCompatibilityModePhysicalMode)
		case *types.VirtualDiskFlatVer2BackingInfo:
			mode := types.VirtualDiskMode(b.DiskMode)
			v.independent[d.Key] = mode == types.VirtualDiskModeIndependent_persistent || mode == types.VirtualDiskModeIndependent_nonpersistent
			v.readOnly[d.Key] = mode == types.VirtualDiskModeIndependent_nonpersistent || mode == types.VirtualDiskModeNonpersistent
			v.shared[d.Key] = b.Sharing == string(types.VirtualDiskSharingSharingMultiWriter)
		}
	}
	for key := range v.scratch {
		if v.disks[key] != before[key] || !v.readOnly[key] {
			delete(v.scratch, key)
		}
	}
	s.mu.Unlock()
	ctx.Update(vm, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
	s.show(ctx, vm, v)
	return v
}

// Reference is the machine's managed object.
func (v *VM) Reference() types.ManagedObjectReference { return v.ref }

// Disks lists the device keys of the machine's disks, ascending: the order in
// which AddVM was given them.
func (v *VM) Disks() []int32 {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	keys := make([]int32, 0, len(v.disks))
	for key := range v.disks {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Write is the guest writing p at a disk's offset. ErrOff, ErrFrozen and
// ErrNoDisk are told apart with errors.Is.
func (v *VM) Write(disk int32, p []byte, off int64) error {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	switch {
	case !v.on:
		return fmt.Errorf("write to disk %d at %d: %w", disk, off, ErrOff)
	case v.frozen:
		return fmt.Errorf("write to disk %d at %d: %w", disk, off, ErrFrozen)
	}
	return v.write(disk, p, off)
}

// WriteDisk changes a disk behind the guest's back, on or off, as a program
// with access to the datastore's extents does through VDDK: tracking sees it.
// On a nonpersistent disk it is the guest's writing: see [VM.Device].
func (v *VM) WriteDisk(disk int32, p []byte, off int64) error {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	return v.write(disk, p, off)
}

func (v *VM) write(disk int32, p []byte, off int64) error {
	f := v.disks[disk]
	if f == nil {
		return fmt.Errorf("write to disk %d: %w", disk, ErrNoDisk)
	}
	c, seq := f.content, f.track.seq
	if v.readOnly[disk] {
		if v.scratch[disk] == nil {
			v.scratch[disk] = f.content.clone()
		}
		c = v.scratch[disk]
	}
	if err := c.writeAt(p, off, seq); err != nil {
		return fmt.Errorf("vmwaretest: disk %d: %w", disk, err)
	}
	return nil
}

// Read reads what a disk holds now, by the rules of io.ReaderAt.
func (v *VM) Read(disk int32, p []byte, off int64) (int, error) {
	v.s.mu.Lock()
	f, c := v.disks[disk], v.scratch[disk]
	if c == nil && f != nil {
		c = f.content
	}
	v.s.mu.Unlock()
	if c == nil {
		return 0, fmt.Errorf("read disk %d: %w", disk, ErrNoDisk)
	}
	return c.ReadAt(p, off)
}

// ReadSnapshot reads what a snapshot froze, by the rules of io.ReaderAt.
func (v *VM) ReadSnapshot(snapshot types.ManagedObjectReference, disk int32, p []byte, off int64) (int, error) {
	v.s.mu.Lock()
	f := v.snapshots[snapshot][disk]
	v.s.mu.Unlock()
	if f == nil {
		return 0, fmt.Errorf("read disk %d of %s: %w", disk, snapshot.Value, ErrNoDisk)
	}
	return f.content.ReadAt(p, off)
}

// Size is a disk's capacity in bytes, 0 if there is none.
func (v *VM) Size(disk int32) int64 {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	if f := v.disks[disk]; f != nil {
		return f.content.Size()
	}
	return 0
}

// Running tells whether the machine is powered on.
func (v *VM) Running() bool {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	return v.on
}

// Snapshots is how many snapshots the machine has, whoever made them.
func (v *VM) Snapshots() int {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	return len(v.snapshots)
}

// FailConsolidation makes the next n merges of links fail: removing a snapshot
// then succeeds and leaves runtime.consolidationNeeded, and
// ConsolidateVMDisks_Task ends with FileLocked.
func (v *VM) FailConsolidation(n int) {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	v.failConsolidation = n
}

// ResetTracking begins a new epoch of change tracking, as an administrator or
// a bug does: changeIds from before are refused. No-op where it isn't active.
func (v *VM) ResetTracking() {
	v.s.inspect(v.ref, func(ctx *simulator.Context, vm *simulator.VirtualMachine) {
		v.s.mu.Lock()
		v.resetTracking()
		v.s.mu.Unlock()
		v.s.show(ctx, vm, v)
	})
}

func (v *VM) resetTracking() {
	for _, f := range v.disks {
		if f.track.epoch != "" {
			f.track.begin()
		}
	}
}

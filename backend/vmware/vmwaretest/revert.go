package vmwaretest

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func revertToSnapshot(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.RevertToSnapshot_Task)
	ref := s.snapshotChange(ctx, m, func(v *VM, vm *simulator.VirtualMachine, sn *simulator.VirtualMachineSnapshot) types.BaseMethodFault {
		if fault := v.refuseHeld(vm); fault != nil {
			return fault
		}
		if _, fault := s.wait(ctx, sn.RevertToSnapshotTask(ctx, req)); fault != nil {
			return fault
		}
		return s.revert(ctx, v, vm, req.This)
	})
	return &methods.RevertToSnapshot_TaskBody{Res: &types.RevertToSnapshot_TaskResponse{Returnval: ref}}
}

func revertToCurrent(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	ref := s.vmTask(ctx, m.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		if vm.Snapshot == nil || vm.Snapshot.CurrentSnapshot == nil {
			return nil, &types.NotFound{}
		}
		if fault := v.refuseHeld(vm); fault != nil {
			return nil, fault
		}
		return nil, s.revert(ctx, v, vm, *vm.Snapshot.CurrentSnapshot)
	})
	return &methods.RevertToCurrentSnapshot_TaskBody{Res: &types.RevertToCurrentSnapshot_TaskResponse{Returnval: ref}}
}

// refuseHeld refuses what can't be done while a lease or a writer over NBD has
// the machine's disks open.
func (v *VM) refuseHeld(vm *simulator.VirtualMachine) types.BaseMethodFault {
	v.s.expireOverdue()
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	if v.exports > 0 {
		return &types.FileLocked{FileFault: types.FileFault{File: vm.Config.Files.VmPathName}}
	}
	return nil
}

// revert gives the disks what the snapshot holds. Without the memory's state,
// which is never kept, the machine ends powered off. Tracking starts anew.
func (s *Simulator) revert(ctx *simulator.Context, v *VM, vm *simulator.VirtualMachine, snap types.ManagedObjectReference) types.BaseMethodFault {
	if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		if fault := v.stop(ctx, vm, vm.PowerOffVMTask(ctx, &types.PowerOffVM_Task{This: v.ref})); fault != nil {
			return fault
		}
	}
	s.mu.Lock()
	var err error
	for key, f := range v.snapshots[snap] {
		old := v.disks[key]
		if old == nil {
			continue // it was detached since
		}
		track := &tracker{seq: max(old.track.seq, f.track.seq)}
		if old.track.epoch != "" {
			track.begin()
		}
		delta := &vmdkFile{name: s.delta(f.file), parent: f.file, content: f.content.clone(), track: track}
		s.files[delta.name] = delta
		v.disks[key] = delta
		v.loose = append(v.loose, old)
		if err == nil {
			err = s.writeDescriptor(delta.name, delta.content.Size())
		}
	}
	v.consolidate()
	s.mu.Unlock()
	s.show(ctx, vm, v)
	if err != nil {
		return &types.GenericVmConfigFault{Reason: err.Error()}
	}
	return nil
}

package vmwaretest

import (
	"fmt"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// PowerLoss is the host losing power: the machine is off at once, and tracking
// begins a new epoch, so that changeIds from before are refused.
func (v *VM) PowerLoss() error {
	if err := v.turn(types.VirtualMachinePowerStatePoweredOff); err != nil {
		return err
	}
	v.ResetTracking()
	return nil
}

// PowerOff turns the machine off, as someone at the console does. No-op if it
// is off.
func (v *VM) PowerOff() error { return v.turn(types.VirtualMachinePowerStatePoweredOff) }

// PowerOn turns it on. No-op if it is on.
func (v *VM) PowerOn() error { return v.turn(types.VirtualMachinePowerStatePoweredOn) }

func (v *VM) turn(to types.VirtualMachinePowerState) error {
	ctx := v.s.context()
	ref := v.s.vmTask(ctx, v.ref, "Power", func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		switch {
		case vm.Runtime.PowerState == to:
			return nil, nil
		case to == types.VirtualMachinePowerStatePoweredOn:
			return nil, v.start(ctx, vm)
		}
		return nil, v.stop(ctx, vm, vm.PowerOffVMTask(ctx, &types.PowerOffVM_Task{This: v.ref}))
	})
	if _, fault := v.s.result(ctx, ref); fault != nil {
		return fmt.Errorf("vmwaretest: %s of %s: %T", to, v.ref.Value, fault)
	}
	return nil
}

// start powers on if no file is locked. The machine's lock is held.
func (v *VM) start(ctx *simulator.Context, vm *simulator.VirtualMachine) types.BaseMethodFault {
	s := v.s
	s.expireOverdue()
	s.mu.Lock()
	locked := ""
	if v.exports > 0 {
		locked = vm.Config.Files.VmPathName
	}
	for key, f := range v.disks {
		if !v.shared[key] && s.lockedFor(f, v, !v.readOnly[key]) {
			locked = f.name
		}
	}
	s.mu.Unlock()
	if locked != "" {
		return &types.FileLocked{FileFault: types.FileFault{File: locked}}
	}
	if _, fault := v.s.wait(ctx, vm.PowerOnVMTask(ctx, &types.PowerOnVM_Task{This: v.ref})); fault != nil {
		return fault
	}
	s.mu.Lock()
	v.on, v.frozen = true, false
	v.customize()
	if v.tracking && len(v.snapshots) == 0 {
		for _, f := range v.disks {
			if f.track.epoch == "" {
				f.track.begin()
			}
		}
	}
	s.mu.Unlock()
	s.show(ctx, vm, v)
	v.showGuest(ctx, vm)
	return nil
}

// stop follows what vcsim is doing to power off or suspend.
func (v *VM) stop(ctx *simulator.Context, vm *simulator.VirtualMachine, res soap.HasFault) types.BaseMethodFault {
	if _, fault := v.s.wait(ctx, res); fault != nil {
		return fault
	}
	v.s.mu.Lock()
	v.on, v.frozen = false, false
	clear(v.scratch)
	v.s.mu.Unlock()
	v.showGuest(ctx, vm)
	return nil
}

func powerOn(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	ref := s.vmTask(ctx, m.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		return nil, v.start(ctx, vm)
	})
	return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: ref}}
}

func powerOff(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	ref := s.vmTask(ctx, m.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		return nil, v.stop(ctx, vm, vm.PowerOffVMTask(ctx, m.Body.(*types.PowerOffVM_Task)))
	})
	return &methods.PowerOffVM_TaskBody{Res: &types.PowerOffVM_TaskResponse{Returnval: ref}}
}

func suspend(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	ref := s.vmTask(ctx, m.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		return nil, v.stop(ctx, vm, vm.SuspendVMTask(ctx, m.Body.(*types.SuspendVM_Task)))
	})
	return &methods.SuspendVM_TaskBody{Res: &types.SuspendVM_TaskResponse{Returnval: ref}}
}

func reset(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	ref := s.vmTask(ctx, m.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		if fault := v.stop(ctx, vm, vm.PowerOffVMTask(ctx, &types.PowerOffVM_Task{This: m.This})); fault != nil {
			return nil, fault
		}
		return nil, v.start(ctx, vm)
	})
	return &methods.ResetVM_TaskBody{Res: &types.ResetVM_TaskResponse{Returnval: ref}}
}

// shutdownGuest asks the guest; the machine is off some time after the answer.
func shutdownGuest(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	v := s.machine(m.This)
	s.mu.Lock()
	on, tools := v.on, v.guest.Tools
	s.mu.Unlock()
	body := &methods.ShutdownGuestBody{}
	switch {
	case !on:
		return nil // vcsim has the fault for it
	case tools == ToolsMissing:
		body.Fault_ = simulator.Fault("Cannot complete operation because VMware Tools is not running in this virtual machine.", &types.ToolsUnavailable{})
		return body
	case tools == ToolsRunning:
		s.vmTask(ctx, m.This, "ShutdownGuest", func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
			return nil, v.stop(ctx, vm, vm.PowerOffVMTask(ctx, &types.PowerOffVM_Task{This: m.This}))
		})
	}
	body.Res = new(types.ShutdownGuestResponse)
	return body
}

// lockedFor tells whether a running machine other than v keeps f from being
// opened. A link that another machine writes is closed to everybody; one that
// it only reads, below a snapshot, is closed to writers. s.mu is held.
func (s *Simulator) lockedFor(f *vmdkFile, v *VM, write bool) bool {
	for _, w := range s.machines {
		if w == v || !w.on {
			continue
		}
		for key, top := range w.disks {
			for link := top; link != nil; link = link.parent {
				if link == f && (write || link == top && !w.readOnly[key]) {
					return true
				}
			}
		}
	}
	return false
}

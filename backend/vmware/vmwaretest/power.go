package vmwaretest

import (
	"fmt"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Tools says what VMware Tools in a guest do.
type Tools int

const (
	// ToolsRunning is a guest that answers.
	ToolsRunning Tools = iota
	// ToolsMissing is a guest without them: it can't be asked to shut down,
	// and quiescing is silently skipped, as the API documents.
	ToolsMissing
	// ToolsHung is a guest that accepts the request to shut down and never
	// does, and that doesn't thaw after a quiesce, which fails.
	ToolsHung
)

// Guest says how a guest behaves. The zero value does everything it is asked.
type Guest struct {
	Tools Tools
	// QuiesceErr makes quiesced snapshots fail with it; the guest thaws.
	QuiesceErr types.BaseMethodFault
	// OnFreeze is called while a quiesced snapshot is made, before writes
	// stop: an application that flushes, with Write. OnThaw is called
	// after they may go on. Neither may call the API about this machine.
	OnFreeze, OnThaw func()
}

// SetGuest changes how the guest behaves from now on.
func (v *VM) SetGuest(g Guest) {
	v.s.mu.Lock()
	v.guest = g
	v.s.mu.Unlock()
	v.s.inspect(v.ref, func(ctx *simulator.Context, vm *simulator.VirtualMachine) { v.showTools(ctx, vm) })
}

// showTools makes guest.tools* agree with the guest and the power.
func (v *VM) showTools(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	v.s.mu.Lock()
	installed, on := v.guest.Tools != ToolsMissing, v.on
	v.s.mu.Unlock()
	status, running := types.VirtualMachineToolsStatusToolsNotInstalled, types.VirtualMachineToolsRunningStatusGuestToolsNotRunning
	version := types.VirtualMachineToolsVersionStatusGuestToolsNotInstalled
	if installed {
		status, version = types.VirtualMachineToolsStatusToolsNotRunning, types.VirtualMachineToolsVersionStatusGuestToolsCurrent
	}
	if installed && on {
		status, running = types.VirtualMachineToolsStatusToolsOk, types.VirtualMachineToolsRunningStatusGuestToolsRunning
	}
	ctx.Update(vm, []types.PropertyChange{
		{Name: "guest.toolsStatus", Val: status},
		{Name: "guest.toolsRunningStatus", Val: string(running)},
		{Name: "guest.toolsVersionStatus2", Val: string(version)},
		{Name: "summary.guest.toolsStatus", Val: status},
		{Name: "summary.guest.toolsRunningStatus", Val: string(running)},
	})
}

// freeze quiesces the guest and tells whether it did.
func (v *VM) freeze() (bool, types.BaseMethodFault) {
	v.s.mu.Lock()
	g, on := v.guest, v.on
	v.s.mu.Unlock()
	if !on || g.Tools == ToolsMissing {
		return false, nil
	}
	if g.OnFreeze != nil {
		g.OnFreeze()
	}
	v.s.mu.Lock()
	v.frozen = true
	v.s.mu.Unlock()
	switch {
	case g.Tools == ToolsHung:
		return false, &types.ApplicationQuiesceFault{}
	case g.QuiesceErr != nil:
		v.Thaw()
		return false, g.QuiesceErr
	}
	return true, nil
}

// Thaw lets the guest write again; a no-op if it isn't frozen.
func (v *VM) Thaw() {
	v.s.mu.Lock()
	was, f := v.frozen, v.guest.OnThaw
	v.frozen = false
	v.s.mu.Unlock()
	if was && f != nil {
		f()
	}
}

// Frozen tells whether the guest's writes are held.
func (v *VM) Frozen() bool {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	return v.frozen
}

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
	var fault types.BaseMethodFault
	ref := v.s.task(ctx, v.ref, "Power", func() (types.AnyType, types.BaseMethodFault) {
		vm, ok := ctx.Map.Get(v.ref).(*simulator.VirtualMachine)
		switch {
		case !ok:
			fault = &types.ManagedObjectNotFound{Obj: v.ref}
		case vm.Runtime.PowerState == to:
		case to == types.VirtualMachinePowerStatePoweredOn:
			fault = v.start(ctx, vm)
		default:
			fault = v.stop(ctx, vm, vm.PowerOffVMTask(ctx, &types.PowerOffVM_Task{This: v.ref}))
		}
		return nil, fault
	})
	ctx.Map.Get(ref).(*simulator.Task).Wait()
	if fault != nil {
		return fmt.Errorf("vmwaretest: %s of %s: %T", to, v.ref.Value, fault)
	}
	return nil
}

// start powers on if no file is locked. The machine's lock is held.
func (v *VM) start(ctx *simulator.Context, vm *simulator.VirtualMachine) types.BaseMethodFault {
	s := v.s
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
	if _, fault := wait(ctx, vm.PowerOnVMTask(ctx, &types.PowerOnVM_Task{This: v.ref})); fault != nil {
		return fault
	}
	s.mu.Lock()
	v.on, v.frozen = true, false
	if v.tracking && len(v.snapshots) == 0 {
		for _, f := range v.disks {
			if f.track.epoch == "" {
				f.track.begin()
			}
		}
	}
	s.mu.Unlock()
	s.show(ctx, vm, v)
	v.showTools(ctx, vm)
	return nil
}

// stop follows what vcsim is doing to power off or suspend.
func (v *VM) stop(ctx *simulator.Context, vm *simulator.VirtualMachine, res soap.HasFault) types.BaseMethodFault {
	if _, fault := wait(ctx, res); fault != nil {
		return fault
	}
	v.s.mu.Lock()
	v.on, v.frozen = false, false
	v.s.mu.Unlock()
	v.showTools(ctx, vm)
	return nil
}

func powerOn(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	v := s.machine(m.This)
	ref := s.task(ctx, m.This, "PowerOnVM_Task", func() (types.AnyType, types.BaseMethodFault) {
		return nil, v.start(ctx, ctx.Map.Get(m.This).(*simulator.VirtualMachine))
	})
	return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: ref}}
}

func powerOff(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	v := s.machine(m.This)
	ref := s.task(ctx, m.This, "PowerOffVM_Task", func() (types.AnyType, types.BaseMethodFault) {
		vm := ctx.Map.Get(m.This).(*simulator.VirtualMachine)
		return nil, v.stop(ctx, vm, vm.PowerOffVMTask(ctx, m.Body.(*types.PowerOffVM_Task)))
	})
	return &methods.PowerOffVM_TaskBody{Res: &types.PowerOffVM_TaskResponse{Returnval: ref}}
}

func suspend(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	v := s.machine(m.This)
	ref := s.task(ctx, m.This, "SuspendVM_Task", func() (types.AnyType, types.BaseMethodFault) {
		vm := ctx.Map.Get(m.This).(*simulator.VirtualMachine)
		return nil, v.stop(ctx, vm, vm.SuspendVMTask(ctx, m.Body.(*types.SuspendVM_Task)))
	})
	return &methods.SuspendVM_TaskBody{Res: &types.SuspendVM_TaskResponse{Returnval: ref}}
}

func reset(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	v := s.machine(m.This)
	ref := s.task(ctx, m.This, "ResetVM_Task", func() (types.AnyType, types.BaseMethodFault) {
		vm := ctx.Map.Get(m.This).(*simulator.VirtualMachine)
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
		s.task(ctx, m.This, "ShutdownGuest", func() (types.AnyType, types.BaseMethodFault) {
			vm := ctx.Map.Get(m.This).(*simulator.VirtualMachine)
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

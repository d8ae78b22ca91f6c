package vmwaretest

import (
	"path"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func createVM(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.CreateVM_Task)
	folder, ok := ctx.Map.Get(req.This).(*simulator.Folder)
	if !ok {
		return nil
	}
	ref := s.task(ctx, req.This, m.Name, func() (types.AnyType, types.BaseMethodFault) {
		return s.create(ctx, folder, req)
	})
	return &methods.CreateVM_TaskBody{Res: &types.CreateVM_TaskResponse{Returnval: ref}}
}

func (s *Simulator) create(ctx *simulator.Context, folder *simulator.Folder, req *types.CreateVM_Task) (made types.AnyType, fault types.BaseMethodFault) {
	s.vcsim.Lock()
	defer s.vcsim.Unlock()
	if fault := s.placeable(ctx, req); fault != nil {
		return nil, fault
	}
	if e := ctx.Map.FindByName(req.Config.Name, folder.ChildEntity); e != nil {
		return nil, &types.DuplicateName{Name: req.Config.Name, Object: e.Reference()}
	}
	ctx.WithLock(folder, func() { made, fault = s.wait(ctx, folder.CreateVMTask(ctx, req)) })
	if fault != nil {
		return nil, fault
	}
	vm := ctx.Map.Get(made.(types.ManagedObjectReference)).(*simulator.VirtualMachine)
	ctx.WithLock(vm, func() {
		v := s.refresh(ctx, vm)
		if on := req.Config.ChangeTrackingEnabled; on != nil {
			s.mu.Lock()
			v.setTracking(*on)
			s.mu.Unlock()
		}
		v.showGuest(ctx, vm)
	})
	return made, nil
}

// reconfigure adds to vcsim's what it leaves out: locks of files, the refusal
// to resize under a snapshot or what isn't the version that the caller knows, bytes that come and go with their disks, and
// change tracking.
func reconfigure(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.ReconfigVM_Task)
	ref := s.vmTask(ctx, req.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		if is := req.Spec.ChangeVersion; is != "" && is != vm.Config.ChangeVersion {
			return nil, &types.ConcurrentAccess{}
		}
		if fault := s.backed(ctx, req.Spec.DeviceChange); fault != nil {
			return nil, fault
		}
		if fault := v.refuseDisks(req.Spec.DeviceChange); fault != nil {
			return nil, fault
		}
		if _, fault := s.wait(ctx, vm.ReconfigVMTask(ctx, req)); fault != nil {
			return nil, fault
		}
		s.mu.Lock()
		for _, c := range req.Spec.DeviceChange {
			spec := c.GetVirtualDeviceConfigSpec()
			if d, ok := spec.Device.(*types.VirtualDisk); ok && spec.FileOperation == types.VirtualDeviceConfigSpecFileOperationDestroy {
				s.forgetChain(v.disks[d.Key])
			}
		}
		s.mu.Unlock()
		s.refresh(ctx, vm)
		v.showGuest(ctx, vm)
		if on := req.Spec.ChangeTrackingEnabled; on != nil {
			s.mu.Lock()
			if *on != v.tracking {
				v.setTracking(*on)
			}
			s.mu.Unlock()
			s.show(ctx, vm, v)
		}
		return nil, nil
	})
	return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: ref}}
}

func (v *VM) refuseDisks(changes []types.BaseVirtualDeviceConfigSpec) types.BaseMethodFault {
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range changes {
		spec := c.GetVirtualDeviceConfigSpec()
		d, ok := spec.Device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		f := v.disks[d.Key]
		size := max(d.CapacityInBytes, d.CapacityInKB*1024)
		switch {
		case spec.Operation == types.VirtualDeviceConfigSpecOperationEdit && f != nil && f.parent != nil && size != 0 && size != f.content.Size():
			return &types.InvalidDeviceOperation{
				InvalidDeviceSpec: types.InvalidDeviceSpec{DeviceIndex: int32(i)},
				BadOp:             types.VirtualDeviceConfigSpecOperationEdit,
			}
		case spec.Operation == types.VirtualDeviceConfigSpecOperationAdd && spec.FileOperation == "" && v.on:
			b, _ := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			existing := s.files[canonical(fileName(d))]
			readOnly := b != nil && (b.DiskMode == string(types.VirtualDiskModeIndependent_nonpersistent) || b.DiskMode == string(types.VirtualDiskModeNonpersistent))
			if existing != nil && s.lockedFor(existing, v, !readOnly) {
				return &types.FileLocked{FileFault: types.FileFault{File: existing.name}}
			}
		}
	}
	return nil
}

// refuseShared refuses to move or delete files that a running machine other
// than v has open.
func (v *VM) refuseShared() types.BaseMethodFault {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	_, links := v.links()
	for f := range links {
		if v.s.lockedFor(f, v, true) {
			return &types.FileLocked{FileFault: types.FileFault{File: f.name}}
		}
	}
	return nil
}

// forgetChain drops a disk's links, except those that another machine uses.
// s.mu is held.
func (s *Simulator) forgetChain(f *vmdkFile) {
	for ; f != nil; f = f.parent {
		users := 0
		for _, v := range s.machines {
			for _, top := range v.disks {
				for link := top; link != nil; link = link.parent {
					if link == f {
						users++
					}
				}
			}
		}
		if users <= 1 {
			s.forget(f)
		}
	}
}

func destroy(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	if m.This.Type != "VirtualMachine" {
		return nil
	}
	ref := s.vmTask(ctx, m.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		if fault := v.refuseHeld(vm); fault != nil {
			return nil, fault
		}
		if fault := v.refuseShared(); fault != nil {
			return nil, fault
		}
		if _, fault := s.wait(ctx, vm.DestroyTask(ctx, m.Body.(*types.Destroy_Task))); fault != nil {
			return nil, fault
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range v.disks {
			s.forgetChain(f)
		}
		for snap, disks := range v.snapshots {
			for _, f := range disks {
				s.forgetChain(f.file)
			}
			ctx.Map.Remove(ctx, snap)
		}
		delete(s.machines, m.This)
		return nil, nil
	})
	return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: ref}}
}

func unregister(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	var res soap.HasFault
	ref := s.vmTask(ctx, m.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		res = vm.UnregisterVM(ctx, m.Body.(*types.UnregisterVM))
		if res.Fault() == nil {
			s.mu.Lock()
			delete(s.machines, m.This)
			s.mu.Unlock()
		}
		return nil, nil
	})
	if _, fault := s.result(ctx, ref); fault != nil {
		return &methods.UnregisterVMBody{Fault_: simulator.Fault("", fault)}
	}
	return res
}

// relocate moves the disks' files as well: names and diskObjectIds change,
// the UUIDs of disks and machine stay.
func relocate(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.RelocateVM_Task)
	ref := s.vmTask(ctx, req.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		if fault := v.refuseHeld(vm); fault != nil {
			return nil, fault
		}
		if fault := v.refuseShared(); fault != nil {
			return nil, fault
		}
		if fault := s.reachable(ctx, &req.Spec); fault != nil {
			return nil, fault
		}
		if _, fault := s.wait(ctx, vm.RelocateVMTask(ctx, req)); fault != nil {
			return nil, fault
		}
		to := map[int32]string{}
		for _, d := range disksOf(vm.Config.Hardware.Device) {
			if ref := req.Spec.Datastore; ref != nil {
				to[d.Key] = ctx.Map.Get(*ref).(*simulator.Datastore).Name
			}
		}
		for _, l := range req.Spec.Disk {
			to[l.DiskId] = ctx.Map.Get(l.Datastore).(*simulator.Datastore).Name
		}
		fault := v.moveDisks(to)
		devices := cloneDisks(vm.Config.Hardware.Device)
		for _, d := range disksOf(devices) {
			if to[d.Key] == "" {
				continue
			}
			d.DiskObjectId = "" // a new one is given below
			if ds := s.datastore(to[d.Key]); ds != nil {
				self := ds.Self
				d.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().Datastore = &self
			}
			s.mu.Lock()
			showDisk(d, v.disks[d.Key], v.disks[d.Key].track.changeID())
			s.mu.Unlock()
		}
		ctx.Update(vm, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
		s.refresh(ctx, vm)
		return nil, fault
	})
	return &methods.RelocateVM_TaskBody{Res: &types.RelocateVM_TaskResponse{Returnval: ref}}
}

// moveDisks renames every link of the disks to other datastores.
func (v *VM) moveDisks(to map[int32]string) types.BaseMethodFault {
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, datastore := range to {
		links := map[*vmdkFile]bool{}
		walk := func(f *vmdkFile) {
			for ; f != nil; f = f.parent {
				links[f] = true
			}
		}
		walk(v.disks[key])
		for _, disks := range v.snapshots {
			if disks[key] != nil {
				walk(disks[key].file)
			}
		}
		for f := range links {
			var p object.DatastorePath
			p.FromString(f.name)
			if p.Datastore == datastore {
				continue
			}
			s.forget(f)
			p.Datastore = datastore
			for s.files[p.String()] != nil {
				p.Path = path.Join(path.Dir(p.Path), "moved-"+path.Base(p.Path))
			}
			f.name = p.String()
			s.files[f.name] = f
			if err := s.writeDescriptor(f.name, f.content.Size()); err != nil {
				return &types.GenericVmConfigFault{Reason: err.Error()}
			}
		}
		if f := v.disks[key]; s.options.Bugs.RelocateResetsTracking && f.track.epoch != "" {
			f.track.begin()
		}
	}
	return nil
}

// cloneVM lets vcsim make the machine, then gives it the bytes.
func cloneVM(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.CloneVM_Task)
	ref := s.vmTask(ctx, req.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		for _, d := range disksOf(vm.Config.Hardware.Device) {
			if _, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo); !ok {
				return nil, &types.NotSupported{}
			}
		}
		if fault := s.reachable(ctx, &req.Spec.Location); fault != nil {
			return nil, fault
		}
		res, fault := s.wait(ctx, vm.CloneVMTask(ctx, req))
		if fault != nil {
			return nil, fault
		}
		made := ctx.Map.Get(res.(types.ManagedObjectReference)).(*simulator.VirtualMachine)
		ctx.WithLock(made, func() {
			w := s.refresh(ctx, made)
			from, to := disksOf(vm.Config.Hardware.Device), disksOf(made.Config.Hardware.Device)
			s.mu.Lock()
			for i := range min(len(from), len(to)) {
				source := v.disks[from[i].Key].content
				if req.Spec.Snapshot != nil {
					if f := v.snapshots[*req.Spec.Snapshot][from[i].Key]; f != nil {
						source = f.content
					}
				}
				w.disks[to[i].Key].content = source.clone()
			}
			s.mu.Unlock()
			w.showGuest(ctx, made)
		})
		return res, nil
	})
	return &methods.CloneVM_TaskBody{Res: &types.CloneVM_TaskResponse{Returnval: ref}}
}

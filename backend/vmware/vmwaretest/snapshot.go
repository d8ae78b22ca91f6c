package vmwaretest

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// frozen is what one disk held when a snapshot was taken, and what tracking
// said then.
type frozen struct {
	file    *vmdkFile // the link that ends with this snapshot
	content *content
	track   tracker
}

func createSnapshot(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.CreateSnapshot_Task)
	ref := s.snapshotTask(ctx, req.This, req.Quiesce, func(vm *simulator.VirtualMachine, quiesced bool) soap.HasFault {
		inner := *req
		inner.Quiesce = quiesced
		return vm.CreateSnapshotTask(ctx, &inner)
	})
	return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: ref}}
}

func createSnapshotEx(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.CreateSnapshotEx_Task)
	ref := s.snapshotTask(ctx, req.This, req.QuiesceSpec != nil, func(vm *simulator.VirtualMachine, quiesced bool) soap.HasFault {
		inner := *req
		if !quiesced {
			inner.QuiesceSpec = nil
		}
		return vm.CreateSnapshotExTask(ctx, &inner)
	})
	return &methods.CreateSnapshotEx_TaskBody{Res: &types.CreateSnapshotEx_TaskResponse{Returnval: ref}}
}

// snapshotTask quiesces, lets vcsim keep the tree, and freezes the bytes.
func (s *Simulator) snapshotTask(ctx *simulator.Context, ref types.ManagedObjectReference, quiesce bool, inner func(*simulator.VirtualMachine, bool) soap.HasFault) types.ManagedObjectReference {
	v := s.machine(ref)
	return s.task(ctx, ref, "CreateSnapshot_Task", func() (types.AnyType, types.BaseMethodFault) {
		vm := ctx.Map.Get(ref).(*simulator.VirtualMachine)
		quiesced := false
		if quiesce {
			var fault types.BaseMethodFault
			if quiesced, fault = v.freeze(); fault != nil {
				return nil, fault
			}
		}
		if quiesced {
			defer v.Thaw()
		}
		res, fault := wait(ctx, inner(vm, quiesced))
		if fault != nil {
			return nil, fault
		}
		snap := res.(types.ManagedObjectReference)
		if err := v.freezeDisks(snap); err != nil {
			return nil, &types.GenericVmConfigFault{Reason: err.Error()}
		}
		s.show(ctx, vm, v)
		return snap, nil
	})
}

// freezeDisks ends the current link of every disk and begins a delta.
func (v *VM) freezeDisks(snap types.ManagedObjectReference) error {
	s := v.s
	s.mu.Lock()
	defer s.mu.Unlock()
	first := len(v.snapshots) == 0
	disks := map[int32]*frozen{}
	for key, f := range v.disks {
		if v.independent[key] {
			continue
		}
		if v.tracking && first && f.track.epoch == "" {
			f.track.begin() // the stun of the first snapshot is what activates it
		}
		f.track.seq++
		delta := &vmdkFile{name: s.delta(f), parent: f, content: f.content, track: f.track}
		f.content = f.content.clone()
		s.files[delta.name] = delta
		v.disks[key] = delta
		disks[key] = &frozen{file: f, content: f.content, track: *f.track}
		if err := s.writeDescriptor(delta.name, delta.content.Size()); err != nil {
			return err
		}
	}
	v.snapshots[snap] = disks
	return nil
}

// show makes the objects that clients read agree with v: names of files,
// parents, changeIds. The machine's lock is held.
func (s *Simulator) show(ctx *simulator.Context, vm *simulator.VirtualMachine, v *VM) {
	s.mu.Lock()
	devices := cloneDisks(vm.Config.Hardware.Device)
	for _, d := range disksOf(devices) {
		if f := v.disks[d.Key]; f != nil {
			showDisk(d, f, f.track.changeID())
		}
	}
	kept := map[types.ManagedObjectReference]map[int32]frozen{}
	for ref, disks := range v.snapshots {
		kept[ref] = map[int32]frozen{}
		for key, f := range disks {
			kept[ref][key] = *f
		}
	}
	needed := v.consolidationNeeded
	s.mu.Unlock()
	ctx.Update(vm, []types.PropertyChange{
		{Name: "config.hardware.device", Val: devices},
		{Name: "runtime.consolidationNeeded", Val: needed},
		{Name: "summary.runtime.consolidationNeeded", Val: needed},
	})
	for ref, disks := range kept {
		sn, ok := ctx.Map.Get(ref).(*simulator.VirtualMachineSnapshot)
		if !ok {
			continue
		}
		ctx.WithLock(sn, func() {
			devices := cloneDisks(sn.Config.Hardware.Device)
			for _, d := range disksOf(devices) {
				if f, ok := disks[d.Key]; ok {
					showDisk(d, f.file, f.track.changeID())
				}
			}
			sn.Config.Hardware.Device = devices
		})
	}
}

func showDisk(d *types.VirtualDisk, f *vmdkFile, changeID string) {
	b, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok {
		d.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().FileName = f.name
		return
	}
	b.FileName, b.ChangeId, b.Parent = f.name, changeID, nil
	for link := b; f.parent != nil; f = f.parent {
		link.Parent = &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: f.parent.name, Datastore: b.Datastore},
			DiskMode:                     b.DiskMode,
			ThinProvisioned:              b.ThinProvisioned,
			Uuid:                         b.Uuid,
		}
		link = link.Parent
	}
}

func removeSnapshot(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.RemoveSnapshot_Task)
	sn := ctx.Map.Get(req.This).(*simulator.VirtualMachineSnapshot)
	v := s.machine(sn.Vm)
	ref := s.task(ctx, sn.Vm, "RemoveSnapshot_Task", func() (types.AnyType, types.BaseMethodFault) {
		_, fault := wait(ctx, sn.RemoveSnapshotTask(ctx, req))
		if fault == nil {
			s.dropSnapshots(ctx, v, req.Consolidate == nil || *req.Consolidate)
		}
		return nil, fault
	})
	return &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{Returnval: ref}}
}

func removeAllSnapshots(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.RemoveAllSnapshots_Task)
	v := s.machine(req.This)
	ref := s.task(ctx, req.This, "RemoveAllSnapshots_Task", func() (types.AnyType, types.BaseMethodFault) {
		vm := ctx.Map.Get(req.This).(*simulator.VirtualMachine)
		_, fault := wait(ctx, vm.RemoveAllSnapshotsTask(ctx, req))
		if fault == nil {
			s.dropSnapshots(ctx, v, req.Consolidate == nil || *req.Consolidate)
		}
		return nil, fault
	})
	return &methods.RemoveAllSnapshots_TaskBody{Res: &types.RemoveAllSnapshots_TaskResponse{Returnval: ref}}
}

// dropSnapshots forgets the snapshots that vcsim no longer has, and merges the
// links that nothing needs, unless consolidation was not asked for or is made
// to fail.
func (s *Simulator) dropSnapshots(ctx *simulator.Context, v *VM, consolidate bool) {
	vm := ctx.Map.Get(v.ref).(*simulator.VirtualMachine)
	s.mu.Lock()
	for ref, disks := range v.snapshots {
		if ctx.Map.Get(ref) != nil {
			continue
		}
		for _, f := range disks {
			v.loose = append(v.loose, f.file)
		}
		delete(v.snapshots, ref)
	}
	if !consolidate || v.failConsolidation > 0 {
		v.failConsolidation = max(v.failConsolidation-1, 0)
		v.consolidationNeeded = true
	} else {
		v.consolidate()
	}
	s.mu.Unlock()
	s.show(ctx, vm, v)
}

// consolidate merges every link that neither a snapshot nor the machine ends
// with into the one below it. s.mu is held.
func (v *VM) consolidate() {
	s := v.s
	for again := true; again; {
		again = false
		needed, children := map[*vmdkFile]bool{}, map[*vmdkFile][]*vmdkFile{}
		seen := map[*vmdkFile]bool{}
		walk := func(f *vmdkFile) {
			for ; f != nil && !seen[f]; f = f.parent {
				seen[f] = true
				if f.parent != nil {
					children[f.parent] = append(children[f.parent], f)
				}
			}
		}
		for _, f := range v.disks {
			needed[f] = true
			walk(f)
		}
		for _, disks := range v.snapshots {
			for _, f := range disks {
				needed[f.file] = true
				walk(f.file)
			}
		}
		for _, f := range v.loose {
			walk(f)
		}
		for f := range seen {
			if needed[f] {
				continue
			}
			switch len(children[f]) {
			case 0:
				s.forget(f)
				v.unloose(f)
				again = true
			case 1:
				v.merge(children[f][0], f)
				again = true
			}
			if again {
				break
			}
		}
	}
	v.loose, v.consolidationNeeded = nil, false
}

// merge moves child's content down into f, which takes child's place.
func (v *VM) merge(child, f *vmdkFile) {
	f.content = child.content
	for _, g := range v.s.files {
		if g.parent == child {
			g.parent = f
		}
	}
	for key, g := range v.disks {
		if g == child {
			v.disks[key] = f
		}
	}
	for _, disks := range v.snapshots {
		for _, g := range disks {
			if g.file == child {
				g.file = f
			}
		}
	}
	v.unloose(child)
	v.s.forget(child)
}

func (v *VM) unloose(f *vmdkFile) {
	for i, g := range v.loose {
		if g == f {
			v.loose = append(v.loose[:i:i], v.loose[i+1:]...)
			return
		}
	}
}

func consolidateDisks(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	v := s.machine(m.This)
	ref := s.task(ctx, m.This, "ConsolidateVMDisks_Task", func() (types.AnyType, types.BaseMethodFault) {
		vm := ctx.Map.Get(m.This).(*simulator.VirtualMachine)
		s.mu.Lock()
		if v.failConsolidation > 0 {
			v.failConsolidation--
			s.mu.Unlock()
			return nil, &types.FileLocked{FileFault: types.FileFault{File: vm.Config.Files.VmPathName}}
		}
		v.consolidate()
		s.mu.Unlock()
		s.show(ctx, vm, v)
		return nil, nil
	})
	return &methods.ConsolidateVMDisks_TaskBody{Res: &types.ConsolidateVMDisks_TaskResponse{Returnval: ref}}
}

func revertToSnapshot(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.RevertToSnapshot_Task)
	sn := ctx.Map.Get(req.This).(*simulator.VirtualMachineSnapshot)
	v := s.machine(sn.Vm)
	ref := s.task(ctx, sn.Vm, "RevertToSnapshot_Task", func() (types.AnyType, types.BaseMethodFault) {
		_, fault := wait(ctx, sn.RevertToSnapshotTask(ctx, req))
		if fault == nil {
			fault = s.revert(ctx, v, req.This)
		}
		return nil, fault
	})
	return &methods.RevertToSnapshot_TaskBody{Res: &types.RevertToSnapshot_TaskResponse{Returnval: ref}}
}

func revertToCurrent(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.RevertToCurrentSnapshot_Task)
	v := s.machine(req.This)
	var current *types.ManagedObjectReference
	s.inspect(req.This, func(_ *simulator.Context, vm *simulator.VirtualMachine) {
		if vm.Snapshot != nil {
			current = vm.Snapshot.CurrentSnapshot
		}
	})
	if current == nil {
		return nil // vcsim has the fault for it
	}
	ref := s.task(ctx, req.This, "RevertToCurrentSnapshot_Task", func() (types.AnyType, types.BaseMethodFault) {
		return nil, s.revert(ctx, v, *current)
	})
	return &methods.RevertToCurrentSnapshot_TaskBody{Res: &types.RevertToCurrentSnapshot_TaskResponse{Returnval: ref}}
}

// revert gives the disks what the snapshot holds. Without the memory's state,
// which is never kept, the machine ends powered off. Tracking starts anew.
func (s *Simulator) revert(ctx *simulator.Context, v *VM, snap types.ManagedObjectReference) types.BaseMethodFault {
	vm := ctx.Map.Get(v.ref).(*simulator.VirtualMachine)
	if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		if _, fault := wait(ctx, vm.PowerOffVMTask(ctx, &types.PowerOffVM_Task{This: v.ref})); fault != nil {
			return fault
		}
	}
	s.mu.Lock()
	v.on, v.frozen = false, false
	var err error
	for key, f := range v.snapshots[snap] {
		old := v.disks[key]
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

// forget drops a link and its files. s.mu is held.
func (s *Simulator) forget(f *vmdkFile) {
	delete(s.files, f.name)
	s.removeDescriptor(f.name)
}

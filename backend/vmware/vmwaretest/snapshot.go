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
	quiesced := false
	first := func(v *VM) (func(), types.BaseMethodFault) {
		if !quiesce {
			return func() {}, nil
		}
		var fault types.BaseMethodFault
		if quiesced, fault = v.freeze(); !quiesced {
			return func() {}, fault
		}
		return v.Thaw, nil
	}
	return s.vmTaskAfter(ctx, ref, "CreateSnapshot_Task", first, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		res, fault := s.wait(ctx, inner(vm, quiesced))
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
	ref := s.snapshotChange(ctx, m, func(v *VM, vm *simulator.VirtualMachine, sn *simulator.VirtualMachineSnapshot) types.BaseMethodFault {
		parent := parentOf(vm.Snapshot.RootSnapshotList, req.This, nil)
		if parent == nil {
			// The present stands on nothing then, which vcsim panics on if
			// there are other snapshots.
			ctx.WithLock(vm, func() {
				if at := vm.Snapshot.CurrentSnapshot; at != nil && *at == req.This {
					vm.Snapshot.CurrentSnapshot = nil
				}
			})
		}
		if _, fault := s.wait(ctx, sn.RemoveSnapshotTask(ctx, req)); fault != nil {
			return fault
		}
		kept := map[types.ManagedObjectReference]bool{}
		if vm.Snapshot != nil {
			collectTree(vm.Snapshot.RootSnapshotList, kept)
			if at := vm.Snapshot.CurrentSnapshot; at != nil && !kept[*at] {
				// The present was below what went with its parent.
				if parent == nil {
					ctx.WithLock(vm, func() { vm.Snapshot.CurrentSnapshot = nil })
				} else {
					ctx.Update(vm, []types.PropertyChange{{Name: "snapshot.currentSnapshot", Val: parent}})
				}
			}
		}
		s.dropSnapshots(ctx, v, vm, kept, req.Consolidate == nil || *req.Consolidate)
		return nil
	})
	return &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{Returnval: ref}}
}

// snapshotChange is a task of the machine that has the snapshot on which a
// method was called, if it still has it in its turn.
func (s *Simulator) snapshotChange(ctx *simulator.Context, m *simulator.Method, f func(*VM, *simulator.VirtualMachine, *simulator.VirtualMachineSnapshot) types.BaseMethodFault) types.ManagedObjectReference {
	var owner types.ManagedObjectReference
	if sn, ok := ctx.Map.Get(m.This).(*simulator.VirtualMachineSnapshot); ok {
		owner = sn.Vm
	}
	return s.vmTask(ctx, owner, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		sn, ok := ctx.Map.Get(m.This).(*simulator.VirtualMachineSnapshot)
		if !ok || vm.Snapshot == nil {
			return nil, &types.ManagedObjectNotFound{Obj: m.This}
		}
		return nil, f(v, vm, sn)
	})
}

func parentOf(tree []types.VirtualMachineSnapshotTree, ref types.ManagedObjectReference, parent *types.ManagedObjectReference) *types.ManagedObjectReference {
	for i := range tree {
		if tree[i].Snapshot == ref {
			return parent
		}
		if found := parentOf(tree[i].ChildSnapshotList, ref, &tree[i].Snapshot); found != nil {
			return found
		}
	}
	return nil
}

func collectTree(tree []types.VirtualMachineSnapshotTree, into map[types.ManagedObjectReference]bool) {
	for i := range tree {
		into[tree[i].Snapshot] = true
		collectTree(tree[i].ChildSnapshotList, into)
	}
}

func removeAllSnapshots(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.RemoveAllSnapshots_Task)
	ref := s.vmTask(ctx, req.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		if _, fault := s.wait(ctx, vm.RemoveAllSnapshotsTask(ctx, req)); fault != nil {
			return nil, fault
		}
		s.dropSnapshots(ctx, v, vm, nil, req.Consolidate == nil || *req.Consolidate)
		return nil, nil
	})
	return &methods.RemoveAllSnapshots_TaskBody{Res: &types.RemoveAllSnapshots_TaskResponse{Returnval: ref}}
}

// dropSnapshots forgets the snapshots that are not kept, and merges the links
// that nothing needs, unless consolidation was not asked for or is made to fail.
func (s *Simulator) dropSnapshots(ctx *simulator.Context, v *VM, vm *simulator.VirtualMachine, kept map[types.ManagedObjectReference]bool, consolidate bool) {
	s.mu.Lock()
	var gone []types.ManagedObjectReference
	for ref, disks := range v.snapshots {
		if kept[ref] {
			continue
		}
		for _, f := range disks {
			v.loose = append(v.loose, f.file)
		}
		delete(v.snapshots, ref)
		gone = append(gone, ref)
	}
	if !consolidate || v.failConsolidation > 0 {
		v.failConsolidation = max(v.failConsolidation-1, 0)
		v.consolidationNeeded = true
	} else {
		v.consolidate()
	}
	s.mu.Unlock()
	for _, ref := range gone {
		ctx.Map.Remove(ctx, ref) // vcsim keeps the children's objects
	}
	s.show(ctx, vm, v)
}

package vmwaretest

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// consolidate merges every link that neither a snapshot nor the machine ends
// with into the one below it, except where another machine has the files open:
// then it tells of the first such file, and consolidation stays needed. s.mu is
// held.
func (v *VM) consolidate() (locked string) {
	s := v.s
	for {
		needed, children := v.links()
		again := false
		for f, above := range children {
			if needed[f] || len(above) > 1 {
				continue
			}
			if s.lockedFor(f, v, true) {
				locked = f.name
				continue
			}
			again = true
			if len(above) == 0 {
				s.forget(f)
				v.unloose(f)
			} else {
				v.merge(above[0], f, children[above[0]])
			}
			break
		}
		if !again {
			break
		}
	}
	if v.consolidationNeeded = locked != ""; !v.consolidationNeeded {
		v.loose = nil
	}
	return locked
}

// links lists every link of the machine's chains with those right above it, and
// the links that something ends with.
func (v *VM) links() (needed map[*vmdkFile]bool, children map[*vmdkFile][]*vmdkFile) {
	needed, children = map[*vmdkFile]bool{}, map[*vmdkFile][]*vmdkFile{}
	walk := func(f *vmdkFile) {
		for ; f != nil; f = f.parent {
			if _, seen := children[f]; seen {
				return
			}
			children[f] = nil
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
	for f := range children {
		if f.parent != nil {
			children[f.parent] = append(children[f.parent], f)
		}
	}
	return needed, children
}

// merge moves child's content down into f, which takes child's place below
// the links above it.
func (v *VM) merge(child, f *vmdkFile, above []*vmdkFile) {
	f.content = child.content
	for _, g := range above {
		g.parent = f
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
	for i, g := range v.loose {
		if g == child {
			v.loose[i] = f
		}
	}
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
	ref := s.vmTask(ctx, m.This, m.Name, func(v *VM, vm *simulator.VirtualMachine) (types.AnyType, types.BaseMethodFault) {
		s.mu.Lock()
		locked := vm.Config.Files.VmPathName
		if v.failConsolidation > 0 {
			v.failConsolidation--
		} else {
			locked = v.consolidate()
		}
		s.mu.Unlock()
		s.show(ctx, vm, v)
		if locked != "" {
			return nil, &types.FileLocked{FileFault: types.FileFault{File: locked}}
		}
		return nil, nil
	})
	return &methods.ConsolidateVMDisks_TaskBody{Res: &types.ConsolidateVMDisks_TaskResponse{Returnval: ref}}
}

// forget drops a link and its files. s.mu is held.
func (s *Simulator) forget(f *vmdkFile) {
	delete(s.files, f.name)
	s.removeDescriptor(f.name)
}

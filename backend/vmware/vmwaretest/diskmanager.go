package vmwaretest

import (
	"os"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vmdk"
)

// lookup finds a link, also one that no machine has used yet: its descriptor
// tells the size. s.mu is held.
func (s *Simulator) lookup(name string) *vmdkFile {
	name = canonical(name)
	if f := s.files[name]; f != nil {
		return f
	}
	file, err := s.hostPath(name)
	if err != nil || !strings.HasSuffix(name, ".vmdk") {
		return nil
	}
	in, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer in.Close()
	d, err := vmdk.ParseDescriptor(in)
	if err != nil || len(d.Extent) == 0 {
		return nil
	}
	return s.file(name, d.Extent[0].Size*vmdk.SectorSize)
}

// inUse tells whether a running machine or a lease has a file open, or any
// file below a folder.
func (s *Simulator) inUse(name string) bool {
	name = canonical(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.machines {
		if !v.on && v.exports == 0 {
			continue
		}
		_, links := v.links()
		for f := range links {
			if f.name == name || flatOf(f.name) == name || strings.HasPrefix(f.name, name+"/") {
				return true
			}
		}
	}
	return false
}

// guarded runs a task on files that fails with FileLocked if one is in use.
func (s *Simulator) guarded(ctx *simulator.Context, m *simulator.Method, name string, inner func() soap.HasFault, after func()) types.ManagedObjectReference {
	return s.task(ctx, m.This, m.Name, func() (types.AnyType, types.BaseMethodFault) {
		if s.inUse(name) {
			return nil, &types.FileLocked{FileFault: types.FileFault{File: name}}
		}
		var res types.AnyType
		var fault types.BaseMethodFault
		s.vcsim.Lock()
		defer s.vcsim.Unlock()
		ctx.WithLock(m.This, func() { res, fault = s.wait(ctx, inner()) })
		if fault == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			after()
		}
		return res, fault
	})
}

// drop forgets what lies at a path or below it. s.mu is held.
func (s *Simulator) drop(name string) {
	name = canonical(name)
	if flat, ok := ofFlat(name); ok {
		name = flat
	}
	for key := range s.files {
		if key == name || strings.HasPrefix(key, name+"/") {
			delete(s.files, key)
		}
	}
}

func (s *Simulator) rename(from, to string) {
	from, to = canonical(from), canonical(to)
	for key, f := range s.files {
		if rest, ok := strings.CutPrefix(key, from); ok && (rest == "" || rest[0] == '/') {
			delete(s.files, key)
			f.name = to + rest
			s.files[f.name] = f
		}
	}
}

func (s *Simulator) duplicate(from, to string) {
	if f := s.lookup(from); f != nil {
		copied := s.file(to, f.content.Size())
		copied.content = f.content.clone()
	}
}

func deleteVirtualDisk(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.DeleteVirtualDisk_Task)
	dm := ctx.Map.VirtualDiskManager()
	ref := s.guarded(ctx, m, req.Name, func() soap.HasFault { return dm.DeleteVirtualDiskTask(ctx, req) }, func() { s.drop(req.Name) })
	return &methods.DeleteVirtualDisk_TaskBody{Res: &types.DeleteVirtualDisk_TaskResponse{Returnval: ref}}
}

func copyVirtualDisk(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.CopyVirtualDisk_Task)
	dm := ctx.Map.VirtualDiskManager()
	ref := s.guarded(ctx, m, req.SourceName, func() soap.HasFault { return dm.CopyVirtualDiskTask(ctx, req) }, func() { s.duplicate(req.SourceName, req.DestName) })
	return &methods.CopyVirtualDisk_TaskBody{Res: &types.CopyVirtualDisk_TaskResponse{Returnval: ref}}
}

func moveVirtualDisk(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.MoveVirtualDisk_Task)
	dm := ctx.Map.VirtualDiskManager()
	ref := s.guarded(ctx, m, req.SourceName, func() soap.HasFault { return dm.MoveVirtualDiskTask(ctx, req) }, func() { s.rename(req.SourceName, req.DestName) })
	return &methods.MoveVirtualDisk_TaskBody{Res: &types.MoveVirtualDisk_TaskResponse{Returnval: ref}}
}

func extendVirtualDisk(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.ExtendVirtualDisk_Task)
	dm, ok := ctx.Map.VirtualDiskManager().(*simulator.VirtualDiskManager)
	if !ok {
		return nil
	}
	ref := s.guarded(ctx, m, req.Name, func() soap.HasFault { return dm.ExtendVirtualDiskTask(ctx, req) }, func() {
		if f := s.lookup(req.Name); f != nil {
			s.extend(f, req.NewCapacityKb*1024)
		}
	})
	return &methods.ExtendVirtualDisk_TaskBody{Res: &types.ExtendVirtualDisk_TaskResponse{Returnval: ref}}
}

func deleteDatastoreFile(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.DeleteDatastoreFile_Task)
	fm := ctx.Map.FileManager()
	ref := s.guarded(ctx, m, req.Name, func() soap.HasFault { return fm.DeleteDatastoreFileTask(ctx, req) }, func() { s.drop(req.Name) })
	return &methods.DeleteDatastoreFile_TaskBody{Res: &types.DeleteDatastoreFile_TaskResponse{Returnval: ref}}
}

func moveDatastoreFile(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.MoveDatastoreFile_Task)
	fm := ctx.Map.FileManager()
	ref := s.guarded(ctx, m, req.SourceName, func() soap.HasFault { return fm.MoveDatastoreFileTask(ctx, req) }, func() {
		from, isFlat := ofFlat(req.SourceName)
		to, _ := ofFlat(req.DestinationName)
		switch {
		case isFlat:
			s.rename(from, to)
		case !strings.HasSuffix(req.SourceName, ".vmdk"):
			s.rename(req.SourceName, req.DestinationName)
		}
	})
	return &methods.MoveDatastoreFile_TaskBody{Res: &types.MoveDatastoreFile_TaskResponse{Returnval: ref}}
}

func copyDatastoreFile(s *Simulator, ctx *simulator.Context, m *simulator.Method) soap.HasFault {
	req := m.Body.(*types.CopyDatastoreFile_Task)
	fm := ctx.Map.FileManager()
	ref := s.guarded(ctx, m, req.SourceName, func() soap.HasFault { return fm.CopyDatastoreFileTask(ctx, req) }, func() {
		if from, ok := ofFlat(req.SourceName); ok {
			to, _ := ofFlat(req.DestinationName)
			s.duplicate(from, to)
		}
	})
	return &methods.CopyDatastoreFile_TaskBody{Res: &types.CopyDatastoreFile_TaskResponse{Returnval: ref}}
}

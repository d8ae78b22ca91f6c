package vmwaretest

import (
	"slices"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// What is refused here is what vcsim panics on, in goroutines of its own.

// placeable refuses to create a machine where there is no pool, host, datastore
// or network for it.
func (s *Simulator) placeable(ctx *simulator.Context, req *types.CreateVM_Task) types.BaseMethodFault {
	hosts := s.hostsOf(ctx, req.Pool)
	if len(hosts) == 0 {
		return &types.ManagedObjectNotFound{Obj: req.Pool}
	}
	if req.Host != nil {
		if !slices.Contains(hosts, *req.Host) {
			return &types.InvalidArgument{InvalidProperty: "host"}
		}
		hosts = []types.ManagedObjectReference{*req.Host}
	}
	if req.Config.Files == nil {
		return &types.InvalidVmConfig{Property: "files"}
	}
	var at object.DatastorePath
	if !at.FromString(req.Config.Files.VmPathName) {
		return &types.InvalidDatastorePath{InvalidDatastore: types.InvalidDatastore{Name: req.Config.Files.VmPathName}, DatastorePath: req.Config.Files.VmPathName}
	}
	for _, ref := range hosts {
		host, ok := ctx.Map.Get(ref).(*simulator.HostSystem)
		if !ok || ctx.Map.FindByName(at.Datastore, host.Datastore) == nil {
			return &types.InvalidDatastore{Name: at.Datastore}
		}
	}
	return s.backed(ctx, req.Config.DeviceChange)
}

// hostsOf lists the hosts below a resource pool's root, nil if it is no pool.
func (s *Simulator) hostsOf(ctx *simulator.Context, pool types.ManagedObjectReference) []types.ManagedObjectReference {
	for {
		switch e := ctx.Map.Get(pool).(type) {
		case *simulator.ResourcePool:
			pool = *e.Parent
		case *simulator.VirtualApp:
			pool = *e.Parent
		case *simulator.ClusterComputeResource:
			return e.Host
		case *mo.ComputeResource:
			return e.Host
		default:
			return nil
		}
	}
}

// backed refuses cards on networks and disks on datastores that are not there.
func (s *Simulator) backed(ctx *simulator.Context, changes []types.BaseVirtualDeviceConfigSpec) types.BaseMethodFault {
	for i, c := range changes {
		spec := types.InvalidDeviceSpec{DeviceIndex: int32(i)}
		switch d := c.GetVirtualDeviceConfigSpec().Device.(type) {
		case types.BaseVirtualEthernetCard:
			b, ok := d.GetVirtualEthernetCard().Backing.(*types.VirtualEthernetCardNetworkBackingInfo)
			if ok && !s.hasNetwork(ctx, b.DeviceName) {
				return &types.InvalidDeviceBacking{InvalidDeviceSpec: spec}
			}
		case *types.VirtualDisk:
			var at object.DatastorePath
			if name := fileName(d); name != "" && (!at.FromString(name) || s.datastore(at.Datastore) == nil) {
				return &types.InvalidDatastorePath{InvalidDatastore: types.InvalidDatastore{Name: at.Datastore}, DatastorePath: name}
			}
		case nil:
			return &types.InvalidDeviceSpec{DeviceIndex: int32(i)}
		}
	}
	return nil
}

func (s *Simulator) hasNetwork(ctx *simulator.Context, name string) bool {
	return slices.ContainsFunc(ctx.Map.All("Network"), func(e mo.Entity) bool { return networkName(e) == name })
}

// reachable refuses to move a machine to what is not there.
func (s *Simulator) reachable(ctx *simulator.Context, spec *types.VirtualMachineRelocateSpec) types.BaseMethodFault {
	if ref := spec.Host; ref != nil {
		if _, ok := ctx.Map.Get(*ref).(*simulator.HostSystem); !ok {
			return &types.ManagedObjectNotFound{Obj: *ref}
		}
	}
	if ref := spec.Pool; ref != nil {
		if s.hostsOf(ctx, *ref) == nil {
			return &types.ManagedObjectNotFound{Obj: *ref}
		}
	}
	if ref := spec.Folder; ref != nil {
		if _, ok := ctx.Map.Get(*ref).(*simulator.Folder); !ok {
			return &types.ManagedObjectNotFound{Obj: *ref}
		}
	}
	stores := []types.ManagedObjectReference{}
	if spec.Datastore != nil {
		stores = append(stores, *spec.Datastore)
	}
	for _, l := range spec.Disk {
		stores = append(stores, l.Datastore)
	}
	for _, ref := range stores {
		if _, ok := ctx.Map.Get(ref).(*simulator.Datastore); !ok {
			return &types.ManagedObjectNotFound{Obj: ref}
		}
	}
	return s.backed(ctx, spec.DeviceChange)
}

// datastore finds a datastore by its name, which is unique here.
func (s *Simulator) datastore(name string) *simulator.Datastore {
	if found, ok := s.datastores.Load(name); ok {
		return found.(*simulator.Datastore)
	}
	for _, e := range s.model.Map().All("Datastore") {
		if ds, ok := e.(*simulator.Datastore); ok && ds.Name == name {
			s.datastores.Store(name, ds)
			return ds
		}
	}
	return nil
}

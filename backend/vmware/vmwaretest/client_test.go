package vmwaretest_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
	tib = int64(1) << 40
)

// rig is a simulator with one machine and a client.
type rig struct {
	t   *testing.T
	sim *vmwaretest.Simulator
	c   *govmomi.Client
	vm  *vmwaretest.VM
	obj *object.VirtualMachine
}

func newRig(t *testing.T, o vmwaretest.Options, spec vmwaretest.VMSpec) *rig {
	t.Helper()
	r := &rig{t: t, sim: vmwaretest.New(t, o)}
	var err error
	r.c, err = govmomi.NewClient(context.Background(), r.sim.URL, true)
	require.NoError(t, err)
	if spec.Name == "" {
		spec.Name = "web"
	}
	if spec.Disks == nil {
		spec.Disks = []vmwaretest.DiskSpec{{Size: 64 * mib}}
	}
	r.vm, err = r.sim.AddVM(spec)
	require.NoError(t, err)
	r.obj = object.NewVirtualMachine(r.c.Client, r.vm.Reference())
	return r
}

func tracked() vmwaretest.VMSpec { return vmwaretest.VMSpec{ChangeTracking: true} }

func (r *rig) wait(task *object.Task, err error) *types.TaskInfo {
	r.t.Helper()
	info, err := r.try(task, err)
	require.NoError(r.t, err)
	return info
}

func (r *rig) try(task *object.Task, err error) (*types.TaskInfo, error) {
	if err != nil {
		return nil, err
	}
	return task.WaitForResult(context.Background())
}

func (r *rig) write(disk int32, p []byte, off int64) {
	r.t.Helper()
	require.NoError(r.t, r.vm.Write(disk, p, off))
}

func (r *rig) disk() int32 { return r.vm.Disks()[0] }

func (r *rig) snapshot(name string) types.ManagedObjectReference {
	r.t.Helper()
	return r.wait(r.obj.CreateSnapshot(context.Background(), name, "", false, false)).Result.(types.ManagedObjectReference)
}

func (r *rig) removeSnapshot(name string) {
	r.t.Helper()
	r.wait(r.obj.RemoveSnapshot(context.Background(), name, false, types.NewBool(true)))
}

func (r *rig) backing(devices []types.BaseVirtualDevice, disk int32) *types.VirtualDiskFlatVer2BackingInfo {
	r.t.Helper()
	for _, d := range devices {
		if d.GetVirtualDevice().Key == disk {
			return d.GetVirtualDevice().Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		}
	}
	require.Fail(r.t, "no such disk")
	return nil
}

func (r *rig) frozen(snap types.ManagedObjectReference, disk int32) *types.VirtualDiskFlatVer2BackingInfo {
	r.t.Helper()
	var sn mo.VirtualMachineSnapshot
	require.NoError(r.t, property.DefaultCollector(r.c.Client).RetrieveOne(context.Background(), snap, []string{"config.hardware.device"}, &sn))
	return r.backing(sn.Config.Hardware.Device, disk)
}

func (r *rig) changeID(snap types.ManagedObjectReference, disk int32) string {
	r.t.Helper()
	return r.frozen(snap, disk).ChangeId
}

func (r *rig) props(names ...string) mo.VirtualMachine {
	r.t.Helper()
	var vm mo.VirtualMachine
	require.NoError(r.t, r.obj.Properties(context.Background(), r.obj.Reference(), names, &vm))
	return vm
}

func (r *rig) live(disk int32) *types.VirtualDiskFlatVer2BackingInfo {
	r.t.Helper()
	return r.backing(r.props("config.hardware.device").Config.Hardware.Device, disk)
}

// query pages through the changes, as the API wants it.
func (r *rig) query(snap types.ManagedObjectReference, disk int32, since string) ([]types.DiskChangeExtent, int, error) {
	var all []types.DiskChangeExtent
	calls := 0
	for off := int64(0); off < r.vm.Size(disk); calls++ {
		res, err := methods.QueryChangedDiskAreas(context.Background(), r.c.Client, &types.QueryChangedDiskAreas{
			This: r.obj.Reference(), Snapshot: &snap, DeviceKey: disk, StartOffset: off, ChangeId: since,
		})
		if err != nil {
			return nil, calls, err
		}
		all = append(all, res.Returnval.ChangedArea...)
		off = res.Returnval.StartOffset + res.Returnval.Length
	}
	return all, calls, nil
}

func (r *rig) read(snap types.ManagedObjectReference, disk int32, off int64, n int) []byte {
	r.t.Helper()
	p := make([]byte, n)
	_, err := r.vm.ReadSnapshot(snap, disk, p, off)
	require.NoError(r.t, err)
	return p
}

func areas(pairs ...int64) []types.DiskChangeExtent {
	var list []types.DiskChangeExtent
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, types.DiskChangeExtent{Start: pairs[i], Length: pairs[i+1]})
	}
	return list
}

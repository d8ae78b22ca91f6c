package vmwaretest_test

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

func TestInventory(t *testing.T) {
	ctx := context.Background()
	o := vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{{
		Name: "paris", Folders: []string{"prod/web", "prod/db"},
		Clusters:   []vmwaretest.Cluster{{Name: "blue", Hosts: []string{"esx-1", "esx-2"}}},
		Hosts:      []string{"edge"},
		Datastores: []vmwaretest.Datastore{{Name: "fast"}, {Name: "slow", Type: "NFS"}},
		Networks:   []string{"dmz"},
	}}}
	r := newRig(t, o, vmwaretest.VMSpec{
		Name: "shop", Folder: "prod/web", Datastore: "slow", EFI: true, SecureBoot: true, CPUs: 4, MemoryMB: 8192,
		Disks:       []vmwaretest.DiskSpec{{Size: gib}, {Size: 2 * gib, Controller: "nvme"}, {Size: gib, RawDevice: true}, {Size: gib, Mode: types.VirtualDiskModeIndependent_persistent}},
		NICs:        []vmwaretest.NICSpec{{Network: "dmz", MAC: "00:50:56:01:02:03"}, {}},
		ExtraConfig: map[string]string{"disk.enableUUID": "TRUE"},
	})
	finder := find.NewFinder(r.c.Client)
	vm, err := finder.VirtualMachine(ctx, "/paris/vm/prod/web/shop")
	require.NoError(t, err)
	require.Equal(t, r.obj.Reference(), vm.Reference())
	hosts, err := finder.HostSystemList(ctx, "/paris/host/...")
	require.NoError(t, err)
	require.Len(t, hosts, 3)
	config := r.props("config").Config
	require.Equal(t, "efi", config.Firmware)
	require.True(t, *config.BootOptions.EfiSecureBootEnabled)
	require.EqualValues(t, 4, config.Hardware.NumCPU)
	devices := object.VirtualDeviceList(config.Hardware.Device)
	require.Len(t, devices.SelectByType((*types.VirtualDisk)(nil)), 4)
	require.Len(t, devices.SelectByType((*types.VirtualNVMEController)(nil)), 1)
	cards := devices.SelectByType((*types.VirtualVmxnet3)(nil))
	require.Len(t, cards, 2)
	require.Equal(t, "00:50:56:01:02:03", cards[0].(*types.VirtualVmxnet3).MacAddress)
	value, ok := object.OptionValueList(config.ExtraConfig).GetString("disk.enableUUID")
	require.True(t, ok)
	require.Equal(t, "TRUE", value)

	_, err = r.sim.AddVM(vmwaretest.VMSpec{Name: "bad", NICs: []vmwaretest.NICSpec{{Network: "nowhere"}}})
	require.Error(t, err)
	_, err = vmwaretest.Start(vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{{Name: "x", Hosts: []string{"h"}, Datastores: []vmwaretest.Datastore{{Name: "a"}, {Name: "a"}}}}})
	require.Error(t, err)
}

func TestStorageVMotion(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, tracked())
	d := r.disk()
	r.write(d, []byte("moved"), 0)
	base := r.changeID(r.snapshot("one"), d)
	object1 := func() (string, string, string) {
		devices, err := r.obj.Device(ctx)
		require.NoError(t, err)
		disk := devices.FindByKey(d).(*types.VirtualDisk)
		return disk.DiskObjectId, r.live(d).Uuid, r.live(d).FileName
	}
	id, uuid, name := object1()
	instance := r.props("config").Config.InstanceUuid
	ds, err := find.NewFinder(r.c.Client).Datastore(ctx, "/DC0/datastore/vmfs-1")
	require.NoError(t, err)
	ref := ds.Reference()
	r.wait(r.obj.Relocate(ctx, types.VirtualMachineRelocateSpec{Datastore: &ref}, types.VirtualMachineMovePriorityDefaultPriority))
	id2, uuid2, name2 := object1()
	require.NotEqual(t, id, id2)
	require.NotEqual(t, name, name2)
	require.Equal(t, uuid, uuid2)
	require.Equal(t, instance, r.props("config").Config.InstanceUuid)
	p := make([]byte, 5)
	_, err = r.vm.Read(d, p, 0)
	require.NoError(t, err)
	require.Equal(t, "moved", string(p))
	r.write(d, []byte("x"), mib)
	got, _, err := r.query(r.snapshot("two"), d, base)
	require.NoError(t, err)
	require.Equal(t, areas(mib, 64*kib), got)
}

// TestLocksAndHotAdd attaches a frozen link of a running machine to another
// one, which is what a proxy does, and what it must not do with the live link.
func TestLocksAndHotAdd(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, tracked())
	d := r.disk()
	r.write(d, []byte("frozen"), 0)
	snap := r.snapshot("s")
	r.write(d, []byte("later!"), 0)
	proxy, err := r.sim.AddVM(vmwaretest.VMSpec{Name: "proxy", Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	require.NoError(t, err)
	obj := object.NewVirtualMachine(r.c.Client, proxy.Reference())
	attach := func(file, mode string) error {
		devices, err := obj.Device(ctx)
		require.NoError(t, err)
		controller, err := devices.FindDiskController("")
		require.NoError(t, err)
		disk := devices.CreateDisk(controller, types.ManagedObjectReference{}, file)
		disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).DiskMode = mode
		disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).Datastore = nil
		task, err := obj.Reconfigure(ctx, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
			&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: disk},
		}})
		require.NoError(t, err)
		return task.Wait(ctx)
	}
	own := proxy.Disks()[0]
	const readOnly = string(types.VirtualDiskModeIndependent_nonpersistent)
	require.True(t, fault.Is(attach(r.live(d).FileName, readOnly), &types.FileLocked{}))
	require.True(t, fault.Is(attach(r.frozen(snap, d).FileName, string(types.VirtualDiskModePersistent)), &types.FileLocked{}))
	require.NoError(t, attach(r.frozen(snap, d).FileName, readOnly))
	added := slices.DeleteFunc(proxy.Disks(), func(key int32) bool { return key == own })
	require.Len(t, added, 1)
	p := make([]byte, 6)
	_, err = proxy.Read(added[0], p, 0)
	require.NoError(t, err)
	require.Equal(t, "frozen", string(p))
	require.EqualValues(t, 64*mib, proxy.Size(added[0]))
}

func TestDestroyForgetsTheDisks(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, tracked())
	r.write(r.disk(), []byte("old"), 0)
	r.snapshot("s")
	_, err := r.try(r.obj.Destroy(ctx))
	require.Error(t, err, "a running machine isn't destroyed")
	require.NoError(t, r.vm.PowerOff())
	r.wait(r.obj.Destroy(ctx))
	require.Nil(t, r.sim.VM(r.obj.Reference()))
	again, err := r.sim.AddVM(vmwaretest.VMSpec{Name: "web", Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	require.NoError(t, err)
	p := make([]byte, 3)
	_, err = again.Read(again.Disks()[0], p, 0)
	require.NoError(t, err)
	require.Equal(t, make([]byte, 3), p)
	require.Equal(t, mib, again.Size(again.Disks()[0]))
}

// A reconfiguration says which version of the configuration it is meant for, and
// is refused for any other: what was changed between isn't lost. vcsim takes it
// all the same.
func TestReconfigurationOfAnotherVersion(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{Name: "web", Off: true})
	change := func(version, note string) error {
		task, err := r.obj.Reconfigure(ctx, types.VirtualMachineConfigSpec{ChangeVersion: version, Annotation: note})
		require.NoError(t, err)
		return task.Wait(ctx)
	}
	seen := r.props("config").Config.ChangeVersion
	require.NotEmpty(t, seen)
	require.NoError(t, change(seen, "mine"))
	err := change(seen, "late")
	require.True(t, fault.Is(err, &types.ConcurrentAccess{}), "%v", err)
	require.Equal(t, "mine", r.props("config").Config.Annotation)
	require.NoError(t, change(r.props("config").Config.ChangeVersion, "again"))
	require.NoError(t, change("", "whatever it is"))
}

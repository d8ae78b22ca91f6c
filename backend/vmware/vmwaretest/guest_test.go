package vmwaretest_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

func TestGuestFacts(t *testing.T) {
	nic := vmwaretest.GuestNIC{
		Addresses: []netip.Prefix{netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("10.0.0.7/24")},
		DNS:       []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Domain: "example.com",
	}
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{
		GuestID: "windows2019srv_64Guest", NICs: []vmwaretest.NICSpec{{}, {Network: "isolated"}},
		Guest: vmwaretest.Guest{HostName: "web.example.com", NICs: []vmwaretest.GuestNIC{nic}},
	})
	g := r.props("guest").Guest
	require.Equal(t, "web.example.com", g.HostName)
	require.Equal(t, "10.0.0.7", g.IpAddress)
	require.Equal(t, "windowsGuest", g.GuestFamily)
	require.Equal(t, "running", g.GuestState)
	require.Len(t, g.Net, 2)
	require.Equal(t, []string{"fe80::1", "10.0.0.7"}, g.Net[0].IpAddress)
	require.EqualValues(t, 24, g.Net[0].IpConfig.IpAddress[1].PrefixLength)
	require.Equal(t, []string{"10.0.0.1"}, g.Net[0].DnsConfig.IpAddress)
	require.Equal(t, "isolated", g.Net[1].Network)
	require.NotEmpty(t, g.Net[1].MacAddress)
	require.Equal(t, "web.example.com", r.props("summary").Summary.Guest.HostName)

	require.NoError(t, r.vm.PowerOff())
	g = r.props("guest").Guest
	require.Empty(t, g.HostName+g.IpAddress)
	require.Equal(t, types.VirtualMachineToolsStatusToolsNotRunning, g.ToolsStatus)
	r.vm.SetGuest(vmwaretest.Guest{Tools: vmwaretest.ToolsMissing, HostName: "nobody asks"})
	require.NoError(t, r.vm.PowerOn())
	require.Empty(t, r.props("guest").Guest.HostName)
}

func TestCustomization(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{NICs: []vmwaretest.NICSpec{{}}, Guest: vmwaretest.Guest{HostName: "old"}})
	spec := types.CustomizationSpec{
		Identity: &types.CustomizationLinuxPrep{HostName: &types.CustomizationFixedName{Name: "drill"}, Domain: "example.com"},
		NicSettingMap: []types.CustomizationAdapterMapping{{Adapter: types.CustomizationIPSettings{
			Ip: &types.CustomizationFixedIp{IpAddress: "192.168.1.9"}, SubnetMask: "255.255.255.0", DnsServerList: []string{"192.168.1.1"},
		}}},
	}
	_, err := r.try(r.obj.Customize(ctx, spec))
	require.True(t, fault.Is(err, &types.InvalidPowerState{}), "%v", err)
	require.NoError(t, r.vm.PowerOff())
	r.wait(r.obj.Customize(ctx, spec))
	_, err = r.try(r.obj.Customize(ctx, spec))
	require.True(t, fault.Is(err, &types.CustomizationPending{}), "%v", err)
	require.Equal(t, []types.CustomizationSpec{spec}, r.vm.Customizations())
	require.NoError(t, r.vm.PowerOn())
	g := r.props("guest").Guest
	require.Equal(t, "drill.example.com", g.HostName)
	require.Equal(t, "192.168.1.9", g.IpAddress)
	require.EqualValues(t, 24, g.Net[0].IpConfig.IpAddress[0].PrefixLength)
	require.Equal(t, []string{"192.168.1.1"}, g.Net[0].DnsConfig.IpAddress)
}

func TestHostsAndSpace(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{{
		Name: "paris", Clusters: []vmwaretest.Cluster{{Name: "a", Hosts: []string{"esx-1"}}, {Name: "b", Hosts: []string{"esx-2", "esx-3"}}},
		Datastores: []vmwaretest.Datastore{{Name: "ds", Capacity: 10 * tib, Free: 3 * tib}},
	}}}, vmwaretest.VMSpec{Host: "esx-3"})
	var host mo.HostSystem
	ref := r.props("runtime").Runtime.Host
	require.NoError(t, r.obj.Properties(ctx, *ref, []string{"name", "vm"}, &host))
	require.Equal(t, "esx-3", host.Name)
	require.Contains(t, host.Vm, r.obj.Reference())
	found, err := find.NewFinder(r.c.Client).Datastore(ctx, "/paris/datastore/ds")
	require.NoError(t, err)
	space := func() (int64, int64) {
		var ds mo.Datastore
		require.NoError(t, r.obj.Properties(ctx, found.Reference(), []string{"summary", "info"}, &ds))
		require.Equal(t, ds.Summary.FreeSpace, ds.Info.GetDatastoreInfo().FreeSpace)
		return ds.Summary.Capacity, ds.Summary.FreeSpace
	}
	capacity, free := space()
	require.Equal(t, []int64{10 * tib, 3*tib - 64*mib}, []int64{capacity, free})
	require.NoError(t, r.sim.SetDatastoreSpace("ds", 10*tib, gib))
	_, free = space()
	require.Equal(t, gib, free)
	require.Error(t, r.sim.SetDatastoreSpace("nowhere", 0, 0))
	_, err = r.sim.AddVM(vmwaretest.VMSpec{Name: "x", Cluster: "a", Host: "esx-3"})
	require.Error(t, err, "the host is another cluster's")
}

// TestRefusals are requests on which vcsim panics.
func TestRefusals(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
	f := find.NewFinder(r.c.Client)
	pool, err := f.ResourcePool(ctx, "/DC0/host/C0/Resources")
	require.NoError(t, err)
	folder, err := f.Folder(ctx, "/DC0/vm")
	require.NoError(t, err)
	create := func(pool *object.ResourcePool, path string, devices ...types.BaseVirtualDevice) error {
		spec := types.VirtualMachineConfigSpec{Name: "x", GuestId: "otherGuest", Files: &types.VirtualMachineFileInfo{VmPathName: path}}
		for _, d := range devices {
			spec.DeviceChange = append(spec.DeviceChange, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: d})
		}
		_, err := r.try(folder.CreateVM(ctx, spec, pool, nil))
		return err
	}
	gone := types.ManagedObjectReference{Type: "ResourcePool", Value: "gone"}
	require.Error(t, create(object.NewResourcePool(r.c.Client, gone), "[vmfs-0]"))
	require.Error(t, create(pool, "[nowhere]"))
	require.Error(t, create(pool, "no path"))
	disk := &types.VirtualDisk{}
	disk.Backing = &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[nowhere] x.vmdk"}}
	require.Error(t, create(pool, "[vmfs-0]", disk))
	gone.Type = "Datastore"
	_, err = r.try(r.obj.Relocate(ctx, types.VirtualMachineRelocateSpec{Datastore: &gone}, types.VirtualMachineMovePriorityDefaultPriority))
	require.True(t, fault.Is(err, &types.ManagedObjectNotFound{}), "%v", err)
}

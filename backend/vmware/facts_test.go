package vmware

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

const mib = 1 << 20

func TestDescribe(t *testing.T) {
	sim, v := openSim(t, vmwaretest.Options{})
	vm := addVM(t, sim, vmwaretest.VMSpec{
		Name: "web", EFI: true, SecureBoot: true, CPUs: 4, MemoryMB: 2048, GuestID: "ubuntu64Guest", UUID: "42000000-0000-0000-0000-000000000001",
		InstanceUUID: "50000000-0000-0000-0000-000000000001",
		Disks:        []vmwaretest.DiskSpec{{Size: 64 * mib, UUID: "6000C290-0000-0000-0000-00000000000A"}, {Size: 32 * mib, UUID: "6000C290-0000-0000-0000-00000000000B"}},
		NICs:         []vmwaretest.NICSpec{{MAC: "00:50:56:01:02:03"}, {Network: "isolated", Type: "e1000"}},
		ExtraConfig:  map[string]string{"disk.enableUUID": "TRUE", "guestinfo.password": "secret", "svga.present": "TRUE"},
	})
	m := look(t, v, vm.Reference())
	f := v.facts(t.Context(), m)
	got := f.describe()
	require.Equal(t, dr.MachineID("50000000-0000-0000-0000-000000000001"), got.ID)
	require.Equal(t, "web", got.Name)
	require.Equal(t, dr.On, got.Power)
	require.Equal(t, dr.UEFI, got.Firmware)
	require.True(t, got.SecureBoot)
	require.Equal(t, 4, got.CPUs)
	require.Equal(t, int64(2048*mib), got.Memory)
	require.Equal(t, "linux", got.OS)
	require.Len(t, got.Disks, 2)
	require.Equal(t, dr.DiskID("6000c290-0000-0000-0000-00000000000a"), got.Disks[0].ID)
	require.NotEmpty(t, got.Disks[0].Name)
	require.Equal(t, int64(64*mib), got.Disks[0].Size)
	require.True(t, got.Disks[0].Boot)
	require.False(t, got.Disks[1].Boot)
	require.Len(t, got.NICs, 2)
	require.Regexp(t, `^nic-\d+$`, got.NICs[0].ID)
	require.Equal(t, "00:50:56:01:02:03", got.NICs[0].MAC)
	require.Equal(t, "VM Network", got.NICs[0].Network)
	require.Equal(t, "isolated", got.NICs[1].Network)
	require.NotContains(t, string(got.Config), "secret")

	s, err := parseSaved(got.Config)
	require.NoError(t, err)
	require.Equal(t, savedPlace{Datacenter: "DC0", Folder: "/DC0/vm", Cluster: "C0", Host: s.Place.Host, ResourcePool: "/DC0/host/C0/Resources", Datastore: "vmfs-0"}, s.Place)
	require.Contains(t, []string{"esx-0", "esx-1"}, s.Place.Host)
	require.Equal(t, map[string]string{"disk.enableUUID": "TRUE"}, s.Extra)
	require.Equal(t, "42000000-0000-0000-0000-000000000001", s.UUID)
	require.Equal(t, "ubuntu64Guest", s.GuestID)
	require.Len(t, s.Disks, 2)
	require.Equal(t, s.Controllers[0].Key, s.Disks[0].Controller)
	require.Equal(t, "pvscsi", s.Controllers[0].Type)
	require.Equal(t, "manual", s.NICs[0].MACType)
	require.Equal(t, "e1000", s.NICs[1].Type)

	// Without names the rest is the same.
	bare := m.describe()
	bare.Config, got.Config = nil, nil
	require.Equal(t, got, bare)
}

func TestPowerOf(t *testing.T) {
	for _, c := range []struct {
		power types.VirtualMachinePowerState
		conn  types.VirtualMachineConnectionState
		want  dr.Power
	}{
		{types.VirtualMachinePowerStatePoweredOn, types.VirtualMachineConnectionStateConnected, dr.On},
		{types.VirtualMachinePowerStatePoweredOff, types.VirtualMachineConnectionStateConnected, dr.Off},
		{types.VirtualMachinePowerStatePoweredOff, "", dr.Off},
		{types.VirtualMachinePowerStateSuspended, types.VirtualMachineConnectionStateConnected, ""},
		{types.VirtualMachinePowerStatePoweredOff, types.VirtualMachineConnectionStateDisconnected, ""},
		{types.VirtualMachinePowerStatePoweredOn, types.VirtualMachineConnectionStateInaccessible, ""},
		{"", "", ""},
	} {
		require.Equal(t, c.want, powerOf(types.VirtualMachineRuntimeInfo{PowerState: c.power, ConnectionState: c.conn}), "%+v", c)
	}
}

func TestOSOf(t *testing.T) {
	for id, want := range map[string]string{
		"windows9Server64Guest": "windows", "winNetEnterpriseGuest": "windows", "rhel8_64Guest": "linux", "other5xLinux64Guest": "linux",
		"vmwarePhoton64Guest": "linux", "oracleLinux8_64Guest": "linux", "rockylinux_64Guest": "linux", "sles15_64Guest": "linux",
		"freebsd13_64Guest": "freebsd13_64Guest", "darwin20_64Guest": "darwin20_64Guest", "": "",
	} {
		require.Equal(t, want, osOf(nil, id), id)
	}
	require.Equal(t, "windows", osOf(&types.GuestInfo{GuestFamily: "windowsGuest"}, "otherGuest"), "what runs counts more")
	require.Equal(t, "linux", osOf(&types.GuestInfo{GuestFamily: "otherGuestFamily"}, "debian11_64Guest"))
}

// card is a card as find.go reads it.
func card(key int32, mac string, backing types.BaseVirtualDeviceBackingInfo) *types.VirtualVmxnet3 {
	c := &types.VirtualVmxnet3{}
	c.Key, c.MacAddress, c.Backing = key, mac, backing
	return c
}

func TestNICs(t *testing.T) {
	std := types.ManagedObjectReference{Type: "Network", Value: "network-1"}
	group := types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: "dvportgroup-9"}
	off := card(4004, "00:50:56:00:00:05", &types.VirtualEthernetCardNetworkBackingInfo{VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "VM Network"}})
	off.Connectable = &types.VirtualDeviceConnectInfo{}
	f := facts{
		config: types.VirtualMachineConfigInfo{Hardware: types.VirtualHardware{Device: []types.BaseVirtualDevice{
			off,
			card(4001, "00:50:56:00:00:02", &types.VirtualEthernetCardDistributedVirtualPortBackingInfo{Port: types.DistributedVirtualSwitchPortConnection{PortgroupKey: group.Value}}),
			card(4000, "00:50:56:00:00:01", &types.VirtualEthernetCardNetworkBackingInfo{Network: &std, VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "old name"}}),
			card(4002, "00:50:56:00:00:03", &types.VirtualEthernetCardOpaqueNetworkBackingInfo{OpaqueNetworkId: "nsx-1"}),
			card(4003, "00:50:56:00:00:04", nil),
		}}},
		around: entities{std: {name: "VM Network"}, group: {name: "prod-10"}},
		guest: &types.GuestInfo{Net: []types.GuestNicInfo{
			{DeviceConfigId: 4000, Network: "VM Network", MacAddress: "00:50:56:00:00:01", IpConfig: &types.NetIpConfigInfo{IpAddress: []types.NetIpConfigInfoIpAddress{
				{IpAddress: "10.0.0.5", PrefixLength: 24}, {IpAddress: "fe80::1", PrefixLength: 64}, {IpAddress: "2001:db8::5", PrefixLength: 64}, {IpAddress: "10.0.0.5", PrefixLength: 24},
			}}},
			{DeviceConfigId: -1, MacAddress: "00:50:56:00:00:02", IpAddress: []string{"10.0.1.5", "not an address", "169.254.3.4"}, DnsConfig: &types.NetDnsConfigInfo{Dhcp: true}},
			{DeviceConfigId: 4003, Network: "told by tools"},
		}},
	}
	require.Equal(t, []dr.NIC{
		{ID: "nic-4000", MAC: "00:50:56:00:00:01", Network: "VM Network", Addresses: []string{"10.0.0.5/24", "2001:db8::5/64"}},
		{ID: "nic-4001", MAC: "00:50:56:00:00:02", Network: "prod-10", Addresses: []string{"10.0.1.5"}, DHCP: true},
		{ID: "nic-4002", MAC: "00:50:56:00:00:03", Network: "nsx-1"},
		{ID: "nic-4003", MAC: "00:50:56:00:00:04", Network: "told by tools"},
		{ID: "nic-4004", MAC: "00:50:56:00:00:05"},
	}, f.describe().NICs)
}

func TestDHCPOf(t *testing.T) {
	ip := func(addr, origin string) types.NetIpConfigInfoIpAddress {
		return types.NetIpConfigInfoIpAddress{IpAddress: addr, Origin: origin}
	}
	opts := func(on bool) *types.NetDhcpConfigInfoDhcpOptions {
		return &types.NetDhcpConfigInfoDhcpOptions{Enable: on}
	}
	dns := &types.NetDnsConfigInfo{Dhcp: true}
	for name, c := range map[string]struct {
		g    types.GuestNicInfo
		want bool
	}{
		"nothing known":                 {types.GuestNicInfo{}, false},
		"dns only":                      {types.GuestNicInfo{DnsConfig: dns}, true},
		"the setting counts most":       {types.GuestNicInfo{DnsConfig: dns, IpConfig: &types.NetIpConfigInfo{Dhcp: &types.NetDhcpConfigInfo{Ipv4: opts(false)}}}, false},
		"then the address":              {types.GuestNicInfo{DnsConfig: dns, IpConfig: &types.NetIpConfigInfo{IpAddress: []types.NetIpConfigInfoIpAddress{ip("10.0.0.1", "manual")}}}, false},
		"an address from DHCP":          {types.GuestNicInfo{IpConfig: &types.NetIpConfigInfo{IpAddress: []types.NetIpConfigInfoIpAddress{ip("10.0.0.1", "dhcp")}}}, true},
		"IPv6 tells nothing of IPv4":    {types.GuestNicInfo{IpConfig: &types.NetIpConfigInfo{IpAddress: []types.NetIpConfigInfoIpAddress{ip("2001:db8::1", "dhcp")}}}, false},
		"IPv6 by DHCP, IPv4 not at all": {types.GuestNicInfo{IpConfig: &types.NetIpConfigInfo{Dhcp: &types.NetDhcpConfigInfo{Ipv6: opts(true)}}}, true},
	} {
		require.Equal(t, c.want, dhcpOf(&c.g), name)
	}
}

func TestDescribeSnapshot(t *testing.T) {
	sim, v := openSim(t, vmwaretest.Options{})
	vm := addVM(t, sim, vmwaretest.VMSpec{Name: "web", Disks: []vmwaretest.DiskSpec{{Size: mib}}, NICs: []vmwaretest.NICSpec{{}}})
	m := look(t, v, vm.Reference())
	f := m.facts(nil)
	f.config.Hardware.NumCPU = 7 // as the snapshot has it
	f.disks = nil
	got := f.describe()
	require.Equal(t, 7, got.CPUs)
	require.NotNil(t, got.Disks)
	require.Empty(t, got.Disks)
	require.Len(t, m.describe().Disks, 1, "the machine's own facts are left alone")
	require.Equal(t, 1, m.describe().CPUs)
}

package vmware

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestKeepsExtra(t *testing.T) {
	for key, want := range map[string]bool{
		"disk.EnableUUID": true, "isolation.tools.copy.disable": true, "pciBridge0.present": true, "devices.hotplug": true,
		"guestinfo.userdata": false, "lifeboat": false, "RemoteDisplay.vnc.password": false, "ethernet0.generatedAddress": false,
		"isolation.tools.": false, "disk.enableUUID\n": false, "": false,
	} {
		require.Equal(t, want, keepsExtra(key, "TRUE"), key)
	}
	require.False(t, keepsExtra("disk.enableUUID", "a password, perhaps"))
	require.False(t, keepsExtra("disk.enableUUID", strings.Repeat("x", 65)))
}

// full is a configuration with something of everything.
func full() facts {
	n := func(i int32) *int32 { return &i }
	yes := types.NewBool(true)
	scsi := &types.ParaVirtualSCSIController{}
	scsi.Key, scsi.BusNumber, scsi.SharedBus = 1000, 0, types.VirtualSCSISharingNoSharing
	scsi.SlotInfo = &types.VirtualDevicePciBusSlotInfo{PciSlotNumber: 160}
	nvme := &types.VirtualNVMEController{}
	nvme.Key, nvme.BusNumber = 31000, 1
	ide := &types.VirtualIDEController{}
	ide.Key = 200
	disk := func(key, controller, unit int32, uuid, file string) *types.VirtualDisk {
		d := &types.VirtualDisk{CapacityInBytes: 1 << 30}
		d.Key, d.ControllerKey, d.UnitNumber = key, controller, n(unit)
		d.Backing = &types.VirtualDiskFlatVer2BackingInfo{Uuid: uuid, DiskMode: "persistent", ThinProvisioned: yes, VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: file}}
		return d
	}
	nic := card(4000, "00:50:56:81:00:01", &types.VirtualEthernetCardNetworkBackingInfo{VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "prod"}})
	nic.AddressType, nic.WakeOnLanEnabled, nic.SlotInfo = "Assigned", yes, &types.VirtualDevicePciBusSlotInfo{PciSlotNumber: 192}
	video := &types.VirtualMachineVideoCard{VideoRamSizeInKB: 8192, NumDisplays: 1}
	devices := []types.BaseVirtualDevice{scsi, nvme, ide, disk(2000, 1000, 0, "6000C290-0000-0000-0000-00000000000A", "[ds1] web/web.vmdk"),
		disk(2001, 31000, 3, "6000C290-0000-0000-0000-00000000000B", "[ds2] web/web_1.vmdk"), nic, video, &types.VirtualTPM{}}
	return facts{
		id: "50000000-0000-0000-0000-000000000001", name: "web", power: dr.On,
		config: types.VirtualMachineConfigInfo{
			Version: "vmx-19", Uuid: "42000000-0000-0000-0000-000000000001", InstanceUuid: "50000000-0000-0000-0000-000000000001", GuestId: "rhel8_64Guest",
			Annotation: "the shop", Firmware: "efi", CpuHotAddEnabled: yes, MemoryReservationLockedToMax: yes,
			BootOptions: &types.VirtualMachineBootOptions{BootDelay: 500, EfiSecureBootEnabled: yes, BootOrder: []types.BaseVirtualMachineBootOptionsBootableDevice{
				&types.VirtualMachineBootOptionsBootableDiskDevice{DeviceKey: 2000}, &types.VirtualMachineBootOptionsBootableEthernetDevice{DeviceKey: 4000}, &types.VirtualMachineBootOptionsBootableCdromDevice{}}},
			LatencySensitivity: &types.LatencySensitivity{Level: "high"},
			Tools:              &types.ToolsConfigInfo{AfterPowerOn: yes, ToolsUpgradePolicy: "manual"},
			Files:              types.VirtualMachineFileInfo{VmPathName: "[ds1] web/web.vmx"},
			KeyId:              &types.CryptoKeyId{KeyId: "k"},
			Hardware:           types.VirtualHardware{NumCPU: 4, NumCoresPerSocket: n(2), MemoryMB: 4096, Device: devices},
			ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "disk.EnableUUID", Value: "TRUE"}, &types.OptionValue{Key: "guestinfo.token", Value: "hunter2"},
				&types.OptionValue{Key: "pciBridge4.functions", Value: "8"}, &types.OptionValue{Key: "numa.autosize", Value: int32(3)}},
		},
		disks: disksOf(devices, nil),
		guest: &types.GuestInfo{HostName: "web.shop.example", Net: []types.GuestNicInfo{{DeviceConfigId: 4000, IpAddress: []string{"10.0.0.5"},
			IpConfig: &types.NetIpConfigInfo{IpAddress: []types.NetIpConfigInfoIpAddress{{IpAddress: "10.0.0.5", PrefixLength: 24, Origin: "manual"}}}}},
			IpStack: []types.GuestStackInfo{{DnsConfig: &types.NetDnsConfigInfo{HostName: "web", DomainName: "shop.example", IpAddress: []string{"10.0.0.2"}, SearchDomain: []string{"example"}},
				IpRouteConfig: &types.NetIpRouteConfigInfo{IpRoute: []types.NetIpRouteConfigInfoIpRoute{
					{Network: "0.0.0.0", Gateway: types.NetIpRouteConfigInfoGateway{IpAddress: "10.0.0.1", Device: "0"}},
					{Network: "10.0.0.0", PrefixLength: 24, Gateway: types.NetIpRouteConfigInfoGateway{Device: "0"}},
					{Network: "0.0.0.0", Gateway: types.NetIpRouteConfigInfoGateway{IpAddress: "10.0.9.1", Device: "7"}},
				}}}}},
	}
}

func TestSaved(t *testing.T) {
	m := full().describe()
	require.NotContains(t, string(m.Config), "hunter2")
	s, err := parseSaved(m.Config)
	require.NoError(t, err)
	require.Equal(t, full().save(), s)
	require.Equal(t, []savedController{{Type: "pvscsi", Key: 1000, Sharing: "noSharing", Slot: 160}, {Type: "nvme", Key: 31000, Bus: 1}}, s.Controllers, "an IDE controller without disks is left out")
	require.Equal(t, savedDisk{ID: "6000c290-0000-0000-0000-00000000000b", UUID: "6000C290-0000-0000-0000-00000000000B", Key: 2001, Controller: 31000, Unit: 3, Size: 1 << 30, Mode: "persistent", Thin: true, Datastore: "ds2"}, s.Disks[1])
	require.Equal(t, []savedNIC{{ID: "nic-4000", Type: "vmxnet3", Key: 4000, MAC: "00:50:56:81:00:01", MACType: "assigned", Network: "prod", WakeOnLAN: true, Slot: 192}}, s.NICs)
	require.Equal(t, []string{"disk:2000", "nic:4000", "cdrom"}, s.Boot.Order)
	require.Equal(t, []string{"encryption", "virtual TPM"}, s.Lost)
	require.Equal(t, map[string]string{"disk.EnableUUID": "TRUE", "pciBridge4.functions": "8"}, s.Extra)
	require.Equal(t, savedGuest{Host: "web", Domain: "shop.example", DNS: []string{"10.0.0.2"}, Search: []string{"example"}, Gateways: map[string][]string{"nic-4000": {"10.0.0.1"}}}, s.Guest)
	require.Equal(t, "ds1", s.Place.Datastore)
}

func TestParseSavedRefuses(t *testing.T) {
	for raw, want := range map[string]error{
		`{"vsphere":2}`:                                  dr.ErrUnsupported,
		`{"vsphere":"1"}`:                                dr.ErrInvalid,
		`{"vsphere":1,"cpus":-1}`:                        dr.ErrInvalid,
		`{"vsphere":1,"memoryMB":-1}`:                    dr.ErrInvalid,
		`{"vsphere":1,"cpus":"four"}`:                    dr.ErrInvalid,
		`{"vsphere":1,"hardware":"vmx"}`:                 dr.ErrInvalid,
		`{"vsphere":1,"controllers":[{"type":"x"}]}`:     dr.ErrInvalid,
		`{"vsphere":1,"nics":[{"id":"a","type":"ne2"}]}`: dr.ErrInvalid,
		`{"vsphere":1,"extra":{"guestinfo.a":"b"}}`:      dr.ErrInvalid,
		`{"vsphere":1,"controllers":[{"type":"pvscsi","key":1},{"type":"lsilogic","key":2}]}`:                                                     dr.ErrInvalid, // the same bus
		`{"vsphere":1,"controllers":[{"type":"pvscsi","key":1}],"disks":[{"id":"a","controller":1,"unit":7}]}`:                                    dr.ErrInvalid,
		`{"vsphere":1,"controllers":[{"type":"pvscsi","key":1}],"disks":[{"id":"a","controller":1,"unit":1},{"id":"b","controller":1,"unit":1}]}`: dr.ErrInvalid,
		`{"vsphere":1,"disks":[{"id":"a"},{"id":"a","unit":1}]}`:                                                                                  dr.ErrInvalid,
	} {
		_, err := parseSaved(json.RawMessage(raw))
		require.ErrorIs(t, err, want, raw)
	}
	for _, raw := range []string{``, `null`, `{}`, `[]`, `"x"`, `{"azure":1}`, `{`, `{"vsphere":1`} {
		s, err := parseSaved(json.RawMessage(raw))
		require.NoError(t, err, raw)
		require.Nil(t, s, "of another backend, or of none: %s", raw)
	}
}

func FuzzParseSaved(f *testing.F) {
	f.Add(string(full().describe().Config), int64(1<<20))
	f.Add(`{"vsphere":1,"controllers":[{"type":"nvme","key":-5,"bus":3}],"disks":[{"id":"a","controller":-5,"unit":14}]}`, int64(512))
	f.Add(`{"vsphere":2}`, int64(0))
	f.Fuzz(func(t *testing.T, raw string, size int64) {
		s, err := parseSaved(json.RawMessage(raw))
		if err != nil || s == nil {
			return
		}
		again, err := parseSaved(s.encode())
		require.NoError(t, err)
		require.Equal(t, s.encode(), again.encode())
		m := dr.Machine{ID: "m", Name: s.Name, CPUs: int(s.CPUs), Memory: s.MemoryMB << 20, Config: json.RawMessage(raw)}
		for _, d := range s.Disks {
			m.Disks = append(m.Disks, dr.Disk{ID: d.ID, Size: d.Size})
		}
		m.Disks = append(m.Disks, dr.Disk{ID: "one more", Size: size})
		for _, n := range s.NICs {
			m.NICs = append(m.NICs, dr.NIC{ID: n.ID, MAC: n.MAC, Network: n.Network})
		}
		c, err := createSpec(backend.Placement{Key: "k", Machine: m}, PlaceOptions{}, s, target{}, nil)
		if err != nil {
			return
		}
		require.Len(t, c.slots, len(m.Disks))
		at := map[slot]dr.DiskID{}
		for id, x := range c.slots {
			require.Empty(t, at[x], "%s is where %s is", id, at[x])
			at[x] = id
		}
	})
}

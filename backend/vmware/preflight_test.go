package vmware

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestFindings(t *testing.T) {
	ds := types.ManagedObjectReference{Type: "Datastore", Value: "datastore-1"}
	healthy := func() (*machine, *surroundings) {
		disk := &types.VirtualDisk{CapacityInBytes: mib}
		disk.Key, disk.ControllerKey = 2000, 1000
		disk.DeviceInfo = &types.Description{Label: "Hard disk 1"}
		disk.Backing = &types.VirtualDiskFlatVer2BackingInfo{Uuid: "6000C290-0000-0000-0000-00000000000A", DiskMode: "persistent",
			VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[ds] a.vmdk", Datastore: &ds}}
		scsi := &types.ParaVirtualSCSIController{}
		scsi.Key, scsi.SharedBus = 1000, types.VirtualSCSISharingNoSharing
		m := &machine{id: "m"}
		m.config = types.VirtualMachineConfigInfo{Version: "vmx-19", GuestId: "rhel8_64Guest", ChangeTrackingEnabled: types.NewBool(true),
			ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "disk.EnableUUID", Value: "true"}},
			Hardware:    types.VirtualHardware{Device: []types.BaseVirtualDevice{scsi, disk, card(4000, "00:50:56:00:00:01", nil)}}}
		m.props.Runtime = types.VirtualMachineRuntimeInfo{PowerState: types.VirtualMachinePowerStatePoweredOn, ConnectionState: types.VirtualMachineConnectionStateConnected,
			FaultToleranceState: types.VirtualMachineFaultToleranceStateNotConfigured}
		m.props.Guest = &types.GuestInfo{GuestFamily: "linuxGuest", ToolsRunningStatus: "guestToolsRunning", ToolsVersionStatus2: "guestToolsUnmanaged",
			Net: []types.GuestNicInfo{{DeviceConfigId: 4000, IpAddress: []string{"10.0.0.5"}, DnsConfig: &types.NetDnsConfigInfo{Dhcp: true}}}}
		m.disks = disksOf(m.config.Hardware.Device, nil)
		return m, &surroundings{host: "esx-0", state: types.HostSystemConnectionStateConnected,
			stores: map[types.ManagedObjectReference]types.DatastoreSummary{ds: {Name: "ds", Capacity: 1 << 40, FreeSpace: 1 << 39}}}
	}
	flat := func(m *machine) *types.VirtualDiskFlatVer2BackingInfo {
		return m.config.Hardware.Device[1].(*types.VirtualDisk).Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	}
	add := func(m *machine, d types.BaseVirtualDevice) {
		m.config.Hardware.Device = append(m.config.Hardware.Device, d)
	}
	snapshots := func(m *machine, descriptions ...string) {
		m.props.Snapshot = &types.VirtualMachineSnapshotInfo{}
		for _, d := range descriptions {
			m.props.Snapshot.RootSnapshotList = append(m.props.Snapshot.RootSnapshotList, types.VirtualMachineSnapshotTree{Description: d})
		}
	}
	for name, c := range map[string]struct {
		change func(m *machine, s *surroundings)
		code   string
		block  bool
		disk   bool
	}{
		"healthy":              {change: func(*machine, *surroundings) {}},
		"own snapshots":        {change: func(m *machine, _ *surroundings) { snapshots(m, mark{Point: "point"}.encode()) }},
		"tracking comes later": {change: func(m *machine, _ *surroundings) { m.config.ChangeTrackingEnabled = nil }},
		"enough room for small": {change: func(_ *machine, s *surroundings) {
			s.stores[ds] = types.DatastoreSummary{Capacity: 20 << 30, FreeSpace: 12 << 30}
		}},

		"independent":   {func(m *machine, _ *surroundings) { flat(m).DiskMode = "independent_persistent" }, "disk-independent", true, true},
		"nonpersistent": {func(m *machine, _ *surroundings) { flat(m).DiskMode = "nonpersistent" }, "disk-nonpersistent", true, true},
		"multi-writer":  {func(m *machine, _ *surroundings) { flat(m).Sharing = "sharingMultiWriter" }, "disk-shared", true, true},
		"no uuid":       {func(m *machine, _ *surroundings) { flat(m).Uuid = "" }, "disk-no-uuid", false, true},
		"physical RDM": {func(m *machine, _ *surroundings) {
			m.config.Hardware.Device[1].(*types.VirtualDisk).Backing = &types.VirtualDiskRawDiskMappingVer1BackingInfo{Uuid: "u", CompatibilityMode: "physicalMode", DiskMode: "persistent"}
		}, "disk-raw", true, true},
		"persistent memory disk": {func(m *machine, _ *surroundings) {
			m.config.Hardware.Device[1].(*types.VirtualDisk).Backing = &types.VirtualDiskLocalPMemBackingInfo{Uuid: "u"}
		}, "disk-backing", true, true},
		"bus sharing": {func(m *machine, _ *surroundings) {
			m.config.Hardware.Device[0].(*types.ParaVirtualSCSIController).SharedBus = types.VirtualSCSISharingPhysicalSharing
		}, "disk-bus-sharing", true, true},
		"odd size": {func(m *machine, _ *surroundings) {
			m.config.Hardware.Device[1].(*types.VirtualDisk).CapacityInBytes = 1000
		}, "disk-sectors", true, true},
		"the same uuid twice": {func(m *machine, _ *surroundings) {
			twin := *m.config.Hardware.Device[1].(*types.VirtualDisk)
			twin.Key = 2001
			add(m, &twin)
		}, "disk-duplicate-uuid", true, true},
		"no disks": {func(m *machine, _ *surroundings) { m.config.Hardware.Device = m.config.Hardware.Device[:1] }, "no-disks", false, false},
		"little room": {func(_ *machine, s *surroundings) {
			s.stores[ds] = types.DatastoreSummary{Capacity: 1 << 40, FreeSpace: 50 << 30}
		}, "datastore-space", false, true},
		"hardly any room": {func(_ *machine, s *surroundings) {
			s.stores[ds] = types.DatastoreSummary{Capacity: 20 << 30, FreeSpace: 9 << 30}
		}, "datastore-space", false, true},

		"template": {func(m *machine, _ *surroundings) { m.config.Template = true }, "template", true, false},
		"torn":     {func(m *machine, _ *surroundings) { m.record.Torn, m.record.For = true, "p" }, "torn", true, false},
		"suspended": {func(m *machine, _ *surroundings) {
			m.props.Runtime.PowerState = types.VirtualMachinePowerStateSuspended
		}, "suspended", false, false},
		"fault tolerance":   {func(m *machine, _ *surroundings) { m.props.Runtime.FaultToleranceState = "running" }, "fault-tolerance", false, false},
		"consolidation":     {func(m *machine, _ *surroundings) { m.props.Runtime.ConsolidationNeeded = true }, "consolidation-needed", false, false},
		"foreign snapshots": {func(m *machine, _ *surroundings) { snapshots(m, "", mark{Point: "point"}.encode()) }, "snapshots-foreign", false, false},
		"maintenance":       {func(_ *machine, s *surroundings) { s.leaves = true }, "host-maintenance", false, false},
		"host gone":         {func(_ *machine, s *surroundings) { s.state = types.HostSystemConnectionStateNotResponding }, "host-disconnected", true, false},
		"machine gone": {func(m *machine, _ *surroundings) {
			m.props.Runtime.ConnectionState = types.VirtualMachineConnectionStateInaccessible
		}, "host-disconnected", true, false},
		"encrypted":   {func(m *machine, _ *surroundings) { m.config.KeyId = &types.CryptoKeyId{} }, "encrypted", false, false},
		"vtpm":        {func(m *machine, _ *surroundings) { add(m, &types.VirtualTPM{}) }, "vtpm", false, false},
		"passthrough": {func(m *machine, _ *surroundings) { add(m, &types.VirtualPCIPassthrough{}) }, "device-passthrough", true, false},
		"SR-IOV":      {func(m *machine, _ *surroundings) { add(m, &types.VirtualSriovEthernetCard{}) }, "device-passthrough", true, false},
		"nvdimm":      {func(m *machine, _ *surroundings) { add(m, &types.VirtualNVDIMM{}) }, "device-nvdimm", true, false},
		"shared GPU": {change: func(m *machine, _ *surroundings) {
			d := &types.VirtualPCIPassthrough{}
			d.Backing = &types.VirtualPCIPassthroughVmiopBackingInfo{}
			add(m, d)
		}},
		"old hardware":  {func(m *machine, _ *surroundings) { m.config.Version = "vmx-04" }, "tracking-unsupported", false, false},
		"tools missing": {func(m *machine, _ *surroundings) { m.props.Guest.ToolsVersionStatus2 = "guestToolsNotInstalled" }, "tools-missing", false, false},
		"tools stopped": {func(m *machine, _ *surroundings) { m.props.Guest.ToolsRunningStatus = "guestToolsNotRunning" }, "tools-stopped", false, false},
		"no disk UUIDs": {func(m *machine, _ *surroundings) { m.config.ExtraConfig = nil }, "disk-enable-uuid", false, false},
		"static":        {func(m *machine, _ *surroundings) { m.props.Guest.Net[0].DnsConfig = nil }, "addresses-static", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			m, s := healthy()
			c.change(m, s)
			m.disks = disksOf(m.config.Hardware.Device, nil)
			found := findings(m, *s)
			if c.code == "" {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			p := found[0]
			require.Equal(t, c.code, p.Code)
			require.Equal(t, c.block, p.Blocker, "%+v", p)
			require.Equal(t, c.disk, p.Disk != "")
			require.NotEmpty(t, p.Text)
			if c.code != "no-disks" {
				require.NotEmpty(t, p.Remedy)
			}
			if c.disk {
				require.Contains(t, p.Text, "Hard disk 1", "people know a disk by its label")
			}
		})
	}

	m, s := healthy()
	m.config.ChangeTrackingEnabled = nil
	snapshots(m, "mine")
	found := findings(m, *s)
	require.Len(t, found, 2)
	require.Equal(t, "snapshots-foreign", found[0].Code)
	require.Equal(t, "tracking-off", found[1].Code)
}

func TestPreflight(t *testing.T) {
	sim, v := openSim(t, vmwaretest.Options{})
	good := addVM(t, sim, vmwaretest.VMSpec{Name: "good", GuestID: "rhel8_64Guest", ChangeTracking: true, ExtraConfig: map[string]string{"disk.enableUUID": "TRUE"},
		Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	problems, err := v.Preflight(t.Context(), look(t, v, good.Reference()).id)
	require.NoError(t, err)
	for _, p := range problems {
		require.Equal(t, "datastore-space", p.Code, "the simulator's datastores are this machine's: %+v", p)
	}

	bad := addVM(t, sim, vmwaretest.VMSpec{Name: "bad", Disks: []vmwaretest.DiskSpec{{Size: mib, Mode: types.VirtualDiskModeIndependent_persistent}, {Size: mib, Shared: true}, {Size: mib, RawDevice: true}}})
	problems, err = v.Preflight(t.Context(), look(t, v, bad.Reference()).id)
	require.NoError(t, err)
	blocks := map[string]dr.DiskID{}
	for _, p := range problems {
		if p.Blocker {
			blocks[p.Code] = p.Disk
		}
	}
	m := look(t, v, bad.Reference())
	require.Equal(t, map[string]dr.DiskID{"disk-independent": m.disks[0].id, "disk-shared": m.disks[1].id, "disk-raw": m.disks[2].id}, blocks)

	_, err = v.Preflight(t.Context(), "no-such-machine")
	require.ErrorIs(t, err, dr.ErrNotFound)
}

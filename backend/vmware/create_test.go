package vmware

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// createIn makes the machine that p asks for, as Prepare does.
func createIn(t *testing.T, v *VSphere, p backend.Placement, o PlaceOptions) *machine {
	t.Helper()
	c, err := v.creation(t.Context(), p, o)
	require.NoError(t, err)
	host := object.NewHostSystem(v.client, c.target.host)
	task, err := object.NewFolder(v.client, c.target.folder).CreateVM(t.Context(), c.spec, object.NewResourcePool(v.client, c.target.pool), host)
	require.NoError(t, err)
	info, err := task.WaitForResult(t.Context())
	require.NoError(t, err)
	m := look(t, v, info.Result.(types.ManagedObjectReference))
	require.Equal(t, c.id, m.id)
	names, err := c.names(m.config.Hardware.Device)
	require.NoError(t, err)
	require.Equal(t, m.record.Disks, names, "disks found by their place are those that were asked for by UUID")
	return m
}

func TestDerivedIDs(t *testing.T) {
	id := machineFor("a")
	require.Regexp(t, instanceUUID, string(id))
	require.Regexp(t, `^.{14}5.{4}[89ab]`, string(id), "a UUID of version 5")
	require.Equal(t, id, machineFor("a"))
	require.NotEqual(t, id, machineFor("b"))
	disk := diskFor("a", "x")
	require.Regexp(t, `^6000c29`, disk)
	require.Regexp(t, instanceUUID, disk)
	require.NotEqual(t, disk, diskFor("a", "y"))
	require.NotEqual(t, diskFor("ab", "c"), diskFor("a", "bc"))
	// What is out there was made by these: they can't change.
	require.Equal(t, []string{"bab73d9c-3760-5797-9f9a-7390464961f6", "6000c291-4c76-ae8d-41a8-617f658486b7"}, []string{string(machineFor("key")), diskFor("key", "disk")})
}

func TestNameOf(t *testing.T) {
	long := strings.Repeat("ä", 60)
	for _, c := range []struct {
		p    backend.Placement
		want string
	}{
		{backend.Placement{Name: "db"}, "db"},
		{backend.Placement{Name: "db", Isolated: true}, "db"},
		{backend.Placement{Machine: dr.Machine{Name: "web"}}, "web-replica-2c70e12b"},
		{backend.Placement{Machine: dr.Machine{Name: "web"}, Isolated: true}, "web-drill-2c70e12b"},
		{backend.Placement{Machine: dr.Machine{Name: "a/b%c\x00", ID: "id"}}, "a-b-c-replica-2c70e12b"},
		{backend.Placement{Machine: dr.Machine{ID: "id"}}, "id-replica-2c70e12b"},
		{backend.Placement{Machine: dr.Machine{Name: "///"}}, "machine-replica-2c70e12b"},
		{backend.Placement{Machine: dr.Machine{Name: long}}, strings.Repeat("ä", 31) + "-replica-2c70e12b"},
	} {
		c.p.Key = "key"
		got, err := nameOf(c.p)
		require.NoError(t, err)
		require.Equal(t, c.want, got)
		require.LessOrEqual(t, len(got), maxName)
	}
	_, err := nameOf(backend.Placement{Name: strings.Repeat("x", 81)})
	require.ErrorIs(t, err, dr.ErrInvalid)
}

func TestMACType(t *testing.T) {
	for mac, want := range map[string]string{
		"00:50:56:81:00:01": "assigned", "00:50:56:3f:00:01": "manual", "00:50:56:c0:00:01": "manual unchecked", "00:50:56:40:00:01": "manual unchecked",
		"00:0c:29:00:00:01": "manual unchecked", "02:11:22:33:44:55": "manual",
	} {
		kind, unchecked := macType(mac)
		if unchecked {
			kind += " unchecked"
		}
		require.Equal(t, strings.ToLower(want), strings.ToLower(kind), mac)
	}
	for mac, want := range map[string]string{"00-50-56-AA-BB-CC": "00:50:56:aa:bb:cc", "01:00:5e:00:00:01": "", "": "", "00:00:00:00:00:00": "", "00:50:56:00:00:00:00:01": ""} {
		require.Equal(t, want, unicastMAC(mac), mac)
	}
}

// devicesOf sorts the devices of a specification by what they are.
func devicesOf(spec types.VirtualMachineConfigSpec) (controllers []types.BaseVirtualController, disks []*types.VirtualDisk, cards []types.BaseVirtualEthernetCard) {
	for _, c := range spec.DeviceChange {
		switch d := c.GetVirtualDeviceConfigSpec().Device.(type) {
		case *types.VirtualDisk:
			disks = append(disks, d)
		case types.BaseVirtualEthernetCard:
			cards = append(cards, d)
		case types.BaseVirtualController:
			controllers = append(controllers, d)
		}
	}
	return
}

func TestCreateSpecDefaults(t *testing.T) {
	net := &types.VirtualEthernetCardNetworkBackingInfo{}
	for os, want := range map[string]struct {
		guest, controller string
		card              types.BaseVirtualEthernetCard
	}{
		"linux":             {"otherLinux64Guest", "pvscsi", &types.VirtualVmxnet3{}},
		"windows":           {"windows8Server64Guest", "lsilogic-sas", &types.VirtualE1000e{}},
		"freebsd13_64Guest": {"freebsd13_64Guest", "lsilogic-sas", &types.VirtualE1000e{}},
		"plan9":             {"otherGuest64", "lsilogic-sas", &types.VirtualE1000e{}},
	} {
		m := dr.Machine{ID: "m", OS: os, CPUs: 2, Memory: 3<<30 + 1, Firmware: dr.UEFI, SecureBoot: true,
			Disks: []dr.Disk{{ID: "data", Size: mib}, {ID: "boot", Size: mib, Boot: true}}, NICs: []dr.NIC{{ID: "n", MAC: "02:00:00:00:00:01"}}}
		c, err := createSpec(backend.Placement{Key: "k", Machine: m}, PlaceOptions{}, nil, target{datastore: "ds", disks: map[dr.DiskID]string{"data": "ds", "boot": "ds2"}, cards: []types.BaseVirtualDeviceBackingInfo{net}}, nil)
		require.NoError(t, err)
		controllers, disks, cards := devicesOf(c.spec)
		require.Equal(t, want.guest, c.spec.GuestId)
		require.Len(t, controllers, 1)
		require.Equal(t, want.controller, controllerKind(controllers[0].(types.BaseVirtualDevice)))
		require.IsType(t, want.card, cards[0])
		require.Equal(t, int64(3<<10+4), c.spec.MemoryMB, "a multiple of 4 MB")
		require.Equal(t, int32(2), c.spec.NumCPUs)
		require.Equal(t, "efi", c.spec.Firmware)
		require.True(t, *c.spec.BootOptions.EfiSecureBootEnabled)
		require.True(t, *c.spec.ChangeTrackingEnabled)
		require.Equal(t, string(machineFor("k")), c.spec.InstanceUuid)
		require.Equal(t, "[ds]", c.spec.Files.VmPathName)
		require.Equal(t, map[dr.DiskID]slot{"boot": {"scsi", 0, 0}, "data": {"scsi", 0, 1}}, c.slots, "the boot disk is first")
		b := disks[0].Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		require.Equal(t, dr.DiskID("boot"), c.record.Disks[b.Uuid])
		require.Equal(t, "[ds2]", b.FileName)
		require.True(t, *b.ThinProvisioned)
		require.Equal(t, "02:00:00:00:00:01", cards[0].GetVirtualEthernetCard().MacAddress)
		require.True(t, cards[0].GetVirtualEthernetCard().Connectable.StartConnected)
		require.Equal(t, "TRUE", extraOf(c.spec.ExtraConfig, "disk.enableUUID"))
		r, err := parseRecord(c.spec.ExtraConfig, c.id)
		require.NoError(t, err)
		require.Equal(t, c.record.Disks, r.Disks)
		require.True(t, r.Made && r.New && r.Key == "k")
	}
}

func TestCreateSpecKeeps(t *testing.T) {
	f := full()
	m := f.describe()
	m.NICs[0].MAC = "00:0c:29:00:00:01"
	s, err := parseSaved(m.Config)
	require.NoError(t, err)
	s.NICs[0].Disconnected = false
	net := &types.VirtualEthernetCardNetworkBackingInfo{}
	where := target{datastore: "ds", cards: []types.BaseVirtualDeviceBackingInfo{net}, spare: net, hardware: "vmx-21"}
	make := func(p backend.Placement, o PlaceOptions, used ids) creation {
		p.Key, p.Machine = "k", m
		c, err := createSpec(p, o, s, where, used)
		require.NoError(t, err)
		return c
	}
	c := make(backend.Placement{}, PlaceOptions{}, nil)
	controllers, disks, cards := devicesOf(c.spec)
	require.Equal(t, "42000000-0000-0000-0000-000000000001", c.spec.Uuid)
	require.Equal(t, "vmx-19", c.spec.Version)
	require.Equal(t, "rhel8_64Guest", c.spec.GuestId)
	require.Equal(t, int32(2), *c.spec.NumCoresPerSocket)
	require.Contains(t, c.spec.Annotation, "the shop")
	require.Equal(t, types.LatencySensitivitySensitivityLevelHigh, c.spec.LatencySensitivity.Level)
	require.True(t, *c.spec.MemoryReservationLockedToMax)
	require.Equal(t, map[dr.DiskID]slot{m.Disks[0].ID: {"scsi", 0, 0}, m.Disks[1].ID: {"nvme", 1, 3}}, c.slots)
	require.Len(t, controllers, 2)
	require.Equal(t, int32(160), slotOf(controllers[0].(types.BaseVirtualDevice)))
	for i, d := range disks {
		require.Equal(t, string(m.Disks[i].ID), d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).Uuid)
	}
	nic := cards[0].GetVirtualEthernetCard()
	require.Equal(t, "00:0c:29:00:00:01", nic.MacAddress)
	require.Equal(t, "FALSE", extraOf(c.spec.ExtraConfig, "ethernet0.checkMACAddress"))
	require.Equal(t, int32(192), slotOf(cards[0].(types.BaseVirtualDevice)), "the interface keeps its name")
	require.Equal(t, "8", extraOf(c.spec.ExtraConfig, "pciBridge4.functions"))
	require.Empty(t, extraOf(c.spec.ExtraConfig, "guestinfo.token"))

	no := false
	for name, c := range map[string]creation{
		"taken": make(backend.Placement{}, PlaceOptions{}, identity(backend.Placement{Machine: m}, PlaceOptions{}, s)),
		"drill": make(backend.Placement{Isolated: true}, PlaceOptions{}, nil),
		"told":  make(backend.Placement{}, PlaceOptions{KeepMAC: &no, KeepUUID: &no}, nil),
	} {
		_, disks, cards := devicesOf(c.spec)
		require.Empty(t, c.spec.Uuid, name)
		require.Empty(t, cards[0].GetVirtualEthernetCard().MacAddress, name)
		require.Equal(t, "generated", strings.ToLower(cards[0].GetVirtualEthernetCard().AddressType), name)
		for _, d := range disks {
			uuid := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).Uuid
			require.Equal(t, diskFor("k", c.record.Disks[uuid]), uuid, name)
		}
	}

	where.hardware = "vmx-15"
	require.Equal(t, "vmx-15", make(backend.Placement{}, PlaceOptions{}, nil).spec.Version, "no newer than can be made here")
	require.Equal(t, "vmx-17", make(backend.Placement{}, PlaceOptions{HardwareVersion: "vmx-17"}, nil).spec.Version)

	where.cards[0] = nil
	_, _, cards = devicesOf(make(backend.Placement{}, PlaceOptions{}, nil).spec)
	on := cards[0].GetVirtualEthernetCard().Connectable
	require.False(t, on.StartConnected || on.AllowGuestControl || on.Connected)
	require.NotNil(t, cards[0].GetVirtualEthernetCard().Backing)
}

func TestAnnotate(t *testing.T) {
	once := annotate("web", "the shop")
	require.Equal(t, "Made by Lifeboat for web.\nthe shop", once)
	require.Equal(t, "Made by Lifeboat for web.\nthe shop", annotate("web", once))
	require.Equal(t, "Made by Lifeboat for web.", annotate("web", annotate("db", "")))
}

func TestBootOrder(t *testing.T) {
	_, v := openSim(t, vmwaretest.Options{})
	m := dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: mib}, {ID: "b", Size: mib}}, NICs: []dr.NIC{{ID: "nic-4000", Network: "isolated"}, {ID: "nic-4001", Network: "isolated"}}}
	m.Config = (&saved{Version: 1, Boot: &savedBoot{Order: []string{"cdrom", "disk:2001", "nic:4001", "disk:2002", "disk:2009", "nic:4009", "floppy", "usb"}},
		Disks: []savedDisk{{ID: "a", Key: 2000}, {ID: "b", Key: 2001}, {ID: "gone", Key: 2002}}}).encode()
	p := backend.Placement{Key: "k", Machine: m}
	made := createIn(t, v, p, PlaceOptions{Datastore: "vmfs-0"})
	c, err := v.creation(t.Context(), p, PlaceOptions{Datastore: "vmfs-0"})
	require.NoError(t, err)
	order, err := c.bootOrder(made.config.Hardware.Device)
	require.NoError(t, err)
	b, _ := made.disk("b")
	require.Equal(t, []types.BaseVirtualMachineBootOptionsBootableDevice{
		&types.VirtualMachineBootOptionsBootableCdromDevice{},
		&types.VirtualMachineBootOptionsBootableDiskDevice{DeviceKey: b.key},
		&types.VirtualMachineBootOptionsBootableEthernetDevice{DeviceKey: cardsOf(made.config.Hardware.Device)[1].GetVirtualEthernetCard().Key},
		&types.VirtualMachineBootOptionsBootableFloppyDevice{},
	}, order)
	c.boot = nil
	order, err = c.bootOrder(nil)
	require.NoError(t, err)
	require.Nil(t, order)
}

func TestCreateSpecManyDisks(t *testing.T) {
	disks := func(n int) (all []dr.Disk) {
		for i := range n {
			all = append(all, dr.Disk{ID: dr.DiskID(fmt.Sprint("d", i)), Size: mib})
		}
		return
	}
	c, err := createSpec(backend.Placement{Key: "k", Machine: dr.Machine{Disks: disks(60)}}, PlaceOptions{}, nil, target{}, nil)
	require.NoError(t, err)
	controllers, _, _ := devicesOf(c.spec)
	require.Len(t, controllers, 4)
	require.Equal(t, slot{"scsi", 0, 8}, c.slots["d7"], "7 is the controller's own")
	require.Equal(t, slot{"scsi", 3, 15}, c.slots["d59"])
	_, err = createSpec(backend.Placement{Key: "k", Machine: dr.Machine{Disks: disks(61)}}, PlaceOptions{}, nil, target{}, nil)
	require.ErrorIs(t, err, dr.ErrInvalid)
}

func TestCreateSpecRefuses(t *testing.T) {
	for name, p := range map[string]backend.Placement{
		"no key":     {},
		"odd sector": {Key: "k", Machine: dr.Machine{Disks: []dr.Disk{{ID: "a", Name: "sda", Size: mib + 512}}}},
		"empty":      {Key: "k", Machine: dr.Machine{Disks: []dr.Disk{{ID: "a"}}}},
		"too large":  {Key: "k", Machine: dr.Machine{Disks: []dr.Disk{{ID: "a", Size: 63 << 40}}}},
		"twice":      {Key: "k", Machine: dr.Machine{Disks: []dr.Disk{{ID: "a", Size: mib}, {ID: "a", Size: mib}}}},
		"cards":      {Key: "k", Machine: dr.Machine{NICs: make([]dr.NIC, 11)}},
	} {
		_, err := createSpec(p, PlaceOptions{}, nil, target{}, nil)
		require.ErrorIs(t, err, dr.ErrInvalid, name)
		if name == "odd sector" {
			require.ErrorContains(t, err, "disk a")
			require.ErrorContains(t, err, "sda")
			require.ErrorContains(t, err, "grow the original")
		}
	}
}

func TestCreate(t *testing.T) {
	sim, v := openSim(t, vmwaretest.Options{})
	spec := vmwaretest.VMSpec{Name: "web", EFI: true, GuestID: "rhel8_64Guest", UUID: "42000000-0000-0000-0000-000000000001",
		Disks: []vmwaretest.DiskSpec{{Size: mib}, {Size: 2 * mib, Controller: "nvme"}, {Size: 3 * mib}, {Size: mib, Controller: "ide"}, {Size: mib, Controller: "sata"}},
		NICs:  []vmwaretest.NICSpec{{MAC: "00:50:56:01:02:03"}, {Network: "isolated"}}}
	for i := range spec.Disks {
		spec.Disks[i].UUID = fmt.Sprintf("6000C290-0000-0000-0000-%012d", i)
	}
	web := addVM(t, sim, spec)
	m := v.facts(t.Context(), look(t, v, web.Reference())).describe()
	p := backend.Placement{Key: "k", Machine: m}

	// The original is here: nothing of its identity is free.
	made := createIn(t, v, p, PlaceOptions{})
	got := v.facts(t.Context(), made).describe()
	require.True(t, strings.HasPrefix(got.Name, "web-replica-"))
	require.Equal(t, dr.Off, got.Power)
	require.Equal(t, dr.UEFI, got.Firmware)
	require.ElementsMatch(t, ids2(m), ids2(got), "disks by ID and size")
	require.NotEqual(t, "00:50:56:01:02:03", got.NICs[0].MAC)
	require.NotEqual(t, "42000000-0000-0000-0000-000000000001", made.config.Uuid)
	require.Equal(t, "VM Network", got.NICs[0].Network)
	require.Equal(t, "isolated", got.NICs[1].Network)
	require.True(t, *made.config.ChangeTrackingEnabled)
	require.True(t, made.record.Made && made.record.New)
	found, err := v.findByKey(t.Context(), "k")
	require.NoError(t, err)
	require.Len(t, found, 1)
	again, err := v.find(t.Context(), machineFor("k"))
	require.NoError(t, err)
	require.Equal(t, made.ref, again.ref)
	was, err := parseSaved(m.Config)
	require.NoError(t, err)
	is, err := parseSaved(got.Config)
	require.NoError(t, err)
	kinds := func(s *saved) (all []string) {
		for _, c := range s.Controllers {
			all = append(all, fmt.Sprint(c.Type, c.Bus))
		}
		return
	}
	require.ElementsMatch(t, kinds(was), kinds(is))

	// A second one of the same name can't be.
	c, err := v.creation(t.Context(), p, PlaceOptions{})
	require.NoError(t, err)
	task, err := object.NewFolder(v.client, c.target.folder).CreateVM(t.Context(), c.spec, object.NewResourcePool(v.client, c.target.pool), nil)
	require.NoError(t, err)
	require.ErrorIs(t, explain(task.Wait(t.Context())), dr.ErrExists)

	// A drill is another machine, connected to nothing.
	p.Key, p.Isolated = "drill", true
	drill := v.facts(t.Context(), createIn(t, v, p, PlaceOptions{Datastore: "vmfs-1"})).describe()
	require.Contains(t, drill.Name, "-drill-")
	require.Empty(t, drill.NICs[0].Network)
	require.Empty(t, drill.NICs[1].Network)

	// Elsewhere it is as it was.
	other, w := openSim(t, vmwaretest.Options{})
	_ = other
	p.Isolated = false
	home := createIn(t, w, p, PlaceOptions{})
	require.Equal(t, "42000000-0000-0000-0000-000000000001", home.config.Uuid)
	at := w.facts(t.Context(), home).describe()
	require.Equal(t, "00:50:56:01:02:03", at.NICs[0].MAC)
	for id, uuid := range flip(home.record.Disks) {
		require.Equal(t, string(id), uuid)
	}
}

func flip(m map[string]dr.DiskID) map[dr.DiskID]string {
	out := map[dr.DiskID]string{}
	for k, v := range m {
		out[v] = k
	}
	return out
}

func ids2(m dr.Machine) (all []string) {
	for _, d := range m.Disks {
		all = append(all, fmt.Sprint(d.ID, " ", d.Size))
	}
	return
}

func TestCreateOnTwoDatastores(t *testing.T) {
	_, v := openSim(t, vmwaretest.Options{})
	p := backend.Placement{Key: "k", Machine: dr.Machine{ID: "m", Name: "web", Disks: []dr.Disk{{ID: "a", Size: mib}, {ID: "b", Size: mib}}}}
	m := createIn(t, v, p, PlaceOptions{Datastore: "vmfs-0", DiskDatastores: map[dr.DiskID]string{"b": "vmfs-1"}})
	a, _ := m.disk("a")
	b, _ := m.disk("b")
	require.True(t, strings.HasPrefix(a.file, "[vmfs-0]"), a.file)
	require.True(t, strings.HasPrefix(b.file, "[vmfs-1]"), b.file)
}

func TestNamesAt(t *testing.T) {
	_, v := openSim(t, vmwaretest.Options{})
	p := backend.Placement{Key: "k", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: mib}, {ID: "b", Size: mib}}}}
	m := createIn(t, v, p, PlaceOptions{Datastore: "vmfs-0"})
	slots := map[dr.DiskID]slot{"a": {"scsi", 0, 1}, "b": {"scsi", 0, 0}} // as if asked for the other way round
	names, err := namesAt(m.config.Hardware.Device, slots)
	require.NoError(t, err)
	require.Equal(t, map[string]dr.DiskID{diskFor("k", "b"): "a", diskFor("k", "a"): "b"}, names)
	slots["b"] = slot{"scsi", 1, 0}
	_, err = namesAt(m.config.Hardware.Device, slots)
	require.ErrorIs(t, err, dr.ErrNotFound)
}

func TestAddAndGrow(t *testing.T) {
	_, v := openSim(t, vmwaretest.Options{})
	p := backend.Placement{Key: "k", Machine: dr.Machine{ID: "m", OS: "linux", Disks: []dr.Disk{{ID: "a", Size: mib}, {ID: "b", Size: mib}}}}
	m := createIn(t, v, p, PlaceOptions{Datastore: "vmfs-1"})
	changes, names, err := addDisks(m, p, PlaceOptions{})
	require.NoError(t, err)
	require.Empty(t, changes)
	require.Empty(t, names)
	changes, err = growDisks(m, p.Machine.Disks)
	require.NoError(t, err)
	require.Empty(t, changes)

	p.Machine.Disks[0].Size = 3 * mib
	for i := range 20 { // more than the controller has room for
		p.Machine.Disks = append(p.Machine.Disks, dr.Disk{ID: dr.DiskID(fmt.Sprint("c", i)), Size: mib})
	}
	grow, err := growDisks(m, p.Machine.Disks)
	require.NoError(t, err)
	add, names, err := addDisks(m, p, PlaceOptions{})
	require.NoError(t, err)
	require.Len(t, names, 20)
	r := m.record
	for uuid, id := range names {
		r.Disks[uuid] = id
	}
	require.NoError(t, v.reconfigure(t.Context(), m, types.VirtualMachineConfigSpec{DeviceChange: append(grow, add...), ExtraConfig: []types.BaseOptionValue{r.encode(m.id)}}))
	m = look(t, v, m.ref)
	require.ElementsMatch(t, ids2(p.Machine), ids2(m.describe()))
	last, _ := m.disk("c19")
	require.True(t, strings.HasPrefix(last.file, "[vmfs-1]"), last.file)

	p.Machine.Disks[0].Size = mib
	_, err = growDisks(m, p.Machine.Disks)
	require.ErrorIs(t, err, dr.ErrInvalid, "disks don't shrink")
	p.Machine.Disks[0].Size = 4 * mib
	m.props.Snapshot = &types.VirtualMachineSnapshotInfo{}
	_, err = growDisks(m, p.Machine.Disks)
	require.ErrorIs(t, err, dr.ErrConflict, "not under a snapshot")
	p.Machine.Disks[0].Size = 3*mib + 512
	_, err = growDisks(m, p.Machine.Disks)
	require.ErrorIs(t, err, dr.ErrInvalid)
}

// A disk is added neither where something else is, nor where the bus is shared.
func TestBoardOf(t *testing.T) {
	unit := func(i int32) *int32 { return &i }
	shared, own := &types.ParaVirtualSCSIController{}, &types.VirtualLsiLogicController{}
	shared.Key, shared.SharedBus = 1000, types.VirtualSCSISharingVirtualSharing
	own.Key, own.BusNumber, own.SharedBus = 1001, 1, types.VirtualSCSISharingNoSharing
	cd := &types.VirtualCdrom{}
	cd.Key, cd.ControllerKey, cd.UnitNumber = 16000, 1001, unit(0)
	m := &machine{id: "m"}
	m.config.Hardware.Device = []types.BaseVirtualDevice{shared, own, cd}
	add := func() *types.VirtualDisk {
		changes, _, err := addDisks(m, backend.Placement{Key: "k", Machine: dr.Machine{Disks: []dr.Disk{{ID: "a", Size: mib}}}}, PlaceOptions{Datastore: "/DC0/datastore/ds"})
		require.NoError(t, err)
		return changes[len(changes)-1].GetVirtualDeviceConfigSpec().Device.(*types.VirtualDisk)
	}
	d := add()
	require.Equal(t, int32(1001), d.ControllerKey)
	require.Equal(t, int32(1), *d.UnitNumber)
	require.Equal(t, "[ds]", d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).FileName)

	own.SharedBus = types.VirtualSCSISharingPhysicalSharing
	require.Negative(t, add().ControllerKey, "a new one")
}

func TestNewBoard(t *testing.T) {
	s := &saved{Controllers: []savedController{{Type: "lsilogic", Key: 1000, Sharing: "physicalSharing"}}}
	m := dr.Machine{Disks: []dr.Disk{{ID: "a", Size: mib}}, NICs: []dr.NIC{{ID: "x", MAC: "02:00:00:00:00:01"}, {ID: "y", MAC: "02:00:00:00:00:01"}}}
	c, err := createSpec(backend.Placement{Key: "k", Machine: m}, PlaceOptions{}, s, target{}, nil)
	require.NoError(t, err)
	controllers, _, cards := devicesOf(c.spec)
	require.Len(t, controllers, 1, "buses are not shared any more, so the disk has room there")
	require.Equal(t, types.VirtualSCSISharingNoSharing, controllers[0].(types.BaseVirtualSCSIController).GetVirtualSCSIController().SharedBus)
	require.NotEmpty(t, cards[0].GetVirtualEthernetCard().MacAddress)
	require.Empty(t, cards[1].GetVirtualEthernetCard().MacAddress, "two cards don't share an address")
}

func TestTaken(t *testing.T) {
	sim, v := openSim(t, vmwaretest.Options{})
	addVM(t, sim, vmwaretest.VMSpec{Name: "web", UUID: "42000000-0000-0000-0000-000000000001", NICs: []vmwaretest.NICSpec{{MAC: "00:50:56:01:02:0A"}},
		Disks: []vmwaretest.DiskSpec{{Size: mib, UUID: "6000C290-0000-0000-0000-00000000000A"}}})
	used, err := v.taken(t.Context(), ids{"42000000-0000-0000-0000-000000000001": true, "00:50:56:01:02:0a": true, "6000c290-0000-0000-0000-00000000000a": true, "00:50:56:01:02:0b": true})
	require.NoError(t, err)
	require.Equal(t, ids{"42000000-0000-0000-0000-000000000001": true, "00:50:56:01:02:0a": true, "6000c290-0000-0000-0000-00000000000a": true}, used)
}

func TestCreateRefusesForeignVersion(t *testing.T) {
	_, v := openSim(t, vmwaretest.Options{})
	_, err := v.creation(t.Context(), backend.Placement{Key: "k", Machine: dr.Machine{Config: json.RawMessage(`{"vsphere":9}`)}}, PlaceOptions{Datastore: "vmfs-0"})
	require.ErrorIs(t, err, dr.ErrUnsupported)
}

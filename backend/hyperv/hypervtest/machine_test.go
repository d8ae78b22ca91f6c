package hypervtest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
)

const management = "Msvm_VirtualSystemManagementService"

// define makes a machine as a backend does and returns its path and that of its
// settings.
func (h *hv) define(name string, generation string) (system, settings host.Ref) {
	h.t.Helper()
	text := h.text("Msvm_VirtualSystemSettingData", host.Props{"ElementName": name, "VirtualSystemSubType": "Microsoft:Hyper-V:SubType:" + generation,
		"ConfigurationDataRoot": `C:\Replicas\` + name})
	r := h.invoke(h.service(management), "DefineSystem", host.Props{"SystemSettings": text})
	h.wait(r)
	system = host.Ref(r.Out.String("ResultingSystem"))
	all, err := h.conn.Associators(h.t.Context(), system, "Msvm_SettingsDefineState", "Msvm_VirtualSystemSettingData")
	require.NoError(h.t, err)
	require.Len(h.t, all, 1)
	return system, all[0].Path
}

func (h *hv) template(class, sub string) host.Ref {
	return h.one("SELECT * FROM " + class + " WHERE ResourceSubType='" + sub + `' AND InstanceID LIKE '%\\Default'`).Path
}

// tryAdd adds a copy of a template and returns its path, or the code.
func (h *hv) tryAdd(settings host.Ref, class, sub string, p host.Props) (host.Ref, uint32) {
	h.t.Helper()
	text, err := h.conn.TextOf(h.t.Context(), h.template(class, sub), p)
	require.NoError(h.t, err)
	r := h.invoke(h.service(management), "AddResourceSettings", host.Props{"AffectedConfiguration": settings, "ResourceSettings": []string{text}})
	if r.Return != 4096 {
		return "", r.Return
	}
	h.wait(r)
	refs := r.Out.Strings("ResultingResourceSettings")
	require.Len(h.t, refs, 1)
	return host.Ref(refs[0]), 0
}

func (h *hv) add(settings host.Ref, class, sub string, p host.Props) host.Ref {
	h.t.Helper()
	ref, code := h.tryAdd(settings, class, sub, p)
	require.Zero(h.t, code, sub)
	return ref
}

const (
	rasd       = "Msvm_ResourceAllocationSettingData"
	sasd       = "Msvm_StorageAllocationSettingData"
	scsi       = "Microsoft:Hyper-V:Synthetic SCSI Controller"
	drive      = "Microsoft:Hyper-V:Synthetic Disk Drive"
	hardDisk   = "Microsoft:Hyper-V:Virtual Hard Disk"
	port       = "Microsoft:Hyper-V:Synthetic Ethernet Port"
	connection = "Microsoft:Hyper-V:Ethernet Connection"
)

func TestAMachineIsBuiltOfParts(t *testing.T) {
	h := open(t, hypervtest.Options{})
	before := h.Inventory()
	sw := h.Switch("Production")
	sys, settings := h.define("replica", "2")
	ctl := h.add(settings, rasd, scsi, nil)
	slot := h.add(settings, rasd, drive, host.Props{"Parent": ctl, "AddressOnParent": "0"})
	const path = `C:\Replicas\replica\os.vhdx`
	require.NoError(t, h.disks.Create(t.Context(), path, host.DiskSpec{Size: 10 * mib, LogicalSector: 4096}))
	disk := h.add(settings, sasd, hardDisk, host.Props{"Parent": slot, "HostResource": []string{path}})
	card := h.add(settings, "Msvm_SyntheticEthernetPortSettingData", port, host.Props{"StaticMacAddress": true, "Address": "00155D0A0B0C"})
	net := h.one("SELECT * FROM Msvm_VirtualEthernetSwitch WHERE Name='" + sw + "'")
	h.add(settings, "Msvm_EthernetPortAllocationSettingData", connection, host.Props{"Parent": card, "HostResource": []host.Ref{net.Path}})

	// What it doesn't take.
	for name, c := range map[string]struct {
		class, sub string
		p          host.Props
	}{
		"a taken address":        {rasd, drive, host.Props{"Parent": ctl, "AddressOnParent": "0"}},
		"an address too high":    {rasd, drive, host.Props{"Parent": ctl, "AddressOnParent": "64"}},
		"a drive without parent": {rasd, drive, nil},
		"a disk in no drive":     {sasd, hardDisk, host.Props{"Parent": ctl, "HostResource": []string{path}}},
		"a drive with a disk":    {sasd, hardDisk, host.Props{"Parent": slot, "HostResource": []string{path}}},
		"IDE in generation 2":    {rasd, "Microsoft:Hyper-V:Emulated IDE Controller", nil},
		"no such switch":         {"Msvm_EthernetPortAllocationSettingData", connection, host.Props{"Parent": card, "HostResource": []string{strings.ReplaceAll(string(net.Path), sw, "x")}}},
		"a short address":        {"Msvm_SyntheticEthernetPortSettingData", port, host.Props{"StaticMacAddress": true, "Address": "0015"}},
	} {
		_, code := h.tryAdd(settings, c.class, c.sub, c.p)
		require.EqualValues(t, 32773, code, name)
	}

	h.do(sys, "RequestStateChange", host.Props{"RequestedState": uint16(2)})
	all := h.VMs()
	require.Len(t, all, 1)
	vm := all[0]
	require.NoError(t, vm.Write(path, []byte("up"), 0))
	n, _ := h.try(h.service(management), "DestroySystem", host.Props{"AffectedSystem": sys})
	require.EqualValues(t, 32775, n, "it is running")
	n, _ = h.try(h.service(management), "ModifyResourceSettings", host.Props{"ResourceSettings": []string{must(h.conn.TextOf(t.Context(), disk, host.Props{"HostResource": []string{`C:\other.vhdx`}}))}})
	require.EqualValues(t, 32775, n)
	vm.PowerOff()
	h.do(h.service(management), "DestroySystem", host.Props{"AffectedSystem": sys})
	ok, err := h.disks.Exists(t.Context(), path)
	require.NoError(t, err)
	require.True(t, ok, "a machine's disks outlive it")
	require.NoError(t, h.disks.Remove(t.Context(), path))
	require.Equal(t, before, h.Inventory())
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestGeneration1HasIDE(t *testing.T) {
	h := open(t, hypervtest.Options{})
	_, settings := h.define("old", "1")
	all, err := h.conn.Associators(t.Context(), settings, "Msvm_VirtualSystemSettingDataComponent", rasd)
	require.NoError(t, err)
	require.Len(t, all, 2)
	ide := all[0].Path
	for i, want := range []uint32{0, 0, 32773} {
		_, code := h.tryAdd(settings, rasd, drive, host.Props{"Parent": ide})
		require.Equal(t, want, code, i)
	}
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "five", Generation: 1, Disks: make([]hypervtest.DiskSpec, 0)})
	require.NoError(t, err)
	require.NotNil(t, vm)
}

func TestStartFailsWithoutItsFiles(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 10 * mib}, {ID: "data", Size: 10 * mib}}})
	require.NoError(t, err)
	path := vm.Disks()[1].Path
	start := func() (int64, string) {
		return h.try(h.system(vm), "RequestStateChange", host.Props{"RequestedState": uint16(2)})
	}
	// A file that was put aside, as a torn disk is.
	require.NoError(t, h.disks.Rename(t.Context(), path, path+".torn"))
	n, text := start()
	require.EqualValues(t, 32768, n)
	require.Contains(t, text, path)
	require.False(t, vm.Running())
	require.NoError(t, h.disks.Rename(t.Context(), path+".torn", path))

	// One that somebody writes to.
	d, err := h.disks.Open(t.Context(), path, true)
	require.NoError(t, err)
	n, _ = start()
	require.EqualValues(t, 32768, n)
	require.NoError(t, d.Close())
	n, text = start()
	require.Zero(t, n, text)

	// And then nobody else gets it.
	_, err = h.disks.Open(t.Context(), path, true)
	require.ErrorIs(t, err, host.ErrInUse)
	_, err = h.disks.Open(t.Context(), path, false)
	require.ErrorIs(t, err, host.ErrInUse)
	require.ErrorIs(t, h.disks.Rename(t.Context(), path, path+".x"), host.ErrInUse)
	require.ErrorIs(t, h.disks.Remove(t.Context(), path), host.ErrInUse)
	require.ErrorIs(t, h.disks.Grow(t.Context(), path, 20*mib), host.ErrInUse)
	info, err := h.disks.Stat(t.Context(), path)
	require.NoError(t, err)
	require.EqualValues(t, 10*mib, info.Size)

	// Two machines on the same file.
	twin, err := h.AddVM(hypervtest.VMSpec{Name: "twin", Disks: []hypervtest.DiskSpec{{Existing: true, Path: path}}})
	require.NoError(t, err)
	require.Error(t, twin.Start())
	vm.PowerOff()
	require.NoError(t, twin.Start())
}

func TestDisksAndFiles(t *testing.T) {
	h := open(t, hypervtest.Options{Capacity: 1 << 40})
	ctx := t.Context()
	const path = `C:\Data\a.vhdx`
	spec := host.DiskSpec{Size: 8 * mib}
	require.ErrorIs(t, h.disks.Create(ctx, path, spec), host.ErrNotFound, "no such folder")
	require.NoError(t, h.disks.MakeFolder(ctx, `C:\Data\deep\er`))
	require.NoError(t, h.disks.Create(ctx, path, spec))
	require.ErrorIs(t, h.disks.Create(ctx, `c:\DATA\A.VHDX`, spec), host.ErrExists, "the case of names doesn't matter")
	require.Error(t, h.disks.Create(ctx, `C:\Data\b.vhdx`, host.DiskSpec{Size: 1000}))
	ok, err := h.disks.Exists(ctx, `C:\Data\b.vhdx`)
	require.NoError(t, err)
	require.False(t, ok, "what failed leaves no file")
	for _, bad := range []string{`C:\Data\..\..\x`, `/etc/passwd`, `D`, `C:\a|b`, `\\server\share\x`, ""} {
		require.Error(t, h.disks.MakeFolder(ctx, bad), bad)
	}

	d, err := h.disks.Open(ctx, path, true)
	require.NoError(t, err)
	_, err = h.disks.Open(ctx, path, false)
	require.ErrorIs(t, err, host.ErrInUse)
	_, err = d.WriteAt([]byte("abc"), 8*mib-2)
	require.Error(t, err)
	p := make([]byte, 4)
	n, err := d.ReadAt(p, 8*mib-2)
	require.Error(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, make([]byte, 2), p[:2], "a write past the end writes nothing")
	_, err = d.WriteAt([]byte("abc"), 3*mib+1)
	require.NoError(t, err)
	require.NoError(t, d.Flush())
	var got []host.Range
	for r, err := range d.Allocated(ctx) {
		require.NoError(t, err)
		got = append(got, r)
	}
	require.Equal(t, []host.Range{{Off: 3 * mib, Len: mib}}, got)
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
	_, err = d.ReadAt(p, 0)
	require.Error(t, err)

	a, err := h.disks.Open(ctx, path, false)
	require.NoError(t, err)
	b, err := h.disks.Open(ctx, path, false)
	require.NoError(t, err)
	_, err = b.WriteAt(p, 0)
	require.ErrorIs(t, err, host.ErrDenied)
	_, err = h.disks.Open(ctx, path, true)
	require.ErrorIs(t, err, host.ErrInUse)
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())

	require.NoError(t, h.disks.Grow(ctx, path, 16*mib))
	require.Error(t, h.disks.Grow(ctx, path, 8*mib))
	info, err := h.disks.Stat(ctx, path)
	require.NoError(t, err)
	require.EqualValues(t, 16*mib, info.Size)
	require.Regexp(t, `^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$`, info.ID)
	require.False(t, info.Tracking)

	require.ErrorIs(t, h.disks.Remove(ctx, `C:\Data`), host.ErrNotEmpty)
	require.NoError(t, h.disks.Remove(ctx, `C:\Data\deep\er`))
	require.NoError(t, h.disks.Remove(ctx, `C:\Data\deep\er`), "twice is no error")
	free, err := h.disks.Free(ctx, `C:\Data`)
	require.NoError(t, err)
	require.Less(t, free, int64(1<<40))
	require.Greater(t, free, int64(1<<39))
	h.FillUp(true)
	require.ErrorIs(t, h.disks.Create(ctx, `C:\Data\c.vhdx`, spec), host.ErrFull)
	h.FillUp(false)
	require.NoError(t, h.disks.Create(ctx, `C:\Data\c.vhdx`, spec))
	require.ErrorIs(t, h.disks.Rename(ctx, path, `C:\Data\c.vhdx`), host.ErrExists)
	_, err = h.disks.Stat(ctx, `C:\Data\none.vhdx`)
	require.ErrorIs(t, err, host.ErrNotFound)
}

func TestShutdown(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web"})
	require.NoError(t, err)
	ask := func(force bool) uint32 {
		c := h.one("SELECT * FROM Msvm_ShutdownComponent WHERE SystemName='" + vm.ID() + "'")
		return h.invoke(c.Path, "InitiateShutdown", host.Props{"Force": force, "Reason": "failover"}).Return
	}
	state := func() int64 {
		n, _ := must(h.conn.Get(t.Context(), h.system(vm))).Props.Int("EnabledState")
		return n
	}
	for _, c := range []struct {
		how    hypervtest.Shutdown
		force  bool
		answer uint32
		ends   bool
	}{
		{hypervtest.ShutdownWorks, false, 0, true},
		{hypervtest.ShutdownHangs, true, 0, false},
		{hypervtest.ShutdownFails, true, 32768, false},
		{hypervtest.ShutdownLocked, false, 32781, false},
		{hypervtest.ShutdownLocked, true, 0, true},
	} {
		require.NoError(t, vm.Start())
		vm.SetGuest(func(g *hypervtest.Guest) { g.Shutdown = c.how })
		require.Equal(t, c.answer, ask(c.force))
		require.True(t, vm.Running(), "it takes its time")
		var last int64
		for range 5 {
			last = state()
		}
		require.Equal(t, c.ends, last == 3)
		vm.PowerOff()
	}
	bare, err := h.AddVM(hypervtest.VMSpec{Name: "bare", NoIntegration: true})
	require.NoError(t, err)
	require.NoError(t, bare.Start())
	all, err := h.conn.Query(t.Context(), "SELECT * FROM Msvm_ShutdownComponent WHERE SystemName='"+bare.ID()+"'")
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestGuestFactsAndAddresses(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Switches: []string{"Production", ""}, MACs: []string{"00:15:5d:01:02:03"}, Guest: hypervtest.Guest{
		Facts:     map[string]string{"OSName": "Windows Server 2019 & more", "FullyQualifiedDomainName": "web.corp.local"},
		Addresses: [][]string{{"10.0.0.4/24", "fd00::4/64"}, {"192.168.1.5/16"}}}})
	require.NoError(t, err)
	kvp := "SELECT * FROM Msvm_KvpExchangeComponent WHERE SystemName='" + vm.ID() + "'"
	all, err := h.conn.Query(t.Context(), kvp)
	require.NoError(t, err)
	require.Empty(t, all, "there is none while it is off")
	require.NoError(t, vm.Start())
	items := strings.Join(h.one(kvp).Props.Strings("GuestIntrinsicExchangeItems"), "\n")
	require.Contains(t, items, "Windows Server 2019 &amp; more")
	require.Contains(t, items, "10.0.0.4;192.168.1.5")

	ports := mustQuery(t, h, `SELECT * FROM Msvm_SyntheticEthernetPortSettingData WHERE InstanceID LIKE 'Microsoft:`+vm.ID()+`%'`)
	require.Len(t, ports, 2)
	require.Equal(t, "00155D010203", ports[0].Props.String("Address"))
	require.True(t, ports[0].Props.Bool("StaticMacAddress"))
	require.Regexp(t, "^00155D[0-9A-F]{6}$", ports[1].Props.String("Address"))
	nets, err := h.conn.Associators(t.Context(), ports[0].Path, "Msvm_SettingDataComponent", "Msvm_GuestNetworkAdapterConfiguration")
	require.NoError(t, err)
	require.Len(t, nets, 1)
	require.Equal(t, []string{"255.255.255.0", "/64"}, nets[0].Props.Strings("Subnets"))

	svc := h.service(management)
	text := must(h.conn.TextOf(t.Context(), nets[0].Path, host.Props{"IPAddresses": []string{"10.9.9.9"}, "Subnets": []string{"255.255.0.0"}, "DHCPEnabled": false}))
	in := host.Props{"ComputerSystem": h.system(vm), "NetworkConfiguration": []string{text}}
	h.do(svc, "SetGuestNetworkAdapterConfiguration", in)
	again := must(h.conn.Get(t.Context(), nets[0].Path))
	require.Equal(t, []string{"10.9.9.9"}, again.Props.Strings("IPAddresses"))
	require.False(t, again.Props.Bool("DHCPEnabled"))
	vm.SetGuest(func(g *hypervtest.Guest) { g.Hung = true })
	n, _ := h.try(svc, "SetGuestNetworkAdapterConfiguration", in)
	require.EqualValues(t, 32775, n)
	beat := h.one("SELECT * FROM Msvm_HeartbeatComponent WHERE SystemName='" + vm.ID() + "'")
	require.Equal(t, []int64{13}, beat.Props.Ints("OperationalStatus"))

	shot := h.invoke(svc, "GetVirtualSystemThumbnailImage", host.Props{"TargetSystem": h.system(vm), "WidthPixels": uint16(8), "HeightPixels": uint16(4)})
	require.Zero(t, shot.Return)
	require.Len(t, shot.Out.Ints("ImageData"), 64)
}

func TestKvpItems(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 10 * mib}}})
	require.NoError(t, err)
	svc := h.service(management)
	call := func(method, name, data string) int64 {
		n, _ := h.try(svc, method, host.Props{"TargetSystem": h.system(vm),
			"DataItems": []string{h.text("Msvm_KvpExchangeDataItem", host.Props{"Name": name, "Data": data, "Source": uint16(4)})}})
		return n
	}
	require.NotZero(t, call("ModifyKvpItems", "lifeboat", "x"))
	require.Zero(t, call("AddKvpItems", "lifeboat", "x"))
	require.NotZero(t, call("AddKvpItems", "Lifeboat", "y"), "there already")
	require.Zero(t, call("ModifyKvpItems", "lifeboat", strings.Repeat("ü", 2048)))
	require.EqualValues(t, 32773, call("ModifyKvpItems", "lifeboat", strings.Repeat("ü", 2049)))
	read := func(vm *hypervtest.VM) []string {
		return h.one("SELECT * FROM Msvm_KvpExchangeComponentSettingData WHERE InstanceID LIKE 'Microsoft:" + vm.ID() + "%'").Props.Strings("HostOnlyItems")
	}
	require.Len(t, read(vm), 1)
	require.NoError(t, vm.Start())
	require.NoError(t, vm.Write("os", []byte("same"), 0))
	vm.PowerOff()
	clone, err := vm.CloneWithConfig("copy")
	require.NoError(t, err)
	require.Equal(t, read(vm), read(clone), "a copy carries them along")
	require.Equal(t, vm.Disks()[0].VirtualDiskID, clone.Disks()[0].VirtualDiskID)
	require.NotEqual(t, vm.Disks()[0].Path, clone.Disks()[0].Path)
	p := make([]byte, 4)
	require.NoError(t, clone.Read("os", p, 0))
	require.Equal(t, "same", string(p))
	require.Zero(t, call("RemoveKvpItems", "lifeboat", ""))
	require.Empty(t, read(vm))
	require.NotZero(t, call("RemoveKvpItems", "lifeboat", ""))
}

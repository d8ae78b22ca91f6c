package hypervtest_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
)

func TestFaultsBeforeAndAfterTheEffect(t *testing.T) {
	boom := errors.New("boom")
	for _, after := range []bool{false, true} {
		h := open(t, hypervtest.Options{})
		undo := h.FailNth(2, true, after, boom)
		_, err := h.conn.Query(t.Context(), "SELECT * FROM Msvm_ComputerSystem")
		require.NoError(t, err)
		require.NoError(t, h.disks.MakeFolder(t.Context(), `C:\x`), "no call of WMI")
		svc := `Msvm_VirtualSystemManagementService.CreationClassName="Msvm_VirtualSystemManagementService",Name="vmms",SystemCreationClassName="Msvm_ComputerSystem",SystemName="HV1"`
		_, err = h.conn.Invoke(t.Context(), host.Ref(svc), "DefineSystem", nil)
		require.ErrorIs(t, err, boom)
		require.Len(t, h.VMs(), map[bool]int{false: 0, true: 1}[after])
		_, err = h.conn.Invoke(t.Context(), host.Ref(svc), "DefineSystem", nil)
		require.NoError(t, err)
		undo()
		require.Equal(t, 2, h.Calls()["DefineSystem"])
	}
}

func TestFailedOpensHoldNothing(t *testing.T) {
	boom := errors.New("boom")
	h := open(t, hypervtest.Options{})
	require.NoError(t, h.disks.Create(t.Context(), `C:\a.vhdx`, host.DiskSpec{Size: mib}))
	undo := h.Fail(func(c hypervtest.Call) error {
		if c.After && c.Op == "Disks.Open" {
			return boom
		}
		return nil
	})
	_, err := h.disks.Open(t.Context(), `C:\a.vhdx`, true)
	require.ErrorIs(t, err, boom)
	undo()
	d, err := h.disks.Open(t.Context(), `C:\a.vhdx`, true)
	require.NoError(t, err)
	require.NoError(t, d.Close())
}

func TestJobsThatFail(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web"})
	require.NoError(t, err)
	h.FailJob("RequestStateChange", 32772, "took too long")
	start := func() (int64, string) {
		return h.try(h.system(vm), "RequestStateChange", host.Props{"RequestedState": uint16(2)})
	}
	n, text := start()
	require.EqualValues(t, 32772, n)
	require.Equal(t, "took too long", text)
	require.False(t, vm.Running())
	n, _ = start()
	require.Zero(t, n)
}

func TestJobsEndAsTheyAreTold(t *testing.T) {
	h := open(t, hypervtest.Options{})
	for _, c := range []struct {
		end hypervtest.JobEnd
		on  bool
	}{
		{hypervtest.JobEnd{State: 32768, Text: "there is something"}, true},
		{hypervtest.JobEnd{State: 8, Text: "terminated"}, false},
		{hypervtest.JobEnd{State: 10, Code: 32772, Text: "too late", Effect: true}, true},
	} {
		vm, err := h.AddVM(hypervtest.VMSpec{Name: "web"})
		require.NoError(t, err)
		c.end.Method = "RequestStateChange"
		h.EndJob(c.end)
		job := h.wait(h.invoke(h.system(vm), "RequestStateChange", host.Props{"RequestedState": uint16(2)}))
		s, _ := job.Props.Int("JobState")
		require.EqualValues(t, c.end.State, s)
		require.Equal(t, c.end.Text, job.Props.String("ErrorDescription"))
		require.Equal(t, c.on, vm.Running(), c.end.Text)
	}
}

func TestAlteredObjects(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web"})
	require.NoError(t, err)
	path := h.system(vm)
	undo := h.Alter(func(o *host.Object) {
		if o.Class == "Msvm_ComputerSystem" {
			o.Props["ElementName"] = nil
		}
	})
	require.Nil(t, h.one("SELECT * FROM Msvm_ComputerSystem WHERE ElementName='web'").Props["ElementName"])
	require.Nil(t, must(h.conn.Get(t.Context(), path)).Props["ElementName"])
	undo()
	require.Equal(t, "web", must(h.conn.Get(t.Context(), path)).Props["ElementName"])
}

func TestDenied(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web"})
	require.NoError(t, err)
	allow := h.Deny("Msvm_VirtualSystemSettingData")
	_, err = h.conn.Query(t.Context(), "SELECT * FROM Msvm_VirtualSystemSettingData")
	require.ErrorIs(t, err, host.ErrDenied)
	allow()
	mustQuery(t, h, "SELECT * FROM Msvm_VirtualSystemSettingData")
	allow = h.Deny("RequestStateChange")
	n, _ := h.try(h.system(vm), "RequestStateChange", host.Props{"RequestedState": uint16(2)})
	require.EqualValues(t, 32769, n)
	allow()
	h.Deny("Disks.Stat")
	_, err = h.disks.Stat(t.Context(), `C:\a.vhdx`)
	require.ErrorIs(t, err, host.ErrDenied)
}

func TestAHostThatHangs(t *testing.T) {
	h := open(t, hypervtest.Options{})
	h.Hang(true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := h.conn.Query(ctx, "SELECT * FROM Msvm_ComputerSystem")
		done <- err
	}()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	go func() {
		_, err := h.conn.Query(t.Context(), "SELECT * FROM Msvm_ComputerSystem")
		done <- err
	}()
	h.Hang(false)
	require.NoError(t, <-done)
}

func TestACrashEndsWhatWasOpen(t *testing.T) {
	h := open(t, hypervtest.Options{JobPolls: 10})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 10 * mib}}})
	require.NoError(t, err)
	require.NoError(t, vm.Start())
	require.NoError(t, vm.Write("os", []byte("kept"), 0))
	require.NoError(t, h.disks.Create(t.Context(), `C:\a.vhdx`, host.DiskSpec{Size: mib}))
	d, err := h.disks.Open(t.Context(), `C:\a.vhdx`, true)
	require.NoError(t, err)
	h.Crash()
	require.False(t, vm.Running())
	_, err = h.conn.Query(t.Context(), "SELECT * FROM Msvm_ComputerSystem")
	require.ErrorIs(t, err, host.ErrUnreachable)
	_, err = d.WriteAt([]byte("x"), 0)
	require.Error(t, err)
	h.conn = h.Conn()
	require.Equal(t, "web", h.one("SELECT * FROM Msvm_ComputerSystem WHERE EnabledState=3").Props.String("ElementName"))
	p := make([]byte, 4)
	require.NoError(t, vm.Read("os", p, 0))
	require.Equal(t, "kept", string(p))

	// The death of the process that uses the host is no such thing.
	require.NoError(t, vm.Start())
	d, err = h.disks.Open(t.Context(), `C:\a.vhdx`, true)
	require.NoError(t, err)
	h.Abandon()
	require.True(t, vm.Running())
	_, err = d.ReadAt(p, 0)
	require.Error(t, err)
	d, err = h.disks.Open(t.Context(), `C:\a.vhdx`, true)
	require.NoError(t, err)
	require.NoError(t, d.Close())
}

func TestACluster(t *testing.T) {
	nodes := hypervtest.NewCluster(t, 2, hypervtest.Options{})
	a, b := wrap(t, nodes[0]), wrap(t, nodes[1])
	a.Switch("Production")
	b.Switch("Production")
	vm, err := a.AddVM(hypervtest.VMSpec{Name: "web", Folder: `C:\ClusterStorage\Volume1\web`, Switches: []string{"Production"},
		Disks: []hypervtest.DiskSpec{{ID: "os", Size: 10 * mib}, {ID: "local", Size: 10 * mib, Path: `C:\Local\d.vhdx`}}})
	require.NoError(t, err)
	require.NoError(t, vm.Start())
	r := a.convert(a.snapshot(vm, 2))
	require.Equal(t, strings.ToUpper(vm.Disks()[0].VirtualDiskID), r.Props.Strings("VirtualDiskIdentifiers")[1], "not in the disks' order")
	a.Inventory()
	require.NoError(t, vm.Checkpoint("mine"))
	near, err := a.disks.Open(t.Context(), `C:\Local\d.vhdx`, false)
	require.NoError(t, err)
	shared, err := a.disks.Open(t.Context(), `C:\ClusterStorage\Volume1\web\Virtual Hard Disks\os.vhdx`, false)
	require.NoError(t, err)
	ok, err := b.disks.Exists(t.Context(), `C:\Local\d.vhdx`)
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, vm.Migrate(nodes[1]))
	require.True(t, vm.Running())
	_, err = near.ReadAt(make([]byte, 1), 0)
	require.Error(t, err, "its file has left this node")
	_, err = shared.ReadAt(make([]byte, 1), 0)
	require.NoError(t, err)
	require.NoError(t, shared.Close())
	require.Nil(t, nodes[0].VM(vm.ID()))
	require.NoError(t, vm.Write("os", []byte("there"), 2*mib))
	got, err := a.conn.Query(t.Context(), "SELECT * FROM Msvm_ComputerSystem WHERE Name='"+vm.ID()+"'")
	require.NoError(t, err)
	require.Empty(t, got)
	_, err = a.conn.Get(t.Context(), r.Path)
	require.ErrorIs(t, err, host.ErrNotFound)

	// It finds its parts, its switch and its history on the other node.
	s := b.snapshot(vm, 2)
	files := b.files(s.Path)
	require.Len(t, files, 2)
	changed, err := b.changes(files[0], r.Props.Strings("ResilientChangeTrackingIdentifiers")[1])
	require.NoError(t, err)
	require.Equal(t, []host.Range{{Off: 2 * mib, Len: 64 << 10}}, changed)
	for _, o := range mustQuery(t, b, `SELECT * FROM Msvm_EthernetPortAllocationSettingData WHERE InstanceID LIKE 'Microsoft:`+vm.ID()+`%'`) {
		for _, p := range append(o.Props.Strings("HostResource"), o.Props.String("Parent")) {
			_, err := b.conn.Get(t.Context(), host.Ref(p))
			require.NoError(t, err, p)
		}
	}
	require.NoError(t, vm.Migrate(nodes[0]))
	a.Inventory()
}

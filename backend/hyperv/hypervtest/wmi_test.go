package hypervtest_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
)

func code(t *testing.T, err error) uint32 {
	t.Helper()
	var e *host.Error
	require.ErrorAs(t, err, &e)
	return e.Code
}

func TestQueries(t *testing.T) {
	h := open(t, hypervtest.Options{Name: "HOST1"})
	a, err := h.AddVM(hypervtest.VMSpec{Name: `it's`, Generation: 1})
	require.NoError(t, err)
	b, err := h.AddVM(hypervtest.VMSpec{Name: `a\b`, Generation: 2})
	require.NoError(t, err)
	require.NoError(t, b.Start())
	for _, c := range []struct {
		wql  string
		want int
	}{
		{`SELECT * FROM Msvm_ComputerSystem`, 3}, // with the host itself
		{`select * from msvm_computersystem`, 3},
		{`SELECT * FROM CIM_ComputerSystem`, 3},
		{`SELECT * FROM Msvm_ComputerSystem WHERE Name='HOST1'`, 1},
		{`SELECT * FROM Msvm_ComputerSystem WHERE Name="` + a.ID() + `"`, 1},
		{`SELECT * FROM Msvm_ComputerSystem WHERE name='` + fmt.Sprintf("%x", a.ID()) + `'`, 0},
		{`SELECT * FROM Msvm_ComputerSystem WHERE ElementName='it\'s'`, 1},
		{`SELECT * FROM Msvm_ComputerSystem WHERE ElementName='a\\b'`, 1},
		{`SELECT * FROM Msvm_ComputerSystem WHERE ElementName='A\\B' AND EnabledState=2`, 1},
		{`SELECT * FROM Msvm_ComputerSystem WHERE ElementName='a\\b' AND EnabledState=3`, 0},
		{`SELECT * FROM Msvm_ComputerSystem WHERE EnabledState=3 OR ElementName='HOST1'`, 2},
		{`SELECT * FROM Msvm_ComputerSystem WHERE EnabledState<>2`, 1},
		{`SELECT * FROM Msvm_ComputerSystem WHERE ProcessID IS NULL`, 2},
		{`SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType='Microsoft:Hyper-V:System:Realized'`, 2},
		{`SELECT * FROM Msvm_ResourceAllocationSettingData WHERE ResourceSubType='Microsoft:Hyper-V:Synthetic SCSI Controller' AND InstanceID LIKE '%\\Default'`, 1},
		{`SELECT * FROM Msvm_ResourceAllocationSettingData WHERE ResourceSubType='Microsoft:Hyper-V:Emulated IDE Controller' AND NOT_A_PROPERTY=1`, -1},
		{`SELECT Name, EnabledState FROM Msvm_ComputerSystem`, 3},
		{`SELECT Nmae FROM Msvm_ComputerSystem`, -1},
		{`SELECT * FROM Msvm_Nothing`, -1},
		{`SELECT * FROM Msvm_ComputerSystem WHERE Name='`, -1},
		{`SELECT * FROM Msvm_ComputerSystem WHERE Name='a' ORDER BY Name`, -1},
		{`DELETE FROM Msvm_ComputerSystem`, -1},
	} {
		got, err := h.conn.Query(t.Context(), c.wql)
		if c.want < 0 {
			require.Error(t, err, c.wql)
			continue
		}
		require.NoError(t, err, c.wql)
		require.Len(t, got, c.want, c.wql)
	}
	// A query with the backslashes as they are in the value finds nothing.
	got, err := h.conn.Query(t.Context(), `SELECT * FROM Msvm_ComputerSystem WHERE ElementName='a\b'`)
	require.NoError(t, err)
	require.Empty(t, got)
	only := h.one(`SELECT Name FROM Msvm_ComputerSystem WHERE ElementName='a\\b'`)
	require.Equal(t, host.Props{"Name": b.ID()}, only.Props)
}

func TestPaths(t *testing.T) {
	h := open(t, hypervtest.Options{Name: "node1.corp.local"})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web"})
	require.NoError(t, err)
	o := h.one("SELECT * FROM Msvm_ComputerSystem WHERE ElementName='web'")
	require.Equal(t, host.Ref(`\\node1.corp.local\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="`+vm.ID()+`"`), o.Path)
	for _, path := range []host.Ref{o.Path,
		host.Ref(`Msvm_ComputerSystem.Name='` + vm.ID() + `',CreationClassName='Msvm_ComputerSystem'`),
		host.Ref(`\\.\root\virtualization\v2:Msvm_ComputerSystem.Name="` + vm.ID() + `",CreationClassName="Msvm_ComputerSystem"`)} {
		got, err := h.conn.Get(t.Context(), path)
		require.NoError(t, err, path)
		require.Equal(t, "web", got.Props.String("ElementName"))
	}
	class, err := h.conn.Get(t.Context(), "Msvm_ComputerSystem")
	require.NoError(t, err)
	require.Contains(t, class.Props, "EnabledState")

	_, err = h.conn.Get(t.Context(), `Msvm_ComputerSystem.Name="nobody",CreationClassName="Msvm_ComputerSystem"`)
	require.ErrorIs(t, err, host.ErrNotFound)
	_, err = h.conn.Get(t.Context(), host.Ref(`\\other\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="`+vm.ID()+`"`))
	require.ErrorIs(t, err, host.ErrNotFound)
	_, err = h.conn.Get(t.Context(), `Msvm_ComputerSystem.Name=`)
	require.Error(t, err)
	_, err = h.conn.Get(t.Context(), `\\.\root\cimv2:Msvm_ComputerSystem`)
	require.ErrorIs(t, err, host.ErrNamespace)
	got, err := h.conn.Get(t.Context(), host.Ref(`Msvm_VirtualSystemSettingData.InstanceID="Microsoft:`+vm.ID()+`"`))
	require.NoError(t, err, "a relative path with a colon in it")
	require.Equal(t, "web", got.Props.String("ElementName"))
	// An InstanceID's backslashes are doubled in its path.
	for _, k := range mustQuery(t, h, `SELECT * FROM Msvm_ProcessorSettingData WHERE InstanceID LIKE 'Microsoft:`+vm.ID()+`%'`) {
		require.Contains(t, string(k.Path), `\\`+"B637F346")
		again, err := h.conn.Get(t.Context(), k.Path)
		require.NoError(t, err)
		require.Equal(t, k, again)
	}
}

func mustQuery(t *testing.T, h *hv, wql string) []host.Object {
	t.Helper()
	all, err := h.conn.Query(t.Context(), wql)
	require.NoError(t, err)
	require.NotEmpty(t, all, wql)
	return all
}

func TestATypoIsAnError(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web"})
	require.NoError(t, err)
	_, err = h.conn.Text(t.Context(), "Msvm_VirtualSystemSettingData", host.Props{"ElementNmae": "x"})
	require.EqualValues(t, 0x80041031, code(t, err))
	_, err = h.conn.Text(t.Context(), "Msvm_VirtualSystemSettingData", host.Props{"ElementName": int32(1)})
	require.EqualValues(t, 0x80041005, code(t, err))
	_, err = h.conn.Text(t.Context(), "Msvm_NoSuchThing", nil)
	require.EqualValues(t, 0x80041010, code(t, err))
	svc := h.service("Msvm_VirtualSystemManagementService")
	_, err = h.conn.Invoke(t.Context(), svc, "DestroySystem", host.Props{"System": h.system(vm)})
	require.EqualValues(t, 0x80041030, code(t, err))
	_, err = h.conn.Invoke(t.Context(), svc, "DestroySystems", nil)
	require.EqualValues(t, 0x8004102E, code(t, err))
	_, err = h.conn.Associators(t.Context(), h.system(vm), "Msvm_NoAssociation", "Msvm_ComputerSystem")
	require.Error(t, err)
	// An embedded instance of another class, and one that isn't XML.
	for _, text := range []string{h.text("Msvm_ProcessorSettingData", nil), "<INSTANCE"} {
		r := h.invoke(svc, "DefineSystem", host.Props{"SystemSettings": text})
		require.EqualValues(t, 32773, r.Return)
	}
}

// What Props promise of the values that come out.
func TestValuesComeOutAsScriptsSeeThem(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Memory: 4096, Notes: []string{"a & <b>", ""}, Disks: []hypervtest.DiskSpec{{Size: 10 * mib}}})
	require.NoError(t, err)
	m := h.one(`SELECT * FROM Msvm_MemorySettingData WHERE InstanceID LIKE 'Microsoft:` + vm.ID() + `%'`)
	require.Equal(t, "4096", m.Props["VirtualQuantity"], "64 bits are a string")
	require.Equal(t, int64(4), m.Props["ResourceType"])
	require.Contains(t, m.Props, "HostResource")
	require.Nil(t, m.Props["HostResource"])
	s := h.one(`SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemIdentifier='` + vm.ID() + `'`)
	require.Equal(t, []any{"a & <b>", ""}, s.Props["Notes"])
	require.Regexp(t, `^\d{14}\.\d{6}-000$`, s.Props["CreationTime"])

	// And the text of a copy carries them there and back.
	text, err := h.conn.TextOf(t.Context(), s.Path, host.Props{"ElementName": `new "name"`, "Notes": []string{"c]]>\t"}, "BootOrder": []uint16{3, 0}})
	require.NoError(t, err)
	h.do(h.service("Msvm_VirtualSystemManagementService"), "ModifySystemSettings", host.Props{"SystemSettings": text})
	s, err = h.conn.Get(t.Context(), s.Path)
	require.NoError(t, err)
	require.Equal(t, `new "name"`, vm.Name())
	require.Equal(t, []any{"c]]>\t"}, s.Props["Notes"])
	require.Equal(t, []any{int64(3), int64(0)}, s.Props["BootOrder"])
}

func TestCaptionsAreLocalized(t *testing.T) {
	h := open(t, hypervtest.Options{Locale: "de"})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web"})
	require.NoError(t, err)
	o, err := h.conn.Get(t.Context(), h.system(vm))
	require.NoError(t, err)
	require.Equal(t, "Virtueller Computer", o.Props.String("Caption"))
}

func TestJobsTakePollsAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, hypervtest.Options{JobPolls: 3})
		vm, err := h.AddVM(hypervtest.VMSpec{Name: "web"})
		require.NoError(t, err)
		sys := h.system(vm)
		r := h.invoke(sys, "RequestStateChange", host.Props{"RequestedState": uint16(2)})
		require.EqualValues(t, 4096, r.Return)
		ref := host.Ref(r.Out.String("Job"))
		var states []int64
		for range 4 {
			job, err := h.conn.Get(t.Context(), ref)
			require.NoError(t, err)
			s, _ := job.Props.Int("JobState")
			states = append(states, s)
		}
		require.Equal(t, []int64{4, 4, 7, 7}, states)
		require.True(t, vm.Running())
		time.Sleep(6 * time.Minute)
		_, err = h.conn.Get(t.Context(), ref)
		require.ErrorIs(t, err, host.ErrNotFound)
	})
}

func TestAMachineDoesOneThingAtATime(t *testing.T) {
	h := open(t, hypervtest.Options{JobPolls: 5})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web"})
	require.NoError(t, err)
	sys := h.system(vm)
	in := host.Props{"RequestedState": uint16(2)}
	first := h.invoke(sys, "RequestStateChange", in)
	o, err := h.conn.Get(t.Context(), sys)
	require.NoError(t, err)
	s, _ := o.Props.Int("EnabledState")
	require.EqualValues(t, 32770, s, "starting")
	second := h.invoke(sys, "RequestStateChange", in)
	require.EqualValues(t, 32775, second.Return)
	h.wait(first)
	require.True(t, vm.Running())
}

func TestANothingHost(t *testing.T) {
	h := open(t, hypervtest.Options{NoHyperV: true})
	_, err := h.conn.Query(t.Context(), "SELECT * FROM Msvm_ComputerSystem")
	require.ErrorIs(t, err, host.ErrNamespace)
}

func TestAClosedConnection(t *testing.T) {
	h := open(t, hypervtest.Options{})
	c := h.Conn()
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	_, err := c.Query(t.Context(), "SELECT * FROM Msvm_ComputerSystem")
	require.ErrorIs(t, err, host.ErrClosed)
}

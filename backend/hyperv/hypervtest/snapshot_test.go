package hypervtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
)

// try invokes a method whose job may fail and returns code and text, 0 if it
// didn't.
func (h *hv) try(path host.Ref, method string, in host.Props) (int64, string) {
	h.t.Helper()
	r := h.invoke(path, method, in)
	if r.Return != 4096 {
		return int64(r.Return), ""
	}
	job := h.wait(r)
	if s, _ := job.Props.Int("JobState"); s == 7 {
		return 0, ""
	}
	c, _ := job.Props.Int("ErrorCode")
	return c, job.Props.String("ErrorDescription")
}

func (h *hv) trySnapshot(vm *hypervtest.VM, p host.Props) (int64, string) {
	h.t.Helper()
	return h.try(h.service("Msvm_VirtualSystemSnapshotService"), "CreateSnapshot", host.Props{"AffectedSystem": h.system(vm),
		"SnapshotSettings": h.text("Msvm_VirtualSystemSnapshotSettingData", p), "SnapshotType": uint16(32768)})
}

func TestConsistentSnapshotsNeedTheGuest(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 10 * mib}}})
	require.NoError(t, err)
	app, crash := host.Props{"ConsistencyLevel": int32(1)}, host.Props{"ConsistencyLevel": int32(2)}
	for _, c := range []struct {
		name  string
		guest hypervtest.Guest
		ok    bool
	}{
		{"works", hypervtest.Guest{}, true},
		{"fails", hypervtest.Guest{VSS: hypervtest.VSSFails}, false},
		{"none", hypervtest.Guest{VSS: hypervtest.VSSNone}, false},
		{"hung", hypervtest.Guest{Hung: true}, false},
	} {
		vm.PowerOff()
		vm.SetGuest(func(g *hypervtest.Guest) { *g = c.guest })
		n, _ := h.trySnapshot(vm, app)
		require.Zero(t, n, "%s: a machine that is off needs no guest", c.name)
		require.NoError(t, vm.Start())
		before := len(vm.Snapshots())
		n, text := h.trySnapshot(vm, app)
		require.Equal(t, c.ok, n == 0, "%s: %d %s", c.name, n, text)
		if !c.ok {
			require.NotEmpty(t, text)
			require.Len(t, vm.Snapshots(), before, "what failed leaves nothing")
		}
		n, _ = h.trySnapshot(vm, crash)
		require.Zero(t, n, c.name)
	}
}

func TestTheGuestWritesBeforeItIsFrozen(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "db", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 10 * mib}}, Guest: hypervtest.Guest{
		OnFreeze: func(write func(string, []byte, int64) error) {
			if err := write("os", []byte("flushed"), 0); err != nil {
				panic(err)
			}
		}}})
	require.NoError(t, err)
	require.NoError(t, vm.Start())
	s := h.snapshot(vm, 1)
	d, err := h.disks.Open(t.Context(), h.files(s.Path)[0], false)
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()
	p := make([]byte, 7)
	_, err = d.ReadAt(p, 0)
	require.NoError(t, err)
	require.Equal(t, "flushed", string(p))
}

func TestDisksThatNoSnapshotHolds(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "sql", FibreChannel: 1, Disks: []hypervtest.DiskSpec{
		{ID: "os", Size: 10 * mib}, {ID: "lun", PassThrough: true}, {ID: "quorum", Size: 10 * mib, Shared: true}}})
	require.NoError(t, err)
	n, text := h.trySnapshot(vm, host.Props{"ConsistencyLevel": int32(2)})
	require.NotZero(t, n)
	require.Contains(t, text, "pass-through")
	s := h.snapshot(vm, 2)
	require.Len(t, h.files(s.Path), 1, "they are left out without a word")
	all, err := h.conn.Associators(t.Context(), s.Path, "Msvm_VirtualSystemSettingDataComponent", "Msvm_ResourceAllocationSettingData")
	require.NoError(t, err)
	for _, o := range all {
		require.NotEqual(t, "Microsoft:Hyper-V:Physical Disk Drive", o.Props.String("ResourceSubType"))
	}
	r := h.convert(s)
	require.Len(t, r.Props.Strings("VirtualDiskIdentifiers"), 1)
	// Two machines may run on a shared disk.
	twin, err := h.AddVM(hypervtest.VMSpec{Name: "sql2", Disks: []hypervtest.DiskSpec{{ID: "quorum", Shared: true, Existing: true, Path: vm.Disks()[1].Path}}})
	require.NoError(t, err)
	require.NoError(t, vm.Start())
	require.NoError(t, twin.Start())
	require.NoError(t, vm.Write("quorum", []byte("vote"), 0))
	p := make([]byte, 4)
	require.NoError(t, twin.Read("quorum", p, 0))
	require.Equal(t, "vote", string(p))
}

func TestOldConfigurationsTrackNothing(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "old", Version: "5.0", Disks: []hypervtest.DiskSpec{{Size: 10 * mib}}})
	require.NoError(t, err)
	s := h.snapshot(vm, 2)
	svc := h.service("Msvm_VirtualSystemSnapshotService")
	n, _ := h.try(svc, "ConvertToReferencePoint", host.Props{"AffectedSnapshot": s.Path})
	require.EqualValues(t, 32770, n)
	n, _ = h.try(h.service("Msvm_VirtualSystemReferencePointService"), "CreateReferencePoint", host.Props{"AffectedSystem": h.system(vm), "ReferencePointType": uint16(1)})
	require.EqualValues(t, 32770, n)
	info, err := h.disks.Stat(t.Context(), h.files(s.Path)[0])
	require.NoError(t, err)
	require.False(t, info.Tracking)
	h.do(svc, "DestroySnapshot", host.Props{"AffectedSnapshot": s.Path})
	h.Inventory()
	require.Equal(t, 1, vm.ChainLength())
}

// A reference point's numbers: 1 asks for change tracking, 2 says that it is.
func TestReferencePointsWithoutSnapshots(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "new", Size: 10 * mib}, {ID: "old", Size: 10 * mib, VHD: true}}})
	require.NoError(t, err)
	require.NoError(t, vm.Start())
	svc := h.service("Msvm_VirtualSystemReferencePointService")
	in := host.Props{"AffectedSystem": h.system(vm), "ReferencePointType": uint16(2),
		"ReferencePointSettings": h.text("Msvm_VirtualSystemReferencePointSettingData", host.Props{"ConsistencyLevel": int32(2)})}
	n, _ := h.try(svc, "CreateReferencePoint", in)
	require.EqualValues(t, 32773, n)
	in["ReferencePointType"] = uint16(1)
	r := h.affected(h.do(svc, "CreateReferencePoint", in), "Msvm_VirtualSystemReferencePoint")
	kind, _ := r.Props.Int("ReferencePointType")
	require.EqualValues(t, 2, kind)
	require.Equal(t, vm.ID(), r.Props.String("VirtualSystemIdentifier"))
	require.Len(t, r.Props.Strings("ResilientChangeTrackingIdentifiers"), 1, "a VHD has none")

	require.NoError(t, vm.Write("new", make([]byte, 4096), mib))
	require.NoError(t, vm.Write("old", make([]byte, 4096), mib))
	s := h.snapshot(vm, 2)
	files := h.files(s.Path)
	require.Len(t, files, 2)
	got, err := h.changes(files[0], r.Props.Strings("ResilientChangeTrackingIdentifiers")[0])
	require.NoError(t, err)
	require.Equal(t, []host.Range{{Off: mib, Len: 64 << 10}}, got)
	_, err = h.changes(files[1], "rctX:0:1")
	require.ErrorIs(t, err, host.ErrTrackingLost)
	h.do(svc, "DestroyReferencePoint", host.Props{"AffectedReferencePoint": r.Path})
	require.Empty(t, vm.ReferencePoints())
}

func TestWhatEndsTracking(t *testing.T) {
	for name, lose := range map[string]func(*testing.T, *hv, *hypervtest.VM){
		"lost":  func(_ *testing.T, _ *hv, vm *hypervtest.VM) { vm.LoseTracking() },
		"crash": func(t *testing.T, h *hv, vm *hypervtest.VM) { h.Crash(); h.conn = h.Conn() },
		"replaced": func(t *testing.T, h *hv, vm *hypervtest.VM) {
			vm.PowerOff()
			require.NoError(t, vm.ReplaceDisk("os"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, hypervtest.Options{})
			vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 10 * mib}}})
			require.NoError(t, err)
			require.NoError(t, vm.Start())
			r := h.convert(h.snapshot(vm, 2))
			h.Inventory()
			lose(t, h, vm)
			s := h.snapshot(vm, 2)
			_, err = h.changes(h.files(s.Path)[0], r.Props.Strings("ResilientChangeTrackingIdentifiers")[0])
			require.ErrorIs(t, err, host.ErrTrackingLost)
			require.NotZero(t, code(t, err))
		})
	}
}

func TestWhatTrackingSurvives(t *testing.T) {
	for name, live := range map[string]func(*testing.T, *hv, *hypervtest.VM){
		"power off": func(_ *testing.T, _ *hv, vm *hypervtest.VM) { vm.PowerOff() },
		"restart":   func(t *testing.T, h *hv, vm *hypervtest.VM) { h.Restart(); h.conn = h.Conn() },
		"moved":     func(t *testing.T, h *hv, vm *hypervtest.VM) { require.NoError(t, vm.MoveDisks(`C:\Elsewhere`)) },
		"checkpoint": func(t *testing.T, h *hv, vm *hypervtest.VM) {
			require.NoError(t, vm.Checkpoint("before the update"))
		},
		"reverted": func(t *testing.T, h *hv, vm *hypervtest.VM) {
			require.NoError(t, vm.Checkpoint("before the update"))
			require.NoError(t, vm.RevertTo("before the update"))
		},
		"grown": func(t *testing.T, h *hv, vm *hypervtest.VM) {
			vm.PowerOff()
			require.NoError(t, vm.GrowDisk("os", 12*mib))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, hypervtest.Options{})
			vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 10 * mib}}})
			require.NoError(t, err)
			require.NoError(t, vm.Start())
			r := h.convert(h.snapshot(vm, 2))
			h.Inventory()
			require.NoError(t, vm.Write("os", make([]byte, 1), 3*mib))
			live(t, h, vm)
			s := h.snapshot(vm, 2)
			got, err := h.changes(h.files(s.Path)[0], r.Props.Strings("ResilientChangeTrackingIdentifiers")[0])
			require.NoError(t, err)
			want := []host.Range{{Off: 3 * mib, Len: 64 << 10}}
			if name == "grown" {
				want = append(want, host.Range{Off: 10 * mib, Len: 2 * mib})
			}
			require.Equal(t, want, got)
		})
	}
}

// Being taken back to a checkpoint forgets what was named after it.
func TestRevertForgetsLaterPoints(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 10 * mib}}})
	require.NoError(t, err)
	require.NoError(t, vm.Start())
	require.NoError(t, vm.Write("os", []byte("old"), 0))
	require.NoError(t, vm.Checkpoint("clean"))
	require.NoError(t, vm.Write("os", []byte("new"), 0))
	r := h.convert(h.snapshot(vm, 2))
	require.NoError(t, vm.RevertTo("clean"))
	require.False(t, vm.Running())
	p := make([]byte, 3)
	require.NoError(t, vm.Read("os", p, 0))
	require.Equal(t, "old", string(p))
	s := h.snapshot(vm, 2)
	_, err = h.changes(h.files(s.Path)[0], r.Props.Strings("ResilientChangeTrackingIdentifiers")[0])
	require.ErrorIs(t, err, host.ErrTrackingLost)
	require.NoError(t, vm.DeleteCheckpoint("clean"))
	h.do(h.service("Msvm_VirtualSystemSnapshotService"), "DestroySnapshot", host.Props{"AffectedSnapshot": s.Path})
	inventory := h.Inventory()
	require.Equal(t, 1, vm.ChainLength())
	for _, f := range inventory {
		require.NotContains(t, f, ".avhdx")
	}
}

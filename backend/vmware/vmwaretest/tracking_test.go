package vmwaretest_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

func TestChangesBetweenSnapshots(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, tracked())
	d := r.disk()
	r.write(d, []byte("before"), 0)
	one := r.snapshot("one")
	first := r.changeID(one, d)
	require.Regexp(t, `^([0-9a-f]{2} ){7}[0-9a-f]{2}-([0-9a-f]{2} ){7}[0-9a-f]{2}/\d+$`, first)

	r.write(d, bytes.Repeat([]byte{2}, 200_000), 10*mib+5)
	two := r.snapshot("two")
	r.write(d, []byte("later"), 30*mib)

	got, _, err := r.query(one, d, "*")
	require.NoError(t, err)
	require.Equal(t, areas(0, 64*kib), got, "* is what was ever written")
	got, _, err = r.query(two, d, first)
	require.NoError(t, err)
	require.Equal(t, areas(10*mib, 256*kib), got, "what came after the second snapshot is not in it")

	// A changeId outlives its snapshot.
	r.removeSnapshot("one")
	got, _, err = r.query(two, d, first)
	require.NoError(t, err)
	require.Equal(t, areas(10*mib, 256*kib), got)
	require.Equal(t, "before", string(r.read(two, d, 0, 6)))
	require.Equal(t, make([]byte, 5), r.read(two, d, 30*mib, 5))
}

func TestQueryIsPaged(t *testing.T) {
	for _, tc := range []struct{ max, writes, calls int }{{0, 4500, 3}, {2, 5, 3}, {2, 4, 2}} {
		r := newRig(t, vmwaretest.Options{MaxAreas: tc.max}, vmwaretest.VMSpec{ChangeTracking: true, Disks: []vmwaretest.DiskSpec{{Size: 3 * tib}}})
		d := r.disk()
		for i := range tc.writes {
			r.write(d, []byte{1}, 3*tib/int64(tc.writes)*int64(i))
		}
		snap := r.snapshot("s")
		got, calls, err := r.query(snap, d, "*")
		require.NoError(t, err)
		require.Len(t, got, tc.writes)
		require.GreaterOrEqual(t, calls, tc.calls)
		require.LessOrEqual(t, calls, tc.calls+1)
	}
}

func TestQueryRefusals(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, tracked())
	d := r.disk()
	snap := r.snapshot("s")
	id := r.changeID(snap, d)
	for _, tc := range []struct {
		property string
		change   func(*types.QueryChangedDiskAreas)
	}{
		{"startOffset", func(q *types.QueryChangedDiskAreas) { q.StartOffset = 64 * mib }},
		{"startOffset", func(q *types.QueryChangedDiskAreas) { q.StartOffset = -1 }},
		{"deviceKey", func(q *types.QueryChangedDiskAreas) { q.DeviceKey = 1 }},
		{"snapshot", func(q *types.QueryChangedDiskAreas) { q.Snapshot = nil }},
		{"changeId", func(q *types.QueryChangedDiskAreas) { q.ChangeId = "nonsense" }},
		{"changeId", func(q *types.QueryChangedDiskAreas) { q.ChangeId = "00" + id[2:] + "x" }},
	} {
		q := types.QueryChangedDiskAreas{This: r.obj.Reference(), Snapshot: &snap, DeviceKey: d, ChangeId: id}
		tc.change(&q)
		_, err := methods.QueryChangedDiskAreas(context.Background(), r.c.Client, &q)
		var bad *types.InvalidArgument
		_, ok := fault.As(err, &bad)
		require.True(t, ok, "%v", err)
		require.Equal(t, tc.property, bad.InvalidProperty)
	}
}

func TestEpochsEnd(t *testing.T) {
	for name, end := range map[string]func(*rig){
		"power loss": func(r *rig) {
			require.NoError(t, r.vm.PowerLoss())
			require.NoError(t, r.vm.PowerOn())
		},
		"revert": func(r *rig) {
			r.wait(r.obj.RevertToSnapshot(context.Background(), "base", true))
			require.NoError(t, r.vm.PowerOn())
		},
		"disabled and enabled": func(r *rig) {
			r.removeSnapshot("base")
			for _, on := range []bool{false, true} {
				r.wait(r.obj.Reconfigure(context.Background(), types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(on)}))
			}
		},
		"reset": func(r *rig) { r.vm.ResetTracking() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, vmwaretest.Options{}, tracked())
			d := r.disk()
			old := r.changeID(r.snapshot("base"), d)
			end(r)
			r.write(d, []byte("new"), mib)
			snap := r.snapshot("next")
			require.NotEmpty(t, r.changeID(snap, d))
			_, _, err := r.query(snap, d, old)
			require.True(t, fault.Is(err, &types.InvalidArgument{}), "%v", err)
			got, _, err := r.query(snap, d, "*")
			require.NoError(t, err)
			require.Equal(t, areas(mib, 64*kib), got)
		})
	}
}

func TestEnablingTracking(t *testing.T) {
	enable := func(r *rig) {
		r.wait(r.obj.Reconfigure(context.Background(), types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)}))
	}
	t.Run("the next snapshot activates it", func(t *testing.T) {
		r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
		r.write(r.disk(), []byte("old"), 0)
		enable(r)
		snap := r.snapshot("s")
		got, _, err := r.query(snap, r.disk(), "*")
		require.NoError(t, err)
		require.Equal(t, areas(0, 64*kib), got)
	})
	t.Run("under a snapshot it is not active", func(t *testing.T) {
		r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
		r.snapshot("foreign")
		enable(r)
		snap := r.snapshot("s")
		require.Empty(t, r.changeID(snap, r.disk()))
		_, _, err := r.query(snap, r.disk(), "*")
		require.True(t, fault.Is(err, &types.FileFault{}), "%v", err)
	})
	t.Run("or lies", func(t *testing.T) {
		r := newRig(t, vmwaretest.Options{Bugs: vmwaretest.Bugs{TrackingUnderSnapshots: true}}, vmwaretest.VMSpec{})
		r.write(r.disk(), []byte("old"), 0)
		r.snapshot("foreign")
		enable(r)
		r.write(r.disk(), []byte("new"), mib)
		got, _, err := r.query(r.snapshot("s"), r.disk(), "*")
		require.NoError(t, err)
		require.Equal(t, areas(mib, 64*kib), got, "the old block is missing, and nothing says so")
	})
}

func TestExtension(t *testing.T) {
	for _, bug := range []bool{false, true} {
		r := newRig(t, vmwaretest.Options{Bugs: vmwaretest.Bugs{ExtendPast128GiB: bug}},
			vmwaretest.VMSpec{ChangeTracking: true, Disks: []vmwaretest.DiskSpec{{Size: 100 * gib}}})
		d := r.disk()
		base := r.changeID(r.snapshot("base"), d)
		resize := func() error {
			devices, err := r.obj.Device(context.Background())
			require.NoError(t, err)
			disk := devices.FindByKey(d).(*types.VirtualDisk)
			disk.CapacityInBytes, disk.CapacityInKB = 200*gib, 200*gib/1024
			return r.obj.EditDevice(context.Background(), disk)
		}
		require.Error(t, resize(), "a disk can't be resized under a snapshot")
		require.Equal(t, 100*gib, r.vm.Size(d))
		r.removeSnapshot("base")
		require.NoError(t, resize())
		require.Equal(t, 200*gib, r.vm.Size(d))
		r.write(d, []byte("x"), 150*gib)
		r.write(d, []byte("x"), 50*gib)
		got, _, err := r.query(r.snapshot("next"), d, base)
		require.NoError(t, err)
		want := areas(50*gib, 64*kib)
		if !bug {
			want = areas(50*gib, 64*kib, 150*gib, 64*kib)
		}
		require.Equal(t, want, got)
	}
}

func TestStarOffVMFS(t *testing.T) {
	o := vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{{
		Name: "paris", Hosts: []string{"esx"}, Datastores: []vmwaretest.Datastore{{Name: "nas", Type: "NFS"}},
	}}}
	r := newRig(t, o, tracked())
	got, _, err := r.query(r.snapshot("s"), r.disk(), "*")
	require.NoError(t, err)
	require.Equal(t, areas(0, 64*mib), got)
}

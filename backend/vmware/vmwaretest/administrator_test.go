package vmwaretest_test

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

func TestAdministratorSnapshots(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, tracked())
	d := r.disk()
	r.write(d, []byte("then"), 0)
	snap, err := r.vm.AddSnapshot("lifeboat-7f", "left behind")
	require.NoError(t, err)
	id := r.changeID(snap, d)
	root := r.props("snapshot").Snapshot.RootSnapshotList
	require.Len(t, root, 1)
	require.Equal(t, []string{"lifeboat-7f", "left behind"}, []string{root[0].Name, root[0].Description})
	require.Equal(t, snap, root[0].Snapshot)
	require.Zero(t, r.sim.Calls("CreateSnapshot_Task"))
	r.write(d, []byte("now!"), 0)

	require.NoError(t, r.vm.Revert(snap))
	require.False(t, r.vm.Running())
	p := make([]byte, 4)
	_, err = r.vm.Read(d, p, 0)
	require.NoError(t, err)
	require.Equal(t, "then", string(p))
	require.NoError(t, r.vm.PowerOn())
	next, err := r.vm.AddSnapshot("next", "")
	require.NoError(t, err)
	_, _, err = r.query(next, d, id)
	require.True(t, fault.Is(err, &types.InvalidArgument{}), "a revert resets tracking: %v", err)
	require.NoError(t, r.vm.RemoveSnapshot(snap))
	require.Equal(t, 1, r.vm.Snapshots())
	require.Error(t, r.vm.RemoveSnapshot(snap))
	require.Error(t, r.vm.Revert(snap))
}

// TestRemoveChildren removes a subtree below which the present is.
func TestRemoveChildren(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, tracked())
	root := r.snapshot("root")
	r.snapshot("middle")
	leaf := r.snapshot("leaf")
	r.wait(r.obj.RemoveSnapshot(ctx, "middle", true, nil))
	require.Equal(t, 1, r.vm.Snapshots())
	tree := r.props("snapshot").Snapshot
	require.Equal(t, root, *tree.CurrentSnapshot)
	require.Empty(t, tree.RootSnapshotList[0].ChildSnapshotList)
	_, err := r.obj.ExportSnapshot(ctx, &leaf)
	require.True(t, fault.Is(err, &types.ManagedObjectNotFound{}), "%v", err)
	r.snapshot("again")
	require.Equal(t, 2, r.vm.Snapshots())
}

// TestSpecialDisks are those that a snapshot leaves out, and one of two machines.
func TestSpecialDisks(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Disks: []vmwaretest.DiskSpec{
		{Size: mib}, {Size: mib, Mode: types.VirtualDiskModeIndependent_persistent}, {Size: mib, RawDevice: true}, {Size: mib, Shared: true, Controller: "lsilogic"},
	}})
	disks := r.vm.Disks()
	snap := r.snapshot("s")
	p := make([]byte, 1)
	for i, there := range []bool{true, false, false, true} {
		_, err := r.vm.ReadSnapshot(snap, disks[i], p, 0)
		require.Equal(t, there, err == nil, "disk %d: %v", i, err)
	}
	require.Equal(t, string(types.VirtualDiskSharingSharingMultiWriter), r.live(disks[3]).Sharing)
	r.removeSnapshot("s")
	other, err := r.sim.AddVM(vmwaretest.VMSpec{Name: "other", Disks: []vmwaretest.DiskSpec{{Size: mib, Shared: true, File: r.live(disks[3]).FileName}}})
	require.NoError(t, err, "both run with it")
	r.write(disks[3], []byte("x"), 0)
	_, err = other.Read(other.Disks()[0], p, 0)
	require.NoError(t, err)
	require.Equal(t, "x", string(p))
	_, err = r.sim.AddVM(vmwaretest.VMSpec{Name: "third", Disks: []vmwaretest.DiskSpec{{Size: mib, File: r.live(disks[0]).FileName}}})
	require.Error(t, err, "this one is not shared")
}

// TestFilesInUse are not moved or deleted.
func TestFilesInUse(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, tracked())
	snap := r.snapshot("s")
	file := r.frozen(snap, r.disk()).FileName
	dc, err := find.NewFinder(r.c.Client).Datacenter(ctx, "DC0")
	require.NoError(t, err)
	_, err = r.try(object.NewVirtualDiskManager(r.c.Client).DeleteVirtualDisk(ctx, file, dc))
	require.True(t, fault.Is(err, &types.FileLocked{}), "%v", err)
	_, err = r.try(object.NewFileManager(r.c.Client).DeleteDatastoreFile(ctx, "[vmfs-0] web", dc))
	require.True(t, fault.Is(err, &types.FileLocked{}), "%v", err)

	require.NoError(t, r.vm.PowerOff())
	proxy, err := r.sim.AddVM(vmwaretest.VMSpec{Name: "proxy", Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	require.NoError(t, err)
	key, err := proxy.Attach(file, types.VirtualDiskModeIndependent_nonpersistent)
	require.NoError(t, err)
	require.Error(t, r.vm.Relocate("vmfs-1"))
	_, err = r.try(r.obj.Destroy(ctx))
	require.True(t, fault.Is(err, &types.FileLocked{}), "%v", err)
	require.NoError(t, proxy.Detach(key))
	require.NoError(t, r.vm.Relocate("vmfs-1"))
	require.Contains(t, r.live(r.disk()).FileName, "[vmfs-1]")
	require.Error(t, r.vm.Relocate("nowhere"))
	require.Error(t, r.vm.Detach(12345))
	_, err = proxy.Attach("[vmfs-0] none.vmdk", types.VirtualDiskModePersistent)
	require.Error(t, err)
}

// TestNFCConnections are few, and given back when a client drops one.
func TestNFCConnections(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{MaxNFC: 1, LeaseTimeout: time.Hour}, vmwaretest.VMSpec{})
	snap := r.snapshot("s")
	lease, err := r.obj.ExportSnapshot(ctx, &snap)
	require.NoError(t, err)
	info, err := lease.Wait(ctx, nil)
	require.NoError(t, err)
	get := func(ctx context.Context) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, info.Items[0].URL.String(), nil)
		require.NoError(t, err)
		res, err := r.c.Client.Client.Client.Do(req)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return res.StatusCode, err
	}
	hold := make(chan struct{})
	defer close(hold)
	r.sim.Fault(vmwaretest.Fault{Call: "GET /nfc", Hold: hold})
	first, drop := context.WithCancel(ctx)
	dropped := make(chan error)
	go func() { _, err := get(first); dropped <- err }()
	require.Eventually(t, func() bool { return r.sim.Traffic(vmwaretest.NFC).Open == 1 }, time.Minute, time.Millisecond)
	code, err := get(ctx)
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, code)
	drop()
	require.ErrorIs(t, <-dropped, context.Canceled)
	require.Eventually(t, func() bool { code, err := get(ctx); return err == nil && code == http.StatusOK }, time.Minute, 5*time.Millisecond)
}

// TestLeaseThatRanOut holds its machine no longer, though nobody ended it.
func TestLeaseThatRanOut(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{LeaseTimeout: 100 * time.Millisecond}, vmwaretest.VMSpec{Off: true})
	_, err := r.obj.Export(ctx)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return r.sim.Leases() == 0 }, time.Minute, 10*time.Millisecond)
	require.NoError(t, r.vm.PowerOn())
}

func TestCloseLeavesNothing(t *testing.T) {
	ctx := context.Background()
	before := runtime.NumGoroutine()
	sim, err := vmwaretest.Start(vmwaretest.Options{})
	require.NoError(t, err)
	vm, err := sim.AddVM(vmwaretest.VMSpec{Name: "web", Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	require.NoError(t, err)
	for range 5 {
		c, err := govmomi.NewClient(ctx, sim.URL, true)
		require.NoError(t, err)
		task, err := object.NewVirtualMachine(c.Client, vm.Reference()).CreateSnapshot(ctx, "s", "", false, false)
		require.NoError(t, err)
		require.NoError(t, task.Wait(ctx))
		c.Client.Client.CloseIdleConnections()
	}
	sim.Close()
	sim.Close()
	for deadline := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("goroutines are left:\n%s", stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// After a revert to the first snapshot the present stands on it. If that goes,
// the present stands on nothing, beside what was made above it.
func TestTheFirstSnapshotGoesBeforeTheOthers(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, tracked())
	first, err := r.vm.AddSnapshot("first", "")
	require.NoError(t, err)
	_, err = r.vm.AddSnapshot("second", "")
	require.NoError(t, err)
	require.NoError(t, r.vm.Revert(first))
	require.NoError(t, r.vm.RemoveSnapshot(first))
	require.Equal(t, 1, r.vm.Snapshots())
	third, err := r.vm.AddSnapshot("third", "")
	require.NoError(t, err)
	require.NoError(t, r.vm.RemoveSnapshot(third))
}

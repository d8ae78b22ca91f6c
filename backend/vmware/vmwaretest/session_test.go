package vmwaretest_test

import (
	"context"
	"net/http"
	"net/url"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

func TestIdleSessionsExpire(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{SessionIdle: 1500 * time.Millisecond}, vmwaretest.VMSpec{})
	for range 8 { // a call now and then keeps it
		time.Sleep(250 * time.Millisecond)
		_, err := methods.GetCurrentTime(ctx, r.c)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return r.sim.Sessions() == 0 }, time.Minute, 50*time.Millisecond)
	_, err := r.obj.PowerState(ctx)
	require.True(t, fault.Is(err, &types.NotAuthenticated{}), "%v", err)
	require.NoError(t, r.c.Login(ctx, r.sim.URL.User))
}

// TestWaitsEnd is about calls that wait for updates which never come: when the
// session expires, and when the client has left.
func TestWaitsEnd(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
	wait := func(ctx context.Context) <-chan error {
		tr := &trial{rig: r, off: r.obj}
		require.NoError(t, createFilter(context.Background(), tr))
		pc := r.c.ServiceContent.PropertyCollector
		first, err := methods.WaitForUpdatesEx(ctx, r.c, &types.WaitForUpdatesEx{This: pc})
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() {
			_, err := methods.WaitForUpdatesEx(ctx, r.c, &types.WaitForUpdatesEx{This: pc, Version: first.Returnval.Version})
			done <- err
		}()
		return done
	}
	before := runtime.NumGoroutine()
	ctx, leave := context.WithCancel(context.Background())
	left := wait(ctx)
	time.Sleep(20 * time.Millisecond)
	leave()
	require.ErrorIs(t, <-left, context.Canceled)
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+4 }, time.Minute, 20*time.Millisecond)

	expired := wait(context.Background())
	time.Sleep(20 * time.Millisecond)
	require.Equal(t, 1, r.sim.ExpireSessions())
	err := <-expired
	require.True(t, fault.Is(err, &types.NotAuthenticated{}), "%v", err)

	require.NoError(t, r.c.Login(context.Background(), r.sim.URL.User))
	closed := wait(context.Background())
	r.sim.Close()
	require.Error(t, <-closed)
}

func TestLatency(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
	r.sim.SetLatency(200 * time.Millisecond)
	start := time.Now()
	_, err := methods.GetCurrentTime(context.Background(), r.c)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(start), 200*time.Millisecond)
	r.sim.SetLatency(0)
}

func TestPermissions(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{Reader: "reader@vsphere.local"}, tracked())
	snap := r.snapshot("s")
	refused := func(err error, privilege string) {
		t.Helper()
		var f *types.NoPermission
		_, ok := fault.As(err, &f)
		require.True(t, ok, "%v", err)
		require.Equal(t, privilege, f.PrivilegeId)
	}
	r.sim.Deny("VirtualMachine.State.CreateSnapshot", "VirtualMachine.Config.AddExistingDisk")
	_, err := r.try(r.obj.CreateSnapshot(ctx, "s", "", false, false))
	refused(err, "VirtualMachine.State.CreateSnapshot")
	_, _, err = r.query(snap, r.disk(), "*")
	require.NoError(t, err)
	_, err = r.obj.Reconfigure(ctx, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: new(types.VirtualDisk)},
	}})
	refused(err, "VirtualMachine.Config.AddExistingDisk")
	require.Equal(t, 1, r.vm.Snapshots())
	r.sim.Deny()
	r.snapshot("t")

	u := *r.sim.URL
	password, _ := u.User.Password()
	u.User = url.UserPassword("reader@vsphere.local", password)
	reader, err := govmomi.NewClient(ctx, &u, true)
	require.NoError(t, err)
	obj := object.NewVirtualMachine(reader.Client, r.obj.Reference())
	_, err = obj.PowerState(ctx)
	require.NoError(t, err, "it may look")
	_, err = obj.PowerOff(ctx)
	refused(err, "VirtualMachine.Interact.PowerOff")
	_, err = obj.ExportSnapshot(ctx, &snap)
	refused(err, "VApp.Export")
	ds, err := find.NewFinder(reader.Client).Datastore(ctx, "/DC0/datastore/vmfs-0")
	require.NoError(t, err)
	res, err := reader.Client.Client.Client.Get(ds.NewURL("web/web.vmdk").String())
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusForbidden, res.StatusCode)

	ids := []string{"System.Read", "VirtualMachine.State.CreateSnapshot"}
	for user, want := range map[string]bool{"reader@vsphere.local": false, "administrator@vsphere.local": true} {
		got, err := object.NewAuthorizationManager(r.c.Client).HasUserPrivilegeOnEntities(ctx, []types.ManagedObjectReference{r.obj.Reference()}, user, ids)
		require.NoError(t, err)
		require.True(t, got[0].PrivAvailability[0].IsGranted)
		require.Equal(t, want, got[0].PrivAvailability[1].IsGranted)
	}
	_, err = govmomi.NewClient(ctx, &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, User: url.UserPassword("reader@vsphere.local", "wrong")}, true)
	require.Error(t, err)
}

package vmwaretest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/nfc"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

func qemu(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(tool(t, "qemu-img"), args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return out
}

func (r *rig) download(lease *nfc.Lease, name string) string {
	r.t.Helper()
	ctx := context.Background()
	info, err := lease.Wait(ctx, nil)
	require.NoError(r.t, err)
	defer lease.StartUpdater(ctx, info).Done()
	for _, item := range info.Items {
		if item.Path == name {
			file := filepath.Join(r.t.TempDir(), name)
			require.NoError(r.t, lease.DownloadFile(ctx, file, item, soap.DefaultDownload))
			return file
		}
	}
	require.Fail(r.t, "no such item in the lease")
	return ""
}

func TestExportIsReadByQemu(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{Disks: []vmwaretest.DiskSpec{{Size: 100*mib + 4096}, {Size: tib}}})
	want := make([]byte, 100*mib+4096)
	for _, off := range []int64{0, 33*mib - 5, 100 * mib} {
		p := bytes.Repeat([]byte(fmt.Sprint(off, " ")), 100)
		copy(want[off:], p)
		r.write(r.disk(), p, off)
	}
	snap := r.snapshot("s")
	r.write(r.disk(), []byte("after"), 0)
	lease, err := r.obj.ExportSnapshot(ctx, &snap)
	require.NoError(t, err)
	file := r.download(lease, "disk-0.vmdk")
	raw := file + ".raw"
	qemu(t, "convert", "-f", "vmdk", "-O", "raw", file, raw)
	got, err := os.ReadFile(raw)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	qemu(t, "check", "-f", "vmdk", file)
	require.Contains(t, string(qemu(t, "info", r.download(lease, "disk-1.vmdk"))), "1 TiB")
	require.NoError(t, lease.Complete(ctx))
	require.Zero(t, r.sim.Leases())
	require.Greater(t, r.sim.Traffic(vmwaretest.NFC).Sent, int64(1000))

	// A running machine itself can't be exported; one that is off can't start
	// while it is.
	_, err = r.obj.Export(ctx)
	require.True(t, fault.Is(err, &types.InvalidPowerState{}), "%v", err)
	require.NoError(t, r.vm.PowerOff())
	lease, err = r.obj.Export(ctx)
	require.NoError(t, err)
	_, err = r.try(r.obj.PowerOn(ctx))
	require.True(t, fault.Is(err, &types.FileLocked{}), "%v", err)
	require.NoError(t, lease.Abort(ctx, nil))
	require.NoError(t, r.vm.PowerOn())
}

func TestLeaseExpires(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
	snap := r.snapshot("s")
	lease, err := r.obj.ExportSnapshot(ctx, &snap)
	require.NoError(t, err)
	require.NoError(t, lease.Progress(ctx, 10))
	info, err := lease.Wait(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, 1, r.sim.ExpireLeases())
	require.True(t, fault.Is(lease.Progress(ctx, 20), &types.Timedout{}))
	_, _, err = r.c.Client.Download(ctx, info.Items[0].URL, &soap.DefaultDownload)
	require.Error(t, err)
	p, err := lease.Properties(ctx)
	require.NoError(t, err)
	require.Equal(t, types.HttpNfcLeaseStateError, p.State)
}

func TestImportKeepsBytes(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
	raw := filepath.Join(t.TempDir(), "raw")
	want := bytes.Repeat([]byte("imported "), 20_000)
	require.NoError(t, os.WriteFile(raw, want, 0o600))
	require.NoError(t, os.Truncate(raw, 8*mib))
	stream := raw + ".vmdk"
	qemu(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, stream)

	finder := find.NewFinder(r.c.Client)
	pool, err := finder.ResourcePool(ctx, "/DC0/host/C0/Resources")
	require.NoError(t, err)
	folder, err := finder.Folder(ctx, "/DC0/vm")
	require.NoError(t, err)
	var devices object.VirtualDeviceList
	scsi, err := devices.CreateSCSIController("pvscsi")
	require.NoError(t, err)
	devices = append(devices, scsi)
	disk := &types.VirtualDisk{CapacityInKB: 8 * 1024}
	disk.Key = -1
	disk.Backing = &types.VirtualDiskFlatVer2BackingInfo{DiskMode: string(types.VirtualDiskModePersistent),
		VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[vmfs-1]"}}
	devices.AssignController(disk, scsi.(types.BaseVirtualController))
	change, err := append(devices, disk).ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd)
	require.NoError(t, err)
	lease, err := pool.ImportVApp(ctx, &types.VirtualMachineImportSpec{ConfigSpec: types.VirtualMachineConfigSpec{
		Name: "new", GuestId: "otherGuest", DeviceChange: change, Files: &types.VirtualMachineFileInfo{VmPathName: "[vmfs-1]"},
	}}, folder, nil)
	require.NoError(t, err)
	info, err := lease.Wait(ctx, nil)
	require.NoError(t, err)
	in, err := os.Open(stream)
	require.NoError(t, err)
	defer in.Close()
	updater := lease.StartUpdater(ctx, info)
	require.NoError(t, lease.Upload(ctx, info.Items[0], in, soap.Upload{Type: "application/x-vnd.vmware-streamVmdk"}))
	updater.Done()
	require.NoError(t, lease.Complete(ctx))
	vm := r.sim.VM(info.Entity)
	got := make([]byte, len(want))
	_, err = vm.Read(vm.Disks()[0], got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
}

func TestFolder(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{})
	r.write(r.disk(), []byte("hello"), 12345)
	ds, err := find.NewFinder(r.c.Client).Datastore(ctx, "/DC0/datastore/vmfs-0")
	require.NoError(t, err)
	do := func(method, name, byteRange string, client *http.Client, body io.Reader) *http.Response {
		req, err := http.NewRequest(method, ds.NewURL(name).String(), body)
		require.NoError(t, err)
		if byteRange != "" {
			req.Header.Set("Range", byteRange)
		}
		res, err := client.Do(req)
		require.NoError(t, err)
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	client := &r.c.Client.Client.Client
	flat := "web/web-flat.vmdk"
	require.Equal(t, http.StatusInternalServerError, do("GET", flat, "", client, nil).StatusCode, "a running machine's extent is locked")
	require.NoError(t, r.vm.PowerOff())
	require.Equal(t, http.StatusUnauthorized, do("GET", flat, "", &http.Client{Transport: client.Transport}, nil).StatusCode)
	res := do("HEAD", flat, "", client, nil)
	require.Equal(t, 64*mib, res.ContentLength)
	res = do("GET", flat, "bytes=12345-12349", client, nil)
	require.Equal(t, http.StatusPartialContent, res.StatusCode)
	got, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))

	whole := bytes.Repeat([]byte("new"), int(64*mib/3)+1)[:64*mib]
	require.Equal(t, http.StatusCreated, do("PUT", flat, "", client, bytes.NewReader(whole)).StatusCode)
	got = make([]byte, 64*mib)
	_, err = r.vm.Read(r.disk(), got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(whole, got))

	r.sim.ExpireSessions()
	require.Equal(t, http.StatusUnauthorized, do("GET", flat, "", client, nil).StatusCode)
}

func TestNBDServesWhatIsFrozen(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, tracked())
	r.write(r.disk(), []byte("frozen"), mib)
	snap := r.snapshot("s")
	r.write(r.disk(), []byte("later!"), mib)
	ctx, cancel := context.WithCancel(context.Background())
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "nbd"))
	require.NoError(t, err)
	done := make(chan error)
	go func() {
		done <- r.sim.ServeNBD(ctx, l, vmwaretest.NBDExport{VM: r.obj.Reference(), Snapshot: snap, File: r.frozen(snap, r.disk()).FileName})
	}()
	raw := filepath.Join(t.TempDir(), "raw")
	qemu(t, "convert", "-f", "raw", "-O", "raw", "nbd+unix:///?socket="+l.Addr().String(), raw)
	got, err := os.ReadFile(raw)
	require.NoError(t, err)
	require.Len(t, got, int(64*mib))
	require.Equal(t, "frozen", string(got[mib:mib+6]))
	cancel()
	require.NoError(t, <-done)

	l, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.Error(t, r.sim.ServeNBD(context.Background(), l, vmwaretest.NBDExport{VM: r.obj.Reference(), File: r.live(r.disk()).FileName}), "the live link of a running machine is locked")
}

// tool finds a program that a test runs. Without it the test is skipped, or
// fails if LIFEBOAT_REQUIRE=all says that nothing may be missing.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("%s is not installed, and LIFEBOAT_REQUIRE=all", name)
	}
	t.Skipf("%s is not installed (Debian: nbdkit, qemu-utils)", name)
	return ""
}

package vmwaretest_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/internal/nbd"
)

// TestHotAdd is what an appliance does: it attaches a snapshot's disk to itself,
// reads it, and may scribble on it without harm.
func TestHotAdd(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, tracked())
	d := r.disk()
	r.write(d, []byte("frozen"), mib)
	snap, err := r.vm.AddSnapshot("s", "")
	require.NoError(t, err)
	r.write(d, []byte("later!"), mib)
	proxy, err := r.sim.AddVM(vmwaretest.VMSpec{Name: "proxy", Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	require.NoError(t, err)
	file := r.frozen(snap, d).FileName
	key, err := proxy.Attach(file, types.VirtualDiskModeIndependent_nonpersistent)
	require.NoError(t, err)
	dev, err := proxy.Device(key)
	require.NoError(t, err)
	require.Equal(t, 64*mib, dev.Size())
	p := make([]byte, 6)
	_, err = dev.ReadAt(p, mib)
	require.NoError(t, err)
	require.Equal(t, "frozen", string(p))
	_, err = dev.ReadAt(p, 64*mib-3)
	require.ErrorIs(t, err, io.EOF)

	_, err = dev.WriteAt([]byte("scrawl"), mib)
	require.NoError(t, err)
	_, err = dev.ReadAt(p, mib)
	require.NoError(t, err)
	require.Equal(t, "scrawl", string(p))
	require.Equal(t, "frozen", string(r.read(snap, d, mib, 6)))
	_, err = r.vm.Read(d, p, mib)
	require.NoError(t, err)
	require.Equal(t, "later!", string(p))

	// A snapshot that is removed while its disk is attached elsewhere leaves
	// links that need consolidation.
	require.NoError(t, r.vm.RemoveSnapshot(snap))
	require.True(t, r.props("runtime").Runtime.ConsolidationNeeded)
	_, err = r.try(r.consolidate(context.Background()))
	require.True(t, fault.Is(err, &types.FileLocked{}), "%v", err)
	_, err = dev.ReadAt(p, mib)
	require.NoError(t, err)
	require.Equal(t, "scrawl", string(p))

	require.NoError(t, proxy.Detach(key))
	_, err = dev.ReadAt(p, mib)
	require.ErrorIs(t, err, vmwaretest.ErrNoDisk)
	require.Zero(t, dev.Size())
	r.wait(r.consolidate(context.Background()))
	require.False(t, r.props("runtime").Runtime.ConsolidationNeeded)
	require.Equal(t, file, r.live(d).FileName)
	_, err = r.vm.Read(d, p, mib)
	require.NoError(t, err)
	require.Equal(t, "later!", string(p))
}

// TestHotAddWrites restores a machine that is off by way of an appliance.
func TestHotAddWrites(t *testing.T) {
	r := newRig(t, vmwaretest.Options{}, tracked())
	d := r.disk()
	proxy, err := r.sim.AddVM(vmwaretest.VMSpec{Name: "proxy", Disks: []vmwaretest.DiskSpec{{Size: mib}}})
	require.NoError(t, err)
	_, err = proxy.Attach(r.live(d).FileName, types.VirtualDiskModePersistent)
	require.Error(t, err, "a running machine's disk is locked")
	base := r.changeID(r.snapshot("base"), d)
	r.removeSnapshot("base")
	require.NoError(t, r.vm.PowerOff())
	key, err := proxy.Attach(r.live(d).FileName, types.VirtualDiskModePersistent)
	require.NoError(t, err)
	dev, err := proxy.Device(key)
	require.NoError(t, err)
	_, err = dev.WriteAt([]byte("restored"), 2*mib)
	require.NoError(t, err)
	require.Error(t, r.vm.PowerOn(), "the appliance has it open")
	require.NoError(t, proxy.Detach(key))
	require.NoError(t, r.vm.PowerOn())
	p := make([]byte, 8)
	_, err = r.vm.Read(d, p, 2*mib)
	require.NoError(t, err)
	require.Equal(t, "restored", string(p))
	got, _, err := r.query(r.snapshot("next"), d, base)
	require.NoError(t, err)
	require.Equal(t, areas(2*mib, 64*kib), got)

	require.NoError(t, proxy.PowerOff())
	_, err = proxy.Device(proxy.Disks()[0])
	require.ErrorIs(t, err, vmwaretest.ErrOff)
}

// TestRawFiles lets a real nbdkit serve what a snapshot froze, and takes back
// what was written through another.
func TestRawFiles(t *testing.T) {
	tool(t, "nbdkit")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := newRig(t, vmwaretest.Options{}, vmwaretest.VMSpec{ChangeTracking: true, Disks: []vmwaretest.DiskSpec{{Size: 8 * gib}}})
	d := r.disk()
	r.write(d, []byte("frozen"), 5*gib)
	snap := r.snapshot("s")
	r.write(d, []byte("later!"), 5*gib)
	raw := filepath.Join(t.TempDir(), "raw")
	require.NoError(t, r.sim.WriteRaw(raw, vmwaretest.NBDExport{VM: r.obj.Reference(), Snapshot: snap, File: r.frozen(snap, d).FileName}))
	serve := func(file string, use func(*nbd.Client)) {
		socket := filepath.Join(t.TempDir(), "s")
		cmd := exec.CommandContext(ctx, "nbdkit", "--foreground", "--exit-with-parent", "--unix", socket, "file", file)
		require.NoError(t, cmd.Start())
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
		var c *nbd.Client
		require.Eventually(t, func() bool { // the socket is there before it listens
			var err error
			c, err = nbd.Dial(ctx, nbd.Options{Network: "unix", Address: socket})
			return err == nil
		}, time.Minute, 10*time.Millisecond)
		defer c.Close()
		use(c)
	}
	serve(raw, func(c *nbd.Client) {
		p := make([]byte, 6)
		_, err := c.ReadAt(ctx, p, 5*gib)
		require.NoError(t, err)
		require.Equal(t, "frozen", string(p))
	})

	_, err := r.sim.ReadRaw(raw, vmwaretest.NBDExport{VM: r.obj.Reference(), Snapshot: snap, File: r.frozen(snap, d).FileName})
	require.Error(t, err, "a snapshot is read-only")
	r.removeSnapshot("s")
	export := vmwaretest.NBDExport{VM: r.obj.Reference(), File: r.live(d).FileName}
	_, err = r.sim.ReadRaw(raw, export)
	require.Error(t, err, "it runs")
	require.NoError(t, r.vm.PowerOff())
	require.NoError(t, r.sim.WriteRaw(raw, export))
	serve(raw, func(c *nbd.Client) {
		_, err := c.WriteAt(ctx, []byte("restored"), 3*gib)
		require.NoError(t, err)
		require.NoError(t, c.Flush(ctx))
	})
	snap = r.snapshot("between")
	id := r.changeID(snap, d)
	r.removeSnapshot("between")
	changed, err := r.sim.ReadRaw(raw, export)
	require.NoError(t, err)
	require.Equal(t, 64*kib, changed)
	got, _, err := r.query(r.snapshot("next"), d, id)
	require.NoError(t, err)
	require.Equal(t, areas(3*gib, 64*kib), got)
	p := make([]byte, 8)
	_, err = r.vm.Read(d, p, 3*gib)
	require.NoError(t, err)
	require.Equal(t, "restored", string(p))
	require.NoError(t, os.Truncate(raw, gib))
	_, err = r.sim.ReadRaw(raw, vmwaretest.NBDExport{VM: r.obj.Reference(), File: r.live(d).FileName})
	require.Error(t, err, "another size")
}

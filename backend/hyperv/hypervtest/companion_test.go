package hypervtest_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
	"github.com/lifeboat-dr/lifeboat/internal/vhdx"
)

// Tracking lives in files beside the disk's: what renames or removes the disk
// has to take them along.
func TestTrackingHasFilesOfItsOwn(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 10 * mib}}})
	require.NoError(t, err)
	require.NoError(t, vm.Start())
	id := h.convert(h.snapshot(vm, 2)).Props.Strings("ResilientChangeTrackingIdentifiers")[0]
	h.Inventory()
	path := vm.Disks()[0].Path
	torn := strings.TrimSuffix(path, ".vhdx") + ".torn.vhdx"
	ctx := t.Context()
	require.ErrorIs(t, h.disks.Rename(ctx, path+".rct", torn+".rct"), host.ErrInUse)
	vm.PowerOff()

	// Along with them everything stays known.
	both := func(from, to string) {
		for _, c := range []string{".rct", ".mrt", ""} {
			require.NoError(t, h.disks.Rename(ctx, from+c, to+c))
		}
	}
	both(path, torn)
	d, err := h.disks.Open(ctx, torn, true)
	require.NoError(t, err)
	_, err = d.WriteAt([]byte("x"), mib)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	both(torn, path)
	got, err := h.changes(path, id)
	require.NoError(t, err)
	require.Equal(t, []host.Range{{Off: mib, Len: 64 << 10}}, got)

	// Without them nothing can be told, and what is written is not known any
	// more when they are back.
	require.NoError(t, h.disks.Rename(ctx, path, torn))
	_, err = h.changes(torn, id)
	require.ErrorIs(t, err, host.ErrTrackingLost)
	d, err = h.disks.Open(ctx, torn, true)
	require.NoError(t, err)
	_, err = d.WriteAt([]byte("y"), 2*mib)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	for _, c := range []string{".rct", ".mrt"} {
		require.NoError(t, h.disks.Remove(ctx, torn+c))
	}
	require.NoError(t, h.disks.Rename(ctx, torn, path))
	_, err = h.changes(path, id)
	require.ErrorIs(t, err, host.ErrTrackingLost)

	// They outlive their disk if nobody removes them.
	require.NotContains(t, strings.Join(h.Inventory(), "\n"), ".rct")
	require.NoError(t, h.disks.Remove(ctx, path))
	require.Contains(t, strings.Join(h.Inventory(), "\n"), "os.vhdx.rct")
}

func TestDisksAreRealVHDX(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 10 * mib, Sector4K: true}}})
	require.NoError(t, err)
	require.NoError(t, vm.Start())
	require.NoError(t, vm.Write("os", []byte("below"), 5000))
	require.NoError(t, vm.Checkpoint("c"))
	require.NoError(t, vm.Write("os", []byte("above"), 6*mib))
	at := vm.Disks()[0]
	read := func(path string, parent *vhdx.Disk) *vhdx.Disk {
		local, err := h.Local(path)
		require.NoError(t, err)
		f, err := os.Open(local)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
		d, err := vhdx.Open(vhdx.OSFile(f), vhdx.OpenOptions{ReadOnly: true, Parent: func(l vhdx.Locator) (*vhdx.Disk, error) {
			require.Equal(t, at.Base, l.Absolute)
			return parent, nil
		}})
		require.NoError(t, err)
		return d
	}
	d := read(at.Path, read(at.Base, nil))
	require.EqualValues(t, 4096, d.LogicalSector())
	require.EqualValues(t, 10*mib, d.Size())
	require.True(t, strings.EqualFold(at.VirtualDiskID, d.ID().String()))
	p := make([]byte, 5)
	_, err = d.ReadAt(p, 5000)
	require.NoError(t, err)
	require.Equal(t, "below", string(p))
	_, err = d.ReadAt(p, 6*mib)
	require.NoError(t, err)
	require.Equal(t, "above", string(p))
}

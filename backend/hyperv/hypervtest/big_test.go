package hypervtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
)

// A disk costs what is written to it, not what it could hold.
func TestALargeDisk(t *testing.T) {
	h := open(t, hypervtest.Options{BlockSize: 32 * mib})
	const size = 16 << 40
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "archive", Disks: []hypervtest.DiskSpec{{ID: "d", Size: size}}})
	require.NoError(t, err)
	require.NoError(t, vm.Start())
	require.NoError(t, vm.Write("d", []byte("end"), size-3))
	s := h.snapshot(vm, 2)
	info, err := h.disks.Stat(t.Context(), h.files(s.Path)[0])
	require.NoError(t, err)
	require.Less(t, info.Allocated, int64(256*mib))
	r := h.convert(s)
	h.Inventory()
	require.NoError(t, vm.Write("d", []byte("begin"), 0))
	got, err := h.changes(h.files(h.snapshot(vm, 2).Path)[0], r.Props.Strings("ResilientChangeTrackingIdentifiers")[0])
	require.NoError(t, err)
	require.Len(t, got, 1)
}

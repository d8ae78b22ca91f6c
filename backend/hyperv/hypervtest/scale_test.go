package hypervtest_test

import (
	"fmt"
	"testing"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
)

func BenchmarkGetAmong200Machines(b *testing.B) {
	h := hypervtest.New(b, hypervtest.Options{})
	var last *hypervtest.VM
	for i := range 200 {
		vm, err := h.AddVM(hypervtest.VMSpec{Name: fmt.Sprint("m", i), Disks: []hypervtest.DiskSpec{{Size: mib}}, Switches: []string{"p"}})
		if err != nil {
			b.Fatal(err)
		}
		last = vm
	}
	c := h.Conn()
	path := host.Ref(`Msvm_VirtualSystemSettingData.InstanceID="Microsoft:` + last.ID() + `"`)
	for b.Loop() {
		if _, err := c.Get(b.Context(), path); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSnapshot(b *testing.B) {
	h := hypervtest.New(b, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "m", Disks: []hypervtest.DiskSpec{{ID: "d", Size: 64 * mib}}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := vm.Checkpoint("c"); err != nil {
			b.Fatal(err)
		}
		if err := vm.DeleteCheckpoint("c"); err != nil {
			b.Fatal(err)
		}
		h.Inventory()
	}
}

package hypervtest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
)

func Example() {
	// A test has its own *testing.T.
	_ = func(t *testing.T) {
		h := hypervtest.New(t, hypervtest.Options{})
		vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 1 << 30}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := vm.Start(); err != nil {
			t.Fatal(err)
		}
		if err := vm.Write("os", []byte("the guest writes"), 4096); err != nil {
			t.Fatal(err)
		}
		all, err := h.Conn().Query(context.Background(), "SELECT * FROM Msvm_ComputerSystem WHERE EnabledState=2")
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			fmt.Println(o.Props.String("ElementName"))
		}
	}
}

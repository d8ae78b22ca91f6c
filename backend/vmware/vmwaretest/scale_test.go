package vmwaretest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

// fleet is a simulator with many machines, of four disks of 64 GiB each, into
// which a little was written.
type fleet struct {
	sim *vmwaretest.Simulator
	c   *govmomi.Client
	vms []*vmwaretest.VM
}

func newFleet(tb testing.TB, machines int) *fleet {
	f := &fleet{sim: vmwaretest.New(tb, vmwaretest.Options{})}
	for i := range machines {
		vm, err := f.sim.AddVM(vmwaretest.VMSpec{
			Name: fmt.Sprintf("vm-%03d", i), ChangeTracking: true, NICs: []vmwaretest.NICSpec{{}},
			Disks: []vmwaretest.DiskSpec{{Size: 64 * gib}, {Size: 64 * gib}, {Size: 64 * gib}, {Size: 64 * gib}},
		})
		if err != nil {
			tb.Fatal(err)
		}
		for j, d := range vm.Disks() {
			if err := vm.Write(d, []byte{1}, int64(j)*gib); err != nil {
				tb.Fatal(err)
			}
		}
		f.vms = append(f.vms, vm)
	}
	var err error
	if f.c, err = govmomi.NewClient(context.Background(), f.sim.URL, true); err != nil {
		tb.Fatal(err)
	}
	return f
}

func BenchmarkAddVM200(b *testing.B) {
	for b.Loop() {
		newFleet(b, 200).sim.Close()
	}
}

// The machines beside the one that is worked on must not matter.
func eachFleet(b *testing.B, f func(b *testing.B, f *fleet, obj *object.VirtualMachine)) {
	for _, n := range []int{1, 200} {
		b.Run(fmt.Sprintf("machines=%d", n), func(b *testing.B) {
			fl := newFleet(b, n)
			f(b, fl, object.NewVirtualMachine(fl.c.Client, fl.vms[0].Reference()))
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	eachFleet(b, func(b *testing.B, f *fleet, _ *object.VirtualMachine) {
		for b.Loop() {
			snap, err := f.vms[0].AddSnapshot("s", "")
			if err != nil {
				b.Fatal(err)
			}
			if err := f.vms[0].RemoveSnapshot(snap); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkQueryChangedDiskAreas(b *testing.B) {
	eachFleet(b, func(b *testing.B, f *fleet, obj *object.VirtualMachine) {
		vm := f.vms[0]
		disk := vm.Disks()[0]
		for i := range int64(4000) {
			if err := vm.Write(disk, []byte{1}, i*16*mib); err != nil {
				b.Fatal(err)
			}
		}
		snap, err := vm.AddSnapshot("s", "")
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			for off := int64(0); off < vm.Size(disk); {
				res, err := methods.QueryChangedDiskAreas(context.Background(), f.c, &types.QueryChangedDiskAreas{
					This: obj.Reference(), Snapshot: &snap, DeviceKey: disk, StartOffset: off, ChangeId: "*",
				})
				if err != nil {
					b.Fatal(err)
				}
				off = res.Returnval.StartOffset + res.Returnval.Length
			}
		}
	})
}

func BenchmarkProperties(b *testing.B) {
	eachFleet(b, func(b *testing.B, f *fleet, obj *object.VirtualMachine) {
		for b.Loop() {
			var vm mo.VirtualMachine
			if err := obj.Properties(context.Background(), obj.Reference(), []string{"config", "runtime", "snapshot", "guest"}, &vm); err != nil {
				b.Fatal(err)
			}
		}
	})
}

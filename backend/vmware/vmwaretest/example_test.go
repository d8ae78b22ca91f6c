package vmwaretest_test

import (
	"context"
	"fmt"
	"log"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
)

// A guest writes to a disk of a tebibyte, and plain govmomi asks what changed.
func Example() {
	ctx := context.Background()
	sim, err := vmwaretest.Start(vmwaretest.Options{}) // vmwaretest.New(t, ...) in a test
	if err != nil {
		log.Fatal(err)
	}
	defer sim.Close()
	vm, err := sim.AddVM(vmwaretest.VMSpec{
		Name: "web", ChangeTracking: true,
		Disks: []vmwaretest.DiskSpec{{Size: 1 << 40}},
	})
	if err != nil {
		log.Fatal(err)
	}
	disk := vm.Disks()[0]
	if err := vm.Write(disk, []byte("hello"), 1<<39); err != nil {
		log.Fatal(err)
	}

	client, err := govmomi.NewClient(ctx, sim.URL, true)
	if err != nil {
		log.Fatal(err)
	}
	task, err := object.NewVirtualMachine(client.Client, vm.Reference()).CreateSnapshot(ctx, "point", "", false, false)
	if err != nil {
		log.Fatal(err)
	}
	info, err := task.WaitForResult(ctx)
	if err != nil {
		log.Fatal(err)
	}
	snapshot := info.Result.(types.ManagedObjectReference)
	changes, err := methods.QueryChangedDiskAreas(ctx, client, &types.QueryChangedDiskAreas{
		This: vm.Reference(), Snapshot: &snapshot, DeviceKey: disk, ChangeId: "*",
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, a := range changes.Returnval.ChangedArea {
		fmt.Printf("%d bytes at %d GiB\n", a.Length, a.Start>>30)
	}
	// Output: 65536 bytes at 512 GiB
}

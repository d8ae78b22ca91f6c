package replication_test

import (
	"context"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// A machine's recovery points, made one after the other: the first is a copy
// of what isn't zero, the next ones are what was written since.
func ExampleCycle() {
	ctx := context.Background()
	site := memory.New(memory.Options{}) // a vCenter, a Hyper-V host, physical machines
	store := memstore.New(memstore.Options{})
	must(site.Add(dr.Machine{ID: "web", Power: dr.On, Disks: []dr.Disk{{ID: "system", Size: 1 << 30}}}))
	must(site.Write("web", "system", []byte("a boot loader, and so on"), 0))
	must(site.Write("web", "system", []byte("orders of the day"), 300<<20))

	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	now := noon // leave Now out for the time of day
	cycle := &replication.Cycle{Source: site, Points: store, Now: func() time.Time { return now }}
	for range 2 {
		r, err := cycle.ReplicateAs(ctx, "web", "", dr.CrashConsistent, replication.CycleOptions{})
		must(err)
		fmt.Printf("%s: %d KiB travelled of 1 GiB\n", r.Point.ID, r.Written>>10)
		must(site.Write("web", "system", []byte("one more order"), 300<<20+32))
		now = now.Add(5 * time.Minute)
	}
	// Output:
	// 20260102T120000.000000000Z: 128 KiB travelled of 1 GiB
	// 20260102T120500.000000000Z: 64 KiB travelled of 1 GiB
}

// Moving a stopped machine to another place is a copy of its image to a
// replica there, which starts once the copy is whole.
func ExampleCopy() {
	ctx := context.Background()
	from, to := memory.New(memory.Options{Site: "here"}), memory.New(memory.Options{Site: "there"})
	must(from.Add(dr.Machine{ID: "web", Power: dr.On, Disks: []dr.Disk{{ID: "system", Size: 8 << 20}}}))
	must(from.Write("web", "system", []byte("a boot loader, and so on"), 0))
	must(from.Stop(ctx, "web"))

	img, err := from.Capture(ctx, "web", "move-1", dr.CrashConsistent)
	must(err)
	defer img.Close()
	replica, err := to.Prepare(ctx, backend.Placement{Key: "web's replica", Machine: img.Point().Machine})
	must(err)
	draft, err := to.Draft(ctx, replica.ID, img.Point())
	must(err)
	defer draft.Close() // without a commit the replica stays torn, and never starts

	r, err := replication.Copy(ctx, draft, img, replication.CopyOptions{
		Have: replication.History{Blank: replica.New},
	})
	must(err)
	must(draft.Close())
	must(to.Start(ctx, replica.ID))
	must(from.Release(ctx, "web", "move-1"))
	fmt.Printf("%d of %d KiB travelled, the replica holds %s\n", r.Written>>10, r.Changed>>10, r.Point.ID)
	// Output: 64 of 64 KiB travelled, the replica holds move-1
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

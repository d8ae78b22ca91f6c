package vault_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// A point is created, written, committed and read again. Usually
// replication.Copy writes the draft.
func Example() {
	dir, err := os.MkdirTemp("", "vault")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	v, err := vault.OpenDir(dir, vault.Options{Keys: vault.Passphrase([]byte("correct horse"))})
	if err != nil {
		log.Fatal(err)
	}
	defer v.Close()

	point := dr.Point{ID: "monday", Machine: dr.Machine{ID: "web-1", Disks: []dr.Disk{{ID: "system", Size: 1 << 40}}}}
	draft, err := v.Create(ctx, point)
	if err != nil {
		log.Fatal(err)
	}
	defer draft.Close()
	if _, err := draft.WriteAt(ctx, "system", []byte("a boot sector"), 0); err != nil {
		log.Fatal(err)
	}
	if err := draft.Commit(ctx, point); err != nil {
		log.Fatal(err)
	}

	image, err := v.Open(ctx, "web-1", "monday")
	if err != nil {
		log.Fatal(err)
	}
	defer image.Close()
	sector := make([]byte, 13)
	if _, err := image.ReadAt(ctx, "system", sector, 0); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", sector)
	// Output: a boot sector
}

// The second point is written over the first: what is the same costs nothing,
// and what differs is known without reading either.
func ExampleStore_Open() {
	dir, err := os.MkdirTemp("", "vault")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	v, err := vault.OpenDir(dir, vault.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer v.Close()

	add := func(id, parent dr.PointID, text string, off int64) {
		point := dr.Point{ID: id, Parent: parent, Machine: dr.Machine{ID: "web-1", Disks: []dr.Disk{{ID: "data", Size: 1 << 30}}}}
		draft, err := v.Create(ctx, point)
		if err != nil {
			log.Fatal(err)
		}
		defer draft.Close()
		if _, err := draft.WriteAt(ctx, "data", []byte(text), off); err != nil {
			log.Fatal(err)
		}
		if err := draft.Commit(ctx, point); err != nil {
			log.Fatal(err)
		}
	}
	add("monday", "", "orders", 0)
	add("tuesday", "monday", "invoices", 10<<20)

	image, err := v.Open(ctx, "web-1", "tuesday")
	if err != nil {
		log.Fatal(err)
	}
	defer image.Close()
	tracker, _ := dr.As[dr.ChangeTracker](image)
	for e, err := range tracker.Changes(ctx, "data", dr.Point{ID: "monday"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d KiB changed at %d MiB\n", e.Len>>10, e.Off>>20)
	}
	// Output: 64 KiB changed at 10 MiB
}

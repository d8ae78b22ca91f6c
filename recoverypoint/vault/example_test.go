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

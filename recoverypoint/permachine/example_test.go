package permachine_test

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/permachine"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// A vault for each machine, in folders below one: whichever process has a
// machine in its care writes to its vault. Folders are named so that they differ
// also where case is ignored.
func Example() {
	root, err := os.MkdirTemp("", "vaults")
	must(err)
	defer os.RemoveAll(root)
	ctx := context.Background()
	s := permachine.New(permachine.Options{
		Open: func(_ context.Context, m dr.MachineID) (recoverypoint.PointStore, error) {
			return vault.OpenDir(filepath.Join(root, permachine.Name(m)), vault.Options{})
		},
		Machines: func(context.Context) iter.Seq2[dr.MachineID, error] {
			return func(yield func(dr.MachineID, error) bool) {
				all, err := os.ReadDir(root)
				if err != nil {
					yield("", err)
					return
				}
				for _, d := range all {
					if m, ok := permachine.Machine(d.Name()); ok && !yield(m, nil) {
						return
					}
				}
			}
		},
	})
	defer s.Close()

	for _, m := range []dr.MachineID{"mail", "Web"} {
		point := dr.Point{ID: "monday", Machine: dr.Machine{ID: m, Disks: []dr.Disk{{ID: "system", Size: 1 << 30}}}}
		d, err := s.Create(ctx, point)
		must(err)
		_, err = d.WriteAt(ctx, "system", []byte("of "+m), 0)
		must(err)
		must(d.Commit(ctx, point))
		must(d.Close())
	}
	folders, err := os.ReadDir(root)
	must(err)
	for _, f := range folders {
		fmt.Println(f.Name())
	}
	image, err := s.Open(ctx, "Web", "monday")
	must(err)
	defer image.Close()
	b := make([]byte, 6)
	_, err = image.ReadAt(ctx, "system", b, 0)
	must(err)
	fmt.Println(string(b))
	// Output:
	// m-_57eb
	// m-mail
	// of Web
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

package fsys_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// BenchmarkSequential moves 1 MiB requests, eight in flight, over a file that
// is not in the page cache to begin with only if it is larger than memory:
// compare the ways, and read buffered reads as the cache's speed.
func BenchmarkSequential(b *testing.B) {
	const request, inFlight, length = 1 << 20, 8, 512 << 20
	pool := fsys.NewPool(request, inFlight)
	for _, flag := range []int{fsys.Direct, 0} {
		f := create(b, filepath.Join(b.TempDir(), "f"), flag)
		way := map[int]string{0: "buffered", fsys.Direct: "direct"}[flag]
		for _, dir := range []struct {
			name string
			do   func(p []byte, off int64) (int, error)
		}{{"write", f.WriteAt}, {"read", f.ReadAt}} {
			b.Run(fmt.Sprintf("%s/%s", dir.name, way), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(length)
				for b.Loop() {
					offs := make(chan int64)
					var wg sync.WaitGroup
					for range inFlight {
						wg.Go(func() {
							p := pool.Get()
							defer pool.Put(p)
							for off := range offs {
								if _, err := dir.do(p, off); err != nil {
									b.Error(err)
								}
							}
						})
					}
					for off := int64(0); off < length; off += request {
						offs <- off
					}
					close(offs)
					wg.Wait()
					require.NoError(b, f.Sync())
				}
			})
		}
	}
}

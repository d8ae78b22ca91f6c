package fsys_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// BenchmarkSequential moves 1 MiB requests, eight in flight, over a file of
// 512 MiB, with one Sync at the end; the page cache is dropped before each pass.
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
				cpu, passes := time.Duration(0), 0
				for b.Loop() {
					b.StopTimer()
					evict(b, f)
					began := cpuTime(b)
					b.StartTimer()
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
					cpu += cpuTime(b) - began
					passes++
				}
				b.ReportMetric(float64(cpu.Milliseconds())/float64(passes), "cpu-ms/op")
			})
		}
	}
}

// cpuTime is what the process has used, its time in the kernel included.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// evict drops the file from the page cache.
func evict(b *testing.B, f fsys.File) {
	require.NoError(b, f.Sync())
	fd := int(f.(interface{ Fd() uintptr }).Fd())
	require.NoError(b, unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED))
}

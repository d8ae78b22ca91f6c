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

// BenchmarkSequential moves requests of one to four MiB, eight or sixteen in
// flight, over a file of 512 MiB, with one Sync at the end. The page cache is
// dropped before each pass, and the two ways take turns, because what else a
// machine does at the time counts for more than what is measured.
func BenchmarkSequential(b *testing.B) {
	for _, inFlight := range []int{8, 16} {
		for _, request := range []int{1 << 20, 2 << 20, 4 << 20} {
			name := filepath.Join(b.TempDir(), "f")
			for _, dir := range []string{"write", "read"} {
				for _, way := range []string{"direct", "buffered"} {
					b.Run(fmt.Sprintf("%s/%s/%d in flight/%d MiB", dir, way, inFlight, request>>20), func(b *testing.B) {
						sequential(b, name, dir, way, inFlight, request)
					})
				}
			}
		}
	}
}

func sequential(b *testing.B, name, dir, way string, inFlight, request int) {
	const length = 512 << 20
	f := create(b, name, map[string]int{"direct": fsys.Direct}[way])
	do := f.ReadAt
	if dir == "write" {
		do = f.WriteAt
	}
	pool := fsys.NewPool(request, inFlight)
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
					if _, err := do(p, off); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for off := int64(0); off < length; off += int64(request) {
			offs <- off
		}
		close(offs)
		wg.Wait()
		require.NoError(b, f.Sync())
		cpu += cpuTime(b) - began
		passes++
	}
	b.ReportMetric(float64(cpu.Milliseconds())/float64(passes), "cpu-ms/op")
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

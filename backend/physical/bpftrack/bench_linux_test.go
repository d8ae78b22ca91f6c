package bpftrack

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// What tracking costs a writer: direct writes, one at a time, to a loop device
// over memory, which is the worst case (a device without a medium's latency).
// Slices with and without the tracker alternate in one run; the median of
// (with − without) / without over the pairs is reported in percent, beside the
// microseconds of a write without it.
func BenchmarkWritePath(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			device := loopDevice(b, filepath.Join(memory(b), "disk"), 256<<20)
			f, p := direct(b, device), aligned(b, size)
			rng := rand.New(rand.NewPCG(1, 2))
			slice := func() float64 {
				n, start := 0, time.Now()
				for time.Since(start) < 20*time.Millisecond {
					for range 8 {
						if _, err := f.WriteAt(p, int64(size)*rng.Int64N(256<<20/int64(size))); err != nil {
							b.Fatal(err)
						}
						n++
					}
				}
				return float64(time.Since(start)) / float64(n) / 1e3
			}
			for range 20 {
				slice() // the memory below is made
			}
			// Loading takes the processor long enough to change what comes
			// next, so it is done once, and only attaching in each pair.
			tr := tracker(b, device, Options{})
			in := tr.machines["m"].disks["d"].in.kernel.(*bpf)
			stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
			require.NoError(b, err)
			for range 10 {
				slice()
			}
			var ran time.Duration
			var runs uint64
			for _, p := range in.programs {
				s, err := p.Stats()
				require.NoError(b, err)
				ran, runs = ran+s.Runtime, runs+s.RunCount
			}
			stats.Close()
			measure := func(on bool) float64 {
				for i, p := range in.programs {
					if in.links[i] != nil {
						in.links[i].Close()
						in.links[i] = nil
					}
					if on {
						l, err := link.AttachTracing(link.TracingOptions{Program: p})
						require.NoError(b, err)
						in.links[i] = l
					}
				}
				slice()
				return slice()
			}
			var cost, plain []float64
			for b.Loop() {
				var a, w float64
				if len(cost)%2 == 0 {
					a, w = measure(false), measure(true)
				} else {
					w, a = measure(true), measure(false)
				}
				cost, plain = append(cost, (w-a)/a*100), append(plain, a)
			}
			slices.Sort(cost)
			slices.Sort(plain)
			b.ReportMetric(cost[len(cost)/2], "%cost")
			b.ReportMetric(plain[len(plain)/2], "µs/write")
			b.ReportMetric(float64(ran)/float64(runs), "ns/program")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// What asking costs: a mark, and the changes since it, of a disk of 1 TiB with
// one block in a hundred written.
func BenchmarkCutAndSince(b *testing.B) {
	device := loopDevice(b, filepath.Join(memory(b), "disk"), 1<<40)
	tr := tracker(b, device, Options{})
	rng := rand.New(rand.NewPCG(1, 2))
	for b.Loop() {
		mark, err := tr.Cut(b.Context(), "m")
		require.NoError(b, err)
		b.StopTimer()
		for range 1 << 24 / 100 {
			tr.Mark("m", "d", rng.Int64N(1<<40), 1)
		}
		b.StartTimer()
		for _, err := range tr.Since(b.Context(), "m", "d", mark) {
			require.NoError(b, err)
		}
		require.NoError(b, tr.Keep(b.Context(), "m", []dr.Cursor{mark}))
	}
	b.ReportMetric(float64(tr.Health()[0].Bytes), "B/TiB")
}

package pageblob

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// peak runs f and returns how much the heap grew meanwhile, in bytes.
func peak(f func()) uint64 {
	// What is garbage is not what is needed.
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	stop, most := make(chan struct{}), make(chan uint64)
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	go func() {
		var top uint64
		for {
			select {
			case <-stop:
				most <- top
				return
			case <-time.After(2 * time.Millisecond):
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				top = max(top, m.HeapAlloc)
			}
		}
	}()
	f()
	close(stop)
	return max(<-most, before.HeapAlloc) - before.HeapAlloc
}

// A disk of 1 TiB, with a little in many places, costs what the little does.
func TestMemoryDoesNotGrowWithTheDisk(t *testing.T) {
	client := simulated.start(t)
	const size = 1 << 40
	s := New(client(nil), plainOptions)
	requests := &faulty{through: web}
	s.c = client(requests)
	first := dr.Point{ID: "p", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: size}}}}
	second := first
	second.ID, second.Parent = "q", "p"
	block := noise(1, 64<<10)
	grown := peak(func() {
		for _, p := range []dr.Point{first, second} {
			d, err := s.Create(t.Context(), p)
			require.NoError(t, err)
			for off := int64(0); off < size; off += 1 << 30 {
				require.NoError(t, d.(dr.Zeroer).Zero(t.Context(), "a", off, 1<<30))
			}
			for i := range int64(256) {
				_, err := d.WriteAt(t.Context(), "a", block, i*(size/256)+i*512)
				require.NoError(t, err)
			}
			require.NoError(t, d.Commit(t.Context(), p))
			require.NoError(t, d.Close())
			require.NoError(t, s.Process(t.Context(), "m"))
		}
		img, err := s.Open(t.Context(), "m", "q")
		require.NoError(t, err)
		n := 0
		for e, err := range img.(dr.Mapper).Extents(t.Context(), "a") {
			require.NoError(t, err)
			if !e.Zero {
				require.EqualValues(t, len(block), e.Len)
				n++
			}
		}
		require.Equal(t, 256, n)
		sums := make([]dr.Sum, 1<<14)
		require.NoError(t, img.(dr.Summer).Sums(t.Context(), "a", 0, sums))
		require.False(t, sums[0].IsZero())
		require.True(t, sums[1].IsZero())
		require.NoError(t, img.Close())
	})
	t.Logf("%d MiB, %d requests", grown>>20, requests.calls)
	require.Less(t, grown, uint64(160<<20))
	require.Less(t, requests.calls, 4000)
}

// A whole disk that is copied goes through a few buffers.
func TestMemoryDoesNotGrowWithTheCopy(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	client := simulated.start(t)
	s := New(client(round(func(r *http.Request) (*http.Response, error) {
		return web.Do(r)
	})), plainOptions)
	const size = 256 << 20
	p := dr.Point{ID: "p", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: size}}}}
	b := noise(1, 1<<20)
	d, err := s.Create(t.Context(), p)
	require.NoError(t, err)
	for off := int64(0); off < size; off += int64(len(b)) {
		_, err := d.WriteAt(t.Context(), "a", b, off)
		require.NoError(t, err)
	}
	inMemory := len(d.(*draft).memory)
	require.LessOrEqual(t, inMemory, s.o.Concurrency+1, "segments in memory")
	require.LessOrEqual(t, len(d.(*draft).over[0]), 1+size/segmentSize, "pieces")
	require.NoError(t, d.Commit(t.Context(), p))
	require.NoError(t, d.Close())
	require.NoError(t, s.Process(t.Context(), "m"))
	require.LessOrEqual(t, s.segments.used.Len(), cachedSegments)
}

func TestPaceKeepsTheLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := newPace(60<<20, 500)
		for range 600 { // 10 s worth of bytes
			require.NoError(t, p.wait(t.Context(), 1<<20))
		}
		took := time.Since(start)
		require.InDelta(t, 10, took.Seconds(), 0.5, "bytes")
		start = time.Now()
		p = newPace(60<<20, 500)
		for range 5000 {
			require.NoError(t, p.wait(t.Context(), 512))
		}
		require.InDelta(t, 10, time.Since(start).Seconds(), 0.5, "requests")
		start = time.Now()
		p = newPace(-1, -1)
		for range 5000 {
			require.NoError(t, p.wait(t.Context(), maxPages))
		}
		require.Zero(t, time.Since(start))
		p = newPace(1, 1) // slower than one request is large
		require.NoError(t, p.wait(t.Context(), maxPages))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Error(t, p.wait(ctx, maxPages), "no longer than the caller waits")
	})
}

// The limits are kept by all that write a blob together.
func TestProcessIsPaced(t *testing.T) {
	client := simulated.start(t)
	o := Options{BytesPerSecond: 8 << 20, RequestsPerSecond: -1}
	s := New(client(nil), o)
	require.Same(t, s.pace("x"), s.pace("x"))
	p := plan("p", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 8 << 20}.with(0, noise(1, 8<<20))})
	require.NoError(t, put(t.Context(), s, p))
	start := time.Now()
	require.NoError(t, s.Process(t.Context(), "m"))
	require.Greater(t, time.Since(start), 400*time.Millisecond, "4 MiB at once, the rest at 8 MiB/s")
	holds(t, s, p)
}

// Throttling is the client's to wait for.
func TestThrottlingIsObeyed(t *testing.T) {
	b := azuretest.NewBlobs(azuretest.BlobOptions{})
	defer b.Close()
	plainClient, err := b.Container(t.Context(), "account", "points")
	require.NoError(t, err)
	_, key := b.Account("account")
	cred, err := container.NewSharedKeyCredential("account", key)
	require.NoError(t, err)
	var o container.ClientOptions
	o.Retry.MaxRetries, o.Retry.RetryDelay, o.Retry.MaxRetryDelay = 5, time.Millisecond, time.Millisecond
	c, err := container.NewClientWithSharedKeyCredential(plainClient.URL(), cred, &o)
	require.NoError(t, err)
	b.OnCall(func(c azuretest.Call) *azuretest.Fault {
		switch c.N % 3 {
		case 0:
			return &azuretest.Fault{Status: 503, Code: "ServerBusy"}
		case 1:
			return &azuretest.Fault{Status: 429, Code: "TooManyRequests"}
		}
		return nil
	})
	s := New(c, plainOptions)
	p := plan("p", planned{}, map[dr.DiskID]sketch{"a": sketch{size: 400_000}.with(0, noise(1, 300_000))})
	require.NoError(t, put(t.Context(), s, p))
	require.NoError(t, s.Process(t.Context(), "m"))
	b.OnCall(nil)
	holds(t, s, p)
	b.OnCall(func(azuretest.Call) *azuretest.Fault { return &azuretest.Fault{Status: 503, Code: "ServerBusy"} })
	err = s.Process(t.Context(), "m")
	require.ErrorContains(t, err, "throttled")
	require.False(t, dr.IsPermanent(err))
}

func benchmarkPoints(b *testing.B, s service, process bool) {
	const size = 64 << 20
	data := noise(1, 1<<20)
	st := New(s.start(b)(nil), plainOptions)
	b.SetBytes(size)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p := dr.Point{ID: dr.PointID(fmt.Sprint("p", i)), Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: size}}}}
		b.StopTimer()
		if !process {
			b.StartTimer()
		}
		d, err := st.Create(b.Context(), p)
		require.NoError(b, err)
		for off := int64(0); off < size; off += int64(len(data)) {
			_, err := d.WriteAt(b.Context(), "a", data, off)
			require.NoError(b, err)
		}
		require.NoError(b, d.Commit(b.Context(), p))
		require.NoError(b, d.Close())
		b.StopTimer()
		if process {
			b.StartTimer()
			require.NoError(b, st.Process(b.Context(), "m"))
			b.StopTimer()
		}
		require.NoError(b, st.Delete(b.Context(), "m", p.ID))
		_, err = st.Prune(b.Context())
		require.NoError(b, err)
		b.StartTimer()
	}
}

func BenchmarkStage(b *testing.B) {
	b.Run("simulated", func(b *testing.B) { benchmarkPoints(b, simulated, false) })
	b.Run("azurite", func(b *testing.B) { benchmarkPoints(b, emulated, false) })
}

func BenchmarkProcess(b *testing.B) {
	b.Run("simulated", func(b *testing.B) { benchmarkPoints(b, simulated, true) })
	b.Run("azurite", func(b *testing.B) { benchmarkPoints(b, emulated, true) })
}

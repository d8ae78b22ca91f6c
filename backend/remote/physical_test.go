package remote

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// A physical machine that runs, read pass by pass from afar while its guest
// writes, and frozen for the last one: the point is what it had in that freeze.
func TestAPhysicalMachineThatRuns(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "a.img")
	const size = 8 << 20
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	require.NoError(t, os.WriteFile(disk, nil, 0o600))
	require.NoError(t, os.Truncate(disk, size))

	tracker := physical.NewBitmapTracker(0)
	var gate sync.Mutex // the guest's writes, and the freeze that excludes them
	var frozen []byte   // what the disk had then
	guest := func(n int) {
		f, err := os.OpenFile(disk, os.O_RDWR, 0)
		require.NoError(t, err)
		defer f.Close()
		for range n {
			p := make([]byte, 4096)
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			off := rnd.Int64N(size-4096) / 512 * 512
			gate.Lock()
			tracker.Mark("m", "a", off, 4096)
			_, err := f.WriteAt(p, off)
			tracker.Mark("m", "a", off, 4096)
			gate.Unlock()
			require.NoError(t, err)
		}
	}
	h, err := physical.Open(physical.Config{
		Root: filepath.Join(dir, "root"), Tracker: tracker, LastPass: 256 << 10,
		Machines: []physical.Machine{{ID: "m", Power: dr.On, Disks: []physical.Disk{{ID: "a", Path: disk}}}},
		Hooks: physical.Hooks{
			Freeze: func(context.Context, physical.Event) (err error) {
				gate.Lock()
				frozen, err = os.ReadFile(disk)
				return err
			},
			Thaw: func(context.Context, physical.Event) error { gate.Unlock(); return nil },
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	a := serve(t, h, ServeOptions{})
	t.Cleanup(a.stop) // before the host is closed
	c := a.dial(DialOptions{})
	live, ok := dr.As[backend.LiveCapturer](c)
	require.True(t, ok)
	is, err := live.CapturesLive(t.Context(), "m")
	require.NoError(t, err)
	require.True(t, is)

	points := memstore.New(memstore.Options{})
	cycle := &replication.Cycle{Source: c, Points: points}
	for round, name := range []dr.PointID{"p1", "p2"} {
		guest(200)
		writing := make(chan struct{})
		begin := sync.OnceFunc(func() {
			go func() { defer close(writing); guest(100) }()
		})
		r, err := cycle.ReplicateAs(t.Context(), "m", name, dr.FileSystemConsistent, replication.CycleOptions{
			Progress: func(dr.Progress) { begin() },
		})
		require.NoError(t, err)
		<-writing
		require.Greater(t, r.Passes, 1)
		require.Equal(t, dr.FileSystemConsistent, r.Point.Consistency)
		require.False(t, r.Point.Time.IsZero(), "the last pass's, which came with Settle")
		img, err := points.Open(t.Context(), "m", name)
		require.NoError(t, err)
		got := make([]byte, size)
		_, _ = img.ReadAt(t.Context(), "a", got, 0)
		require.NoError(t, img.Close())
		require.Equal(t, frozen, got, "round %d", round)
	}
}

package bpftrack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// A host replicates a machine that runs: a mounted file system that is written
// to all the time and frozen for each last pass. After the first cycle a reader
// reads what the tracker says and nothing else, and its copy is what the disk
// held while it was frozen.
func TestAHostThatRuns(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	file := filepath.Join(memory(t), "disk")
	device := loopDevice(t, file, 64<<20)
	command(t, "mkfs.ext4", "-q", "-F", device)
	dir := mount(t, device, "ext4")
	root, err := os.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	tr := tracker(t, device, Options{})
	var frozen []byte
	h, err := physical.Open(physical.Config{
		Root: t.TempDir(), Tracker: tr, LastPass: 4 << 20,
		Machines: []physical.Machine{{ID: "m", Power: dr.On, Disks: []physical.Disk{{ID: "d", Path: device}}}},
		Hooks: physical.Hooks{
			Freeze: func(context.Context, physical.Event) error {
				err := unix.IoctlSetInt(int(root.Fd()), fiFreeze, 0)
				frozen = content(t, file)
				return err
			},
			Thaw: func(context.Context, physical.Event) error {
				return unix.IoctlSetInt(int(root.Fd()), fiThaw, 0)
			},
		},
	})
	require.NoError(t, err)
	defer h.Close()

	ctx := t.Context()
	w := &writer{rng: rand.New(rand.NewPCG(seed, 0)), dir: dir, name: "w", calm: true, did: map[string]int{}}
	defer w.close()
	write := func() {
		for range 5 {
			require.NoError(t, w.write())
		}
	}
	b, last := make([]byte, 64<<20), dr.Point{}
	read := func(img dr.Image, since dr.Point, whole bool) (n int64) {
		changes := img.(dr.ChangeTracker).Changes(ctx, "d", since)
		if whole {
			changes = func(yield func(dr.Extent, error) bool) { yield(dr.Extent{Len: int64(len(b))}, nil) }
		}
		for e, err := range changes {
			require.NoError(t, err)
			_, err = img.ReadAt(ctx, "d", b[e.Off:e.End()], e.Off)
			require.NoError(t, err)
			n += e.Len
		}
		return n
	}
	for cycle := range 6 {
		write()
		img, err := h.Capture(ctx, "m", dr.PointID(fmt.Sprint(cycle)), dr.FileSystemConsistent)
		require.NoError(t, err)
		n := read(img, last, cycle == 0)
		write()
		for {
			more, err := img.(dr.Settler).Settle(ctx)
			require.NoError(t, err)
			if !more {
				break
			}
			n += read(img, dr.Point{}, false)
		}
		last = img.Point()
		require.NoError(t, img.Close())
		if d := differ(b, frozen); len(d) > 0 {
			require.Fail(t, "the copy isn't what was frozen", "cycle %d: blocks %v", cycle, d)
		}
		if cycle > 0 {
			require.Less(t, n, int64(48<<20), "only changes were read")
		}
	}
}

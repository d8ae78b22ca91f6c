package fsfreeze_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/backend/physical/fsfreeze"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// A machine's disk is an image file on a file system that shares blocks. The
// ledger on it is held for as long as a clone takes; what is copied afterwards
// is of that moment, although the ledger went on meanwhile.
func TestReflink(t *testing.T) {
	for _, kind := range []string{"btrfs", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			below := fsfreeze.Loop(t, fsfreeze.Sparse(t, fsfreeze.Sizes["xfs"]))
			fsfreeze.Format(t, kind, below)
			store := fsfreeze.Mounted(t, kind, below)
			disk := filepath.Join(store, "disk.img")
			require.NoError(t, os.WriteFile(disk, nil, 0o600))
			require.NoError(t, os.Truncate(disk, 64<<20))
			device := fsfreeze.Loop(t, disk)
			fsfreeze.Format(t, "ext4", device)
			dir := fsfreeze.Mounted(t, "ext4", device)
			l, err := openLedger(dir)
			require.NoError(t, err)
			t.Cleanup(func() { l.data.Close(); l.log.Close() })

			freeze, thaw := fsfreeze.Hooks(fsfreeze.Options{})
			cfg := physical.Config{Freezes: dr.ApplicationConsistent, Snapshots: physical.Reflink{},
				Machines: []physical.Machine{{ID: "m", Power: dr.On, Disks: []physical.Disk{{ID: "d", Path: disk}}}}}
			cfg.Hooks = withLedger(l, freeze, thaw)
			s := newSites(t, cfg)
			stop := work(t, l, dir, uint64(time.Now().UnixNano()))
			defer stop()
			for _, want := range []dr.Consistency{dr.FileSystemConsistent, dr.ApplicationConsistent} {
				name := dr.PointID("p-" + want.String())
				img, err := s.host.Capture(t.Context(), "m", name, want)
				require.NoError(t, err)
				_, settles := dr.As[dr.Settler](img)
				require.False(t, settles)
				frozen, _ := dr.As[physical.Freezes](img)
				t.Logf("frozen for %v", frozen.Frozen())
				before := l.done()
				require.Eventually(t, func() bool { return l.done() > before+20 }, time.Minute, time.Millisecond, "it hangs still")

				r, err := s.away.Prepare(t.Context(), backend.Placement{Key: string(name), Machine: img.Point().Machine})
				require.NoError(t, err)
				draft, err := s.away.Draft(t.Context(), r.ID, img.Point())
				require.NoError(t, err)
				_, err = replication.Copy(t.Context(), draft, img, replication.CopyOptions{})
				require.NoError(t, err)
				require.NoError(t, draft.Close())
				require.NoError(t, img.Close())
				image := filepath.Join(s.root, string(r.ID), "d.img")
				fsfreeze.Run(t, "e2fsck", "-fn", image)
				require.NotContains(t, fsfreeze.Run(t, "dumpe2fs", "-h", image), "needs_recovery", "it wasn't frozen")
				replayed, sum := reads(t, "ext4", image)
				require.Positive(t, sum)
				if want == dr.ApplicationConsistent {
					require.Zero(t, replayed)
				}
				require.NoError(t, s.host.Release(t.Context(), "m", name))
			}
			entries, err := os.ReadDir(store)
			require.NoError(t, err)
			require.LessOrEqual(t, len(entries), 1, "%v", entries)
		})
	}
	// ext4 shares nothing: the machine is read pass by pass.
	device := fsfreeze.Loop(t, fsfreeze.Sparse(t, 64<<20))
	fsfreeze.Format(t, "ext4", device)
	disk := filepath.Join(fsfreeze.Mounted(t, "ext4", device), "disk.img")
	require.NoError(t, os.WriteFile(disk, make([]byte, 1<<20), 0o600))
	require.ErrorIs(t, physical.Reflink{}.Takes(t.Context(), disk), dr.ErrUnsupported)
	require.ErrorIs(t, physical.Reflink{}.Takes(t.Context(), device), dr.ErrUnsupported)
	entries, err := os.ReadDir(filepath.Dir(disk))
	require.NoError(t, err)
	require.Len(t, entries, 2, "the disk and lost+found")
}

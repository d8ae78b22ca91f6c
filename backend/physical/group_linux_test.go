package physical

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// The ioctls of fsfreeze(8), as linux/fs.h has them.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

func ioctlHook(dir string, req uint) func(context.Context, Event) error {
	return func(context.Context, Event) error {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.IoctlSetInt(int(f.Fd()), req, 0)
	}
}

// Two machines with a real file system each, and a writer that has every number
// on the first machine's disk (fsync) before it writes it on the second: the
// points of a group's mark never show the second ahead of the first, or more
// than one behind. Their file systems need no repair.
func TestGroupOfFrozenFileSystems(t *testing.T) {
	var dirs [2]string
	g := newGroup(t, func(i int) *Host {
		device, _ := loopDevice(t, 8<<20)
		ext4(t, device)
		dirs[i] = mountedAt(t, device)
		cfg := Config{Root: t.TempDir(), Machines: []Machine{{ID: groupMachine(i), Power: dr.On, OS: "linux", Disks: []Disk{{ID: "d", Path: device}}}}}
		cfg.Hooks.Freeze, cfg.Hooks.Thaw = ioctlHook(dirs[i], fiFreeze), ioctlHook(dirs[i], fiThaw)
		h, err := Open(cfg)
		require.NoError(t, err)
		return h
	})
	stop := counters(t, func(i int, n uint64) error {
		f, err := os.OpenFile(filepath.Join(dirs[i], "number"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt(fmt.Appendf(nil, "%020d", n), 0); err != nil {
			return err
		}
		return f.Sync()
	})
	defer stop()
	apart := 0
	for range 12 {
		r, err := g.env.ReplicateGroup(t.Context(), g.ids, dr.FileSystemConsistent, replication.GroupOptions{})
		require.NoError(t, err)
		require.NoError(t, r.Err())
		require.NoError(t, r.Why)
		require.True(t, r.Whole)
		a, b := g.number(t, 0, r.Machines[0].Report.Point.ID), g.number(t, 1, r.Machines[1].Report.Point.ID)
		require.True(t, oneMoment(a, b), "%d and %d at mark %s", a, b, r.Mark.ID)
		t.Logf("%d and %d, frozen for %v", a, b, r.Frozen)
		var own [2]uint64
		for i := range own {
			rep, err := g.env.Replicate(t.Context(), g.ids[i], dr.FileSystemConsistent, nil)
			require.NoError(t, err)
			own[i] = g.number(t, i, rep.Point.ID)
		}
		if !oneMoment(own[0], own[1]) {
			apart++
		}
	}
	require.Positive(t, apart, "the machines' own points are never of different moments: the writer doesn't write")
}

// mountedAt mounts the device for the test's duration.
func mountedAt(t *testing.T, device string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mounted")
	require.NoError(t, os.Mkdir(dir, 0o700))
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		lack(t, "ext4 can't be mounted: "+err.Error())
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	return dir
}

// number checks a point's file system, and reads the writer's file from it.
func (g *group) number(t *testing.T, i int, id dr.PointID) uint64 {
	t.Helper()
	image := filepath.Join(t.TempDir(), "point")
	require.NoError(t, os.WriteFile(image, g.content(t, i, id), 0o600))
	out, err := command(t, "e2fsck", "-fn", image)
	require.NoError(t, err, out)
	out, err = command(t, "debugfs", "-R", "cat /number", image)
	require.NoError(t, err, out)
	lines := strings.Split(out, "\n")
	n, err := strconv.ParseUint(lines[len(lines)-1], 10, 64)
	require.NoError(t, err, out)
	return n
}

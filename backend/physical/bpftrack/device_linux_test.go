package bpftrack

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// What each kind of write to a whole disk marks, exactly.
func TestEachKindOfWrite(t *testing.T) {
	file := filepath.Join(memory(t), "disk")
	device := loopDevice(t, file, 64<<20)
	tr := tracker(t, device, Options{})
	f := direct(t, device)
	b := aligned(t, 4<<20)
	blocks := func(first, end int64) map[int64]bool {
		m := map[int64]bool{}
		for i := first; i < end; i++ {
			m[i] = true
		}
		return m
	}
	ioctl := func(op uintptr, off, n uint64) {
		r := [2]uint64{off, n}
		require.NoError(t, ioctlPtr(f, op, &r))
	}
	const blkDiscard, blkZeroOut, blkSecDiscard = 0x1277, 0x127f, 0x127d
	for _, c := range []struct {
		name string
		do   func()
		want map[int64]bool
	}{
		{"nothing", func() {}, blocks(0, 0)},
		{"a read", func() { _, err := f.ReadAt(b, 1<<20); require.NoError(t, err) }, blocks(0, 0)},
		{"a sector's worth", func() { _, err := f.WriteAt(b[:4096], 3<<16+8192); require.NoError(t, err) }, blocks(3, 4)},
		{"across an edge", func() { _, err := f.WriteAt(b[:8192], 6<<16-4096); require.NoError(t, err) }, blocks(5, 7)},
		{"4 MiB", func() { _, err := f.WriteAt(b, 8<<16+4096); require.NoError(t, err) }, blocks(8, 73)},
		{"the last", func() { _, err := f.WriteAt(b[:4096], 64<<20-4096); require.NoError(t, err) }, blocks(1023, 1024)},
		{"discard", func() { ioctl(blkDiscard, 100<<16, 300<<16) }, blocks(100, 400)},
		{"zero out", func() { ioctl(blkZeroOut, 500<<16, 17<<16) }, blocks(500, 517)},
		{"all of it discarded", func() { ioctl(blkDiscard, 0, 64<<20) }, blocks(0, 1024)},
		{"flush", func() { require.NoError(t, f.Sync()) }, blocks(0, 0)},
		{"a draft", func() { tr.Mark("m", "d", 3<<16-1, 130<<16) }, blocks(2, 133)},
		{"a draft past the end", func() { tr.Mark("m", "d", 64<<20, 1) }, blocks(0, 1024)},
	} {
		mark := cut(t, tr)
		c.do()
		require.Equal(t, c.want, since(t, tr, mark), c.name)
		require.NoError(t, tr.Keep(t.Context(), "m", nil))
	}
	require.Equal(t, int64(64<<20>>16>>3+64), tr.Health()[0].Bytes)
}

func ioctlPtr(f *os.File, op uintptr, r *[2]uint64) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), op, pointer(r))
	if errno != 0 {
		return errno
	}
	return nil
}

// Writes of a partition are told with the sectors of the whole disk: both are
// tracked, each without the other's neighbours.
func TestPartitions(t *testing.T) {
	file := filepath.Join(memory(t), "disk")
	device := loopDevice(t, file, 64<<20, "--partscan")
	disk := direct(t, device)
	for i, p := range [][2]int64{{1 << 20, 16 << 20}, {20<<20 + 32<<10, 16 << 20}} {
		require.NoError(t, addPartition(disk, i+1, p[0], p[1]))
	}
	one, two := direct(t, device+"p1"), direct(t, device+"p2")
	tr, err := Open(Options{})
	require.NoError(t, err)
	defer tr.Close()
	require.NoError(t, tr.Track(physical.Machine{ID: "m", Disks: []physical.Disk{
		{ID: "d", Path: device}, {ID: "1", Path: device + "p1"}, {ID: "2", Path: device + "p2"},
	}}))
	b := aligned(t, 4096)
	for _, c := range []struct {
		f    *os.File
		off  int64
		want [3][]dr.Extent
	}{
		{one, 0, [3][]dr.Extent{{ext(1<<20, 64<<10)}, {ext(0, 64<<10)}, nil}},
		{one, 16<<20 - 4096, [3][]dr.Extent{{ext(17<<20-64<<10, 64<<10)}, {ext(16<<20-64<<10, 64<<10)}, nil}},
		{two, 64 << 10, [3][]dr.Extent{{ext(20<<20+64<<10, 64<<10)}, nil, {ext(64<<10, 64<<10)}}},
		{disk, 20<<20 + 96<<10, [3][]dr.Extent{{ext(20<<20+64<<10, 64<<10)}, nil, {ext(64<<10, 64<<10)}}},
		{disk, 20 << 20, [3][]dr.Extent{{ext(20<<20, 64<<10)}, nil, nil}},
		{disk, 0, [3][]dr.Extent{{ext(0, 64<<10)}, nil, nil}},
	} {
		mark := cut(t, tr)
		_, err := c.f.WriteAt(b, c.off)
		require.NoError(t, err)
		for i, d := range []dr.DiskID{"d", "1", "2"} {
			var got []dr.Extent
			for e, err := range tr.Since(t.Context(), "m", d, mark) {
				require.NoError(t, err)
				got = append(got, e)
			}
			require.Equal(t, c.want[i], got, "disk %s, %s at %d", d, c.f.Name(), c.off)
		}
	}
	require.Contains(t, tr.Health()[0].Device, "+2048,32768")
}

func ext(off, n int64) dr.Extent { return dr.Extent{Off: off, Len: n} }

// Another medium in the same drive, a disk that grows and one that is gone.
func TestADeviceThatIsAnotherOne(t *testing.T) {
	dir := memory(t)
	device := loopDevice(t, filepath.Join(dir, "one"), 8<<20)
	tr := tracker(t, device, Options{})
	mark := cut(t, tr)
	require.Empty(t, since(t, tr, mark))

	command(t, "losetup", "-d", device)
	lost(t, tr, mark)
	require.NotNil(t, tr.Health()[0].Problem)
	require.NoError(t, os.Truncate(filepath.Join(dir, "one"), 8<<20))
	command(t, "losetup", device, filepath.Join(dir, "one"))
	lost(t, tr, mark)

	mark = cut(t, tr) // and it is tracked again
	require.Empty(t, since(t, tr, mark))
	require.NoError(t, os.Truncate(filepath.Join(dir, "one"), 16<<20))
	command(t, "losetup", "--set-capacity", device)
	_, err := direct(t, device).WriteAt(aligned(t, 4096), 12<<20)
	require.NoError(t, err)
	lost(t, tr, mark)
	mark = cut(t, tr)
	_, err = direct(t, device).WriteAt(aligned(t, 4096), 12<<20)
	require.NoError(t, err)
	require.Equal(t, map[int64]bool{192: true}, since(t, tr, mark))
}

// What can't be tracked is told, with a remedy, and the rest is tracked.
func TestWhatCantBeTracked(t *testing.T) {
	dir := memory(t)
	file := filepath.Join(dir, "disk")
	device := loopDevice(t, file, 8<<20)
	plain := filepath.Join(dir, "plain")
	require.NoError(t, os.WriteFile(plain, nil, 0o600))
	tr, err := Open(Options{Memory: 1 << 10, TrustLoops: true})
	require.NoError(t, err)
	defer tr.Close()
	err = tr.Track(physical.Machine{ID: "m", Disks: []physical.Disk{
		{ID: "d", Path: file}, {ID: "dir", Path: dir}, {ID: "none", Path: dir + "/none"}, {ID: "plain", Path: plain},
	}})
	require.Error(t, err)
	for _, r := range tr.Health() {
		if r.Disk == "d" {
			require.Nil(t, r.Problem, "a file is tracked by the loop device over it, %s", device)
			continue
		}
		require.NotEmpty(t, r.Problem.Remedy, fmt.Sprint(r.Problem))
	}
	mark := cut(t, tr)
	require.Empty(t, since(t, tr, mark))
	for _, err := range tr.Since(t.Context(), "m", "plain", mark) {
		require.ErrorIs(t, err, dr.ErrChangesLost)
	}
	big := loopDevice(t, filepath.Join(dir, "big"), 1<<30)
	err = tr.Track(machineOf(big))
	require.ErrorContains(t, err, "Options.Memory")
}

// A guest runs from a file that somebody looks into by a loop device: nothing of
// what it writes is seen there, so nothing is said about it.
func TestAFileBesideItsLoopDevice(t *testing.T) {
	file := filepath.Join(memory(t), "disk")
	loopDevice(t, file, 8<<20, "--read-only")
	tr, err := Open(Options{})
	require.NoError(t, err)
	defer tr.Close()
	_ = tr.Track(machineOf(file))
	mark := cut(t, tr)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt(make([]byte, 4096), 7<<16)
	require.NoError(t, err)
	for e, err := range tr.Since(t.Context(), "m", "d", mark) {
		require.ErrorIs(t, err, dr.ErrChangesLost, "%v", e)
		require.Contains(t, tr.Problems("m")[0].Remedy, "loop device")
		return
	}
	require.Fail(t, "the write is missing")
}

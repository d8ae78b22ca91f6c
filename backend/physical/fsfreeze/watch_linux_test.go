package fsfreeze

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// disk makes a loop device with partitions of 100 MiB.
func disk(t testing.TB, parts int) (device string, partitions []string) {
	t.Helper()
	file := sparse(t, int64(parts)*(100<<20)+(2<<20))
	table := "label: gpt\n"
	for range parts {
		table += "size=100MiB\n"
	}
	cmd := exec.Command(tool(t, "sfdisk"), "-q", file)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = in.Write([]byte(table))
	require.NoError(t, err)
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
	device = loop(t, file)
	run(t, "partx", "-a", device) // the kernel may not know partition tables
	t.Cleanup(func() { run(t, "partx", "-d", device) })
	for i := range parts {
		part := device + "p" + string(rune('1'+i))
		if _, err := os.Stat(part); err != nil {
			// Nobody makes nodes here.
			node := filepath.Join(t.TempDir(), filepath.Base(part))
			b, err := os.ReadFile("/sys/class/block/" + filepath.Base(part) + "/dev")
			require.NoError(t, err)
			dev, err := parseDevice(string(b))
			require.NoError(t, err)
			require.NoError(t, unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(dev.major, dev.minor))))
			part = node
		}
		partitions = append(partitions, part)
	}
	return device, partitions
}

// A disk with a file system that can't be frozen (as FAT can't, which kernels of
// test machines often lack), one that can, and a partition that a database uses
// without one. What can't be frozen is watched.
func TestWatchesWhatCantFreeze(t *testing.T) {
	device, parts := disk(t, 3)
	format(t, "ntfs", parts[0])
	format(t, "ext4", parts[1])
	esp, root := mounted(t, "ntfs", parts[0]), mounted(t, "ext4", parts[1])
	raw, err := os.OpenFile(parts[2], os.O_RDWR|os.O_SYNC, 0)
	require.NoError(t, err)
	defer raw.Close()
	require.NoError(t, os.WriteFile(filepath.Join(esp, "dirty"), make([]byte, 1<<20), 0o600))

	for name, c := range map[string]struct {
		write func() error
		wrong string
	}{
		"nobody writes": {func() error { return nil }, ""},
		"it is written": {func() error {
			return <-writing(filepath.Join(esp, "now"))
		}, filepath.Base(parts[0]) + " was written"},
		"the database writes": {func() error {
			_, err := raw.WriteAt(make([]byte, 4096), 1<<20)
			return err
		}, filepath.Base(parts[2]) + " was written"},
	} {
		t.Run(name, func(t *testing.T) {
			var r Report
			freeze, thaw := Hooks(Options{Report: func(x Report) { r = x }})
			e, seen := event(dr.FileSystemConsistent, device)
			require.NoError(t, freeze(t.Context(), e))
			require.Equal(t, dr.FileSystemConsistent, seen.reached)
			require.Contains(t, seen.out.String(), "can't be frozen: flushed, and watched")
			w := hangs(t, root)
			require.NoError(t, c.write())
			err := thaw(t.Context(), e)
			flows(t, w)
			if c.wrong == "" {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, dr.ErrNotConsistent)
				require.ErrorContains(t, err, c.wrong)
			}
			require.Len(t, r.Systems, 2)
			require.Equal(t, Flushed, r.Systems[1].State)
			require.Equal(t, err == nil, r.Err == nil)
		})
	}

	// The database may be named as somebody else's business.
	freeze, thaw := Hooks(Options{Ignore: []string{parts[2]}})
	e, _ := event(dr.FileSystemConsistent, device)
	require.NoError(t, freeze(t.Context(), e))
	_, err = raw.WriteAt(make([]byte, 4096), 1<<20)
	require.NoError(t, err)
	require.NoError(t, thaw(t.Context(), e))
}

// What somebody holds for himself and isn't mounted here can't be flushed: the
// point is as after a power cut, and says so.
func TestLowersForWhatItCantReach(t *testing.T) {
	device, parts := disk(t, 2)
	format(t, "ext4", parts[0])
	dir := mounted(t, "ext4", parts[0])
	fd, err := unix.Open(parts[1], unix.O_RDWR|unix.O_EXCL, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	freeze, thaw := Hooks(Options{})
	e, seen := event(dr.FileSystemConsistent, device)
	require.NoError(t, freeze(t.Context(), e))
	require.Equal(t, dr.CrashConsistent, seen.reached)
	require.Contains(t, seen.out.String(), "is in use, by no file system that is mounted here")
	w := hangs(t, dir)
	require.NoError(t, thaw(t.Context(), e))
	flows(t, w)
}

// A file system on a loop device freezes before the one that its file lies on,
// which could not be flushed to otherwise; a btrfs freezes once, whichever of
// its devices is the machine's.
func TestStackedFileSystems(t *testing.T) {
	outer := loop(t, sparse(t, 256<<20))
	format(t, "ext4", outer)
	below := mounted(t, "ext4", outer)
	file := filepath.Join(below, "inner.img")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, 64<<20))
	inner := loop(t, file)
	format(t, "ext4", inner)
	above := mounted(t, "ext4", inner)

	a, b := loop(t, sparse(t, sizes["btrfs"])), loop(t, sparse(t, sizes["btrfs"]))
	format(t, "btrfs", a, b)
	both := mounted(t, "btrfs", a)

	var r Report
	freeze, thaw := Hooks(Options{Report: func(x Report) { r = x }})
	e, _ := event(dr.FileSystemConsistent, outer, b, a)
	require.NoError(t, os.WriteFile(filepath.Join(above, "dirty"), make([]byte, 8<<20), 0o600))
	require.NoError(t, freeze(t.Context(), e))
	x, y, z := hangs(t, above), hangs(t, below), hangs(t, both)
	require.NoError(t, thaw(t.Context(), e))
	flows(t, x, y, z)
	var order []string
	for _, s := range r.Systems {
		order = append(order, s.Mount)
	}
	require.Equal(t, []string{above, both, below}, order)
}

// Where the disk is an image file, as on a host of virtual machines' disks, the
// loop device over it is found.
func TestImageFiles(t *testing.T) {
	file := sparse(t, sizes["ext4"])
	device := loop(t, file)
	format(t, "ext4", device)
	dir := mounted(t, "ext4", device)
	freeze, thaw := Hooks(Options{})
	e, _ := event(dr.FileSystemConsistent, file)
	require.NoError(t, freeze(t.Context(), e))
	w := hangs(t, dir)
	require.NoError(t, thaw(t.Context(), e))
	flows(t, w)
}

// A process that lives and doesn't thaw is thawed by its guard, and told.
func TestGuardThawsAfterItsLimit(t *testing.T) {
	device := loop(t, sparse(t, sizes["ext4"]))
	format(t, "ext4", device)
	dir := mounted(t, "ext4", device)
	freeze, thaw := Hooks(Options{Limit: 2 * time.Second})
	e, _ := event(dr.FileSystemConsistent, device)
	began := time.Now()
	require.NoError(t, freeze(t.Context(), e))
	flows(t, hangs(t, dir))
	require.Less(t, time.Since(began), DefaultLimit)
	require.Error(t, thaw(t.Context(), e), "it wasn't frozen until the thaw")
	require.Empty(t, left(t, device))
}

// A freeze that hangs in the kernel, here as the file below is frozen by
// somebody else, is undone when it ends after the thaw.
func TestThawDuringAFreezeThatHangs(t *testing.T) {
	outer := loop(t, sparse(t, 128<<20))
	format(t, "ext4", outer)
	below := mounted(t, "ext4", outer)
	file := filepath.Join(below, "inner.img")
	require.NoError(t, os.WriteFile(file, make([]byte, 64<<20), 0o600))
	inner := loop(t, file)
	format(t, "ext4", inner)
	above := mounted(t, "ext4", inner)
	require.NoError(t, os.WriteFile(filepath.Join(above, "something"), make([]byte, 1<<20), 0o600))
	unix.Sync()
	run(t, "fsfreeze", "-f", below)

	reported := make(chan Report, 1)
	freeze, thaw := Hooks(Options{Report: func(r Report) { reported <- r }})
	e, seen := event(dr.FileSystemConsistent, inner)
	failed := make(chan error, 1)
	begun := make(chan struct{})
	held := e.Held
	e.Held = func(on bool) { held(on); close(begun) }
	go func() { failed <- freeze(t.Context(), e) }()
	<-begun
	select {
	case err := <-failed:
		require.Fail(t, "it doesn't hang", "%v", err)
	case <-time.After(100 * time.Millisecond):
	}
	e.Held = nil
	require.NoError(t, thaw(t.Context(), e))
	run(t, "fsfreeze", "-u", below)
	require.ErrorIs(t, <-failed, dr.ErrNotConsistent)
	flows(t, writing(filepath.Join(above, "free")))
	require.Error(t, (<-reported).Err)
	require.Empty(t, left(t, inner))
	require.Equal(t, []bool{true}, seen.held)
}

package bpftrack

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// lack skips the test, or fails it where everything has to be there.
func lack(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		lack(t, name+" is not installed")
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return strings.TrimSpace(string(out))
}

// memory is a folder on a tmpfs.
func memory(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "BPF and loop devices need root")
	}
	dir, err := os.MkdirTemp("/dev/shm", "bpftrack")
	if err != nil || onFileSystem(dir, unix.TMPFS_MAGIC) != nil {
		lack(t, "/dev/shm is no tmpfs")
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// loopDevice makes a loop device over a file.
func loopDevice(t testing.TB, file string, size int64, args ...string) (device string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	require.NoError(t, f.Close())
	device = command(t, "losetup", append(args, "--find", "--show", file)...)
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", device).Run() })
	return device
}

func mount(t testing.TB, device, kind string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount(device, dir, kind, 0, ""); err != nil {
		lack(t, kind+" can't be mounted: "+err.Error())
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	return dir
}

// pins is a folder in a BPF file system of the test's own.
func pins(t testing.TB) string { return filepath.Join(mount(t, "bpf", "bpf"), "pins") }

// tracker watches one disk, "d" of machine "m".
func tracker(t testing.TB, path string, o Options) *Tracker {
	t.Helper()
	tr, err := Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tr.Close()) })
	if err := tr.sys.(*kernel).err; err != nil {
		lack(t, err.Error())
	}
	require.NoError(t, tr.Track(machineOf(path)))
	return tr
}

func machineOf(path string) physical.Machine {
	return physical.Machine{ID: "m", Disks: []physical.Disk{{ID: "d", Path: path}}}
}

func cut(t testing.TB, tr *Tracker) dr.Cursor {
	t.Helper()
	mark, err := tr.Cut(t.Context(), "m")
	require.NoError(t, err)
	return mark
}

// since is the set of blocks of 64 KiB.
func since(t testing.TB, tr *Tracker, mark dr.Cursor) map[int64]bool {
	t.Helper()
	got, end := map[int64]bool{}, int64(-1)
	for e, err := range tr.Since(t.Context(), "m", "d", mark) {
		require.NoError(t, err)
		require.Greater(t, e.Off, end, "ascending, and neighbours are one")
		end = e.End()
		for i := e.Off >> 16; i<<16 < e.End(); i++ {
			got[i] = true
		}
	}
	return got
}

func lost(t testing.TB, tr *Tracker, mark dr.Cursor) {
	t.Helper()
	n := 0
	for _, err := range tr.Since(t.Context(), "m", "d", mark) {
		require.ErrorIs(t, err, dr.ErrChangesLost)
		n++
	}
	require.Equal(t, 1, n)
}

// content is what a loop device's file holds, which has every write that was
// completed. Holes aren't read.
func content(t testing.TB, file string) []byte {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	b := make([]byte, info.Size())
	for off := int64(0); ; {
		off, err = unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return b
		}
		require.NoError(t, err)
		end, err := unix.Seek(int(f.Fd()), off, unix.SEEK_HOLE)
		if errors.Is(err, unix.ENXIO) {
			continue // it was punched meanwhile
		}
		require.NoError(t, err)
		_, err = f.ReadAt(b[off:end], off)
		require.NoError(t, err)
		off = end
	}
}

// differ are the blocks of 64 KiB that differ.
func differ(a, b []byte) (blocks []int64) {
	for off := 0; off < len(a); off += 64 << 10 {
		end := min(off+64<<10, len(a))
		if !bytes.Equal(a[off:end], b[off:end]) {
			blocks = append(blocks, int64(off>>16))
		}
	}
	return blocks
}

// direct opens a device past the page cache.
func direct(t testing.TB, device string) *os.File {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT, 0)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// aligned is memory that direct I/O takes.
func aligned(t testing.TB, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Munmap(b) })
	return b
}

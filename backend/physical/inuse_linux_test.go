package physical

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// lack skips the test, or fails it where everything has to be there.
func lack(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

func command(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		lack(t, name+" is not installed")
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// loopDevice makes a loop device over a new file.
func loopDevice(t *testing.T, size int64) (device, file string) {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "loop devices need root")
	}
	file = filepath.Join(t.TempDir(), "backing.img")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, size))
	device, err := command(t, "losetup", "--find", "--show", file)
	if err != nil {
		lack(t, "losetup can't make a loop device: "+device)
	}
	t.Cleanup(func() { _, _ = command(t, "losetup", "-d", device) })
	return device, file
}

func ext4(t *testing.T, device string) {
	t.Helper()
	out, err := command(t, "mkfs.ext4", "-q", "-F", device)
	require.NoError(t, err, out)
}

func mount(t *testing.T, device string) (unmount func()) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a mount point")
	require.NoError(t, os.Mkdir(dir, 0o700))
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		lack(t, "ext4 can't be mounted: "+err.Error())
	}
	mounted := true
	unmount = func() {
		if mounted {
			require.NoError(t, unix.Unmount(dir, 0))
			mounted = false
		}
	}
	t.Cleanup(unmount)
	return unmount
}

func hostOf(t *testing.T, path string) *Host {
	t.Helper()
	h, err := Open(Config{Root: t.TempDir(), Machines: []Machine{{ID: "m", Power: dr.Off, Disks: []Disk{{ID: "d", Path: path}}}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

// refuses checks that a draft of the machine isn't had, and that the machine
// isn't torn by having asked.
func refuses(t *testing.T, h *Host, path, why string) {
	t.Helper()
	_, err := h.Draft(t.Context(), "m", dr.Point{ID: "p"})
	var use *InUseError
	require.ErrorAs(t, err, &use)
	require.ErrorIs(t, err, dr.ErrBusy)
	require.Equal(t, path, use.Path)
	require.Contains(t, use.Why, why)
	require.NoError(t, h.Start(t.Context(), "m"), "it was never torn")
	require.NoError(t, h.Stop(t.Context(), "m"))
}

func TestMountedDeviceIsNeverWritten(t *testing.T) {
	const size = 16 << 20
	device, file := loopDevice(t, size)
	ext4(t, device)
	h := hostOf(t, device)
	unmount := mount(t, device)
	refuses(t, h, device, "a mount point")
	unmount()

	// Unmounted it is a disk like any other.
	m, err := h.Machine(t.Context(), "m")
	require.NoError(t, err)
	require.EqualValues(t, size, m.Disks[0].Size)
	own, err := h.Capture(t.Context(), "m", "before", dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, own.Close())
	d, err := h.Draft(t.Context(), "m", dr.Point{ID: "p", Machine: m})
	require.NoError(t, err)
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(i >> 9)
	}
	_, err = d.WriteAt(t.Context(), "d", want, 0)
	require.NoError(t, err)
	require.NoError(t, d.(dr.Zeroer).Zero(t.Context(), "d", 1<<20+512, 3<<20))
	clear(want[1<<20+512:][:3<<20])
	// While it is being written nobody can mount it.
	require.ErrorIs(t, unix.Mount(device, t.TempDir(), "ext4", 0, ""), unix.EBUSY)
	require.NoError(t, d.Commit(t.Context(), dr.Point{ID: "p"}))
	require.NoError(t, d.Close())
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.True(t, string(want) == string(got))

	img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	defer img.Close()
	n, err := img.ReadAt(t.Context(), "d", got, 0)
	require.True(t, err == nil || errors.Is(err, io.EOF), err)
	require.Equal(t, size, n)
	require.True(t, string(want) == string(got))
	r, err := h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: m})
	require.NoError(t, err)
	require.EqualValues(t, "p", r.Holds)
	require.NoError(t, h.Remove(t.Context(), "m"))
	require.FileExists(t, file)
}

// A file below a loop device is that device's, mounted or not: the two have
// caches of their own.
func TestFileOfALoopDeviceIsNeverWritten(t *testing.T) {
	device, file := loopDevice(t, 16<<20)
	ext4(t, device)
	h := hostOf(t, file)
	refuses(t, h, file, device)
	unmount := mount(t, device)
	refuses(t, h, file, device)
	unmount()
	link := filepath.Join(t.TempDir(), "another name")
	require.NoError(t, os.Symlink(file, link))
	refuses(t, hostOf(t, link), link, device)
	out, err := command(t, "losetup", "-d", device)
	require.NoError(t, err, out)
	d, err := h.Draft(t.Context(), "m", dr.Point{ID: "p"})
	require.NoError(t, err)
	require.NoError(t, d.Close())
}

// A loop device over a loop device, and swap.
func TestDeviceBelowAnotherIsNeverWritten(t *testing.T) {
	device, _ := loopDevice(t, 16<<20)
	upper, err := command(t, "losetup", "--find", "--show", device)
	require.NoError(t, err, upper)
	h := hostOf(t, device)
	refuses(t, h, device, upper)
	out, err := command(t, "losetup", "-d", upper)
	require.NoError(t, err, out)

	out, err = command(t, "mkswap", device)
	require.NoError(t, err, out)
	out, err = command(t, "swapon", device)
	if err != nil {
		t.Logf("swap not checked: %s", out)
		return
	}
	defer func() {
		out, err := command(t, "swapoff", device)
		require.NoError(t, err, out)
	}()
	refuses(t, h, device, "swap")
}

// What holds a device exclusively without a trace in any table is found by
// opening it.
func TestExclusivelyOpenDevice(t *testing.T) {
	device, _ := loopDevice(t, 1<<20)
	other, err := os.OpenFile(device, os.O_RDWR|os.O_EXCL, 0)
	require.NoError(t, err)
	h := hostOf(t, device)
	refuses(t, h, device, "exclusively")
	require.NoError(t, other.Close())
}

// One disk under two names, of two machines or of one, is never written: what
// is copied to the one would destroy the other.
func TestDiskOfTwoNames(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.img")
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("x", 4096)), 0o600))
	require.NoError(t, os.Link(file, filepath.Join(dir, "hard.img")))
	require.NoError(t, os.Symlink(file, filepath.Join(dir, "soft.img")))
	require.NoError(t, os.Symlink(dir, filepath.Join(dir, "folder")))
	names := []string{"hard.img", "soft.img", "folder/a.img", "./a.img"}
	for _, name := range names {
		for _, two := range []bool{false, true} {
			a := Machine{ID: "a", Power: dr.Off, Disks: []Disk{{ID: "d", Path: file}}}
			b := Machine{ID: "b", Power: dr.Off}
			other := Disk{ID: "e", Path: dir + "/" + name}
			if two {
				b.Disks = append(b.Disks, other)
			} else {
				a.Disks = append(a.Disks, other)
			}
			h, err := Open(Config{Root: t.TempDir(), Machines: []Machine{a, b}})
			require.NoError(t, err)
			_, err = h.Draft(t.Context(), "a", dr.Point{ID: "p"})
			require.ErrorIs(t, err, dr.ErrInvalid, name)
			require.ErrorContains(t, err, "give each disk one machine")
			require.NoError(t, h.Start(t.Context(), "a"), "it was never torn")
			require.NoError(t, h.Close())
		}
	}
	device, below := loopDevice(t, 1<<20)
	h, err := Open(Config{Root: t.TempDir(), Machines: []Machine{
		{ID: "a", Power: dr.Off, Disks: []Disk{{ID: "d", Path: device}}},
		{ID: "b", Power: dr.Off, Disks: []Disk{{ID: "d", Path: below}}},
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	_, err = h.Draft(t.Context(), "a", dr.Point{ID: "p"})
	require.ErrorIs(t, err, dr.ErrInvalid)
}

// A machine that was started behind the host's back is seen where its
// hypervisor locks the image. QEMU takes shared locks of single bytes, of the
// open file (block/file-posix.c).
func TestLockedFileIsNeverWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.img")
	require.NoError(t, os.WriteFile(file, make([]byte, 4096), 0o600))
	h := hostOf(t, file)
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}))
	refuses(t, h, file, "locked")
	require.NoError(t, f.Close())
	d, err := h.Draft(t.Context(), "m", dr.Point{ID: "p"})
	require.NoError(t, err)
	require.NoError(t, d.Close())
}

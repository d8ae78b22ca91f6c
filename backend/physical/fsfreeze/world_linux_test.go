package fsfreeze

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// tool finds a program, also where ordinary users don't look.
func tool(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range append([]string{"/usr/lib/postgresql/15/bin", "/usr/sbin", "/sbin"}, filepath.SplitList(os.Getenv("PATH"))...) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path
		}
	}
	lack(t, name+" is not installed")
	return ""
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(tool(t, name), args...).CombinedOutput()
	require.NoError(t, err, "%s %q: %s", name, args, out)
	return strings.TrimSpace(string(out))
}

// loop makes a loop device over a file.
func loop(t testing.TB, file string) (device string) {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "loop devices need root")
	}
	out, err := exec.Command(tool(t, "losetup"), "--find", "--show", file).CombinedOutput()
	device = strings.TrimSpace(string(out))
	if err != nil {
		lack(t, "losetup can't make a loop device: "+device)
	}
	t.Cleanup(func() { run(t, "losetup", "-d", device) })
	// The kernel keeps the partitions that an earlier user has left.
	_ = exec.Command(tool(t, "partx"), "-d", device).Run()
	return device
}

// sparse makes a file of holes.
func sparse(t testing.TB, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, size))
	return file
}

// sizes are the least that each kind of file system takes.
var sizes = map[string]int64{"ext4": 64 << 20, "xfs": 320 << 20, "btrfs": 128 << 20, "ntfs": 40 << 20}

var formats = map[string][]string{
	"ext4":  {"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0"},
	"xfs":   {"mkfs.xfs", "-q", "-f"},
	"btrfs": {"mkfs.btrfs", "-q", "-f"},
	"ntfs":  {"mkfs.ntfs", "-q", "-F", "-f"},
}

func format(t testing.TB, kind string, devices ...string) {
	t.Helper()
	run(t, formats[kind][0], append(formats[kind][1:], devices...)...)
}

// mounted mounts a device. Whatever a test has left frozen thaws before it is
// taken away.
func mounted(t testing.TB, kind, device string) (dir string) {
	t.Helper()
	top := t.TempDir()
	dir = filepath.Join(top, "a mount")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.Chmod(filepath.Dir(top), 0o755)) // for programs of other users
	mountAt(t, kind, device, dir)
	return dir
}

func mountAt(t testing.TB, kind, device, dir string) {
	t.Helper()
	flags := uintptr(0)
	if kind == "bind" {
		kind, flags = "", unix.MS_BIND
	}
	if kind == "ntfs" {
		if _, err := os.Stat("/dev/fuse"); err != nil {
			lack(t, "there is no /dev/fuse")
		}
		run(t, "ntfs-3g", device, dir)
		t.Cleanup(func() { run(t, "umount", dir) })
		return
	}
	options := ""
	if kind == "xfs" {
		options = "nouuid" // a copy is mounted beside its original
	}
	err := unix.Mount(device, dir, kind, flags, options)
	for range 20 {
		if kind != "btrfs" || err == nil {
			break
		}
		// It remembers which file system a number of a loop device was of, and
		// takes a copy for that one. Others scan at any time.
		_ = exec.Command(tool(t, "btrfs"), "device", "scan", "--forget").Run()
		err = unix.Mount(device, dir, kind, flags, options)
	}
	if err != nil {
		lack(t, kind+" can't be mounted: "+err.Error())
	}
	t.Cleanup(func() {
		_ = exec.Command(tool(t, "fsfreeze"), "-u", dir).Run()
		require.Eventually(t, func() bool { return unix.Unmount(dir, 0) == nil }, time.Minute, 10*time.Millisecond)
	})
}

// event is what physical calls hooks with.
func event(want dr.Consistency, paths ...string) (physical.Event, *told) {
	seen := &told{reached: want}
	return physical.Event{Machine: dr.Machine{ID: "m"}, Paths: paths, Want: want, Out: &seen.out,
		Held:    func(on bool) { seen.held = append(seen.held, on) },
		Reached: func(c dr.Consistency) { seen.reached = c }}, seen
}

// told is what hooks told through their event.
type told struct {
	out     bytes.Buffer
	held    []bool
	reached dr.Consistency
}

// writing writes a file's content and tells when it is on disk.
func writing(path string) <-chan error {
	done := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_SYNC, 0o600)
		if err == nil {
			_, err = f.WriteString(path)
			f.Close()
		}
		done <- err
	}()
	return done
}

// hangs requires that a write waits, and returns it.
func hangs(t testing.TB, dir string) <-chan error {
	t.Helper()
	w := writing(filepath.Join(dir, "hangs"))
	select {
	case err := <-w:
		require.Fail(t, "a write went through", "%s: %v", dir, err)
	case <-time.After(100 * time.Millisecond):
	}
	return w
}

// flows requires that writes go on.
func flows(t testing.TB, writes ...<-chan error) {
	t.Helper()
	for _, w := range writes {
		select {
		case err := <-w:
			require.NoError(t, err)
		case <-time.After(20 * time.Second):
			require.Fail(t, "a write hangs still")
		}
	}
}

func containsGuard(cmdline []byte) bool {
	return bytes.Contains(cmdline, []byte("lifeboat-freeze-guard"))
}

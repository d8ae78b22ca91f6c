package fsfreeze

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// A file system below a folder that another one was mounted over later can't be
// reached by its path: what is there is the other's, which must not be frozen in
// its place.
func TestFreezesNoOtherFileSystem(t *testing.T) {
	wanted, other := loop(t, sparse(t, sizes["ext4"])), loop(t, sparse(t, sizes["ext4"]))
	format(t, "ext4", wanted)
	format(t, "ext4", other)
	above := filepath.Join(t.TempDir(), "a")
	below := filepath.Join(above, "b")
	require.NoError(t, os.MkdirAll(below, 0o755))
	mountAt(t, "ext4", wanted, below)
	mountAt(t, "ext4", other, above)
	require.NoError(t, os.Mkdir(below, 0o755))

	freeze, thaw := Hooks(Options{})
	e, _ := event(dr.FileSystemConsistent, wanted)
	err := freeze(t.Context(), e)
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	require.ErrorContains(t, err, "can't be reached")
	flows(t, writing(filepath.Join(above, "free")))
	require.NoError(t, thaw(t.Context(), e))
}

// What becomes writable while scripts run would not be held.
func TestSeesWhatIsMountedMeanwhile(t *testing.T) {
	device := loop(t, sparse(t, sizes["ext4"]))
	format(t, "ext4", device)
	dir := mounted(t, "ext4", device)
	require.NoError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	folder, log := scripts(t, map[string]string{"a": fmt.Sprintf("[ $1 = thaw ] || mount -o remount,rw '%s'", dir)})
	freeze, thaw := Hooks(Options{Scripts: Scripts{Dir: folder}})
	e, _ := event(dr.ApplicationConsistent, device)
	err := freeze(t.Context(), e)
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	require.ErrorContains(t, err, "changed while its freeze was prepared")
	require.Equal(t, []string{"a freeze", "a thaw"}, lines(t, log))
	require.NoError(t, thaw(t.Context(), e))
}

// A device that counts no writes can't be watched.
func TestNeedsCountersToWatch(t *testing.T) {
	device := loop(t, sparse(t, sizes["ext4"]))
	counts := "/sys/block/" + filepath.Base(device) + "/queue/iostats"
	require.NoError(t, os.WriteFile(counts, []byte("0"), 0))
	t.Cleanup(func() { require.NoError(t, os.WriteFile(counts, []byte("1"), 0)) })
	freeze, thaw := Hooks(Options{})
	e, _ := event(dr.FileSystemConsistent, device)
	require.ErrorContains(t, freeze(t.Context(), e), "its writes are not counted (echo 1 >/sys/")
	require.NoError(t, thaw(t.Context(), e))
}

// A device that can't be asked may be in use.
func TestAsksWhoUsesADevice(t *testing.T) {
	for path, want := range map[string]bool{"/nowhere/disk": false, "/dev/null": true} {
		held, err := exclusive(path)
		require.False(t, held)
		require.Equal(t, want, err == nil)
	}
}

// A mount's source may be empty, as container runtimes and administrators have
// it.
func TestMountWithoutASource(t *testing.T) {
	mounts, err := parseMounts([]byte("25 1 0:31 / /x rw shared:1 - tmpfs  rw,size=1k\n26 1 8:1 / / rw - ext4 /dev/sda1 ro\n\n"))
	require.NoError(t, err)
	require.Equal(t, []mount{{"25", device{0, 31}, "/x", "tmpfs", "", false}, {"26", device{8, 1}, "/", "ext4", "/dev/sda1", true}}, mounts)
}

// A thaw that the kernel refuses is tried again until it is done; applications
// don't wait for it, and the capture is told.
func TestThawThatFailsIsTriedAgain(t *testing.T) {
	device := loop(t, sparse(t, sizes["ext4"]))
	format(t, "ext4", device)
	dir := mounted(t, "ext4", device)
	folder, log := scripts(t, map[string]string{"a": ""})
	reported := make(chan Report, 1)
	h := newHooks(Options{Limit: DefaultLimit, Scripts: Scripts{Dir: folder, Limit: DefaultScriptLimit},
		Log: slog.New(slog.DiscardHandler), Report: func(r Report) { reported <- r }})
	fails := make(chan error, 2)
	fails <- unix.EIO
	fails <- unix.EIO
	h.thawOne = func(x *hold) error {
		select {
		case err := <-fails:
			return err
		default:
			return thawOne(x)
		}
	}
	e, _ := event(dr.ApplicationConsistent, device)
	require.NoError(t, h.freeze(t.Context(), e))
	w := hangs(t, dir)
	require.ErrorIs(t, h.thaw(t.Context(), e), unix.EIO)
	require.Equal(t, []string{"a freeze", "a thaw"}, lines(t, log))
	flows(t, w)
	require.ErrorIs(t, (<-reported).Err, unix.EIO)
	require.Empty(t, left(t, device))
}

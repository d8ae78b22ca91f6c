package qemu

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/qemu/bootsector"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// lack skips the test, or fails it where everything has to be there.
func lack(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

func needs(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		lack(t, "qemu-system-x86_64 is not installed")
	}
}

func says(text string) Evidence { return Serial{Match: regexp.MustCompile(regexp.QuoteMeta(text))} }

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func runner(t testing.TB, o Options) *Runner {
	r, err := New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func host(t testing.TB, r *Runner, m physical.Machine) *physical.Host {
	c := physical.Config{Root: t.TempDir(), Machines: []physical.Machine{m}}
	r.Configure(&c)
	h, err := physical.Open(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

func counting(t testing.TB) physical.Machine {
	needs(t)
	path := filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(path, bootsector.New("well\r\n", bootsector.Count), 0o600))
	require.NoError(t, os.Truncate(path, 8<<20))
	return physical.Machine{ID: "m", Power: dr.Off, Memory: 64 << 20, Disks: []physical.Disk{{ID: "sda", Path: path, Boot: true}}}
}

// number is what the guest has counted to.
func number(t testing.TB, r io.ReaderAt) uint16 {
	var b [2]byte
	_, err := r.ReadAt(b[:], bootsector.CountAt)
	require.NoError(t, err)
	return binary.LittleEndian.Uint16(b[:])
}

func numberAt(t testing.TB, path string) uint16 {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	return number(t, f)
}

// disk reads an image's.
type disk struct {
	img dr.Image
	id  dr.DiskID
}

func (d disk) ReadAt(p []byte, off int64) (int, error) {
	return d.img.ReadAt(context.Background(), d.id, p, off)
}

// stored opens a point and returns what the guest had counted to.
func stored(t testing.TB, s *vault.Store, id dr.PointID) uint16 {
	img, err := s.Open(t.Context(), "m", id)
	require.NoError(t, err)
	defer img.Close()
	return number(t, disk{img, "sda"})
}

func openVault(t testing.TB) *vault.Store {
	s, err := vault.OpenDir(t.TempDir(), vault.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestServedMachineIsReplicatedLive(t *testing.T) {
	m := counting(t)
	r := runner(t, Options{Folder: t.TempDir(), Tracker: physical.NewBitmapTracker(0), Evidence: []Evidence{says("well")}})
	h := host(t, r, m)
	require.NoError(t, h.Start(t.Context(), "m"))
	require.NoError(t, h.Start(t.Context(), "m"), "a second start is nothing")
	prober, ok := dr.As[backend.Prober](h)
	require.True(t, ok)
	seen, err := prober.Probe(within(t, 30*time.Second), "m")
	require.NoError(t, err)
	require.Equal(t, `the console says "well"`, seen.What)

	path := m.Disks[0].Path
	s := openVault(t)
	cycle := &replication.Cycle{Source: h, Points: s}
	for i, id := range []dr.PointID{"p1", "p2", "p3"} {
		before := numberAt(t, path)
		rep, err := cycle.ReplicateAs(t.Context(), "m", id, dr.ApplicationConsistent, replication.CycleOptions{})
		require.NoError(t, err)
		require.Equal(t, dr.CrashConsistent, rep.Point.Consistency, "no more is claimed than was reached")
		got := stored(t, s, id)
		require.True(t, before <= got && got <= numberAt(t, path), "%d, then %d", before, got)
		if i > 0 {
			require.LessOrEqual(t, rep.Read, int64(1<<20), "only what the guest wrote was read")
		}
		t.Logf("%s: %d bytes read in %d passes", id, rep.Read, rep.Passes)
		now := numberAt(t, path)
		require.Eventually(t, func() bool { return numberAt(t, path) != now }, time.Minute, time.Millisecond, "it was thawed")
	}

	// Its power is cut; what it wrote until then is in the next point.
	vm, err := r.there(t.Context(), "m")
	require.NoError(t, err)
	require.NoError(t, vm.Kill())
	<-vm.Gone()
	on, err := r.Running(t.Context(), "m")
	require.NoError(t, err)
	require.False(t, on)
	rep, err := cycle.ReplicateAs(t.Context(), "m", "p4", dr.CrashConsistent, replication.CycleOptions{})
	require.NoError(t, err)
	require.LessOrEqual(t, rep.Read, int64(1<<20))
	require.Equal(t, numberAt(t, path), stored(t, s, "p4"))

	require.NoError(t, h.Stop(t.Context(), "m"))
	require.NoError(t, h.Start(t.Context(), "m"))
	require.NoError(t, r.Wait(within(t, 30*time.Second), "m", says("well")))
	_, err = lockFile(path)
	require.ErrorIs(t, err, dr.ErrBusy, "it is locked while the machine runs")
	require.NoError(t, h.Stop(t.Context(), "m"))
	l, err := lockFile(path)
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

func TestMachineOfItsOwnDisksOutlives(t *testing.T) {
	m := counting(t)
	o := Options{Folder: t.TempDir()}
	r := runner(t, o)
	_, err := New(o)
	require.ErrorIs(t, err, dr.ErrBusy)
	h := host(t, r, m)
	require.NoError(t, h.Start(t.Context(), "m"))
	require.NoError(t, r.Wait(within(t, 30*time.Second), "m", says("well")))
	_, err = lockFile(m.Disks[0].Path)
	require.ErrorIs(t, err, dr.ErrBusy, "QEMU locks it")
	e := physical.Event{Machine: dr.Machine{ID: "m"}, Out: io.Discard}
	vm, err := r.there(t.Context(), "m")
	require.NoError(t, err)
	t.Cleanup(func() { _ = vm.Kill() }) // of a test that failed
	require.NoError(t, r.Hooks().Freeze(t.Context(), e))
	require.NoError(t, r.Close(), "it dies, so to say, and has frozen it")
	frozen := numberAt(t, m.Disks[0].Path)

	again := runner(t, o)
	require.Eventually(t, func() bool { return numberAt(t, m.Disks[0].Path) != frozen }, time.Minute, time.Millisecond, "the next one thaws it")
	on, err := again.Running(t.Context(), "m")
	require.NoError(t, err)
	require.True(t, on)
	require.NoError(t, again.Hooks().Freeze(t.Context(), e))
	now := numberAt(t, m.Disks[0].Path)
	for range 20 {
		_, err := again.Screenshot(t.Context(), "m")
		require.NoError(t, err)
		require.Equal(t, now, numberAt(t, m.Disks[0].Path))
	}
	require.NoError(t, again.Hooks().Thaw(t.Context(), e))
	require.Eventually(t, func() bool { return numberAt(t, m.Disks[0].Path) != now }, time.Minute, time.Millisecond)
	require.NoError(t, again.Hooks().Stop(t.Context(), e))
	require.NoError(t, again.Hooks().Stop(t.Context(), e), "a second stop is nothing")
	l, err := lockFile(m.Disks[0].Path)
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// A guest that hears no button is not powered off by a shutdown, and a thaw doesn't
// wait for the shutdown.
func TestShutdownIsNeverHard(t *testing.T) {
	m := counting(t)
	r := runner(t, Options{Folder: t.TempDir(), Tracker: physical.NewBitmapTracker(0)})
	h := host(t, r, m)
	require.NoError(t, h.Start(t.Context(), "m"))
	require.NoError(t, r.Wait(within(t, 30*time.Second), "m", says("well")))
	e := physical.Event{Machine: dr.Machine{ID: "m"}, Out: io.Discard}
	require.NoError(t, r.Hooks().Freeze(t.Context(), e))
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- r.Hooks().Shutdown(ctx, e) }()
	require.Eventually(t, func() bool { return len(r.machines["m"].op) == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, r.Hooks().Thaw(t.Context(), e))
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	on, err := r.Running(t.Context(), "m")
	require.NoError(t, err)
	require.True(t, on)

	// Who closes the runner waits for no guest, and that was no shutdown.
	go func() { ended <- r.Hooks().Shutdown(t.Context(), e) }()
	require.Eventually(t, func() bool { return len(r.machines["m"].op) == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, r.Close())
	require.ErrorContains(t, <-ended, "did not shut down")
}

package physical

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// copier is a Snapshotter that copies, on any file system.
type copier struct {
	fs    fsys.FS
	calls *atomic.Int32
	fails error // of Snapshot
}

func (copier) Takes(_ context.Context, path string) error {
	if strings.HasSuffix(path, "no") {
		return dr.ErrUnsupported
	}
	return nil
}

func (c copier) at(s Snapshot) string { return path.Join(path.Dir(s.Of), s.Name+".snapshot") }

func (c copier) Snapshot(ctx context.Context, s Snapshot) (string, error) {
	c.calls.Add(1)
	if c.fails != nil {
		return "", c.fails
	}
	if err := c.Remove(ctx, s); err != nil {
		return "", err
	}
	src, err := c.fs.OpenFile(s.Of, os.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer src.Close()
	size, err := src.Size()
	if err != nil {
		return "", err
	}
	b := make([]byte, size)
	if _, err := src.ReadAt(b, 0); err != nil {
		return "", err
	}
	dst, err := c.fs.OpenFile(c.at(s), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	_, err = dst.WriteAt(b, 0)
	return c.at(s), errors.Join(err, dst.Close())
}

func (c copier) Remove(_ context.Context, s Snapshot) error {
	err := c.fs.Remove(c.at(s))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = c.fs.SyncDir(path.Dir(s.Of))
	}
	return err
}

func copies(t *testing.T, f fsys.FS) (names []string) {
	t.Helper()
	entries, err := f.ReadDir("/disks")
	require.NoError(t, err)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".snapshot") {
			names = append(names, e.Name())
		}
	}
	return names
}

func contents(t *testing.T, img dr.Image, disk dr.DiskID) []byte {
	t.Helper()
	d, ok := img.Point().Machine.Disk(disk)
	require.True(t, ok)
	b := make([]byte, d.Size)
	_, err := img.ReadAt(t.Context(), disk, b, 0)
	require.NoError(t, err)
	return b
}

func changed(t *testing.T, img dr.Image, disk dr.DiskID, since dr.Point) (sum int64, err error) {
	t.Helper()
	for e, err := range img.(dr.ChangeTracker).Changes(t.Context(), disk, since) {
		if err != nil {
			return 0, err
		}
		sum += e.Len
	}
	return sum, nil
}

// A capture by copies is frozen for no longer than they take, is found again by
// its name, whatever the machine writes, also by another process, and is there
// until it is released.
func TestSnapshotIsKept(t *testing.T) {
	tracker := NewBitmapTracker(0)
	var calls atomic.Int32
	var events []string
	var cfg Config
	h, mem := running(t, func(c *Config) {
		c.Tracker, c.Snapshots = tracker, copier{fs: c.FS, calls: &calls}
		c.Hooks.Freeze = func(_ context.Context, e Event) error {
			events = append(events, fmt.Sprint(e.Name, calls.Load()))
			return nil
		}
		c.Hooks.Thaw = c.Hooks.Freeze
		cfg = *c
	})
	write := func(b byte) {
		tracker.Mark("m", "a", 0, 1000)
		writeDisk(t, mem, "/disks/a", bytes.Repeat([]byte{b}, 1000), 0)
		tracker.Mark("m", "a", 0, 1000)
	}
	write(1)
	capturer, ok := dr.As[backend.LiveCapturer](h)
	require.True(t, ok)
	live, err := capturer.CapturesLive(t.Context(), "m")
	require.NoError(t, err)
	require.False(t, live)
	img, err := h.Capture(t.Context(), "m", "p1", dr.ApplicationConsistent)
	require.NoError(t, err)
	_, settles := dr.As[dr.Settler](img)
	require.False(t, settles)
	require.Equal(t, []string{"freeze0", "thaw2"}, events)
	p1, then := img.Point(), readDisk(t, mem, "/disks/a")
	require.Equal(t, dr.FileSystemConsistent, p1.Consistency)
	require.Len(t, p1.Cursors, 2)
	frozen, _ := dr.As[Freezes](img)
	require.Positive(t, frozen.Frozen())

	write(2)
	require.Equal(t, then, contents(t, img, "a"))
	again, err := h.Capture(t.Context(), "m", "p1", dr.ApplicationConsistent)
	require.NoError(t, err)
	require.Equal(t, p1, again.Point())
	require.Equal(t, then, contents(t, again, "a"))
	require.EqualValues(t, 2, calls.Load(), "it was made again")
	require.NoError(t, again.Close())

	next, err := h.Capture(t.Context(), "m", "p2", dr.CrashConsistent)
	require.NoError(t, err)
	p2 := next.Point()
	sum, err := changed(t, next, "a", p1)
	require.NoError(t, err)
	require.EqualValues(t, 64<<10, sum)
	sum, err = changed(t, next, "b", p1)
	require.NoError(t, err)
	require.Zero(t, sum)
	require.NoError(t, next.Close())
	require.NoError(t, img.Close())

	// An older copy knows nothing of what was written up to a younger point.
	img, err = h.Capture(t.Context(), "m", "p1", dr.ApplicationConsistent)
	require.NoError(t, err)
	_, err = changed(t, img, "a", p2)
	require.ErrorIs(t, err, dr.ErrChangesLost)
	require.NoError(t, img.Close())

	// Another process.
	require.NoError(t, h.Close())
	h, err = Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	img, err = h.Capture(t.Context(), "m", "p1", dr.ApplicationConsistent)
	require.NoError(t, err)
	require.Equal(t, p1, img.Point())
	require.Equal(t, then, contents(t, img, "a"))
	require.NoError(t, img.Close())

	require.Len(t, copies(t, mem), 4)
	require.NoError(t, h.Release(t.Context(), "m", "p1"))
	require.Len(t, copies(t, mem), 2)
	swept, err := h.Sweep(t.Context(), "m", func(dr.PointID) bool { return false })
	require.NoError(t, err)
	require.Equal(t, []dr.PointID{"p2"}, swept)
	require.Empty(t, copies(t, mem))

	// What was released can still be a base.
	img, err = h.Capture(t.Context(), "m", "p3", dr.CrashConsistent)
	require.NoError(t, err)
	sum, err = changed(t, img, "a", p1)
	require.NoError(t, err)
	require.EqualValues(t, 64<<10, sum)
	require.NoError(t, img.Close())
}

// A freeze that ended too early, a copy that fails, a disk that can't be copied.
func TestSnapshotsThatFail(t *testing.T) {
	noHook := func(context.Context, Event) error { return nil }
	t.Run("thawed early", func(t *testing.T) {
		var calls atomic.Int32
		h, mem := running(t, func(c *Config) {
			c.Snapshots = copier{fs: c.FS, calls: &calls}
			c.Hooks.Freeze = noHook
			c.Hooks.Thaw = func(context.Context, Event) error { return errors.New("it had thawed") }
		})
		_, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
		require.ErrorIs(t, err, dr.ErrNotConsistent)
		require.Empty(t, copies(t, mem))
	})
	t.Run("no room", func(t *testing.T) {
		thaws := 0
		h, mem := running(t, func(c *Config) {
			c.Snapshots = copier{c.FS, new(atomic.Int32), syscall.ENOSPC}
			c.Hooks.Freeze = noHook
			c.Hooks.Thaw = func(context.Context, Event) error { thaws++; return nil }
		})
		_, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.Equal(t, 1, thaws)
		require.Empty(t, copies(t, mem))
	})
	t.Run("two disks without a freeze", func(t *testing.T) {
		h, _ := running(t, func(c *Config) { c.Snapshots = copier{fs: c.FS, calls: new(atomic.Int32)} })
		_, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
		require.ErrorIs(t, err, dr.ErrNotConsistent)
	})
	t.Run("another host has them", func(t *testing.T) {
		var cfg Config
		h, mem := running(t, func(c *Config) {
			c.Snapshots = copier{fs: c.FS, calls: new(atomic.Int32)}
			c.Hooks.Freeze, c.Hooks.Thaw = noHook, noHook
			cfg = *c
		})
		img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
		require.NoError(t, err)
		require.NoError(t, img.Close())
		require.NoError(t, h.Close())
		cfg.Snapshots = nil
		h, err = Open(cfg)
		require.NoError(t, err)
		defer h.Close()
		require.ErrorIs(t, h.Release(t.Context(), "m", "p"), dr.ErrUnsupported)
		require.Len(t, copies(t, mem), 2)
	})
}

// Power is cut at every operation of a capture by copies and its release. The
// capture that is found afterwards is whole; nothing is left once all is swept.
func TestSnapshotsAndPowerCuts(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	noHook := func(context.Context, Event) error { return nil }
	ctx := context.Background()
	cuts, found := 0, 0
	for n := 1; ; n++ {
		mem := crashfs.New(seed)
		require.NoError(t, mem.MkdirAll("/disks", 0o700))
		for _, name := range []string{"/disks/a", "/disks/b"} {
			f, err := mem.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
			require.NoError(t, err)
			_, err = f.WriteAt(bytes.Repeat([]byte(name), 100), 0)
			require.NoError(t, errors.Join(err, f.Sync(), f.Close(), mem.SyncDir("/disks"), mem.SyncDir("/")))
		}
		var calls *atomic.Int32
		open := func() (*Host, error) {
			calls = new(atomic.Int32)
			cfg := Config{Root: "/root", FS: mem, Snapshots: copier{fs: mem, calls: calls}, Tracker: NewBitmapTracker(0),
				Machines: []Machine{{ID: "m", Power: dr.On, Disks: []Disk{{ID: "a", Path: "/disks/a"}, {ID: "b", Path: "/disks/b"}}}}}
			cfg.Hooks.Freeze, cfg.Hooks.Thaw = noHook, noHook
			return Open(cfg)
		}
		life := func(h *Host) error {
			img, err := h.Capture(ctx, "m", "p", dr.FileSystemConsistent)
			if err != nil {
				return err
			}
			if err := img.Close(); err != nil {
				return err
			}
			return h.Release(ctx, "m", "p")
		}
		h, err := open()
		require.NoError(t, err)
		mem.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating})
		err = life(h)
		if mem.Fired() == 0 {
			require.NoError(t, err)
			break
		}
		cuts++
		mem = mem.Restart()
		writeDisk(t, mem, "/disks/a", []byte("the machine goes on"), 0)
		h, err = open()
		require.NoError(t, err)
		img, err := h.Capture(ctx, "m", "p", dr.FileSystemConsistent)
		require.NoError(t, err)
		if got := contents(t, img, "a"); calls.Load() == 0 {
			require.Equal(t, bytes.Repeat([]byte("/disks/a"), 100), got)
			found++
		}
		require.NoError(t, img.Close())
		_, err = h.Sweep(ctx, "m", func(dr.PointID) bool { return false })
		require.NoError(t, err)
		require.Empty(t, copies(t, mem), "cut %d", n)
		require.NoError(t, h.Close())
	}
	require.Greater(t, cuts, 15)
	require.Positive(t, found)
	t.Logf("%d cuts, after %d of which the capture was found", cuts, found)
}

package physical

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// running is a host on a file system in memory, with one machine that runs.
func running(t *testing.T, change func(*Config)) (*Host, fsys.FS) {
	t.Helper()
	mem := crashfs.New(1)
	require.NoError(t, mem.MkdirAll("/disks", 0o700))
	for _, name := range []string{"/disks/a", "/disks/b"} {
		f, err := mem.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		require.NoError(t, err)
		require.NoError(t, errors.Join(f.Truncate(1<<20+512), f.Close()))
	}
	cfg := Config{Root: "/root", FS: mem, Machines: []Machine{{ID: "m", Power: dr.On, Disks: []Disk{{ID: "a", Path: "/disks/a"}, {ID: "b", Path: "/disks/b"}}}}}
	if change != nil {
		change(&cfg)
	}
	h, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h, mem
}

func readDisk(t *testing.T, f fsys.FS, name string) []byte {
	t.Helper()
	file, err := f.OpenFile(name, os.O_RDONLY, 0)
	require.NoError(t, err)
	defer file.Close()
	size, err := file.Size()
	require.NoError(t, err)
	b := make([]byte, size)
	_, err = file.ReadAt(b, 0)
	require.NoError(t, err)
	return b
}

func writeDisk(t *testing.T, f fsys.FS, name string, p []byte, off int64) {
	t.Helper()
	file, err := f.OpenFile(name, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = file.WriteAt(p, off)
	require.NoError(t, errors.Join(err, file.Close()))
}

// A guest writes as fast as it can while its disks are copied: the copy is what
// the disks were while the machine was frozen.
func TestSettleWhileTheGuestWrites(t *testing.T) {
	for name, tracked := range map[string]bool{"with a tracker": true, "comparing whole disks": false} {
		t.Run(name, func(t *testing.T) {
			var gate sync.RWMutex
			tracker := NewBitmapTracker(0)
			then := map[dr.DiskID][]byte{}
			var mem fsys.FS
			h, mem := running(t, func(c *Config) {
				c.LastPass = 256 << 10
				if tracked {
					c.Tracker = tracker
				}
				c.Hooks.Freeze = func(context.Context, Event) error {
					gate.Lock()
					then["a"], then["b"] = readDisk(t, c.FS, "/disks/a"), readDisk(t, c.FS, "/disks/b")
					return nil
				}
				c.Hooks.Thaw = func(context.Context, Event) error { gate.Unlock(); return nil }
			})
			stop := make(chan struct{})
			var guest sync.WaitGroup
			started := make(chan struct{})
			guest.Go(func() {
				rng := rand.New(rand.NewPCG(1, 2))
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					if i == 50 {
						close(started)
					}
					disk := []dr.DiskID{"a", "b"}[rng.IntN(2)]
					p := bytes.Repeat([]byte{byte(rng.Uint32())}, 512*(1+rng.IntN(8)))
					off := rng.Int64N(1<<20) / 512 * 512
					p = p[:min(int64(len(p)), 1<<20+512-off)]
					gate.RLock()
					tracker.Mark("m", disk, off, int64(len(p)))
					writeDisk(t, mem, "/disks/"+string(disk), p, off)
					tracker.Mark("m", disk, off, int64(len(p)))
					gate.RUnlock()
				}
			})
			<-started
			img, err := h.Capture(t.Context(), "m", "p", dr.ApplicationConsistent)
			require.NoError(t, err)
			got := map[dr.DiskID][]byte{"a": make([]byte, 1<<20+512), "b": make([]byte, 1<<20+512)}
			passes := 0
			require.NoError(t, copyPasses(t.Context(), img, got, func(int) { passes++ }))
			close(stop)
			guest.Wait()
			require.GreaterOrEqual(t, passes, 2)
			for id := range got {
				require.True(t, bytes.Equal(then[id], got[id]), "disk %s", id)
			}
			require.Equal(t, dr.FileSystemConsistent, img.Point().Consistency)
			require.Equal(t, tracked, len(img.Point().Cursors) == 2)
			frozen, ok := dr.As[Freezes](img)
			require.True(t, ok)
			require.Positive(t, frozen.Frozen())
			more, err := img.(dr.Settler).Settle(t.Context())
			require.NoError(t, err)
			require.False(t, more, "a complete capture stays complete")
			_, err = img.ReadAt(t.Context(), "a", make([]byte, 1), 0)
			require.ErrorIs(t, err, dr.ErrNotConsistent, "what is read now is of no moment")
			require.NoError(t, img.Close())
		})
	}
}

// Passes shrink to what is worth freezing for.
func TestSettleConverges(t *testing.T) {
	var events []string
	tracker := NewBitmapTracker(0)
	h, mem := running(t, func(c *Config) {
		c.Tracker, c.LastPass = tracker, 128<<10
		c.Hooks.Freeze = func(_ context.Context, e Event) error { events = append(events, e.Name); return nil }
		c.Hooks.Thaw = c.Hooks.Freeze
	})
	img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	defer img.Close()
	settle := img.(dr.Settler)
	dirty := func(n int64) {
		tracker.Mark("m", "a", 0, n)
		writeDisk(t, mem, "/disks/a", bytes.Repeat([]byte{byte(n)}, int(n)), 0)
		tracker.Mark("m", "a", 0, n)
	}
	pass := func() (sum int64) {
		for e, err := range img.(dr.ChangeTracker).Changes(t.Context(), "a", dr.Point{}) {
			require.NoError(t, err)
			sum += e.Len
		}
		return sum
	}
	for _, n := range []int64{1 << 20, 512 << 10, 256 << 10} {
		dirty(n)
		more, err := settle.Settle(t.Context())
		require.NoError(t, err)
		require.True(t, more)
		require.Equal(t, n, pass())
		require.Empty(t, events, "%d dirty bytes are too many to freeze for", n)
	}
	dirty(100 << 10)
	more, err := settle.Settle(t.Context())
	require.NoError(t, err)
	require.True(t, more)
	require.EqualValues(t, 128<<10, pass())
	require.Equal(t, []string{"freeze"}, events)
	more, err = settle.Settle(t.Context())
	require.NoError(t, err)
	require.False(t, more)
	require.Equal(t, []string{"freeze", "thaw"}, events)
}

func TestTrackerAloneWaitsForAQuietPass(t *testing.T) {
	tracker := NewBitmapTracker(0)
	h, _ := running(t, func(c *Config) { c.Tracker, c.Passes = tracker, 4 })
	img, err := h.Capture(t.Context(), "m", "p", dr.FileSystemConsistent)
	require.NoError(t, err)
	got := map[dr.DiskID][]byte{"a": make([]byte, 1<<20+512), "b": make([]byte, 1<<20+512)}
	passes := 0
	require.NoError(t, copyPasses(t.Context(), img, got, func(pass int) {
		if passes = pass; pass < 3 {
			tracker.Mark("m", "b", 70000, 1)
		}
	}))
	require.Equal(t, 3, passes)
	require.Equal(t, dr.CrashConsistent, img.Point().Consistency)
	require.NoError(t, img.Close())

	img, err = h.Capture(t.Context(), "m", "q", dr.FileSystemConsistent)
	require.NoError(t, err)
	err = copyPasses(t.Context(), img, got, func(int) { tracker.Mark("m", "b", 70000, 1) })
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	require.ErrorContains(t, err, "freeze and thaw hooks", "the remedy")
	require.NoError(t, img.Close())
}

func TestRunningMachineWithoutAnythingIsRefused(t *testing.T) {
	h, _ := running(t, nil)
	_, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	require.ErrorContains(t, err, noMoment)
	problems, err := h.Preflight(t.Context(), "m")
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Equal(t, "no-consistent-moment", problems[0].Code)
}

// A copy that dies with the machine frozen doesn't keep it so.
func TestFreezeEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls []string
		h, _ := running(t, func(c *Config) {
			c.FreezeLimit = 20 * time.Second
			c.Hooks.Freeze = func(_ context.Context, e Event) error { calls = append(calls, e.Name); return nil }
			c.Hooks.Thaw = c.Hooks.Freeze
		})
		img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
		require.NoError(t, err)
		more, err := img.(dr.Settler).Settle(t.Context())
		require.NoError(t, err)
		require.True(t, more)
		<-time.After(19 * time.Second)
		_, err = img.ReadAt(t.Context(), "a", make([]byte, 10), 0)
		require.NoError(t, err)
		<-time.After(2 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"freeze", "thaw"}, calls)
		_, err = img.ReadAt(t.Context(), "a", make([]byte, 10), 0)
		require.ErrorIs(t, err, dr.ErrNotConsistent)
		_, err = img.(dr.Settler).Settle(t.Context())
		require.ErrorIs(t, err, dr.ErrNotConsistent)
		require.ErrorContains(t, err, "20s")
		require.NoError(t, img.Close())
		require.Equal(t, []string{"freeze", "thaw"}, calls, "thawed once")

		img, err = h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
		require.NoError(t, err)
		_, err = img.(dr.Settler).Settle(t.Context())
		require.NoError(t, err)
		require.NoError(t, img.Close())
		require.Equal(t, []string{"freeze", "thaw", "freeze", "thaw"}, calls, "Close thaws")
	})
}

// A freeze hook that hangs, because it waits for what it froze itself, is
// freed by the thaw, and what it froze late is thawed again.
func TestFreezeHookThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, thaws := make(chan struct{}), make(chan struct{}, 2)
		var late error
		var freezes atomic.Int32 // a freeze that hangs is not waited for
		h, _ := running(t, func(c *Config) {
			c.FreezeLimit = 20 * time.Second
			c.Hooks.Freeze = func(context.Context, Event) error { freezes.Add(1); <-release; return late }
			c.Hooks.Thaw = func(context.Context, Event) error { thaws <- struct{}{}; return nil }
		})
		img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
		require.NoError(t, err)
		_, err = img.(dr.Settler).Settle(t.Context())
		require.ErrorIs(t, err, dr.ErrNotConsistent)
		require.ErrorContains(t, err, "took longer than 20s")
		require.Len(t, thaws, 1)
		require.NoError(t, img.Close())
		// A freeze that began now would be ended by the late thaw, and nobody
		// would know.
		img, err = h.Capture(t.Context(), "m", "p2", dr.CrashConsistent)
		require.NoError(t, err)
		_, err = img.(dr.Settler).Settle(t.Context())
		require.ErrorIs(t, err, dr.ErrBusy)
		require.EqualValues(t, 1, freezes.Load())
		late = errors.New("half of it")
		close(release)
		synctest.Wait()
		require.Len(t, thaws, 2, "also what froze in part")
		late = nil
		more, err := img.(dr.Settler).Settle(t.Context())
		require.NoError(t, err)
		require.True(t, more)
		require.EqualValues(t, 2, freezes.Load())
		<-thaws
		<-thaws
		require.NoError(t, img.Close())
	})
}

// The machine thawed, and then the point could not be noted: what it writes now
// is never read for the point's, and the capture is completed by another call.
func TestSettleThatIsCutOffAfterTheThaw(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	h, _ := running(t, func(c *Config) {
		c.Hooks.Freeze = func(context.Context, Event) error { return nil }
		c.Hooks.Thaw = func(context.Context, Event) error { cancel(); return nil }
	})
	img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	defer img.Close()
	more, err := img.(dr.Settler).Settle(ctx)
	require.NoError(t, err)
	require.True(t, more)
	_, err = img.ReadAt(t.Context(), "a", make([]byte, 10), 0)
	require.NoError(t, err)
	_, err = img.(dr.Settler).Settle(ctx)
	require.ErrorIs(t, err, context.Canceled)
	_, err = img.ReadAt(t.Context(), "a", make([]byte, 10), 0)
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	more, err = img.(dr.Settler).Settle(t.Context())
	require.NoError(t, err)
	require.False(t, more)
}

func TestFreezeAndThawThatFail(t *testing.T) {
	var freeze, thaw error
	var calls []string
	h, _ := running(t, func(c *Config) {
		c.Hooks.Freeze = func(context.Context, Event) error { calls = append(calls, "freeze"); return freeze }
		c.Hooks.Thaw = func(context.Context, Event) error { calls = append(calls, "thaw"); return thaw }
	})
	settle := func() error {
		img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
		require.NoError(t, err)
		defer img.Close()
		for {
			if more, err := img.(dr.Settler).Settle(t.Context()); err != nil || !more {
				return err
			}
		}
	}
	freeze = errors.New("no such database")
	err := settle()
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	require.ErrorIs(t, err, freeze)
	require.Equal(t, []string{"freeze", "thaw"}, calls, "half of it may be frozen")
	freeze, thaw = nil, errors.New("it was not frozen")
	err = settle()
	require.ErrorIs(t, err, dr.ErrNotConsistent)
	require.ErrorIs(t, err, thaw)
	thaw = nil
	require.NoError(t, settle())
}

func TestQuiesceIsSharedByCaptures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		h, _ := running(t, func(c *Config) {
			c.FreezeLimit = 20 * time.Second
			c.Hooks.Freeze = func(context.Context, Event) error { calls++; return nil }
			c.Hooks.Thaw = func(context.Context, Event) error { return nil }
		})
		img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		q, ok := dr.As[interface {
			Quiesce(context.Context, dr.MachineID, dr.Consistency) (dr.Consistency, func(context.Context) error, error)
		}](h)
		require.True(t, ok)
		before := time.Now()
		got, thaw, err := q.Quiesce(ctx, "m", dr.FileSystemConsistent)
		require.NoError(t, err)
		require.Equal(t, dr.FileSystemConsistent, got)
		_, _, err = q.Quiesce(ctx, "m", dr.FileSystemConsistent)
		require.ErrorIs(t, err, dr.ErrBusy)
		<-time.After(time.Second)
		for _, want := range []bool{true, false} {
			more, err := img.(dr.Settler).Settle(ctx)
			require.NoError(t, err)
			require.Equal(t, want, more)
		}
		require.Equal(t, 1, calls)
		require.WithinDuration(t, before, img.Point().Time, 0, "the moment is the group's")
		require.NoError(t, thaw(ctx))
		require.NoError(t, thaw(ctx), "twice")
		require.NoError(t, img.Close())

		// By itself when ctx ends, and then nothing of it is of one moment.
		img, err = h.Capture(t.Context(), "m", "q", dr.CrashConsistent)
		require.NoError(t, err)
		_, thaw, err = q.Quiesce(ctx, "m", dr.CrashConsistent)
		require.NoError(t, err)
		_, err = img.(dr.Settler).Settle(t.Context())
		require.NoError(t, err)
		cancel()
		synctest.Wait()
		require.ErrorIs(t, thaw(t.Context()), dr.ErrNotConsistent)
		_, err = img.(dr.Settler).Settle(t.Context())
		require.ErrorIs(t, err, dr.ErrNotConsistent)
		require.NoError(t, img.Close())
	})
}

// An image of a stopped machine never gives out bytes of a later time.
func TestImageOfAStoppedMachineEndsWithTheMoment(t *testing.T) {
	for name, end := range map[string]func(*Host) error{
		"start": func(h *Host) error { return h.Start(context.Background(), "m") },
		"draft": func(h *Host) error {
			d, err := h.Draft(context.Background(), "m", dr.Point{ID: "x"})
			if err != nil {
				return err
			}
			return d.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, mem := running(t, nil)
			require.NoError(t, h.Stop(t.Context(), "m"))
			writeDisk(t, mem, "/disks/a", bytes.Repeat([]byte{7}, 70000), 300000)
			img, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
			require.NoError(t, err)
			defer img.Close()
			again, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
			require.NoError(t, err)
			require.Equal(t, img.Point(), again.Point())
			require.NoError(t, again.Close())
			whole := readDisk(t, mem, "/disks/a")
			for e, err := range img.(dr.Mapper).Extents(t.Context(), "a") {
				require.NoError(t, err)
				if e.Zero {
					require.Equal(t, make([]byte, e.Len), whole[e.Off:e.End()])
				}
			}
			sums := make([]dr.Sum, 17)
			require.NoError(t, img.(dr.Summer).Sums(t.Context(), "a", 0, sums))
			for i, s := range sums {
				require.Equal(t, i != 4 && i != 5, s.IsZero(), "block %d", i)
			}
			require.ErrorIs(t, img.(dr.Summer).Sums(t.Context(), "a", 0, make([]dr.Sum, 18)), dr.ErrOutOfRange)
			require.NoError(t, end(h))
			_, err = img.ReadAt(t.Context(), "a", make([]byte, 10), 0)
			require.ErrorIs(t, err, dr.ErrNotConsistent)
			require.ErrorIs(t, img.(dr.Summer).Sums(t.Context(), "a", 0, sums), dr.ErrNotConsistent)
		})
	}
}

// Two names for the content of a machine that stayed off differ in nothing.
func TestChangesOfAMachineThatStayedOff(t *testing.T) {
	h, _ := running(t, nil)
	require.NoError(t, h.Stop(t.Context(), "m"))
	p, err := h.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	defer p.Close()
	q, err := h.Capture(t.Context(), "m", "q", dr.CrashConsistent)
	require.NoError(t, err)
	defer q.Close()
	for range q.(dr.ChangeTracker).Changes(t.Context(), "a", p.Point()) {
		t.Fatal("nothing changed")
	}
}

func TestTwoHostsOnOneRoot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "deep", "root")
	h, err := Open(Config{Root: root})
	require.NoError(t, err)
	_, err = Open(Config{Root: root})
	require.ErrorIs(t, err, dr.ErrBusy)
	require.ErrorContains(t, err, root)
	require.NoError(t, h.Close())
	require.NoError(t, h.Close())
	h, err = Open(Config{Root: root})
	require.NoError(t, err)
	require.NoError(t, h.Close())
}

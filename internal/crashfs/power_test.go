package crashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// outcomes restarts many times after one power cut and counts what it finds.
func outcomes(t *testing.T, disk *crashfs.FS, see func(*crashfs.FS) string) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for range 400 {
		seen[see(disk.Restart())]++
	}
	t.Log(seen)
	return seen
}

func content(t *testing.T, disk fsys.FS, name string) string {
	t.Helper()
	if _, err := disk.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return "absent"
	}
	return string(readSparse(t, disk, name))
}

func TestEverythingEndsWithPower(t *testing.T) {
	disk := crashfs.New(1)
	f := create(t, disk, "/f")
	lock, err := disk.Lock("/lock", true)
	require.NoError(t, err)
	disk.Cut()
	disk.Cut()
	_, err = f.ReadAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, crashfs.ErrPowerLost)
	_, err = f.WriteAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, crashfs.ErrPowerLost)
	_, err = f.Size()
	require.ErrorIs(t, err, crashfs.ErrPowerLost)
	_, _, err = f.Data(0)
	require.ErrorIs(t, err, crashfs.ErrPowerLost)
	_, err = disk.OpenFile("/f", os.O_RDONLY, 0)
	require.ErrorIs(t, err, crashfs.ErrPowerLost)
	_, err = disk.Stat("/f")
	require.ErrorIs(t, err, crashfs.ErrPowerLost)
	for _, err := range []error{f.Sync(), f.Truncate(1), f.Punch(0, 1), f.Close(), disk.Rename("/f", "/g"), disk.Link("/f", "/g"),
		disk.Remove("/f"), disk.MkdirAll("/d", 0o700), disk.SyncDir("/"), lock.Close()} {
		require.ErrorIs(t, err, crashfs.ErrPowerLost)
	}
	require.NoError(t, disk.Restart().MkdirAll("/d", 0o700))
}

func TestContentNeedsSync(t *testing.T) {
	disk := crashfs.New(2)
	f := create(t, disk, "/f")
	require.NoError(t, disk.SyncDir("/"))
	write(t, f, "a", 0)
	seen := outcomes(t, disk, func(d *crashfs.FS) string { return content(t, d, "/f") })
	require.NotZero(t, seen["a"], "survives sometimes")
	require.NotZero(t, seen[""], "is lost sometimes")
	require.NotZero(t, seen["\x00"], "its size may survive without it")
	require.Len(t, seen, 3)

	disk = crashfs.New(2)
	f = create(t, disk, "/f")
	require.NoError(t, disk.SyncDir("/"))
	write(t, f, "a", 0)
	require.NoError(t, f.Sync())
	write(t, f, "b", 0)
	write(t, f, "c", 0)
	seen = outcomes(t, disk, func(d *crashfs.FS) string { return content(t, d, "/f") })
	require.NotZero(t, seen["a"])
	require.NotZero(t, seen["b"], "the older of two writes may be the one that is on the disk")
	require.NotZero(t, seen["c"])
	require.Len(t, seen, 3)
}

func TestNameNeedsSyncDir(t *testing.T) {
	disk := crashfs.New(3)
	f := create(t, disk, "/f")
	write(t, f, "a", 0)
	require.NoError(t, f.Sync())
	seen := outcomes(t, disk, func(d *crashfs.FS) string { return content(t, d, "/f") })
	require.NotZero(t, seen["a"])
	require.NotZero(t, seen["absent"])
	require.Len(t, seen, 2, "the content was synced: all or nothing")

	// A folder's own name is its parent's to sync.
	disk = crashfs.New(3)
	require.NoError(t, disk.MkdirAll("/d", 0o700))
	create(t, disk, "/d/f")
	require.NoError(t, disk.SyncDir("/d"))
	seen = outcomes(t, disk, func(d *crashfs.FS) string { return content(t, d, "/d/f") })
	require.NotZero(t, seen["absent"])
}

func TestRemovedNameComesBack(t *testing.T) {
	disk := crashfs.New(4)
	f := create(t, disk, "/f")
	write(t, f, "a", 0)
	require.NoError(t, f.Sync())
	require.NoError(t, disk.SyncDir("/"))
	require.NoError(t, disk.Remove("/f"))
	seen := outcomes(t, disk, func(d *crashfs.FS) string { return content(t, d, "/f") })
	require.NotZero(t, seen["a"])
	require.NotZero(t, seen["absent"])
	require.Len(t, seen, 2)
}

func TestRenameIsAtomic(t *testing.T) {
	disk := crashfs.New(5)
	require.NoError(t, disk.MkdirAll("/from", 0o700))
	require.NoError(t, disk.MkdirAll("/to", 0o700))
	for name, text := range map[string]string{"/from/f": "new", "/to/f": "old"} {
		f := create(t, disk, name)
		write(t, f, text, 0)
		require.NoError(t, f.Sync())
	}
	for _, dir := range []string{"/", "/from", "/to"} {
		require.NoError(t, disk.SyncDir(dir))
	}
	require.NoError(t, disk.Rename("/from/f", "/to/f"))
	both := func(d *crashfs.FS) string { return content(t, d, "/from/f") + " " + content(t, d, "/to/f") }
	seen := outcomes(t, disk, both)
	require.NotZero(t, seen["new old"])
	require.NotZero(t, seen["absent new"])
	require.Len(t, seen, 2)

	// Syncing either folder makes both halves durable, with what led to them.
	disk = crashfs.New(5)
	require.NoError(t, disk.MkdirAll("/from", 0o700))
	require.NoError(t, disk.MkdirAll("/to", 0o700))
	require.NoError(t, disk.SyncDir("/"))
	create(t, disk, "/from/f")
	require.NoError(t, disk.Rename("/from/f", "/to/f"))
	require.NoError(t, disk.SyncDir("/to"))
	require.Equal(t, map[string]int{"absent ": 400}, outcomes(t, disk, both))
}

// Folders that move into each other must not end up inside themselves, where
// nobody finds what was synced.
func TestMovedFoldersStayReachable(t *testing.T) {
	disk := crashfs.New(6)
	for _, d := range []string{"/1/A", "/2/B", "/3"} {
		require.NoError(t, disk.MkdirAll(d, 0o700))
	}
	create(t, disk, "/1/A/f")
	for _, d := range []string{"/", "/1", "/2", "/1/A"} {
		require.NoError(t, disk.SyncDir(d))
	}
	require.NoError(t, disk.Rename("/1/A", "/2/B/A"))
	require.NoError(t, disk.Rename("/2/B/A", "/3/A"))
	require.NoError(t, disk.Rename("/2/B", "/3/A/B"))
	seen := outcomes(t, disk, func(d *crashfs.FS) string {
		found := ""
		for name := range tree(t, d, "/") {
			if len(name) > 2 && name[len(name)-2:] == "/f" {
				found += name
			}
		}
		return found
	})
	require.Len(t, seen, 3)
	for name := range seen {
		require.NotEmpty(t, name)
	}

	// Nor when a SyncDir picks the last move and leaves one before it.
	disk = crashfs.New(6)
	for _, d := range []string{"/1/A", "/2/B", "/3"} {
		require.NoError(t, disk.MkdirAll(d, 0o700))
	}
	create(t, disk, "/1/A/f")
	for _, d := range []string{"/", "/1", "/2", "/3", "/1/A"} {
		require.NoError(t, disk.SyncDir(d))
	}
	require.NoError(t, disk.Rename("/1/A", "/2/B/A"))
	require.NoError(t, disk.SyncDir("/1"))
	require.NoError(t, disk.Rename("/2/B/A", "/3/A"))
	require.NoError(t, disk.Rename("/2/B", "/3/A/B"))
	require.NoError(t, disk.SyncDir("/2"))
	seen = outcomes(t, disk, func(d *crashfs.FS) string { return content(t, d, "/3/A/f") })
	require.Len(t, seen, 1)
	require.Contains(t, seen, "")
}

// What is written after a truncation or a punch goes to new blocks: if that is
// lost, so is the write, and never is it found among the old bytes.
func TestLostTruncationLosesWhatFollows(t *testing.T) {
	old := string(bytes.Repeat([]byte("A"), 8192))
	for name, drop := range map[string]func(fsys.File) error{
		"truncate": func(f fsys.File) error { return f.Truncate(0) },
		"punch":    func(f fsys.File) error { return f.Punch(0, 8192) },
	} {
		t.Run(name, func(t *testing.T) {
			disk := crashfs.New(7)
			f := create(t, disk, "/f")
			require.NoError(t, disk.SyncDir("/"))
			write(t, f, old, 0)
			require.NoError(t, f.Sync())
			require.NoError(t, drop(f))
			write(t, f, "B", 4096)
			kinds := outcomes(t, disk, func(d *crashfs.FS) string {
				got := content(t, d, "/f")
				a, b := bytes.Count([]byte(got), []byte("A")), bytes.Count([]byte(got), []byte("B"))
				require.True(t, got == old || a == 0, "%d old bytes and %d new in %d", a, b, len(got))
				return fmt.Sprint(len(got), a, b)
			})
			require.GreaterOrEqual(t, len(kinds), 3)
		})
	}
}

// Random changes with random syncs: what was synced is there after any power
// cut, bytes outside of unsynced ranges are exact, and inside they are one of
// the values, and the size one of the sizes, that they had since.
func TestSyncedSurvives(t *testing.T) {
	const limit = 64 << 10
	for range 60 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 9))
		disk := crashfs.New(seed)
		f := create(t, disk, "/f")
		require.NoError(t, disk.SyncDir("/"))
		sizes := []int64{0}
		values := make([][]byte, limit)
		for i := range values {
			values[i] = []byte{0}
		}
		set := func(from, to int64, value byte) {
			for i := from; i < to; i++ {
				values[i] = append(values[i][:len(values[i]):len(values[i])], value)
			}
		}
		for step := range r.IntN(40) {
			off := r.Int64N(limit)
			n := r.Int64N(limit - off + 1)
			size := sizes[len(sizes)-1]
			switch r.IntN(5) {
			case 0:
				require.NoError(t, f.Sync())
				sizes = sizes[len(sizes)-1:]
				for i, v := range values {
					values[i] = v[len(v)-1:]
				}
			case 1:
				require.NoError(t, f.Punch(off, n))
				set(off, off+n, 0)
			case 2:
				require.NoError(t, f.Truncate(off))
				set(off, limit, 0)
				sizes = append(sizes, off)
			default:
				n++
				if off+n > limit {
					n = limit - off
				}
				write(t, f, string(bytes.Repeat([]byte{byte(step + 1)}, int(n))), off)
				set(off, off+n, byte(step+1))
				sizes = append(sizes, max(size, off+n))
			}
		}
		for range 10 {
			got := content(t, disk.Restart(), "/f")
			require.Contains(t, sizes, int64(len(got)), "seed %d", seed)
			for i := range got {
				if bytes.IndexByte(values[i], got[i]) < 0 {
					t.Fatalf("seed %d: byte %d is %d, which is none of %v", seed, i, got[i], values[i])
				}
			}
		}
	}
}

// After a Sync that failed, one that succeeds says nothing about what was
// written before it.
func TestFailedSyncLosesData(t *testing.T) {
	lost := 0
	for seed := range uint64(50) {
		disk := crashfs.New(seed)
		f := create(t, disk, "/f")
		require.NoError(t, disk.SyncDir("/"))
		write(t, f, "before", 0)
		disk.Inject(crashfs.Fault{Match: crashfs.On("f", crashfs.Sync), Err: errIO})
		require.ErrorIs(t, f.Sync(), errIO)
		require.Equal(t, "before", content(t, disk, "/f"), "it still reads")
		write(t, f, "after", 4096)
		require.NoError(t, f.Sync())
		got := content(t, disk.Restart(), "/f")
		require.Equal(t, "after", got[4096:])
		if got[:6] != "before" {
			lost++
		}
	}
	require.Greater(t, lost, 5)
	require.Less(t, lost, 45)
}

func TestSameSeedSameOutcome(t *testing.T) {
	run := func() string {
		disk := crashfs.New(77)
		disk.Inject(crashfs.Fault{N: 30, Torn: true})
		for i := range 20 {
			name := fmt.Sprintf("/f%d", i)
			if f, err := disk.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600); err == nil {
				_, _ = f.WriteAt(bytes.Repeat([]byte{byte(i)}, 10_000), 100)
			}
		}
		return fmt.Sprint(tree(t, disk.Restart(), "/"), tree(t, disk.Restart(), "/"))
	}
	require.Equal(t, run(), run())
}

func write(t testing.TB, f fsys.File, text string, off int64) {
	t.Helper()
	n, err := f.WriteAt([]byte(text), off)
	require.NoError(t, err)
	require.Len(t, text, n)
}

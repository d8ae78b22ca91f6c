package fsys_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

func create(t testing.TB, name string, flag int) fsys.File {
	t.Helper()
	f, err := fsys.OS().OpenFile(name, os.O_RDWR|os.O_CREATE|flag, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// Every way of opening must keep the same promises; random requests are
// compared with a plain slice. The buffers start anywhere, so that requests
// split into buffered heads and tails around a direct middle.
func TestFileAgainstSlice(t *testing.T) {
	const limit = 1 << 20
	for _, dir := range folders(t) {
		for _, flag := range []int{0, fsys.Direct} {
			t.Run(fmt.Sprintf("%s/direct=%v", dir.fs, flag != 0), func(t *testing.T) {
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				r := rand.New(rand.NewPCG(seed, 0))
				f := create(t, filepath.Join(dir.path, fmt.Sprintf("slice%d", flag)), flag)
				var model []byte
				arena := fsys.Aligned(limit + fsys.Alignment)
				position := func() int64 {
					if p := r.Int64N(limit); r.IntN(2) == 0 {
						return p &^ (fsys.Alignment - 1)
					} else {
						return p
					}
				}
				for range 500 {
					off, n := position(), position()/8
					skip := []int{0, 0, int(off % fsys.Alignment), r.IntN(fsys.Alignment)}[r.IntN(4)]
					p := arena[skip:][:n]
					switch r.IntN(8) {
					case 0, 1, 2:
						for i := range p {
							p[i] = byte(r.Uint32())
						}
						got, err := f.WriteAt(p, off)
						require.NoError(t, err)
						require.Equal(t, len(p), got)
						if n > 0 {
							model = grow(model, off+n)
							copy(model[off:], p)
						}
					case 3:
						require.NoError(t, f.Truncate(off))
						model = grow(model, off)[:off]
					case 4:
						require.NoError(t, f.Punch(off, n))
						if off < int64(len(model)) {
							clear(model[off:min(off+n, int64(len(model)))])
						}
					case 5:
						checkData(t, f, model)
					default:
						got, err := f.ReadAt(p, off)
						want := max(0, min(n, int64(len(model))-off))
						require.EqualValues(t, want, got)
						if want < n {
							require.ErrorIs(t, err, io.EOF)
						} else {
							require.NoError(t, err)
						}
						if want > 0 {
							require.True(t, bytes.Equal(model[off:off+want], p[:got]), "read %d bytes at %d", n, off)
						}
					}
					size, err := f.Size()
					require.NoError(t, err)
					require.EqualValues(t, len(model), size)
				}
				require.NoError(t, f.Sync())
			})
		}
	}
}

func grow(b []byte, n int64) []byte {
	if add := n - int64(len(b)); add > 0 {
		b = append(b, make([]byte, add)...)
	}
	return b
}

// checkData: ranges ascend without overlap, lie in the file, and everything
// between them is zeros.
func checkData(t *testing.T, f fsys.File, model []byte) {
	t.Helper()
	at := int64(0)
	for {
		start, end, err := f.Data(at)
		if errors.Is(err, io.EOF) {
			require.Zero(t, len(bytes.TrimLeft(model[at:], "\x00")), "data after %d", at)
			return
		}
		require.NoError(t, err)
		require.LessOrEqual(t, at, start)
		require.Less(t, start, end)
		require.LessOrEqual(t, end, int64(len(model)))
		require.Zero(t, len(bytes.TrimLeft(model[at:start], "\x00")), "data in hole %d-%d", at, start)
		at = end
	}
}

type folder struct{ fs, path string }

func folders(t *testing.T) []folder {
	dirs := []folder{{"temp", t.TempDir()}}
	if runtime.GOOS == "linux" {
		if shm, err := os.MkdirTemp("/dev/shm", "fsys"); err == nil {
			t.Cleanup(func() { os.RemoveAll(shm) })
			dirs = append(dirs, folder{"tmpfs", shm})
		}
	}
	return dirs
}

// Direct and buffered requests to neighbouring pages at the same time: no
// write is lost, whichever way it goes.
func TestDirectBesideBuffered(t *testing.T) {
	const workers, rounds, slot = 8, 50, 3*fsys.Alignment + 512
	f := create(t, filepath.Join(t.TempDir(), "f"), fsys.Direct)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			p := fsys.Aligned(4 * fsys.Alignment)
			for round := range rounds {
				for i := range p {
					p[i] = byte(w*31 + round)
				}
				// Slots of odd sizes: heads, direct middles and tails meet.
				if _, err := f.WriteAt(p[w*512:][:slot], int64(w)*slot); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, f.Sync())
	got := make([]byte, workers*slot)
	_, err := f.ReadAt(got, 0)
	require.NoError(t, err)
	for w := range workers {
		want := bytes.Repeat([]byte{byte(w*31 + rounds - 1)}, slot)
		require.True(t, bytes.Equal(want, got[w*slot:][:slot]), "slot %d", w)
	}
}

func TestHoles(t *testing.T) {
	f := create(t, filepath.Join(t.TempDir(), "f"), 0)
	_, _, err := f.Data(0)
	require.ErrorIs(t, err, io.EOF, "an empty file has no data")
	require.NoError(t, f.Truncate(1<<40))
	_, err = f.WriteAt([]byte("x"), 1<<39)
	require.NoError(t, err)
	if runtime.GOOS != "linux" {
		t.Skip("holes are found on Linux only")
	}
	start, end, err := f.Data(0)
	require.NoError(t, err)
	require.Less(t, int64(1<<39)-1<<20, start)
	require.Greater(t, int64(1<<39)+1<<20, end)
	_, _, err = f.Data(end)
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, f.Punch(0, 1<<40))
	_, _, err = f.Data(0)
	require.ErrorIs(t, err, io.EOF, "punched away")
	require.ErrorIs(t, f.Punch(-1, 1), fs.ErrInvalid)
	require.ErrorIs(t, f.Punch(1, -1), fs.ErrInvalid)
}

func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	os1 := fsys.OS()
	first, err := os1.Lock(name, false)
	require.NoError(t, err)
	second, err := os1.Lock(name, false)
	require.NoError(t, err, "shared locks share")
	_, err = os1.Lock(name, true)
	require.ErrorIs(t, err, fsys.ErrLocked)
	require.NoError(t, first.Close())
	require.Error(t, first.Close())
	_, err = os1.Lock(name, true)
	require.ErrorIs(t, err, fsys.ErrLocked, "the second Close released nothing of the other's")
	require.NoError(t, second.Close())
	owner, err := os1.Lock(name, true)
	require.NoError(t, err)
	_, err = os1.Lock(name, false)
	require.ErrorIs(t, err, fsys.ErrLocked)
	require.NoError(t, owner.Close())
}

func TestLinkPutsIfAbsent(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	won := make([]bool, 8)
	for i := range won {
		temp := filepath.Join(dir, fmt.Sprint(i))
		create(t, temp, 0)
		wg.Go(func() {
			err := fsys.OS().Link(temp, filepath.Join(dir, "name"))
			if won[i] = err == nil; !won[i] && !errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	winners := 0
	for _, w := range won {
		if w {
			winners++
		}
	}
	require.Equal(t, 1, winners)
	require.NoError(t, fsys.OS().SyncDir(dir))
}

func TestWriteFileAtomic(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "head")
	// A temporary file that a crash left is neither used nor in the way.
	require.NoError(t, os.WriteFile(name+".tmp0", []byte("left"), 0o600))
	for _, content := range []string{"one", "", "three"} {
		require.NoError(t, fsys.WriteFileAtomic(fsys.OS(), name, []byte(content), 0o600))
		got, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, content, string(got))
	}
	entries, err := fsys.OS().ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2)
	require.False(t, fsys.IsTemp(entries[0].Name()))
	require.True(t, fsys.IsTemp(entries[1].Name()))
	require.False(t, fsys.IsTemp(".tmp0"))
	require.False(t, fsys.IsTemp("a.tmpfile"))

	require.ErrorIs(t, fsys.WriteFileAtomic(fsys.OS(), filepath.Join(dir, "no", "head"), nil, 0o600), fs.ErrNotExist)
}

func TestPool(t *testing.T) {
	p := fsys.NewPool(10_000, 1)
	a, b := p.Get(), p.Get()
	require.Len(t, a, p.Size())
	a[0], b[0] = 'a', 'b'
	p.Put(a[:5])
	p.Put(b)               // one is kept
	p.Put(make([]byte, 3)) // not ours
	require.Equal(t, byte('a'), p.Get()[0])
	require.Equal(t, byte(0), p.Get()[0])
}

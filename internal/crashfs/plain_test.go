package crashfs_test

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
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// While nothing goes wrong, crashfs is a file system like the host's: the same
// random operations give the same results and the same errors on both.
func TestLikeTheHost(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("crashfs fails as Linux does")
	}
	const histories, length = 30, 300
	for range histories {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			h := newHistory(t, seed)
			for range length {
				h.step()
			}
			h.compareTrees()
		})
	}
}

// history runs the same operations on both systems, under the same names.
type history struct {
	t    *testing.T
	r    *rand.Rand
	both [2]fsys.FS
	root string
	open [][2]fsys.File
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, r: rand.New(rand.NewPCG(seed, 1)), both: [2]fsys.FS{fsys.OS(), crashfs.New(seed)}, root: t.TempDir()}
	require.NoError(t, h.both[1].MkdirAll(h.root, 0o700))
	t.Cleanup(func() {
		for _, f := range h.open {
			f[0].Close()
		}
	})
	return h
}

func (h *history) name() string {
	return filepath.Join(h.root, []string{"a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "f/g", "f/g/a", "a/b"}[h.r.IntN(10)])
}

// each asks both and demands the same kind of answer.
func (h *history) each(what string, do func(i int) (any, error)) {
	h.t.Helper()
	want, wantErr := do(0)
	got, err := do(1)
	require.Equal(h.t, kind(wantErr), kind(err), "%s: host says %v, crashfs says %v", what, wantErr, err)
	require.Equal(h.t, want, got, what)
}

func kind(err error) string {
	for _, k := range []error{io.EOF, fs.ErrNotExist, syscall.ENOTEMPTY, fs.ErrExist, fs.ErrClosed, fsys.ErrLocked, fs.ErrInvalid,
		syscall.ENOTDIR, syscall.EISDIR, syscall.EINVAL, syscall.EBADF, syscall.EPERM} {
		if errors.Is(err, k) {
			return k.Error()
		}
	}
	if err != nil {
		return "other"
	}
	return ""
}

func (h *history) step() {
	h.t.Helper()
	if len(h.open) == 0 || h.r.IntN(2) == 0 {
		h.stepName()
	} else {
		h.stepFile(h.r.IntN(len(h.open)))
	}
}

func (h *history) stepName() {
	h.t.Helper()
	a, b := h.name(), h.name()
	switch h.r.IntN(9) {
	case 0, 1, 2:
		flag := []int{os.O_RDWR, os.O_WRONLY}[h.r.IntN(2)] | []int{0, os.O_CREATE, os.O_CREATE | os.O_EXCL, os.O_TRUNC, os.O_CREATE | os.O_TRUNC}[h.r.IntN(5)]
		var files [2]fsys.File
		h.each(fmt.Sprintf("open %s %#x", a, flag), func(i int) (any, error) {
			f, err := h.both[i].OpenFile(a, flag, 0o600)
			files[i] = f
			return nil, err
		})
		if files[0] != nil {
			h.open = append(h.open, files)
		}
	case 3:
		h.each("rename "+a+" "+b, func(i int) (any, error) { return nil, h.both[i].Rename(a, b) })
	case 4:
		h.each("link "+a+" "+b, func(i int) (any, error) { return nil, h.both[i].Link(a, b) })
	case 5:
		h.each("remove "+a, func(i int) (any, error) { return nil, h.both[i].Remove(a) })
	case 6:
		h.each("mkdir "+a, func(i int) (any, error) { return nil, h.both[i].MkdirAll(a, 0o700) })
	case 7:
		h.each("list "+a, func(i int) (any, error) { return h.list(i, a) })
	case 8:
		h.each("stat "+a, func(i int) (any, error) {
			info, err := h.both[i].Stat(a)
			if err != nil || info.IsDir() {
				return nil, err
			}
			return []any{info.Name(), info.Size()}, nil
		})
	}
}

func (h *history) list(i int, name string) ([]string, error) {
	entries, err := h.both[i].ReadDir(name)
	var names []string
	for _, e := range entries {
		names = append(names, fmt.Sprint(e.Name(), e.IsDir()))
	}
	return names, err
}

func (h *history) stepFile(at int) {
	h.t.Helper()
	f := h.open[at]
	off, n := h.r.Int64N(40_000), h.r.Int64N(20_000)
	if h.r.IntN(2) == 0 {
		off &^= 4095
	}
	if h.r.IntN(2) == 0 {
		n &^= 4095
	}
	switch h.r.IntN(8) {
	case 0, 1:
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(h.r.Uint32())
		}
		h.each("write", func(i int) (any, error) { return f[i].WriteAt(p, off) })
	case 2:
		h.each("truncate", func(i int) (any, error) { return nil, f[i].Truncate(off) })
	case 3:
		h.each("punch", func(i int) (any, error) { return nil, f[i].Punch(off, n) })
	case 4:
		h.each("sync", func(i int) (any, error) { return nil, f[i].Sync() })
	case 5:
		h.each("size", func(i int) (any, error) { return f[i].Size() })
	case 6:
		h.each("read", func(i int) (any, error) {
			p := make([]byte, n)
			n, err := f[i].ReadAt(p, off)
			return p[:n], err
		})
	case 7:
		h.each("close", func(i int) (any, error) { return nil, f[i].Close() })
		h.each("after close", func(i int) (any, error) { return nil, f[i].Sync() })
		h.open = append(h.open[:at], h.open[at+1:]...)
	}
}

func (h *history) compareTrees() {
	want, got := tree(h.t, h.both[0], h.root), tree(h.t, h.both[1], h.root)
	require.Equal(h.t, len(want), len(got))
	for name, content := range want {
		require.True(h.t, bytes.Equal(content, got[name]), name)
	}
}

// tree reads all files below root, and checks that Data skips zeros only.
func tree(t testing.TB, f fsys.FS, root string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	entries, err := f.ReadDir(root)
	require.NoError(t, err)
	for _, e := range entries {
		name := filepath.Join(root, e.Name())
		if e.IsDir() {
			files[name] = nil
			for k, v := range tree(t, f, name) {
				files[k] = v
			}
			continue
		}
		files[name] = readSparse(t, f, name)
	}
	return files
}

func readSparse(t testing.TB, f fsys.FS, name string) []byte {
	t.Helper()
	file, err := f.OpenFile(name, os.O_RDONLY, 0)
	require.NoError(t, err)
	defer file.Close()
	size, err := file.Size()
	require.NoError(t, err)
	whole, ranges := make([]byte, size), make([]byte, size)
	_, err = file.ReadAt(whole, 0)
	require.NoError(t, err)
	for at := int64(0); ; {
		start, end, err := file.Data(at)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		require.True(t, at <= start && start < end && end <= size)
		_, err = file.ReadAt(ranges[start:end], start)
		require.NoError(t, err)
		at = end
	}
	require.True(t, bytes.Equal(whole, ranges), "%s: data in a hole", name)
	return whole
}

func TestLock(t *testing.T) {
	disk := crashfs.New(1)
	reader, err := disk.Lock("/lock", false)
	require.NoError(t, err)
	_, err = disk.Lock("/lock", true)
	require.ErrorIs(t, err, fsys.ErrLocked)
	second, err := disk.Lock("/lock", false)
	require.NoError(t, err)
	require.NoError(t, reader.Close())
	require.ErrorIs(t, reader.Close(), fs.ErrClosed)
	_, err = disk.Lock("/lock", true)
	require.ErrorIs(t, err, fsys.ErrLocked)
	require.NoError(t, second.Close())
	_, err = disk.Lock("/lock", true)
	require.NoError(t, err)
	_, err = disk.Lock("/lock", false)
	require.ErrorIs(t, err, fsys.ErrLocked)
	require.NoError(t, disk.SyncDir("/"))

	after := disk.Restart()
	_, err = after.Lock("/lock", true)
	require.NoError(t, err, "power loss releases locks")
}

// A sparse file costs its pages only, in time too.
func TestSparse(t *testing.T) {
	disk := crashfs.New(1)
	f := create(t, disk, "/disk")
	require.NoError(t, f.Truncate(1<<40))
	for i := range int64(16) {
		_, err := f.WriteAt([]byte("x"), i<<36)
		require.NoError(t, err)
	}
	require.EqualValues(t, 16*4096, disk.Used())
	require.NoError(t, f.Sync())
	require.NoError(t, disk.SyncDir("/"))

	disk = disk.Restart()
	f, err := disk.OpenFile("/disk", os.O_RDWR, 0)
	require.NoError(t, err)
	start, end, err := f.Data(1)
	require.NoError(t, err)
	require.Equal(t, [2]int64{1, 4096}, [2]int64{start, end})
	start, _, err = f.Data(end)
	require.NoError(t, err)
	require.EqualValues(t, 1<<36, start)
	require.NoError(t, f.Punch(1, 1<<40-2))
	require.EqualValues(t, 4096, disk.Used(), "the first byte's page remains")
	require.NoError(t, f.Truncate(0))
	require.Zero(t, disk.Used())
}

func create(t testing.TB, disk fsys.FS, name string) fsys.File {
	t.Helper()
	f, err := disk.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	return f
}

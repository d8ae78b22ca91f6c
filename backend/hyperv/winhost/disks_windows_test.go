package winhost

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// folder is a new folder. t.TempDir can't be emptied under Wine 8, whose
// os.RemoveAll fails.
func folder(t *testing.T) string {
	dir, err := os.MkdirTemp("", "winhost")
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				return Disks{}.Remove(context.Background(), p)
			}
			return err
		}))
	})
	return dir
}

func file(t *testing.T, path, content string) string {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestRename(t *testing.T) {
	ctx, dir, d := t.Context(), folder(t), Disks{}
	a, b := filepath.Join(dir, "Zürich ✓.vhdx.torn"), filepath.Join(dir, "Zürich ✓.vhdx")
	file(t, a, "content")
	require.NoError(t, d.Rename(ctx, a, b))
	got, err := os.ReadFile(b)
	require.NoError(t, err)
	require.Equal(t, "content", string(got))
	there, err := d.Exists(ctx, a)
	require.NoError(t, err)
	require.False(t, there)

	require.ErrorIs(t, d.Rename(ctx, a, b), host.ErrNotFound)
	file(t, a, "other")
	require.ErrorIs(t, d.Rename(ctx, a, b), host.ErrExists)
	got, err = os.ReadFile(b)
	require.NoError(t, err)
	require.Equal(t, "content", string(got), "what was there is left alone")

	for _, share := range []uint32{0, windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE} {
		open, err := windows.CreateFile(windows.StringToUTF16Ptr(a), windows.GENERIC_READ, share, nil, windows.OPEN_EXISTING, 0, 0)
		require.NoError(t, err)
		err = d.Rename(ctx, a, filepath.Join(dir, "c"))
		require.ErrorIs(t, err, host.ErrInUse, "whatever they share")
		require.EqualValues(t, 0x80070020, code(t, err))
		require.ErrorContains(t, err, "rename: ")
		require.NoError(t, windows.CloseHandle(open))
	}
	require.NoError(t, d.Rename(ctx, a, filepath.Join(dir, "c")))
}

func TestRemoveAndFolders(t *testing.T) {
	ctx, dir, d := t.Context(), folder(t), Disks{}
	deep := filepath.Join(dir, "a", "b", "c")
	require.NoError(t, d.MakeFolder(ctx, deep))
	require.NoError(t, d.MakeFolder(ctx, deep))
	f := file(t, filepath.Join(deep, "f"), "x")
	require.ErrorIs(t, d.MakeFolder(ctx, f), host.ErrExists)
	require.ErrorIs(t, d.MakeFolder(ctx, filepath.Join(f, "below")), host.ErrExists)
	for _, p := range []string{deep, f} {
		there, err := d.Exists(ctx, p)
		require.NoError(t, err)
		require.True(t, there)
	}
	require.ErrorIs(t, d.Remove(ctx, deep), host.ErrNotEmpty)
	open, err := windows.CreateFile(windows.StringToUTF16Ptr(f), windows.GENERIC_READ, windows.FILE_SHARE_READ, nil, windows.OPEN_EXISTING, 0, 0)
	require.NoError(t, err)
	require.ErrorIs(t, d.Remove(ctx, f), host.ErrInUse)
	require.NoError(t, windows.CloseHandle(open))
	for range 2 {
		require.NoError(t, d.Remove(ctx, f))
		require.NoError(t, d.Remove(ctx, deep))
	}
	there, err := d.Exists(ctx, filepath.Join(deep, "no", "such"))
	require.NoError(t, err)
	require.False(t, there)
	require.NoError(t, d.Remove(ctx, filepath.Join(deep, "no", "such")))

	_, err = d.Exists(ctx, "a\x00b")
	require.Error(t, err)
	require.Error(t, d.Remove(ctx, "a\x00b"))
	require.Error(t, d.Rename(ctx, "a\x00b", "c"))
}

func TestFree(t *testing.T) {
	ctx, dir, d := t.Context(), folder(t), Disks{}
	n, err := d.Free(ctx, dir)
	require.NoError(t, err)
	require.Positive(t, n)
	n, err = d.Free(ctx, filepath.Join(dir, "not", "yet", "there.vhdx"))
	require.NoError(t, err)
	require.Positive(t, n)
	_, err = d.Free(ctx, `Q:\nowhere`)
	require.ErrorIs(t, err, host.ErrNotFound)
}

func TestNothingStartsAfterTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d := Disks{}
	_, exists := d.Exists(ctx, "x")
	_, free := d.Free(ctx, "x")
	_, stat := d.Stat(ctx, "x")
	_, open := d.Open(ctx, "x", true)
	for _, err := range []error{
		exists, free, stat, open, d.Create(ctx, "x", host.DiskSpec{Size: 4096}), d.Grow(ctx, "x", 1),
		d.Rename(ctx, "x", "y"), d.Remove(ctx, "x"), d.MakeFolder(ctx, "x"),
	} {
		require.ErrorIs(t, err, context.Canceled)
	}
}

// Wine's virtdisk.dll opens nothing, lacks QueryChangesVirtualDisk, and ends a
// program that calls most of the rest. Where there is a real one, these would
// need disks: the live suite of the backend has them.
func TestWithoutVirtdisk(t *testing.T) {
	ctx, d := t.Context(), Disks{}
	missing := call("NoSuchFunction")
	require.ErrorIs(t, missing, host.ErrUnsupported)
	require.EqualValues(t, 0x8007007F, code(t, missing), "ERROR_PROC_NOT_FOUND")
	real := virtdisk
	virtdisk = windows.NewLazySystemDLL("no-such-library.dll")
	_, err := d.Stat(ctx, `C:\x.vhdx`)
	virtdisk = real
	require.ErrorIs(t, err, host.ErrUnsupported)
	require.EqualValues(t, 0x8007007E, code(t, err), "ERROR_MOD_NOT_FOUND")

	for _, spec := range []host.DiskSpec{{}, {Size: -512}, {Size: 513}, {Size: 512, LogicalSector: 4096}, {Size: 4096, LogicalSector: 1024}} {
		require.Error(t, d.Create(ctx, `C:\x.vhdx`, spec))
	}
	if !underWine {
		return
	}
	// Wine 8 knows version 1 of the parameters only.
	_, err = d.Stat(ctx, `C:\x.vhdx`)
	require.NotZero(t, code(t, err))
	require.ErrorContains(t, err, "OpenVirtualDisk: ")
	_, err = d.Open(ctx, `C:\x.vhdx`, true)
	require.NotZero(t, code(t, err))
	require.NotZero(t, code(t, d.Grow(ctx, `C:\x.vhdx`, 1<<30)))
	require.ErrorIs(t, call("QueryChangesVirtualDisk"), host.ErrUnsupported)
}

// plain opens a file as a virtual disk is read and written: overlapped, past
// the cache.
func plain(t *testing.T, size int64) *disk {
	name := windows.StringToUTF16Ptr(filepath.Join(folder(t), "disk"))
	h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.CREATE_NEW,
		windows.FILE_FLAG_OVERLAPPED|windows.FILE_FLAG_NO_BUFFERING, 0)
	require.NoError(t, err)
	require.NoError(t, windows.Ftruncate(h, size))
	r, err := newRequests(h)
	require.NoError(t, err)
	d := &disk{h: h, requests: r, sectors: newSectors(r, size, 512)}
	t.Cleanup(func() {
		r.close()
		require.NoError(t, windows.CloseHandle(h))
	})
	return d
}

func TestManyRequestsAreUnderWayAtOnce(t *testing.T) {
	const workers, part = 12, 3<<20 + 512
	d := plain(t, workers*part)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	for w := range int64(workers) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			want := make([]byte, part)
			for i := range want {
				want[i] = byte(r.Uint32())
			}
			for off := 0; off < part; {
				n := min(part-off, 1+r.IntN(part))
				if _, err := d.WriteAt(want[off:off+n], w*part+int64(off)); err != nil {
					t.Error(err)
					return
				}
				off += n
			}
			got := make([]byte, part)
			if n, err := d.ReadAt(got, w*part); n != part || err != nil || !bytes.Equal(got, want) {
				t.Error(w, n, err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, d.Flush())
	require.Len(t, d.requests.idle, maxRequests, "all requests came back")
}

func TestFailedRequestsComeBack(t *testing.T) {
	d := plain(t, 4<<20)
	d.size = 8 << 20 // the file ends before the disk does
	_, err := d.ReadAt(make([]byte, 3<<20), 3<<20)
	require.Error(t, err)
	require.EqualValues(t, 0x80070026, code(t, err), "ERROR_HANDLE_EOF: %v", err)
	require.Len(t, d.requests.idle, maxRequests)
	n, err := d.ReadAt(make([]byte, 1<<20), 0)
	require.NoError(t, err)
	require.Equal(t, 1<<20, n)

	d.closed = true
	_, err = d.ReadAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, host.ErrClosed)
	_, err = d.WriteAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, host.ErrClosed)
	require.ErrorIs(t, d.Flush(), host.ErrClosed)
	require.NoError(t, d.Close(), "a second Close")
	for _, err := range d.Changes(t.Context(), "x") {
		require.ErrorIs(t, err, host.ErrClosed)
	}
	for _, err := range d.Allocated(t.Context()) {
		require.ErrorIs(t, err, host.ErrUnsupported)
	}
}

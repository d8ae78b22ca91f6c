package xfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

func TestWhatTheKernelWroteIsRead(t *testing.T) {
	for _, args := range []string{
		"-m crc=1,reflink=1,bigtime=1,rmapbt=0 -i nrext64=1",
		"-m crc=1,bigtime=0 -b size=1024 -n size=8192",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			if strings.Contains(args, "nrext64") && !strings.Contains(guestfstest.Run(t, "bash", "-c", "/usr/sbin/mkfs.xfs -h 2>&1 || true"), "nrext64") {
				args = strings.ReplaceAll(args, "-i nrext64=1", "") // xfsprogs before 6.0 know none
			}
			image := guestfstest.Image(t, 320<<20, append([]string{"mkfs.xfs", "-q", "-L", "root"}, strings.Fields(args)...)...)
			var want map[string]string
			var dirty string
			guestfstest.Mounted(t, image, "", func(dir string) {
				guestfstest.Fill(t, dir, 3)
				require.NoError(t, os.MkdirAll(filepath.Join(dir, "gone"), 0o755))
				for i := range 400 { // a folder with blocks in between that are gone
					require.NoError(t, os.WriteFile(filepath.Join(dir, "gone", strings.Repeat("g", 80)+fmt.Sprint(i)), nil, 0o600))
				}
				for i := 100; i < 300; i++ {
					require.NoError(t, os.Remove(filepath.Join(dir, "gone", strings.Repeat("g", 80)+fmt.Sprint(i))))
				}
				want = guestfstest.Listing(t, os.DirFS(dir))
				guestfstest.Run(t, "sync", "-f", dir)
				dirty = guestfstest.Copy(t, image)
			})
			r, size := guestfstest.Open(t, image)
			f, err := Open(r, size)
			require.NoError(t, err)
			require.Equal(t, "root", f.Label)
			require.Contains(t, guestfstest.Run(t, "xfs_db", "-r", "-c", "uuid", image), f.UUID)
			require.Equal(t, want, guestfstest.Listing(t, guestfs.NewTree(f)))
			require.NoError(t, f.LogDirty())
			require.Empty(t, f.Note, "it was unmounted")

			r, size = guestfstest.Open(t, dirty)
			f, err = Open(r, size)
			require.NoError(t, err)
			require.NoError(t, f.LogDirty())
			require.Contains(t, f.Note, "log was not played back")
		})
	}
}

func TestAFreshFileSystemIsClean(t *testing.T) {
	image := guestfstest.Image(t, 320<<20, "mkfs.xfs", "-q")
	r, size := guestfstest.Open(t, image)
	f, err := Open(r, size)
	require.NoError(t, err)
	require.NoError(t, f.LogDirty())
	require.Empty(t, f.Note)
}

// Today's kernels are built without version 4, which RHEL 6 and early 7 made:
// mkfs.xfs fills it.
func TestVersionFourIsRead(t *testing.T) {
	for _, args := range []string{"-i size=256", "-b size=512 -n ftype=0", "-b size=1024 -n size=4096,ftype=1"} {
		dir := t.TempDir()
		data := filepath.Join(dir, "data")
		require.NoError(t, os.WriteFile(data, []byte(strings.Repeat("lifeboat", 40_000)), 0o600))
		proto := "/\n0 0\nd--755 0 0\ndata ---644 0 0 " + data + "\nshort l--777 0 0 many/n7\nlong l--777 0 0 " + strings.Repeat("t", 600) + "\nmany d--755 0 0\n"
		for i := range 300 {
			proto += fmt.Sprintf("n%d p--600 0 0\n", i)
		}
		proto += "$\nsmall d--755 0 0\nfile p--600 0 0\n$\n$\n"
		name := filepath.Join(dir, "proto")
		require.NoError(t, os.WriteFile(name, []byte(proto), 0o600))
		image := guestfstest.Image(t, 320<<20, append([]string{"mkfs.xfs", "-q", "-m", "crc=0", "-p", name}, strings.Fields(args)...)...)
		r, size := guestfstest.Open(t, image)
		f, err := Open(r, size)
		require.NoError(t, err)
		require.False(t, f.v5)
		tr := guestfs.NewTree(f)
		got := guestfstest.Listing(t, tr)
		require.Len(t, got, 1+3+1+300+2, args)
		require.Equal(t, "link "+strings.Repeat("t", 600), got["long"])
		require.Equal(t, "p---------", got["many/n299"])
		require.Equal(t, "p---------", got["small/file"])
		b, err := tr.ReadFile("data")
		require.NoError(t, err)
		require.Equal(t, strings.Repeat("lifeboat", 40_000), string(b))
	}
}

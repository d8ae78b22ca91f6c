package ntfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

// The file system's own files are hidden by the driver, and what NTFS-3G
// calls a symbolic link isn't one to Windows.
var own = []string{"$*", "link*", "short"}

func TestWhatNTFS3GWroteIsRead(t *testing.T) {
	_, err := os.Stat("/dev/fuse")
	guestfstest.Need(t, err == nil, "there is no /dev/fuse")
	for _, args := range []string{"", "-c 512", "-c 65536 -s 4096"} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			image := guestfstest.Image(t, 64<<20, append([]string{"mkfs.ntfs", "-q", "-F", "-f", "-L", "Windows"}, strings.Fields(args)...)...)
			var want map[string]string
			guestfstest.Mounted(t, image, "ntfs-3g", func(dir string) {
				guestfstest.Fill(t, dir, 4)
				want = guestfstest.Listing(t, os.DirFS(dir), own...)
			})
			r, size := guestfstest.Open(t, image)
			f, err := Open(r, size)
			require.NoError(t, err)
			require.Equal(t, "Windows", f.Label)
			tr := guestfs.NewTree(f)
			require.Equal(t, want, guestfstest.Listing(t, tr, own...))
			_, err = tr.Stat("DEEP/Level0/LEVEL1")
			require.NoError(t, err, "case doesn't matter")
		})
	}
}

// A file so fragmented that its runs fill several records.
func TestAFileOfManyRecordsIsRead(t *testing.T) {
	image := guestfstest.Image(t, 128<<20, "mkfs.ntfs", "-q", "-F", "-f", "-c", "512")
	var want map[string]string
	guestfstest.Mounted(t, image, "ntfs-3g", func(dir string) {
		a, err := os.Create(filepath.Join(dir, "a"))
		require.NoError(t, err)
		b, err := os.Create(filepath.Join(dir, "b"))
		require.NoError(t, err)
		for i := range 1500 { // by turns, so that their clusters alternate
			for _, f := range []*os.File{a, b} {
				p := make([]byte, 512)
				copy(p, f.Name()+strings.Repeat("x", i%200))
				_, err := f.WriteAt(p, int64(i)*1536)
				require.NoError(t, err)
			}
		}
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		want = guestfstest.Listing(t, os.DirFS(dir), own...)
	})
	r, size := guestfstest.Open(t, image)
	f, err := Open(r, size)
	require.NoError(t, err)
	tr := guestfs.NewTree(f)
	require.Equal(t, want, guestfstest.Listing(t, tr, own...))
	lists := 0
	for id := range uint64(200) {
		if n, err := f.node(id); err == nil {
			for _, a := range n.attrs {
				if a.kind == attrList {
					lists++
				}
			}
		}
	}
	require.NotZero(t, lists, "no file has a list of attributes: the test shows nothing")
}

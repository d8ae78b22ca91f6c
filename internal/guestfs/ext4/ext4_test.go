package ext4

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

func tree(t testing.TB, image string) (*FS, *guestfs.Tree) {
	r, size := guestfstest.Open(t, image)
	f, err := Open(r, size)
	require.NoError(t, err)
	return f, guestfs.NewTree(f)
}

func TestWhatTheKernelWroteIsRead(t *testing.T) {
	for _, args := range []string{
		"-t ext4",
		"-t ext4 -b 1024 -O 64bit,metadata_csum,meta_bg,^resize_inode",
		"-t ext4 -I 512 -O inline_data,metadata_csum,^flex_bg",
		"-t ext4 -b 1024 -g 1024 -O ^64bit,^metadata_csum,sparse_super2",
		"-t ext3 -b 1024", "-t ext2 -b 4096 -I 128",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			image := guestfstest.Image(t, 64<<20, append([]string{"mke2fs", "-q", "-F", "-L", "root", "-N", "4096"}, strings.Fields(args)...)...)
			var want map[string]string
			guestfstest.Mounted(t, image, "", func(dir string) {
				guestfstest.Fill(t, dir, 1)
				guestfstest.Run(t, "sync", "-f", dir)
				want = guestfstest.Listing(t, os.DirFS(dir))
			})
			f, tr := tree(t, image)
			require.Equal(t, "root", f.Label)
			require.Contains(t, guestfstest.Run(t, "dumpe2fs", "-h", image), f.UUID)
			require.Equal(t, want, guestfstest.Listing(t, tr))
			in, err := tr.Stat("short/level2")
			require.NoError(t, err)
			require.True(t, in.IsDir())
			_, err = tr.Stat("short/none")
			require.ErrorIs(t, err, fs.ErrNotExist)
		})
	}
}

// The image is copied while it is mounted: what was synced is in the journal
// only. The kernel, which plays it back, is the oracle.
func TestAJournalIsPlayedBackAsTheKernelDoes(t *testing.T) {
	for _, c := range []struct{ args, mount string }{
		{"-O metadata_csum,64bit", "data=journal"},
		{"-O ^metadata_csum,^64bit -b 1024", "data=journal"},
		{"-O metadata_csum -J fast_commit_size=4", "data=journal"},
		// Data goes past the journal, and over blocks that folders were in:
		// what the journal has of those must not come back.
		{"-O metadata_csum,64bit -b 1024", "data=ordered"},
		{"-O ^metadata_csum,^64bit -b 1024", "data=ordered"},
	} {
		args := c.args
		t.Run(args+" "+c.mount, func(t *testing.T) {
			t.Parallel()
			image := guestfstest.Image(t, 32<<20, append([]string{"mke2fs", "-q", "-F", "-t", "ext4"}, strings.Fields(args)...)...)
			var dirty string
			guestfstest.Mounted(t, image, c.mount+",commit=600", func(dir string) {
				guestfstest.Fill(t, dir, 2)
				sync := func() {
					d, err := os.Open(dir)
					require.NoError(t, err)
					require.NoError(t, d.Sync())
					require.NoError(t, d.Close())
				}
				// A block that begins as a journal's does, and folders that go:
				// their blocks are revoked, and used again.
				sync()
				require.NoError(t, os.RemoveAll(filepath.Join(dir, "many")))
				require.NoError(t, os.RemoveAll(filepath.Join(dir, "deep/level0/level1/level2")))
				sync()
				require.NoError(t, os.WriteFile(filepath.Join(dir, "magic"), bytes.Repeat(append(magic[:], make([]byte, 1020)...), 64), 0o600))
				guestfstest.Run(t, "sync", filepath.Join(dir, "magic"))
				if c.mount == "data=ordered" {
					full, err := os.Create(filepath.Join(dir, "full"))
					require.NoError(t, err)
					for b := bytes.Repeat([]byte("data"), 1<<14); err == nil; {
						_, err = full.Write(b)
					}
					require.NoError(t, full.Sync())
					require.NoError(t, full.Close())
				}
				sync()
				dirty = guestfstest.Copy(t, image)
			})
			f, tr := tree(t, dirty)
			require.NotEmpty(t, f.replaced, "the journal is empty: the test shows nothing")
			got := guestfstest.Listing(t, tr)
			guestfstest.Mounted(t, dirty, "", func(dir string) {
				require.Equal(t, guestfstest.Listing(t, os.DirFS(dir)), got)
			})
			t.Logf("%d blocks from the journal", len(f.replaced))
		})
	}
}

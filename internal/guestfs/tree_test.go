package guestfs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/ext4"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

func volume(t *testing.T, links map[string]string, files ...string) guestfs.Volume {
	dir := t.TempDir()
	for _, f := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, f), []byte(f), 0o600))
	}
	for at, to := range links {
		require.NoError(t, os.Symlink(to, filepath.Join(dir, at)))
	}
	r, size := guestfstest.Open(t, guestfstest.Image(t, 2<<20, "mke2fs", "-q", "-F", "-t", "ext4", "-d", dir))
	v, err := ext4.Open(r, size)
	require.NoError(t, err)
	return v
}

func TestATreeIsAFileSystemOfGos(t *testing.T) {
	v := volume(t, map[string]string{"link": "a/b"}, "a/b/c", "a/d", "e")
	require.NoError(t, fstest.TestFS(guestfs.NewTree(v), "a/b/c", "a/d", "e", "link"))
}

func TestLinksAreFollowedAsTheGuestWould(t *testing.T) {
	tr := guestfs.NewTree(volume(t, map[string]string{
		"abs": "/etc/real", "up": "../../../../etc/real", "loop": "loop", "over": "/boot/../etc/real", "dangling": "/none",
	}, "etc/real", "boot/hidden"))
	tr.Mount("/boot/", volume(t, map[string]string{"out": "/etc/real"}, "kernel"))
	for _, name := range []string{"abs", "up", "over", "boot/out"} {
		b, err := tr.ReadFile(name)
		require.NoError(t, err, name)
		require.Equal(t, "etc/real", string(b), name)
	}
	_, err := tr.ReadFile("loop")
	require.ErrorContains(t, err, "symbolic links")
	for _, name := range []string{"dangling", "boot/hidden", "etc/real/below", "none"} {
		_, err = tr.Stat(name)
		require.ErrorIs(t, err, fs.ErrNotExist, name)
	}
	_, err = tr.Open("../etc/real")
	require.ErrorIs(t, err, fs.ErrInvalid)
	b, err := tr.ReadFile("boot/kernel")
	require.NoError(t, err)
	require.Equal(t, "kernel", string(b))
}

// broken panics, as a reader with a mistake might.
type broken struct{ guestfs.Volume }

func (broken) Root() (guestfs.Node, error) { panic("index out of range") }

func TestAPanicOfAReaderIsAnError(t *testing.T) {
	_, err := guestfs.NewTree(broken{}).ReadFile("x")
	require.ErrorIs(t, err, dr.ErrCorrupt)
}

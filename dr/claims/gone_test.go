package claims

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// TestFolderIsGone: the share isn't mounted any more, and the folder below it
// shows; or it was put back from a backup. What was held is not free for that.
func TestFolderIsGone(t *testing.T) {
	root := filepath.Join(t.TempDir(), "claims")
	c := NewDir(root, Options{})
	_, err := c.Acquire(t.Context(), "m", "me")
	require.NoError(t, err)
	_, err = c.Acquire(t.Context(), "n", "me")
	require.NoError(t, err)
	require.NoError(t, c.Release(t.Context(), "n", "me"))
	require.NoError(t, os.Rename(root, root+".away"))
	for _, resource := range []string{"m", "n", "never seen"} {
		_, err = c.Acquire(t.Context(), resource, "you")
		require.Error(t, err, resource)
		require.NotErrorIs(t, err, dr.ErrBusy)
		require.ErrorContains(t, err, "mount", resource)
		require.NoDirExists(t, root)
	}
	require.Error(t, c.Release(t.Context(), "m", "me"), "it is not given back")
	require.NoError(t, os.Rename(root+".away", root))
	_, err = c.Acquire(t.Context(), "m", "you")
	require.ErrorIs(t, err, dr.ErrBusy)

	require.NoError(t, os.RemoveAll(filepath.Join(root, "of-n")))
	require.NoError(t, os.Mkdir(filepath.Join(root, "of-n"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(root, "of-n", fileName(1)), nil, 0o600))
	_, err = c.Acquire(t.Context(), "n", "you")
	require.ErrorIs(t, err, dr.ErrCorrupt, "it is older than what was there")
}

// TestParentIsMissing: where a share should be mounted there is nothing.
func TestParentIsMissing(t *testing.T) {
	share := filepath.Join(t.TempDir(), "lifeboat")
	c := NewDir(filepath.Join(share, "claims"), Options{})
	_, err := c.Acquire(t.Context(), "m", "me")
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.ErrorContains(t, err, "mount")
	require.NoDirExists(t, share)
	require.NoError(t, os.Mkdir(share, 0o700))
	_, err = c.Acquire(t.Context(), "m", "me")
	require.NoError(t, err)
}

// TestNothingIsThereForAnybody: a process that is started before the share is
// mounted gives nothing back, and finds no list: what it doesn't see may be held.
func TestNothingIsThereForAnybody(t *testing.T) {
	share := filepath.Join(t.TempDir(), "lifeboat")
	c := NewDir(filepath.Join(share, "claims"), Options{})
	listed := func() (n int, err error) {
		for _, err = range c.Claims(t.Context()) {
			n++
		}
		return n, err
	}
	err := c.Release(t.Context(), "m", "me")
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.ErrorContains(t, err, "mount")
	_, err = listed()
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.ErrorContains(t, err, "mount")

	require.NoError(t, os.Mkdir(share, 0o700), "from here on there were never any")
	require.NoError(t, c.Release(t.Context(), "m", "me"))
	n, err := listed()
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = c.Acquire(t.Context(), "m", "me")
	require.NoError(t, err)
	require.NoError(t, os.Rename(share, share+".away"))
	require.NoError(t, os.Mkdir(share, 0o700))
	_, err = listed()
	require.ErrorIs(t, err, dr.ErrNotFound, "it was there")
}

// stale is a file system on NFS: what another client removes while it is open
// can't be read any more.
type stale struct {
	fsys.FS
	remove func() // by the other client
}

type staleFile struct{ fsys.File }

func (s *stale) OpenFile(name string, flag int, perm fs.FileMode) (fsys.File, error) {
	f, err := s.FS.OpenFile(name, flag, perm)
	if err != nil || flag != os.O_RDONLY || s.remove == nil {
		return f, err
	}
	s.remove()
	s.remove = nil
	return staleFile{f}, nil
}

func (staleFile) ReadAt([]byte, int64) (int, error) { return 0, syscall.ESTALE }

func TestRemovedWhileItIsRead(t *testing.T) {
	disk := crashfs.New(1)
	slow := &stale{FS: disk}
	a, b := newDir(slow, "/c", Options{}), newDir(disk, "/c", Options{})
	_, err := b.Acquire(t.Context(), "m", "first")
	require.NoError(t, err)
	slow.remove = func() { require.NoError(t, b.Release(t.Context(), "m", "first")) }
	_, err = a.Acquire(t.Context(), "m", "second")
	require.NoError(t, err)
}

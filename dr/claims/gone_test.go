package claims

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
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

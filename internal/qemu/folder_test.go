package qemu

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// One that another process is just making, and hasn't locked yet, is left alone.
func TestFoldersOfTheDeadAreRemoved(t *testing.T) {
	parent := t.TempDir()
	folder := func(name string, age time.Duration, whole bool) string {
		path := filepath.Join(parent, folderPrefix+name)
		require.NoError(t, os.Mkdir(path, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(path, ownerFile), nil, 0o600))
		if whole {
			require.NoError(t, os.Mkdir(filepath.Join(path, machineFolder), 0o700))
		}
		then := time.Now().Add(-age)
		require.NoError(t, os.Chtimes(path, then, then))
		return path
	}
	dead := folder("dead", 0, true)
	made := folder("made", 0, false)
	never := folder("never", 2*youngest, false)
	alive, err := NewFolder(parent)
	require.NoError(t, err)
	require.NoDirExists(t, dead)
	require.DirExists(t, made)
	require.NoDirExists(t, never)

	another, err := NewFolder(parent)
	require.NoError(t, err)
	require.DirExists(t, alive.Machine)
	require.NoError(t, another.Close())
	require.NoError(t, alive.Close())
	require.NoDirExists(t, alive.Path)
}

package bootproof

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// scribble writes to a machine's first disk, as its guest does.
func scribble(t testing.TB, v *Instant, with byte) {
	_, err := v.disks[0].WriteAt(t.Context(), bytes.Repeat([]byte{with}, 4096), 0)
	require.NoError(t, err)
	require.NoError(t, v.disks[0].Flush(t.Context()))
}

func scribbled(t testing.TB, v *Instant) byte {
	b := make([]byte, 1)
	_, err := v.disks[0].ReadAt(t.Context(), b, 0)
	require.NoError(t, err)
	return b[0]
}

// Who has closed a machine changes nothing more in its folder: another has it.
func TestInstantThatIsClosedLeavesItsFolder(t *testing.T) {
	w := newWorld(t)
	w.keep(machine(t, nil), "p1")
	folder := t.TempDir()
	old := w.recover(folder)
	img, err := old.Capture(t.Context(), "m", "c1", dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	require.NoError(t, old.Close())

	v := w.recover(folder)
	scribble(t, v, 1)
	img, err = v.Capture(t.Context(), "m", "c2", dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	scribble(t, v, 2)
	require.ErrorIs(t, old.Release(t.Context(), "m", "c1"), os.ErrClosed)
	_, err = old.Capture(t.Context(), "m", "c3", dr.CrashConsistent)
	require.ErrorIs(t, err, os.ErrClosed)
	require.ErrorIs(t, old.Discard(), dr.ErrBusy)
	require.NoError(t, v.Close())

	v = w.recover(folder)
	require.Equal(t, byte(2), scribbled(t, v))
	require.Len(t, v.record().Captures, 2)
	require.NoError(t, v.Discard())
	require.NoError(t, v.Discard())

	v = w.recover(folder)
	scribble(t, v, 3)
	require.NoError(t, v.Close())
	require.ErrorIs(t, old.Discard(), dr.ErrExists, "another recovery is there by now")
	require.Equal(t, byte(3), scribbled(t, w.recover(folder)))
}

// A folder's name is no pattern.
func TestInstantTouchesNoOtherFolder(t *testing.T) {
	w := newWorld(t)
	w.keep(machine(t, nil), "p1")
	base := t.TempDir()
	one := filepath.Join(base, "vm1")
	v := w.recover(one)
	img, err := v.Capture(t.Context(), "m", "c1", dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	scribble(t, v, 1)
	require.NoError(t, v.Close())

	other := w.recover(filepath.Join(base, "vm[12]"))
	scribble(t, other, 2)
	require.NoError(t, other.Discard())
	require.Equal(t, byte(1), scribbled(t, w.recover(one)))
	require.NoError(t, w.recover(filepath.Join(base, "vm[3")).Discard())
}

// What a machine wrote is never replaced by nothing.
func TestInstantMissesItsLayers(t *testing.T) {
	w := newWorld(t)
	w.keep(machine(t, nil), "p1")
	for name, spoil := range map[string]func(path string) error{
		"removed": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			v := w.recover(folder)
			scribble(t, v, 1)
			require.NoError(t, v.Close())
			require.NoError(t, spoil(filepath.Join(folder, fileName(0, "1"))))
			for range 2 {
				_, err := Recover(t.Context(), w.store, "m", "p1", folder, InstantOptions{})
				require.ErrorIs(t, err, dr.ErrCorrupt)
			}
		})
	}
}

// Who dies while a folder is made, or discarded, leaves one that can be used.
func TestInstantFolderHalfMade(t *testing.T) {
	w := newWorld(t)
	w.keep(machine(t, nil), "p1")
	folder := t.TempDir()
	v := w.recover(folder)
	scribble(t, v, 1)
	r := v.record()
	require.NoError(t, v.Close())
	r.Layers = nil
	b, err := json.Marshal(r)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, instantFile), b, 0o600))
	v = w.recover(folder)
	require.Zero(t, scribbled(t, v))
	require.NotEqual(t, r.ID, v.id)
	scribble(t, v, 2)
	require.NoError(t, v.Close())

	// Without a record it can't be known whose they are.
	require.NoError(t, os.Remove(filepath.Join(folder, instantFile)))
	_, err = Recover(t.Context(), w.store, "m", "p1", folder, InstantOptions{})
	require.ErrorIs(t, err, dr.ErrExists)
	require.FileExists(t, filepath.Join(folder, fileName(0, "1")))
}

package embedded_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
)

// A record that can't be kept is its caller's trouble, and not the engine's end.
func TestNumbersThatAreTooHigh(t *testing.T) {
	e, err := embedded.Open(filepath.Join(t.TempDir(), "journal"), embedded.Options{})
	require.NoError(t, err)
	defer e.Close()
	for _, p := range []dr.Protection{{ID: "p", Epoch: 1 << 63}, {ID: "p", Version: 1<<63 - 1}, {ID: "p", Version: 1<<64 - 1}} {
		_, err = e.Save(t.Context(), p)
		require.ErrorIs(t, err, dr.ErrInvalid)
		p.Version = max(p.Version, 1)
		require.ErrorIs(t, e.Import(t.Context(), p), dr.ErrInvalid)
	}
	_, err = e.Save(t.Context(), dr.Protection{ID: "p", Epoch: 1<<63 - 1})
	require.NoError(t, err, "the engine goes on")
}

// Epochs that a person has raised to the end of numbers are a refusal, too.
func TestEpochsThatAreUsedUp(t *testing.T) {
	e, err := embedded.Open(filepath.Join(t.TempDir(), "journal"), embedded.Options{})
	require.NoError(t, err)
	defer e.Close()
	require.NoError(t, e.Raise(t.Context(), "m", 1<<63-2))
	epoch, err := e.Acquire(t.Context(), "m", "me")
	require.NoError(t, err)
	require.EqualValues(t, uint64(1<<63-1), epoch)
	again, err := e.Acquire(t.Context(), "m", "me")
	require.NoError(t, err)
	require.Equal(t, epoch, again)
	_, err = e.Seize(t.Context(), "m", "me", "you")
	require.ErrorIs(t, err, dr.ErrInvalid)
	require.NoError(t, e.Release(t.Context(), "m", "me"))
	_, err = e.Acquire(t.Context(), "m", "me")
	require.ErrorIs(t, err, dr.ErrInvalid)
	_, err = e.Acquire(t.Context(), "n", "me")
	require.NoError(t, err, "the engine goes on")
}

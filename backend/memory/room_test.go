package memory_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestRoom(t *testing.T) {
	b := memory.New(memory.Options{})
	r, ok := dr.As[backend.Roomer](b)
	require.True(t, ok)
	p := backend.Placement{Key: "k", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: 4096}, {ID: "b", Size: 4096}}}}
	room := func(n int64) []backend.Problem {
		b.SetRoom(n)
		found, err := r.Room(t.Context(), p)
		require.NoError(t, err)
		return found
	}
	require.Empty(t, room(-1))
	require.Empty(t, room(8192))
	require.Len(t, room(8191), 1)
	made, err := b.Prepare(t.Context(), p)
	require.NoError(t, err)
	require.Empty(t, room(0), "it is there")
	p.Machine.Disks[0].Size = 8192
	require.Len(t, room(4095), 1, "it grows")
	p = backend.Placement{Original: made.ID}
	require.Empty(t, room(0))
	p.Original = "gone"
	_, err = r.Room(t.Context(), p)
	require.ErrorIs(t, err, dr.ErrNotFound)
	_, ok = dr.As[backend.Roomer](memory.New(memory.Options{NoRoom: true}))
	require.False(t, ok)
}

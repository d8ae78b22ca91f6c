package spans

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSet(t *testing.T) {
	const k = 64 << 10
	s := New(10 * k)
	require.True(t, s.Empty())
	s.Add(k-1, 2) // touches two blocks
	before := s.Clone()
	s.Remove(0, 1)
	require.False(t, s.Empty())
	s.Remove(2*k, 8*k)
	require.False(t, s.Empty(), "what was removed lies elsewhere")
	s.Remove(k, k)
	require.True(t, s.Empty())
	require.False(t, before.Empty(), "a clone is its own")
	s.Add(10*k-1, 1)
	require.False(t, s.Empty())
}

func TestSetOfAVastDiskIsSmall(t *testing.T) {
	s := New(1 << 50)
	require.LessOrEqual(t, len(s.bits)*8, 2<<20+8)
	s.Add(1<<50-1, 1)
	require.False(t, s.Empty())
}

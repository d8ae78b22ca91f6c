package vault_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// Text that became noise must be seen in every kind of vault that compresses:
// an encrypted one keeps noise, but says what was smaller before.
func TestPacked(t *testing.T) {
	const n = dr.SumBlock
	b := make([]byte, 3*n)
	copy(b, bytes.Repeat([]byte("plain text "), n/11))
	rand.NewChaCha8([32]byte{3}).Read(b[n : 2*n])
	for name, o := range map[string]vault.Options{
		"zstd":      {},
		"encrypted": {Keys: fastKey{}},
		"raw":       {NoCompression: true},
		"both":      {NoCompression: true, Keys: fastKey{}},
	} {
		s, err := vault.OpenDir(t.TempDir(), o)
		require.NoError(t, err)
		d, err := s.Create(t.Context(), dr.Point{ID: "p", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: int64(len(b))}}}})
		require.NoError(t, err)
		_, err = d.WriteAt(t.Context(), "a", b, 0)
		require.NoError(t, err)
		p, ok := dr.As[dr.Packer](d)
		require.True(t, ok)
		sizes := make([]int32, 3)
		require.NoError(t, p.Packed(t.Context(), "a", 0, sizes), name)
		require.Zero(t, sizes[2], "%s: zeros", name)
		if o.NoCompression {
			require.Equal(t, []int32{-1, -1, 0}, sizes, "%s: what was never tried tells nothing", name)
		} else {
			require.True(t, sizes[0] > 0 && dr.Packs(int(sizes[0]), n), "%s: text takes %d", name, sizes[0])
			require.False(t, dr.Packs(int(sizes[1]), n), "%s: noise takes %d", name, sizes[1])
		}
		one := make([]int32, 1)
		require.NoError(t, p.Packed(t.Context(), "a", n, one))
		require.Equal(t, sizes[1], one[0], name)
		require.ErrorIs(t, p.Packed(t.Context(), "a", 3*n, one), dr.ErrOutOfRange, name)
		require.NoError(t, d.Close())
		require.NoError(t, s.Close())
	}
}

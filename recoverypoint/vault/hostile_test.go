package vault_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// forge changes the body of an object that isn't encrypted, and sums it anew,
// as somebody who can write to the bucket may.
func forge(t *testing.T, b *memBucket, name string, old, now string) {
	data := b.objects[name]
	body := data[:len(data)-16]
	require.Contains(t, string(body), old)
	body = bytes.Replace(body, []byte(old), []byte(now), 1)
	sum := blake3.Sum256(append(append([]byte(name), 0), body...))
	b.objects[name] = append(body, sum[:16]...)
}

// A manifest may claim a disk that is smaller than its map.
func TestMapThatReachesBehindItsDisk(t *testing.T) {
	b := newMem()
	v, err := vault.Open(t.Context(), b, vault.Options{})
	require.NoError(t, err)
	defer v.Close()
	row(t, v, 1, 600, func(int) int { return 0 })
	manifest := b.names("point/")[0]
	forge(t, b, manifest, `"disks":[{"id":"a","size":268435456,"root"`, `"disks":[{"id":"a","size":33619968,"root"`)
	_, err = v.Open(t.Context(), "m", "0")
	require.NoError(t, err, "it is forged well")
	for _, name := range b.names("seg/") {
		if strings.HasSuffix(name, "00000002.0") {
			delete(b.objects, name) // so that scrub reads chunk by chunk
		}
	}
	// Whatever is found, nothing panics, and none of it is read.
	for _, err := range v.Scrub(t.Context()) {
		require.NoError(t, err)
	}
	img, err := v.Open(t.Context(), "m", "0")
	require.NoError(t, err)
	defer img.Close()
	for e, err := range img.(dr.Mapper).Extents(t.Context(), "a") {
		if err == nil {
			require.LessOrEqual(t, e.End(), int64(33619968))
		}
	}
	p := dr.Point{ID: "1", Parent: "0", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: 4096 * chunk}}}}
	if d, err := v.Create(t.Context(), p); err == nil {
		require.NoError(t, d.Close())
	}
	_, err = v.Prune(t.Context())
	require.ErrorIs(t, err, dr.ErrCorrupt)
}

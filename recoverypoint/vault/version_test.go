package vault_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// Stored vaults are never written again: a format that changes gets a new
// version and a new folder, and the old ones stay readable.
var storeVersion = flag.Bool("store-version", false, "make the stored vaults of the present version that are missing")

// stored is what the stored vaults of each version hold.
func stored() []plan {
	rng := rand.New(rand.NewPCG(20, 24))
	one := planPoint(rng, "one", "", nil, map[dr.DiskID]int64{"system": 3*chunk + 1024, "data": 600 * chunk}, 2)
	two := planPoint(rng, "two", "one", one.want, map[dr.DiskID]int64{"system": 3*chunk + 512, "data": 500*chunk + 512}, 2)
	three := planPoint(rng, "three", "two", two.want, map[dr.DiskID]int64{"system": 5 * chunk}, 2)
	return []plan{one, two, three}
}

// makeStored has every kind of object and codec, and a segment that prune
// rewrote.
func makeStored(t *testing.T, dir string, o vault.Options) {
	plans := stored()
	for i, c := range []vault.Codec{vault.Zstd, vault.S2, vault.Zstd} {
		o.Codec = c
		v := open(t, fsys.OS(), dir, o)
		require.NoError(t, plans[i].apply(t.Context(), v))
	}
	v := open(t, fsys.OS(), dir, o)
	require.NoError(t, v.Delete(t.Context(), "m", "one"))
	_, err := v.Prune(t.Context())
	require.NoError(t, err)
	d, err := v.Create(t.Context(), dr.Point{ID: "four", Parent: "three", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "system", Size: chunk}}}})
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), "system", []byte("begun"), 0)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.NoError(t, os.RemoveAll(filepath.Join(dir, ".tmp")))
	require.NoError(t, os.RemoveAll(filepath.Join(dir, ".lock")))
}

func TestVaultsOfEveryVersionAreRead(t *testing.T) {
	for name, o := range map[string]vault.Options{"v1-plain": {}, "v1-sealed": {Keys: vault.Passphrase([]byte("lifeboat"))}} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", name)
			if _, err := os.Stat(dir); os.IsNotExist(err) && *storeVersion {
				makeStored(t, dir, o)
			}
			// A copy, because a vault that is opened gets locks.
			work := t.TempDir()
			require.NoError(t, os.CopyFS(work, os.DirFS(dir)))
			o.Existing = true
			v := open(t, fsys.OS(), work, o)
			plans := stored()
			for _, p := range plans[1:] {
				require.NoError(t, verify(t.Context(), v, p.point.ID, p.want))
			}
			var ids []dr.PointID
			for p, err := range v.List(t.Context(), "m") {
				require.NoError(t, err)
				ids = append(ids, p.ID)
			}
			require.Equal(t, []dr.PointID{"two", "three"}, ids)
			for p, err := range v.Pending(t.Context(), "m") {
				require.NoError(t, err)
				require.EqualValues(t, "four", p.ID)
			}
			for d, err := range v.Scrub(t.Context()) {
				require.NoError(t, err)
				require.Fail(t, "damage", "%+v", d)
			}
			last := planPoint(rand.New(rand.NewPCG(1, 1)), "five", "three", plans[2].want, map[dr.DiskID]int64{"system": 6 * chunk}, 2)
			require.NoError(t, last.apply(t.Context(), v), "it goes on")
			require.NoError(t, verify(t.Context(), v, "five", last.want))
		})
	}
}

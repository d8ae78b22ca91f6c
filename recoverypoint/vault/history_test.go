package vault_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// TestHistoriesWithPrunes adds and deletes points, some of which are open
// meanwhile, prunes at any time, and compares every byte and every difference.
func TestHistoriesWithPrunes(t *testing.T) {
	seed := newSeed(t)
	for run := range 12 {
		rng := rand.New(rand.NewPCG(seed, uint64(run)))
		disk := crashfs.New(seed)
		o := vault.Options{Codec: vault.Codec(rng.IntN(3)), PageCache: 1}.SmallSegments(256 << 10)
		if rng.IntN(2) == 0 {
			o.Keys = fastKey{}
		}
		v := open(t, disk, "/v", o)
		points := map[dr.PointID]content{}
		images := map[dr.PointID]dr.Image{}
		var ids []dr.PointID
		for i := range 20 {
			switch k := rng.IntN(10); {
			case k < 5 || len(ids) == 0:
				var parent dr.PointID
				if len(ids) > 0 && rng.IntN(5) > 0 {
					parent = ids[rng.IntN(len(ids))]
				}
				sizes := map[dr.DiskID]int64{}
				for _, d := range []dr.DiskID{"a", "b", "c"} {
					if rng.IntN(3) > 0 {
						sizes[d] = rng.Int64N(int64(1+rng.IntN(40)) * chunk)
					}
				}
				if rng.IntN(4) == 0 {
					sizes["b"] = (511 + rng.Int64N(3)) * chunk
				}
				p := planPoint(rng, dr.PointID(fmt.Sprint(i)), parent, points[parent], sizes, 3)
				require.NoError(t, p.apply(t.Context(), v))
				ids = append(ids, p.point.ID)
				points[p.point.ID] = p.want
			case k < 7:
				id := ids[rng.IntN(len(ids))]
				if rng.IntN(2) == 0 && images[id] == nil {
					img, err := v.Open(t.Context(), "m", id)
					require.NoError(t, err)
					images[id] = img
				}
				require.NoError(t, v.Delete(t.Context(), "m", id))
				ids = without(ids, id)
			case k < 9:
				_, err := v.Prune(t.Context())
				require.NoError(t, err)
				if rng.IntN(2) == 0 {
					v = open(t, disk, "/v", o) // with nothing cached
				}
			default:
				for id, img := range images {
					require.NoError(t, same(t, img, points[id]))
					require.NoError(t, img.Close())
					delete(images, id)
				}
			}
		}
		for _, id := range ids {
			require.NoError(t, verify(t.Context(), v, id, points[id]))
		}
		for _, a := range ids {
			for _, b := range ids {
				checkChanges(t, v, a, b, points)
			}
		}
		for id, img := range images {
			require.NoError(t, same(t, img, points[id]))
			require.NoError(t, img.Close())
		}
		for d, err := range v.Scrub(t.Context()) {
			require.NoError(t, err)
			require.Fail(t, "damage", "%+v", d)
		}
		// With the last point the last byte goes.
		for _, id := range ids {
			require.NoError(t, v.Delete(t.Context(), "m", id))
		}
		_, err := v.Prune(t.Context())
		require.NoError(t, err)
		for o, err := range vault.NewDir(disk, "/v").List(t.Context(), "") {
			require.NoError(t, err)
			require.Contains(t, []string{"vault", "head/m"}, o.Name)
		}
	}
}

func without(ids []dr.PointID, id dr.PointID) []dr.PointID {
	var rest []dr.PointID
	for _, x := range ids {
		if x != id {
			rest = append(rest, x)
		}
	}
	return rest
}

func same(t *testing.T, img dr.Image, want content) error {
	for disk, bytes := range want {
		got := make([]byte, len(bytes))
		if _, err := img.ReadAt(t.Context(), disk, got, 0); err != nil && len(got) > 0 {
			return err
		}
		if string(got) != string(bytes) {
			return fmt.Errorf("disk %s differs", disk)
		}
	}
	return nil
}

// checkChanges demands that the changes from a to b, put over a, make b.
func checkChanges(t *testing.T, v *vault.Store, a, b dr.PointID, points map[dr.PointID]content) {
	img, err := v.Open(t.Context(), "m", b)
	require.NoError(t, err)
	defer img.Close()
	for disk, want := range points[b] {
		got := make([]byte, len(want))
		copy(got, points[a][disk])
		for e, err := range img.(dr.ChangeTracker).Changes(t.Context(), disk, dr.Point{ID: a}) {
			require.NoError(t, err)
			if e.Zero {
				clear(got[e.Off:e.End()])
				continue
			}
			_, err := img.ReadAt(t.Context(), disk, got[e.Off:e.End()], e.Off)
			require.NoError(t, err)
		}
		require.True(t, string(got) == string(want), "changes of disk %s from %s to %s", disk, a, b)
	}
}

package vault_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// interposed stops before a swap of a head, once.
type interposed struct {
	vault.Bucket
	before func()
}

func (b *interposed) SwapHead(ctx context.Context, name string, old vault.Version, data []byte) (vault.Version, error) {
	if f := b.before; f != nil {
		b.before = nil
		f()
	}
	return b.Bucket.SwapHead(ctx, name, old, data)
}

// A process loses its lock without a word, as when its virtual machine is
// stopped and goes on later; another throws its draft away, prunes, and makes a
// point. The first one's commit must fail, at whatever moment that happened, and
// must not make a point whose bytes are gone.
func TestWhoSleptThroughATakeoverCommitsNothing(t *testing.T) {
	content := func(b byte) []byte {
		p := make([]byte, 4*chunk)
		for i := range p {
			p[i] = b + byte(i%251)
		}
		return p
	}
	point := func(id, parent dr.PointID) dr.Point {
		return dr.Point{ID: id, Parent: parent, Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: 4 * chunk}}}}
	}
	write := func(v *vault.Store, p dr.Point, b []byte) dr.Draft {
		d, err := v.Create(t.Context(), p)
		require.NoError(t, err)
		_, err = d.WriteAt(t.Context(), "a", b, 0)
		require.NoError(t, err)
		// Its segment is durable before the commit.
		require.NoError(t, d.(dr.Summer).Sums(t.Context(), "a", 0, make([]dr.Sum, 4*chunk/dr.SumBlock)))
		return d
	}
	for _, when := range []string{"before the commit", "before the head is swapped"} {
		for _, how := range []string{"create", "delete"} {
			t.Run(how+" "+when, func(t *testing.T) {
				mem := newMem() // it has no locks: each store believes to be alone
				b := &interposed{Bucket: mem}
				v, err := vault.Open(t.Context(), b, vault.Options{})
				require.NoError(t, err)
				d := write(v, point("1", ""), content(1))
				require.NoError(t, d.Commit(t.Context(), point("1", "")))
				require.NoError(t, d.Close())

				sleeper := write(v, point("2", "1"), content(2))
				takeover := func() {
					other, err := vault.Open(t.Context(), mem, vault.Options{})
					require.NoError(t, err)
					if how == "delete" {
						require.NoError(t, other.Delete(t.Context(), "m", "2"))
					}
					d := write(other, point("3", "1"), content(3))
					_, err = other.Prune(t.Context())
					require.NoError(t, err)
					require.NoError(t, d.Commit(t.Context(), point("3", "1")))
					require.NoError(t, d.Close())
					_, err = other.Prune(t.Context())
					require.NoError(t, err)
				}
				if when == "before the commit" {
					takeover()
				} else {
					b.before = takeover
				}
				require.ErrorIs(t, sleeper.Commit(t.Context(), point("2", "1")), dr.ErrConflict)
				require.NoError(t, sleeper.Close())

				fresh, err := vault.Open(t.Context(), mem, vault.Options{})
				require.NoError(t, err)
				var ids []dr.PointID
				for p, err := range fresh.List(t.Context(), "m") {
					require.NoError(t, err)
					ids = append(ids, p.ID)
				}
				require.Equal(t, []dr.PointID{"1", "3"}, ids)
				for damage, err := range recoverypoint.Scrubber(fresh).Scrub(t.Context()) {
					require.NoError(t, err)
					t.Fatal(damage)
				}
				again := write(fresh, point("2", "1"), content(2))
				require.NoError(t, again.Commit(t.Context(), point("2", "1")), "run again it succeeds")
				require.NoError(t, again.Close())
			})
		}
	}
}

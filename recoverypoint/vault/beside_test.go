package vault_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// TestReadersBesideAWriter reads points, and what differs between them, by
// other processes while one commits, deletes and prunes.
func TestReadersBesideAWriter(t *testing.T) {
	seed := newSeed(t)
	disk := crashfs.New(seed)
	o := vault.Options{Codec: vault.S2, PageCache: 1}.SmallSegments(256 << 10)
	w := open(t, disk, "/v", o)
	var mu sync.Mutex
	points := map[dr.PointID]content{} // also those that were deleted
	var order []dr.PointID
	done := make(chan struct{})
	var readers sync.WaitGroup
	for n := range 3 {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(10+n)))
			r := w
			if n > 0 {
				r = open(t, disk, "/v", o)
			}
			for {
				select {
				case <-done:
					return
				default:
				}
				var ids []dr.PointID
				for p, err := range r.List(t.Context(), "m") {
					if err != nil {
						t.Errorf("list: %v", err)
						return
					}
					ids = append(ids, p.ID)
				}
				if len(ids) == 0 {
					continue
				}
				a, b := ids[rng.IntN(len(ids))], ids[rng.IntN(len(ids))]
				img, err := r.Open(t.Context(), "m", a)
				if errors.Is(err, dr.ErrNotFound) {
					continue // deleted since
				}
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				mu.Lock()
				want, was := points[a], points[b]
				mu.Unlock()
				if err := same(t, img, want); err != nil {
					t.Errorf("point %s: %v", a, err)
				}
				for d := range want {
					got := make([]byte, len(want[d]))
					copy(got, was[d])
					for e, err := range img.(dr.ChangeTracker).Changes(t.Context(), d, dr.Point{ID: b}) {
						if errors.Is(err, dr.ErrChangesLost) {
							got = want[d]
							break
						}
						if err != nil {
							t.Errorf("changes: %v", err)
							break
						}
						copy(got[e.Off:e.End()], want[d][e.Off:e.End()])
					}
					if string(got) != string(want[d]) {
						t.Errorf("changes of %s from %s to %s", d, b, a)
					}
				}
				if err := img.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(seed, 9))
	var pruning sync.WaitGroup
	for i := range 40 {
		var parent dr.PointID
		if len(order) > 0 {
			parent = order[len(order)-1-rng.IntN(min(3, len(order)))]
		}
		sizes := map[dr.DiskID]int64{"a": 1 + rng.Int64N(12*chunk), "b": 1 + rng.Int64N(6*chunk)}
		p := planPoint(rng, dr.PointID(fmt.Sprint(i)), parent, points[parent], sizes, 3)
		mu.Lock()
		points[p.point.ID] = p.want
		mu.Unlock()
		require.NoError(t, p.apply(t.Context(), w))
		order = append(order, p.point.ID)
		if len(order) > 4 {
			k := rng.IntN(len(order))
			require.NoError(t, w.Delete(t.Context(), "m", order[k]))
			order = slices.Delete(order, k, k+1)
		}
		if rng.IntN(3) == 0 {
			pruning.Wait()
			pruning.Go(func() {
				if _, err := w.Prune(t.Context()); err != nil {
					t.Errorf("prune: %v", err)
				}
			})
		}
	}
	pruning.Wait()
	close(done)
	readers.Wait()
	readable(t, w)
}

// listed does something before or after the objects of a prefix are listed, once.
type listed struct {
	vault.Bucket
	prefix        string
	before, after func()
}

func (b *listed) Unwrap() any { return b.Bucket }

func (b *listed) List(ctx context.Context, prefix string) iter.Seq2[vault.Object, error] {
	return func(yield func(vault.Object, error) bool) {
		if prefix == b.prefix {
			once(&b.before)
			defer once(&b.after)
		}
		b.Bucket.List(ctx, prefix)(yield)
	}
}

func once(f *func()) {
	if do := *f; do != nil {
		*f = nil
		do()
	}
}

// first is a draft of a machine's first point.
func first(t *testing.T, w *vault.Store) (dr.Draft, dr.Point) {
	p := dr.Point{ID: "first", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: chunk}}}}
	d, err := w.Create(t.Context(), p)
	require.NoError(t, err)
	return d, p
}

// A reader finds no head, and before it has looked whether one is lost another
// process commits the machine's first point.
func TestAFirstPointIsNoDamageToAReaderBesideIt(t *testing.T) {
	mem := newMem()
	w, err := vault.Open(t.Context(), mem, vault.Options{})
	require.NoError(t, err)
	defer w.Close()
	b := &listed{Bucket: mem, prefix: "point/m/"}
	r, err := vault.Open(t.Context(), b, vault.Options{})
	require.NoError(t, err)
	defer r.Close()
	b.before = func() {
		d, p := first(t, w)
		require.NoError(t, d.Commit(t.Context(), p))
		require.NoError(t, d.Close())
	}
	var ids []dr.PointID
	for p, err := range r.List(t.Context(), "m") {
		require.NoError(t, err)
		ids = append(ids, p.ID)
	}
	require.Nil(t, b.before, "the writer came between")
	require.Equal(t, []dr.PointID{"first"}, ids)

	delete(mem.objects, "head/m")
	for _, err := range r.List(t.Context(), "m") {
		require.ErrorIs(t, err, dr.ErrCorrupt, "a head that is lost still is")
	}
}

// The same with a whole vault: who finds none and sees another process make it
// opens that one, while it is written to, too.
func TestAVaultMadeMeanwhileIsOpened(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			dir := vault.NewDir(crashfs.New(1), "/v")
			write := func() {
				w, err := vault.Open(t.Context(), dir, vault.Options{})
				require.NoError(t, err)
				d, p := first(t, w)
				require.NoError(t, d.Commit(t.Context(), p))
				t.Cleanup(func() { // it has the writer's lock until then
					require.NoError(t, d.Close())
					require.NoError(t, w.Close())
				})
			}
			b := &listed{Bucket: dir}
			if when == "before" {
				b.before = write
			} else {
				b.after = write
			}
			r, err := vault.Open(t.Context(), b, vault.Options{})
			require.NoError(t, err)
			defer r.Close()
			n := 0
			for _, err := range r.List(t.Context(), "m") {
				require.NoError(t, err)
				n++
			}
			require.Equal(t, 1, n)
		})
	}
}

package vault_test

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// row commits points that each write one chunk over the one before: the first
// writes the chunks [0, fill), and the i-th chunk at(i).
func row(t testing.TB, v *vault.Store, n, fill int, at func(i int) int) {
	rng := rand.New(rand.NewPCG(7, 7))
	buf := make([]byte, chunk)
	for i := range n {
		p := dr.Point{ID: dr.PointID(fmt.Sprint(i)), Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: 4096 * chunk}}}}
		if i > 0 {
			p.Parent = dr.PointID(fmt.Sprint(i - 1))
		}
		d, err := v.Create(t.Context(), p)
		require.NoError(t, err)
		from, to := at(i), at(i)+1
		if i == 0 {
			from, to = 0, fill
		}
		for c := from; c < to; c++ {
			for k := range buf {
				buf[k] = byte(rng.Uint32())
			}
			_, err := d.WriteAt(t.Context(), "a", buf, int64(c)*chunk)
			require.NoError(t, err)
		}
		require.NoError(t, d.Commit(t.Context(), p))
		require.NoError(t, d.Close())
	}
}

func readable(t testing.TB, v *vault.Store) {
	for d, err := range v.Scrub(t.Context()) {
		require.NoError(t, err)
		require.Fail(t, "damage", "%+v", d)
	}
}

// A chunk that more points share than are walked at once counts once:
// otherwise a long history would keep segments that are mostly dead.
func TestPruneOfLongHistories(t *testing.T) {
	const points, fill, live = 300, 40, 8
	b := newMem()
	v, err := vault.Open(t.Context(), b, vault.Options{})
	require.NoError(t, err)
	defer v.Close()
	row(t, v, points, fill, func(i int) int { return i % (fill - live) })
	size := func() (n int) {
		for _, name := range b.names("seg/") {
			n += len(b.objects[name])
		}
		return n
	}
	before := size()
	for i := range fill {
		require.NoError(t, v.Delete(t.Context(), "m", dr.PointID(fmt.Sprint(i))))
	}
	freed, err := v.Prune(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, before-size(), freed)
	readable(t, v)
	// What the first point wrote is needed by a fifth, by all that remain.
	for _, name := range b.names("seg/") {
		require.Less(t, len(b.objects[name]), (live+4)*chunk, name)
	}
}

// Segments are a multiple of 4096 bytes and have a footer: what is small
// already must not be written anew by each prune.
func TestPruneLeavesWhatCannotShrink(t *testing.T) {
	b := newMem()
	v, err := vault.Open(t.Context(), b, vault.Options{})
	require.NoError(t, err)
	defer v.Close()
	row(t, v, 20, 3, func(i int) int { return i * 100 })
	// Chunks that are shorter in the segment than their lines in its footer.
	p := dr.Point{ID: "flat", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: 4096 * chunk}}}}
	d, err := v.Create(t.Context(), p)
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), "a", []byte(strings.Repeat("x", 3000*chunk)), 0)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context(), p))
	require.NoError(t, d.Close())

	first := b.names("seg/")
	freed, err := v.Prune(t.Context())
	require.NoError(t, err)
	require.Zero(t, freed)
	require.Equal(t, first, b.names("seg/"), "all is needed")
	for i := range 10 {
		require.NoError(t, v.Delete(t.Context(), "m", dr.PointID(fmt.Sprint(i))))
	}
	_, err = v.Prune(t.Context())
	require.NoError(t, err)
	second := b.names("seg/")
	freed, err = v.Prune(t.Context())
	require.NoError(t, err)
	require.Zero(t, freed)
	require.Equal(t, second, b.names("seg/"), "nothing was deleted since")
	readable(t, v)
}

// A process that is killed right behind its commit leaves the draft's record,
// which must not keep the point's space after it was deleted.
func TestPruneDropsRecordsOfCommittedPoints(t *testing.T) {
	b := newMem()
	v, err := vault.Open(t.Context(), b, vault.Options{})
	require.NoError(t, err)
	defer v.Close()
	p := onePoint("1")
	d, err := v.Create(t.Context(), p.point)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	record := b.names("draft/")[0]
	data := b.objects[record]
	require.NoError(t, p.apply(t.Context(), v))
	b.objects[record] = data

	_, err = v.Prune(t.Context())
	require.NoError(t, err)
	require.Empty(t, b.names("draft/"))
	require.NoError(t, verify(t.Context(), v, "1", p.want))
	require.NoError(t, v.Delete(t.Context(), "m", "1"))
	freed, err := v.Prune(t.Context())
	require.NoError(t, err)
	require.Positive(t, freed)
	require.Empty(t, b.names("seg/"))
	require.Empty(t, b.names("point/"))
}

// onList runs something before objects of a prefix are listed.
type onList struct {
	vault.Bucket
	do func(prefix string)
}

func (b onList) Unwrap() any { return b.Bucket }

func (b onList) List(ctx context.Context, prefix string) iter.Seq2[vault.Object, error] {
	b.do(prefix)
	return b.Bucket.List(ctx, prefix)
}

// What a draft of this process commits while the vault is pruned is not missing
// because it was not there when the prune began.
func TestPruneBesideCommits(t *testing.T) {
	n, left := 0, 0 // lists until points come
	var v *vault.Store
	made := map[dr.PointID]content{}
	b := onList{newMem(), func(string) {
		if left--; left != 0 {
			return
		}
		for range 2 {
			n++
			p := planPoint(rand.New(rand.NewPCG(1, uint64(n))), dr.PointID(fmt.Sprint(n)), "", nil, map[dr.DiskID]int64{"a": 20 * chunk}, 6)
			require.NoError(t, p.apply(t.Context(), v))
			made[p.point.ID] = p.want
		}
		// One is gone again: the prune that missed it must leave it to the next.
		require.NoError(t, v.Delete(t.Context(), "m", dr.PointID(fmt.Sprint(n))))
		delete(made, dr.PointID(fmt.Sprint(n)))
	}}
	v, err := vault.Open(t.Context(), b, vault.Options{}.SmallSegments(256<<10))
	require.NoError(t, err)
	defer v.Close()
	for i := 1; left <= 0; i++ {
		left = i
		_, err = v.Prune(t.Context())
		require.NoError(t, err, "points came before list %d", i)
		readable(t, v)
	}
	require.Greater(t, n, 10)
	for id, want := range made {
		require.NoError(t, verify(t.Context(), v, id, want))
	}
}

// onRead runs something before an object is read.
type onRead struct {
	vault.Bucket
	do func(name string)
}

func (b onRead) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	b.do(name)
	return b.Bucket.ReadAt(ctx, name, p, off)
}

// A reader that looks for where a prune has put what it reads may be overtaken
// by the next.
func TestReadBesideTwoPrunes(t *testing.T) {
	b := newMem()
	v, err := vault.Open(t.Context(), b, vault.Options{})
	require.NoError(t, err)
	defer v.Close()
	row(t, v, 40, 40, func(i int) int { return i })
	prune := func(from, to int) {
		for i := from; i < to; i++ {
			require.NoError(t, v.Delete(t.Context(), "m", dr.PointID(fmt.Sprint(i))))
		}
		_, err := v.Prune(t.Context())
		require.NoError(t, err)
	}
	prune(0, 28)
	overtaken := false
	reader, err := vault.Open(t.Context(), onRead{b, func(name string) {
		if strings.HasSuffix(name, ".1") && !overtaken {
			overtaken = true
			prune(28, 37)
			require.NotContains(t, b.names("seg/"), name)
		}
	}}, vault.Options{})
	require.NoError(t, err)
	defer reader.Close()
	img, err := reader.Open(t.Context(), "m", "39")
	require.NoError(t, err)
	defer img.Close()
	_, err = img.ReadAt(t.Context(), "a", make([]byte, 40*chunk), 0)
	require.NoError(t, err)
	require.True(t, overtaken)
}

package vault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// memBucket keeps objects where tests can damage them. It is no Locker, so
// that vaults are tested on one that isn't.
type memBucket struct {
	mu      sync.Mutex
	objects map[string][]byte
	reads   int
}

func newMem() *memBucket { return &memBucket{objects: map[string][]byte{}} }

type memWriter struct {
	b    *memBucket
	name string
	data []byte
	mu   sync.Mutex
}

func (b *memBucket) Create(ctx context.Context, name string) (vault.Writer, error) {
	return &memWriter{b: b, name: name}, ctx.Err()
}

func (w *memWriter) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := int(off) + len(p); n > len(w.data) {
		w.data = append(w.data, make([]byte, n-len(w.data))...)
	}
	return copy(w.data[off:], p), nil
}

func (w *memWriter) Commit(ctx context.Context) error {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if _, ok := w.b.objects[w.name]; ok {
		return dr.ErrExists
	}
	w.b.objects[w.name] = w.data
	return ctx.Err()
}

func (w *memWriter) Abort() error { return nil }

func (b *memBucket) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads++
	data, ok := b.objects[name]
	if !ok {
		return 0, fmt.Errorf("%w: object %s", dr.ErrNotFound, name)
	}
	n := copy(p, data[min(int(off), len(data)):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, ctx.Err()
}

func (b *memBucket) List(ctx context.Context, prefix string) iter.Seq2[vault.Object, error] {
	return func(yield func(vault.Object, error) bool) {
		for _, name := range b.names(prefix) {
			b.mu.Lock()
			data, ok := b.objects[name]
			b.mu.Unlock()
			if ok && !yield(vault.Object{Name: name, Size: int64(len(data))}, nil) {
				return
			}
		}
	}
}

func (b *memBucket) names(prefix string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name := range b.objects {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (b *memBucket) Delete(ctx context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, name)
	return ctx.Err()
}

func (b *memBucket) ReadHead(ctx context.Context, name string) ([]byte, vault.Version, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if data, ok := b.objects[name]; ok {
		return slices.Clone(data), memVersion(data), ctx.Err()
	}
	return nil, "", ctx.Err()
}

func (b *memBucket) SwapHead(ctx context.Context, name string, old vault.Version, data []byte) (vault.Version, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var now vault.Version
	if data, ok := b.objects[name]; ok {
		now = memVersion(data)
	}
	if now != old {
		return "", dr.ErrConflict
	}
	b.objects[name] = slices.Clone(data)
	return memVersion(data), ctx.Err()
}

func memVersion(data []byte) vault.Version { return vault.Version("v" + string(data)) }

// damaged is what is known of a vault whose every object is damaged in turn.
type damaged struct {
	bucket *memBucket
	opts   vault.Options
	points map[dr.PointID]content
}

// makeDamageable makes a vault with every kind of object: segments of data and
// of maps, one rewritten by prune, manifests, a head, a draft's record.
func makeDamageable(t *testing.T, seed uint64, o vault.Options) damaged {
	rng := rand.New(rand.NewPCG(seed, 2))
	d := damaged{bucket: newMem(), opts: o.SmallSegments(192 << 10), points: map[dr.PointID]content{}}
	v, err := vault.Open(t.Context(), d.bucket, d.opts)
	require.NoError(t, err)
	sizes := map[dr.DiskID]int64{"a": 5*chunk + 700, "b": 520 * chunk}
	var before content
	var parent dr.PointID
	for n, id := range []dr.PointID{"1", "2", "3", "5", "6"} { // more than are walked at once
		p := planPoint(rng, id, parent, before, sizes, []int{3, 3, 3, 1, 1}[n])
		require.NoError(t, p.apply(t.Context(), v))
		before, parent = p.want, id
		d.points[id] = p.want
	}
	require.NoError(t, v.Delete(t.Context(), "m", "1"))
	delete(d.points, "1")
	_, err = v.Prune(t.Context())
	require.NoError(t, err)
	draft, err := v.Create(t.Context(), dr.Point{ID: "4", Parent: "3", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: 5 * chunk}}}})
	require.NoError(t, err)
	_, err = draft.WriteAt(t.Context(), "a", []byte("half done"), 100)
	require.NoError(t, err)
	require.NoError(t, draft.Close())
	d.scrub(t, func(d recoverypoint.Damage) { require.Fail(t, "damage", "%+v", d) })
	return d
}

func (d damaged) scrub(t *testing.T, each func(recoverypoint.Damage)) {
	t.Helper()
	v, err := vault.Open(t.Context(), d.bucket, d.opts)
	require.NoError(t, err)
	for g, err := range v.Scrub(t.Context()) {
		require.NoError(t, err)
		each(g)
	}
}

// check damages one object and demands that it is found by its name, that
// reads of a point either give its bytes or dr.ErrCorrupt, and that those
// points that scrub doesn't name are whole.
func (d damaged) check(t *testing.T, name, what string, change func([]byte) []byte) {
	t.Helper()
	whole := d.bucket.objects[name]
	what = name + ": " + what
	d.bucket.objects[name] = change(slices.Clone(whole))
	defer func() { d.bucket.objects[name] = whole }()
	v, err := vault.Open(t.Context(), d.bucket, d.opts)
	if name == "vault" {
		require.ErrorIs(t, err, dr.ErrCorrupt, what)
		return
	}
	require.NoError(t, err)
	found := false
	named := map[dr.PointID]bool{}
	for g, err := range v.Scrub(t.Context()) {
		require.NoError(t, err)
		found = found || g.Object == name
		require.Error(t, g.Err)
		for _, id := range g.Points {
			named[id] = true
			if g.Disk != "" {
				// The extent holds what can't be read.
				img, err := v.Open(t.Context(), "m", id)
				require.NoError(t, err)
				n := min(g.Extent.Len, int64(len(d.points[id][g.Disk]))-g.Extent.Off)
				if n > 0 && g.Extent.Len <= chunk {
					_, err = img.ReadAt(t.Context(), g.Disk, make([]byte, n), g.Extent.Off)
					require.ErrorIs(t, err, dr.ErrCorrupt, what)
				}
				require.NoError(t, img.Close())
			}
		}
	}
	require.True(t, found, "%s: not found by scrub", what)
	if strings.HasPrefix(name, "head/") {
		_, err := v.Open(t.Context(), "m", "3")
		require.ErrorIs(t, err, dr.ErrCorrupt)
		return
	}
	for id, want := range d.points {
		err := verify(t.Context(), v, id, want)
		if !named[id] {
			require.NoError(t, err, "%s: point %s is not named", what, id)
		} else {
			require.ErrorIs(t, err, dr.ErrCorrupt, "%s: point %s is named", what, id)
			var e *dr.Error
			require.True(t, errors.As(err, &e))
		}
	}
}

func TestEveryDamageIsFoundAndNamed(t *testing.T) {
	seed := newSeed(t)
	kinds := map[string]vault.Options{"plain": {}, "encrypted": {Keys: fastKey{}}, "s2": {Codec: vault.S2}}
	if testing.Short() {
		kinds = map[string]vault.Options{"encrypted": {Keys: fastKey{}}}
	}
	for kind, o := range kinds {
		t.Run(kind, func(t *testing.T) {
			d := makeDamageable(t, seed, o)
			rng := rand.New(rand.NewPCG(seed, 3))
			ends, inside, tried := 12, 16, 0
			if testing.Short() {
				ends, inside = 1, 1
			}
			for _, name := range d.bucket.names("") {
				size := len(d.bucket.objects[name])
				var at []int
				for i := range ends { // both ends closely, where the records are
					at = append(at, i, size-1-i)
				}
				for range inside {
					at = append(at, rng.IntN(size))
				}
				for _, i := range at {
					if i < 0 || i >= size {
						continue
					}
					bit := byte(1) << rng.IntN(8)
					d.check(t, name, fmt.Sprintf("bit %#x of byte %d of %d", bit, i, size), func(b []byte) []byte { b[i] ^= bit; return b })
					tried++
				}
				for _, n := range []int{0, 1, size / 3, size - 4096, size - 1} {
					if n < 0 || n >= size {
						continue
					}
					d.check(t, name, fmt.Sprintf("cut to %d of %d", n, size), func(b []byte) []byte { return b[:n] })
					tried++
				}
				d.check(t, name, "a byte more", func(b []byte) []byte { return append(b, 0) })
				for _, other := range d.bucket.names(name[:1]) {
					if other != name {
						d.check(t, name, "replaced by "+other, func([]byte) []byte { return d.bucket.objects[other] })
						break
					}
				}
			}
			t.Logf("%d damages", tried)
		})
	}
}

func TestMissingObjectsAreNamed(t *testing.T) {
	d := makeDamageable(t, newSeed(t), vault.Options{})
	for _, name := range d.bucket.names("seg/") {
		whole := d.bucket.objects[name]
		delete(d.bucket.objects, name)
		v, err := vault.Open(t.Context(), d.bucket, d.opts)
		require.NoError(t, err)
		named := map[dr.PointID]bool{}
		for g, err := range v.Scrub(t.Context()) {
			require.NoError(t, err)
			for _, id := range g.Points {
				named[id] = true
			}
		}
		for id, want := range d.points {
			require.Equal(t, named[id], verify(t.Context(), v, id, want) != nil, "%s without %s", id, name)
		}
		if len(named) > 0 {
			_, err = v.Prune(t.Context())
			require.ErrorIs(t, err, dr.ErrCorrupt, "prune refuses to judge what it can't see")
		}
		d.bucket.objects[name] = whole
	}
	head := d.bucket.objects["head/m"]
	delete(d.bucket.objects, "head/m")
	v, err := vault.Open(t.Context(), d.bucket, d.opts)
	require.NoError(t, err)
	var names []string
	for g, err := range v.Scrub(t.Context()) {
		require.NoError(t, err)
		names = append(names, g.Object)
	}
	require.Equal(t, []string{"head/m"}, names)
	_, err = v.Open(t.Context(), "m", "3")
	require.ErrorIs(t, err, dr.ErrCorrupt)
	_, err = v.Prune(t.Context())
	require.ErrorIs(t, err, dr.ErrCorrupt, "the points are there, only their list isn't")
	d.bucket.objects["head/m"] = head
	delete(d.bucket.objects, "vault")
	_, err = vault.Open(t.Context(), d.bucket, d.opts)
	require.ErrorIs(t, err, dr.ErrCorrupt, "a vault is not made anew over another's objects")
}

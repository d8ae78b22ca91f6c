// Package buckettest is what every vault.Bucket must pass: each promise of the
// contract as a subtest of its own. Buckets of this project and of others run
// it from their tests. What a vault keeps in a bucket does not belong here.
package buckettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// Run tests the promises one by one, each on a new and empty bucket from open.
func Run(t *testing.T, open func(t testing.TB) vault.Bucket) {
	for _, p := range promises {
		t.Run(p.name, func(t *testing.T) { p.check(t, open(t)) })
	}
}

var promises = []struct {
	name  string
	check func(t *testing.T, b vault.Bucket)
}{
	{"an object is there after its commit and not before", appears},
	{"an aborted object never appears", aborts},
	{"an object is put once", putsOnce},
	{"of many that put the same name one succeeds", putsRace},
	{"parts come in any order and at once", parts},
	{"a writer doesn't keep the caller's bytes", keepsNothing},
	{"any range is read", ranges},
	{"what isn't there is not found", absent},
	{"a list has a prefix's objects with their sizes", lists},
	{"a head is swapped only from the version that was read", swaps},
	{"of many that swap a head none is lost", swapsRace},
	{"a cancelled context stops", cancelled},
	{"bad names are refused", badNames},
	{"locks exclude as they say", locks},
}

func put(t testing.TB, b vault.Bucket, name string, data []byte) {
	t.Helper()
	require.NoError(t, tryPut(t.Context(), b, name, data))
}

func tryPut(ctx context.Context, b vault.Bucket, name string, data []byte) error {
	w, err := b.Create(ctx, name)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.WriteAt(data, 0); err != nil {
		return err
	}
	return w.Commit(ctx)
}

func get(t testing.TB, b vault.Bucket, name string) []byte {
	t.Helper()
	p := make([]byte, 4<<20)
	n, err := b.ReadAt(t.Context(), name, p, 0)
	require.ErrorIs(t, err, io.EOF)
	return p[:n]
}

func list(t testing.TB, b vault.Bucket, prefix string) []string {
	t.Helper()
	var names []string
	for o, err := range b.List(t.Context(), prefix) {
		require.NoError(t, err)
		names = append(names, fmt.Sprintf("%s %d", o.Name, o.Size))
	}
	return names
}

// pattern fills n bytes that differ from place to place.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8*13 + i>>16)
	}
	return p
}

func appears(t *testing.T, b vault.Bucket) {
	w, err := b.Create(t.Context(), "a/b/c")
	require.NoError(t, err)
	_, err = w.WriteAt([]byte("hello"), 0)
	require.NoError(t, err)
	require.Empty(t, list(t, b, ""))
	_, err = b.ReadAt(t.Context(), "a/b/c", make([]byte, 1), 0)
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.NoError(t, w.Commit(t.Context()))
	require.NoError(t, w.Abort(), "after a commit it does nothing")
	require.Equal(t, "hello", string(get(t, b, "a/b/c")))
	require.Equal(t, []string{"a/b/c 5"}, list(t, b, ""))
}

func aborts(t *testing.T, b vault.Bucket) {
	w, err := b.Create(t.Context(), "a")
	require.NoError(t, err)
	_, err = w.WriteAt([]byte("hello"), 0)
	require.NoError(t, err)
	require.NoError(t, w.Abort())
	require.NoError(t, w.Abort())
	require.Error(t, w.Commit(t.Context()))
	require.Empty(t, list(t, b, ""))
	put(t, b, "a", []byte("again"))
}

func putsOnce(t *testing.T, b vault.Bucket) {
	put(t, b, "a", []byte("first"))
	require.ErrorIs(t, tryPut(t.Context(), b, "a", []byte("second, and longer")), dr.ErrExists)
	require.Equal(t, "first", string(get(t, b, "a")))
	require.NoError(t, b.Delete(t.Context(), "a"))
	require.NoError(t, b.Delete(t.Context(), "a"), "it isn't there")
	require.Empty(t, list(t, b, ""))
	put(t, b, "a", []byte("third"))
	require.Equal(t, "third", string(get(t, b, "a")))
}

func putsRace(t *testing.T, b vault.Bucket) {
	const racers = 8
	var won atomic.Int64
	var winner atomic.Value
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			data := bytes.Repeat([]byte{byte(i)}, 10_000+i)
			switch err := tryPut(t.Context(), b, "x/y", data); {
			case err == nil:
				won.Add(1)
				winner.Store(data)
			case !errors.Is(err, dr.ErrExists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, won.Load())
	require.Equal(t, winner.Load(), get(t, b, "x/y"))
}

func parts(t *testing.T, b vault.Bucket) {
	data := pattern(3<<20 + 777)
	w, err := b.Create(t.Context(), "big")
	require.NoError(t, err)
	var wg sync.WaitGroup
	const part = 1 << 20
	for i := 3; i >= 0; i-- {
		wg.Go(func() {
			n, err := w.WriteAt(data[i*part:min(len(data), (i+1)*part)], int64(i*part))
			if err != nil || n != min(part, len(data)-i*part) {
				t.Errorf("part %d: %d bytes, %v", i, n, err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, w.Commit(t.Context()))
	require.True(t, bytes.Equal(data, get(t, b, "big")))
}

func keepsNothing(t *testing.T, b vault.Bucket) {
	w, err := b.Create(t.Context(), "a")
	require.NoError(t, err)
	p := []byte("mine")
	_, err = w.WriteAt(p, 0)
	require.NoError(t, err)
	copy(p, "lost")
	require.NoError(t, w.Commit(t.Context()))
	require.Equal(t, "mine", string(get(t, b, "a")))
}

func ranges(t *testing.T, b vault.Bucket) {
	data := pattern(100_000)
	put(t, b, "a", data)
	for _, r := range [][2]int{{0, 1}, {0, 100_000}, {1, 4096}, {4096, 8192}, {4095, 4098}, {99_999, 1}, {65_536, 4096}} {
		p := make([]byte, r[1])
		n, err := b.ReadAt(t.Context(), "a", p, int64(r[0]))
		if err != io.EOF || r[0]+r[1] < len(data) {
			require.NoError(t, err, "%v", r)
		}
		require.Equal(t, r[1], n)
		require.True(t, bytes.Equal(data[r[0]:r[0]+r[1]], p), "%v", r)
	}
	for _, r := range [][2]int{{99_990, 4096}, {98_304, 4096}, {100_000, 1}, {200_000, 4096}} {
		p := make([]byte, r[1])
		n, err := b.ReadAt(t.Context(), "a", p, int64(r[0]))
		require.ErrorIs(t, err, io.EOF, "%v", r)
		want := data[min(r[0], len(data)):]
		require.True(t, bytes.Equal(want, p[:n]), "%v", r)
	}
}

func absent(t *testing.T, b vault.Bucket) {
	_, err := b.ReadAt(t.Context(), "a/b", make([]byte, 8), 0)
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.Empty(t, list(t, b, ""))
	require.Empty(t, list(t, b, "a/b/"))
	data, v, err := b.ReadHead(t.Context(), "head/a")
	require.NoError(t, err)
	require.Empty(t, data)
	require.EqualValues(t, "", v)
}

func lists(t *testing.T, b vault.Bucket) {
	var all []string
	for i, name := range []string{"seg/00/aa.0", "seg/00/aa.1", "seg/00/ab.0", "seg/01/aa.0", "point/m/1", "point/m.n/1", "point/m-n/1", "vault"} {
		put(t, b, name, make([]byte, i+1))
		all = append(all, fmt.Sprintf("%s %d", name, i+1))
	}
	_, err := b.SwapHead(t.Context(), "head/m", "", []byte("four"))
	require.NoError(t, err)
	all = append(all, "head/m 4")
	for _, prefix := range []string{"", "seg/", "seg/00/", "seg/00/aa.", "seg/00/a", "point/", "point/m/", "point/m", "head/", "vault", "nothing", "seg/01/aa.0"} {
		want := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !strings.HasPrefix(s, prefix) })
		require.ElementsMatch(t, want, list(t, b, prefix), "prefix %q", prefix)
	}
	require.True(t, slices.IsSorted(list(t, b, "seg/00/")), "one folder's by name")
	for range b.List(t.Context(), "") {
		break // the caller may stop
	}
}

func swaps(t *testing.T, b vault.Bucket) {
	ctx := t.Context()
	one, err := b.SwapHead(ctx, "head/m", "", []byte("one"))
	require.NoError(t, err)
	_, err = b.SwapHead(ctx, "head/m", "", []byte("again"))
	require.ErrorIs(t, err, dr.ErrConflict)
	data, v, err := b.ReadHead(ctx, "head/m")
	require.NoError(t, err)
	require.Equal(t, "one", string(data))
	require.Equal(t, one, v)
	two, err := b.SwapHead(ctx, "head/m", one, []byte("two"))
	require.NoError(t, err)
	require.NotEqual(t, one, two)
	_, err = b.SwapHead(ctx, "head/m", one, []byte("late"))
	require.ErrorIs(t, err, dr.ErrConflict)
	_, err = b.SwapHead(ctx, "head/other", two, []byte("another's version"))
	require.ErrorIs(t, err, dr.ErrConflict)
	data, _, err = b.ReadHead(ctx, "head/m")
	require.NoError(t, err)
	require.Equal(t, "two", string(data))
}

func swapsRace(t *testing.T, b vault.Bucket) {
	const racers, rounds = 4, 10
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			for k := 0; k < rounds; {
				data, v, err := b.ReadHead(t.Context(), "head/m")
				if err != nil {
					t.Error(err)
					return
				}
				_, err = b.SwapHead(t.Context(), "head/m", v, append(data, byte('a'+i)))
				if err == nil {
					k++
				} else if !errors.Is(err, dr.ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	data, _, err := b.ReadHead(t.Context(), "head/m")
	require.NoError(t, err)
	require.Len(t, data, racers*rounds)
	for i := range racers {
		require.Equal(t, rounds, bytes.Count(data, []byte{byte('a' + i)}))
	}
}

func cancelled(t *testing.T, b vault.Bucket) {
	put(t, b, "a", []byte("a"))
	w, err := b.Create(t.Context(), "b")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = b.Create(ctx, "c")
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.ReadAt(ctx, "a", make([]byte, 1), 0)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, b.Delete(ctx, "a"), context.Canceled)
	require.ErrorIs(t, w.Commit(ctx), context.Canceled)
	require.NoError(t, w.Abort())
	for _, err := range b.List(ctx, "") {
		require.ErrorIs(t, err, context.Canceled)
	}
	require.Equal(t, []string{"a 1"}, list(t, b, ""))
}

func badNames(t *testing.T, b vault.Bucket) {
	for _, name := range []string{"", "/", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a b", "ä", "a\x00", "a\\b", strings.Repeat("a", 300)} {
		require.ErrorIs(t, tryPut(t.Context(), b, name, []byte("x")), dr.ErrInvalid, "%q", name)
		_, err := b.ReadAt(t.Context(), name, make([]byte, 1), 0)
		require.ErrorIs(t, err, dr.ErrInvalid, "%q", name)
		require.ErrorIs(t, b.Delete(t.Context(), name), dr.ErrInvalid, "%q", name)
		_, err = b.SwapHead(t.Context(), name, "", []byte("x"))
		require.ErrorIs(t, err, dr.ErrInvalid, "%q", name)
	}
	require.Empty(t, list(t, b, ""))
}

func locks(t *testing.T, b vault.Bucket) {
	l, ok := dr.As[vault.Locker](b)
	if !ok {
		t.Skip("the bucket is no Locker")
	}
	ctx := t.Context()
	x, err := l.Lock(ctx, "l", true)
	require.NoError(t, err)
	for _, exclusive := range []bool{false, true} {
		_, err = l.Lock(ctx, "l", exclusive)
		require.ErrorIs(t, err, dr.ErrBusy)
	}
	other, err := l.Lock(ctx, "other", true)
	require.NoError(t, err)
	require.NoError(t, other.Close())
	require.NoError(t, x.Close())
	a, err := l.Lock(ctx, "l", false)
	require.NoError(t, err)
	c, err := l.Lock(ctx, "l", false)
	require.NoError(t, err)
	require.NoError(t, a.Close())
	_, err = l.Lock(ctx, "l", true)
	require.ErrorIs(t, err, dr.ErrBusy)
	require.NoError(t, c.Close())
	x, err = l.Lock(ctx, "l", true)
	require.NoError(t, err)
	require.NoError(t, x.Close())
	require.Empty(t, list(t, b, ""), "locks are no objects")
}

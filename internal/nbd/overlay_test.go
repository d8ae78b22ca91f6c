package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func openTest(t testing.TB, base Device, f File) *Overlay {
	t.Helper()
	v, err := OpenOverlay(base, OverlayOptions{File: f, Identity: "base"})
	require.NoError(t, err)
	return v
}

func contents(t testing.TB, d Device) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	_, err := d.ReadAt(t.Context(), b, 0)
	require.NoError(t, err)
	return b
}

// randomChange changes d and tells what the range reads as now.
func randomChange(ctx context.Context, rng *rand.Rand, d *Overlay) (off int, now []byte, err error) {
	size := int(d.Size())
	off = rng.IntN(size)
	n := 1 + rng.IntN(min(size-off, 1<<rng.IntN(18)))
	if rng.IntN(2) == 0 { // aligned as guests do
		off = off / overlayBlock * overlayBlock
		n = min(max(overlayBlock, n/overlayBlock*overlayBlock), size-off)
	}
	now = make([]byte, n)
	if rng.IntN(3) == 0 {
		return off, now, d.Zero(ctx, int64(off), int64(n))
	}
	c := byte(rng.Uint32() | 1)
	for i := range now {
		now[i] = c
	}
	_, err = d.WriteAt(ctx, now, int64(off))
	return off, now, err
}

// Random changes, flushes and reopenings on real files, and in memory.
func TestOverlayModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, size := range []int{1, 511, 4095, 4096, 4097, 256<<10 + 1, 1<<20 + 777} {
		for _, kept := range []string{"file", "memory"} {
			t.Run(fmt.Sprint(kept, size), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, uint64(size)))
				base := &memDevice{data: picture(size, 1)}
				model := bytes.Clone(base.data)
				changed := make([]bool, size)
				var f *os.File
				path := filepath.Join(t.TempDir(), "overlay")
				open := func() *Overlay {
					if kept == "memory" {
						return openTest(t, base, nil)
					}
					var err error
					f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
					require.NoError(t, err)
					return openTest(t, base, f)
				}
				v := open()
				for range 150 {
					off, now, err := randomChange(t.Context(), rng, v)
					require.NoError(t, err)
					copy(model[off:], now)
					for i := range now {
						changed[off+i] = true
					}
					if rng.IntN(10) == 0 {
						require.NoError(t, v.Flush(t.Context()))
						if f != nil {
							require.NoError(t, f.Close())
							v = open()
						}
					}
				}
				equalBytes(t, model, contents(t, v), "overlay")
				equalBytes(t, picture(size, 1), base.data, "base")

				next := int64(0)
				for e, err := range v.Extents(t.Context(), 0, int64(size)) {
					require.NoError(t, err)
					require.Equal(t, next, e.Off)
					next += e.Len
					if e.Zero {
						require.Empty(t, bytes.Trim(model[e.Off:next], "\x00"))
					}
				}
				require.EqualValues(t, size, next)
				for e, err := range v.Changed(t.Context()) {
					require.NoError(t, err)
					for i := e.Off; i < e.Off+e.Len; i++ {
						changed[i] = false
					}
				}
				require.NotContains(t, changed, true, "Changed tells of every change")
				if f != nil {
					require.NoError(t, f.Close())
				}
			})
		}
	}
}

// After a power cut every sector holds what the last Flush covered, or
// something written to it later.
func TestOverlayPowerCut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const size = 48<<10 + 700
	rounds := uint64(200)
	if testing.Short() {
		rounds = 30
	}
	for round := range rounds {
		rng := rand.New(rand.NewPCG(seed, round))
		base := &memDevice{data: picture(size, byte(round))}
		f := &sparseFile{}
		history := [][]byte{bytes.Clone(base.data)} // since the last Flush, which is the first
		for life := range 3 {
			v := openTest(t, base, f)
			calls, cutAt := 0, 2+rng.IntN(40)
			f.fail = func(op string) error {
				if op == "read" {
					return nil
				}
				if calls++; calls >= cutAt { // the power fails before this operation
					return errDisk
				}
				return nil
			}
			for {
				now := bytes.Clone(history[len(history)-1])
				if rng.IntN(6) == 0 {
					if v.Flush(t.Context()) != nil {
						break
					}
					history = [][]byte{now}
					continue
				}
				off, p, err := randomChange(t.Context(), rng, v)
				copy(now[off:], p)
				history = append(history, now) // a failed one may be there in part
				if err != nil {
					break
				}
			}
			f = f.powerCut(func() bool { return rng.IntN(2) == 0 })
			got := contents(t, openTest(t, base, f))
			for at := 0; at < size; at += 512 {
				end, ok := min(at+512, size), false
				for _, h := range history {
					ok = ok || bytes.Equal(got[at:end], h[at:end])
				}
				require.True(t, ok, "round %d, life %d: the sector at %d holds what was never there", round, life, at)
			}
			history = [][]byte{got}
		}
	}
}

// The first operation of the file fails, then the second, until none does.
func TestOverlayFaults(t *testing.T) {
	const size = 20<<10 + 100
	for n := 1; ; n++ {
		base := &memDevice{data: picture(size, 1)}
		calls, failed := 0, false
		f := &sparseFile{fail: func(string) error {
			if calls++; calls == n {
				failed = true
				return errDisk
			}
			return nil
		}}
		v, err := OpenOverlay(base, OverlayOptions{File: f, Identity: "base"})
		if err != nil {
			require.ErrorIs(t, err, errDisk)
			_, err = OpenOverlay(base, OverlayOptions{File: f, Identity: "base"})
			require.NoError(t, err, "n = %d: a second try is possible", n)
			continue
		}
		model := bytes.Clone(base.data)
		durable := true
		write := func(off int, p []byte) {
			_, err := v.WriteAt(t.Context(), p, int64(off))
			if err != nil {
				require.ErrorIs(t, err, errDisk)
				_, err = v.WriteAt(t.Context(), p, int64(off)) // the guest tries again
				require.NoError(t, err)
			}
			copy(model[off:], p)
		}
		flush := func() {
			if err := v.Flush(t.Context()); err != nil {
				require.ErrorIs(t, err, errDisk)
				require.ErrorIs(t, v.Flush(t.Context()), errDisk, "n = %d: what was lost stays lost", n)
				durable = false
			}
		}
		write(100, bytes.Repeat([]byte{1}, 9000))
		flush()
		if err := v.Zero(t.Context(), 4000, 5000); err != nil {
			require.ErrorIs(t, err, errDisk)
			require.NoError(t, v.Zero(t.Context(), 4000, 5000))
		}
		clear(model[4000:9000])
		write(size-10, bytes.Repeat([]byte{2}, 10))
		write(5000, []byte("x"))
		flush()
		if got := make([]byte, size); true {
			if _, err := v.ReadAt(t.Context(), got, 0); err != nil {
				require.ErrorIs(t, err, errDisk)
				got = contents(t, v)
			}
			equalBytes(t, model, got, fmt.Sprint("n = ", n))
		}
		if durable {
			again, err := OpenOverlay(base, OverlayOptions{File: f.powerCut(func() bool { return false }), Identity: "base"})
			require.NoError(t, err)
			equalBytes(t, model, contents(t, again), fmt.Sprint("reopened, n = ", n))
		}
		if !failed {
			require.Greater(t, n, 15)
			return
		}
	}
}

func TestOverlayBaseFailure(t *testing.T) {
	base := &memDevice{data: picture(20000, 1)}
	v := openTest(t, base, nil)
	base.onOp(func(context.Context, string, int64) error { return errDisk })
	_, err := v.ReadAt(t.Context(), make([]byte, 10), 5)
	require.ErrorIs(t, err, errDisk)
	_, err = v.WriteAt(t.Context(), []byte("part of a block"), 5)
	require.ErrorIs(t, err, errDisk)
	_, err = v.WriteAt(t.Context(), make([]byte, overlayBlock), overlayBlock)
	require.NoError(t, err, "a whole block needs nothing of the base")
}

func TestOverlayIsRefused(t *testing.T) {
	base := &memDevice{data: picture(100_000, 1)}
	made := func(identity string) *sparseFile {
		f := &sparseFile{}
		v, err := OpenOverlay(base, OverlayOptions{File: f, Identity: identity})
		require.NoError(t, err)
		_, err = v.WriteAt(t.Context(), []byte("changed"), 50_000)
		require.NoError(t, err)
		require.NoError(t, v.Flush(t.Context()))
		return f
	}
	open := func(f File, base Device) error {
		_, err := OpenOverlay(base, OverlayOptions{File: f, Identity: "a"})
		return err
	}
	require.NoError(t, open(made("a"), base))
	require.ErrorIs(t, open(made("b"), base), ErrOtherBase)
	require.ErrorIs(t, open(made("a"), &memDevice{data: make([]byte, 99_999)}), ErrOtherBase, "the header is at the same place")
	require.ErrorIs(t, open(made("a"), &memDevice{data: make([]byte, 90_000)}), ErrNotOverlay)
	require.ErrorIs(t, open(made("a"), &memDevice{data: make([]byte, 900_000)}), ErrNotOverlay)
	require.ErrorIs(t, open(&sparseFile{now: picture(100_000, 1)}, base), ErrNotOverlay, "a raw disk")
	require.ErrorIs(t, open(&sparseFile{now: make([]byte, 100_000)}, base), ErrNotOverlay, "even an empty one")
	require.ErrorIs(t, open(&sparseFile{now: make([]byte, 200_000)}, base), ErrNotOverlay)
	require.NoError(t, open(&sparseFile{now: make([]byte, headerOffset(100_000)+overlayHeaderSize)}, base), "made halfway")
	flipped := made("a")
	flipped.now[headerOffset(100_000)+26] ^= 1
	require.ErrorIs(t, open(flipped, base), ErrNotOverlay)
	_, err := OpenOverlay(base, OverlayOptions{Identity: string(make([]byte, maxIdentity+1))})
	require.Error(t, err)

	bad := made("a")
	bad.now[headerOffset(100_000)+overlayHeaderSize] = 0xff
	v, err := OpenOverlay(base, OverlayOptions{File: bad, Identity: "a"})
	require.NoError(t, err)
	_, err = v.ReadAt(t.Context(), make([]byte, 10), 0)
	require.ErrorIs(t, err, ErrNotOverlay)
	_, err = v.WriteAt(t.Context(), make([]byte, 10), 0)
	require.ErrorIs(t, err, ErrNotOverlay)
	for _, err := range v.Changed(t.Context()) {
		require.ErrorIs(t, err, ErrNotOverlay)
	}
}

func TestOverlayStaysInside(t *testing.T) {
	v := openTest(t, &memDevice{data: make([]byte, 5000)}, nil)
	for _, r := range []struct{ off, n int64 }{{-1, 1}, {5000, 1}, {4999, 2}, {1 << 62, 1}, {0, 5001}} {
		_, err := v.WriteAt(t.Context(), make([]byte, r.n), r.off)
		require.ErrorIs(t, err, ENOSPC)
		require.ErrorIs(t, v.Trim(t.Context(), r.off, r.n), ENOSPC)
	}
	n, err := v.ReadAt(t.Context(), make([]byte, 10), 4995)
	require.Equal(t, 5, n)
	require.Error(t, err)
	_, err = v.ReadAt(t.Context(), make([]byte, 10), -1)
	require.Error(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = v.WriteAt(ctx, make([]byte, 10), 0)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, v.Zero(ctx, 0, 10), context.Canceled)
}

func TestOverlayMemoryLimit(t *testing.T) {
	v, err := OpenOverlay(&memDevice{data: make([]byte, 1<<20)}, OverlayOptions{MemoryLimit: 64 << 10})
	require.NoError(t, err)
	full := func() (n int) {
		for off := int64(0); off < 1<<20; off += overlayBlock {
			if _, err = v.WriteAt(t.Context(), zeros[:overlayBlock], off); err != nil {
				require.ErrorIs(t, err, ENOSPC)
				break
			}
			n++
		}
		return n
	}
	require.Equal(t, 15, full(), "one block is the header's")
	require.NoError(t, v.Trim(t.Context(), 0, 1<<20))
	require.Equal(t, 15, full(), "trimming frees")
	require.NoError(t, v.Flush(t.Context()), "bookkeeping does not run into the limit")
}

// A file of many changes takes the space of the changes, and gives it back.
func TestOverlayIsSparse(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "overlay"))
	require.NoError(t, err)
	defer f.Close()
	const tib = 1 << 40
	v := openTest(t, hugeDevice{tib}, f)
	for _, off := range []int64{0, tib / 3, tib - 9} {
		_, err := v.WriteAt(t.Context(), []byte("somewhere"), off)
		require.NoError(t, err)
	}
	require.NoError(t, v.Zero(t.Context(), 1<<30, 100<<20))
	require.NoError(t, v.Flush(t.Context()))
	var got []Extent
	for e, err := range openTest(t, hugeDevice{tib}, f).Changed(t.Context()) {
		require.NoError(t, err)
		if k := len(got); k > 0 && got[k-1].Off+got[k-1].Len == e.Off && got[k-1].Zero == e.Zero {
			got[k-1].Len += e.Len
			continue
		}
		got = append(got, e)
	}
	require.Equal(t, []Extent{{0, 4096, false, false}, {1 << 30, 100 << 20, true, true},
		{tib / 3 / 4096 * 4096, 4096, false, false}, {tib - 4096, 4096, false, false}}, got)
}

// hugeDevice is all zeros.
type hugeDevice struct{ size int64 }

func (d hugeDevice) Size() int64 { return d.size }
func (d hugeDevice) ReadAt(_ context.Context, p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// Writers of different bytes of the same blocks don't undo each other.
func TestOverlayNeighboursInOneBlock(t *testing.T) {
	base := &memDevice{data: picture(64<<10, 1)}
	base.onOp(func(context.Context, string, int64) error {
		for range 20 { // the others' turn, between reading the base and writing
			runtime.Gosched()
		}
		return nil
	})
	v := openTest(t, base, nil)
	const writers = 8
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for off := w * 100; off+100 <= 64<<10; off += writers * 100 {
				if _, err := v.WriteAt(t.Context(), bytes.Repeat([]byte{byte(w + 1)}, 100), int64(off)); err != nil {
					t.Error(err)
				}
				if off%5 == 0 {
					if err := v.Flush(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	got := contents(t, v)
	for i := range 64 << 10 / 100 * 100 {
		if want := byte(i/100%writers + 1); got[i] != want {
			t.Fatalf("byte %d is %d, not %d", i, got[i], want)
		}
	}
}

func TestMemFileIsAFile(t *testing.T) {
	f := &memFile{limit: 1 << 20}
	n, err := f.ReadAt(make([]byte, 1), 0)
	require.Zero(t, n)
	require.Error(t, err)
	_, err = f.WriteAt([]byte("hello"), overlayBlock-2)
	require.NoError(t, err)
	b := make([]byte, 7)
	_, err = f.ReadAt(b, overlayBlock-3)
	require.NoError(t, err)
	require.Equal(t, "\x00hello\x00", string(b))
	require.False(t, errors.Is(f.Sync(), errDisk))
}

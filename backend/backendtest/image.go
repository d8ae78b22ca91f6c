package backendtest

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

var imagePromises = []promise{
	{"reads like io.ReaderAt", func(e *env) {
		m, c := e.running()
		img := e.capture(m.ID, "p")
		for disk, want := range c.all() {
			size := int64(len(want))
			for _, tc := range []struct{ off, n, got int64 }{
				{0, 1, 1}, {0, 512, 512}, {1, 3, 3}, {511, 2, 2}, {65535, 2, 2}, {4097, 70001, 70001},
				{size - 1, 1, 1}, {size - 7, 7, 7}, {0, size, size}, // the end reached, not passed
				{size - 7, 8, 7}, {size - 513, 4096, 513}, {0, size + 1, size}, // passed
				{size, 1, 0}, {size + 1, 1, 0}, {size + 1<<40, 4096, 0}, // beyond
			} {
				tc.got = min(tc.got, max(0, size-tc.off))
				p := make([]byte, tc.n)
				n, err := img.ReadAt(e.Context(), disk, p, tc.off)
				what := fmt.Sprintf("disk %s of %d bytes, %d bytes at %d", disk, size, tc.n, tc.off)
				require.EqualValues(e, tc.got, n, what)
				switch {
				case tc.got < tc.n:
					require.ErrorIs(e, err, io.EOF, what)
				case tc.off+tc.n < size:
					e.ok(err, what)
				case err != nil:
					require.ErrorIs(e, err, io.EOF, what)
				}
				if n > 0 {
					e.sameBytes(want[tc.off:tc.off+tc.got], p[:n], what)
				}
			}
			n, err := img.ReadAt(e.Context(), disk, nil, 0)
			e.ok(err)
			require.Zero(e, n)
		}
	}},
	{"reads at random offsets", func(e *env) {
		m, c := e.running()
		img := e.capture(m.ID, "p")
		for disk, want := range c.all() {
			for range 200 {
				off := e.rng.Int64N(int64(len(want)))
				p := make([]byte, 1+e.rng.Int64N(int64(len(want))-off))
				_, err := img.ReadAt(e.Context(), disk, p, off)
				if err != io.EOF {
					e.ok(err)
				}
				e.sameBytes(want[off:off+int64(len(p))], p, fmt.Sprintf("disk %s from %d on", disk, off))
			}
		}
	}},
	{"keeps no buffer", func(e *env) {
		m, c := e.running()
		img := e.capture(m.ID, "p")
		p := make([]byte, 8192)
		for range 3 {
			_, err := img.ReadAt(e.Context(), diskA, p, 4096)
			e.ok(err)
			e.sameBytes(c[diskA][4096:4096+8192], p, "read")
			clear(p) // the caller's buffer, to do with as it likes
			for i := range p {
				p[i] = 0xAA
			}
		}
		e.sameImage(img, c, "after the buffer was overwritten")
	}},
	{"concurrent reads", func(e *env) {
		m, c := e.running()
		img := e.capture(m.ID, "p")
		var wg sync.WaitGroup
		errs := make(chan error, 8)
		for w := range int64(8) {
			wg.Go(func() {
				p := make([]byte, 3000)
				for off := w * 512; off < int64(len(c[diskA]))-3000; off += 4000 {
					if _, err := img.ReadAt(e.Context(), diskA, p, off); err != nil {
						errs <- err
						return
					}
					if string(p) != string(c[diskA][off:off+3000]) {
						errs <- fmt.Errorf("wrong bytes at %d", off)
						return
					}
				}
			})
		}
		wg.Wait()
		close(errs)
		e.ok(<-errs)
	}},
	{"unknown disk is an error", func(e *env) {
		m, _ := e.running()
		_, err := e.capture(m.ID, "p").ReadAt(e.Context(), "no-such-disk", make([]byte, 1), 0)
		require.Error(e, err)
		require.NotErrorIs(e, err, io.EOF)
	}},
	{"second close is a no-op", func(e *env) {
		m, _ := e.running()
		img := e.capture(m.ID, "p")
		e.ok(img.Close())
		e.ok(img.Close())
	}},
	{"context is honoured", func(e *env) {
		m, _ := e.running()
		img := e.capture(m.ID, "p")
		ctx, cancel := context.WithCancel(e.Context())
		cancel()
		_, err := img.ReadAt(ctx, diskA, make([]byte, 4096), 0)
		require.ErrorIs(e, err, context.Canceled)
	}},
	{"map covers the disk and zeros are zeros", func(e *env) {
		m, c := e.running()
		img := e.capture(m.ID, "p")
		mapper := need[dr.Mapper](e, img, "dr.Mapper")
		for disk, want := range c.all() {
			var at int64
			for x, err := range mapper.Extents(e.Context(), disk) {
				e.ok(err)
				require.Equal(e, at, x.Off, "a gap or overlap on disk %s", disk)
				require.Positive(e, x.Len)
				at = x.End()
				if x.Zero {
					require.LessOrEqual(e, at, int64(len(want)))
					require.True(e, blocksum.Zero(want[x.Off:at]), "%+v of disk %s is not zero", x, disk)
				}
			}
			require.EqualValues(e, len(want), at)
		}
		for range mapper.Extents(e.Context(), diskA) {
			break // the sequence must bear that
		}
	}},
	{"sums agree with the content", func(e *env) {
		m, c := e.running()
		img := e.capture(m.ID, "p")
		e.sums(need[dr.Summer](e, img, "dr.Summer of images"), c)
		then := c.clone()
		e.scribble(m.ID, c, 6)
		e.sums(need[dr.Summer](e, img, "dr.Summer of images"), then)
	}},
}

// sums compares all sums, asked for in one go and one by one.
func (e *env) sums(s dr.Summer, c content) {
	e.Helper()
	for disk, b := range c.all() {
		var want []dr.Sum
		for off := 0; off < len(b); off += dr.SumBlock {
			want = append(want, blocksum.Sum(b[off:min(off+dr.SumBlock, len(b))]))
		}
		got := make([]dr.Sum, len(want))
		e.ok(s.Sums(e.Context(), disk, 0, got))
		require.Equal(e, want, got, "disk %s", disk)
		for i := range want {
			one := make([]dr.Sum, 1)
			e.ok(s.Sums(e.Context(), disk, int64(i)*dr.SumBlock, one))
			require.Equal(e, want[i], one[0], "block %d of disk %s", i, disk)
		}
	}
}

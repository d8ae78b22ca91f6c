package vmdk

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// The image depends on the disk only: not on how it was written, nor by how many
// workers.
func TestEqualDisksMakeEqualImages(t *testing.T) {
	plain := make([]byte, 33<<20+3*sector) // two tables
	copy(plain, disk(3, 2<<20))
	copy(plain[32<<20-100:], disk(4, 1<<20))
	plain[len(plain)-1] = 1
	want := image(t, plain, Options{Workers: 1})
	requireDisk(t, plain, want)
	require.True(t, bytes.Equal(want, image(t, plain, Options{Workers: 7})))
	var b bytes.Buffer
	w, err := NewWriter(&b, Options{Capacity: int64(len(plain))})
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	for off := 0; off < len(plain); {
		n := min(len(plain)-off, 1+r.IntN(200_000))
		part := bytes.Clone(plain[off:][:n])
		if len(bytes.Trim(part, "\x00")) > 0 {
			_, err := w.WriteAt(part, int64(off))
			require.NoError(t, err)
			clear(part) // it isn't kept
		}
		off += n
	}
	require.NoError(t, w.Commit())
	require.NoError(t, w.Commit(), "again")
	require.True(t, bytes.Equal(want, b.Bytes()))
	_, err = w.WriteAt([]byte{1}, int64(len(plain))-1)
	require.Error(t, err)
	require.EqualValues(t, len(want), b.Len())
}

func TestZerosTakeNoRoom(t *testing.T) {
	empty := image(t, nil, Options{})
	requireDisk(t, []byte{}, empty)
	require.Len(t, empty, grainBytes+4*sector)
	zeros := image(t, make([]byte, 100<<20), Options{})
	require.Len(t, zeros, grainBytes+5*sector)
	requireDisk(t, make([]byte, 100<<20), zeros)
}

func TestWriterRefuses(t *testing.T) {
	for _, o := range []Options{{Capacity: -512}, {Capacity: 511}, {Capacity: MaxCapacity + 512}, {Workers: -1}, {Name: `a"b`}, {Name: "a\nb"}, {Name: strings.Repeat("a", 256)}, {Name: "\xff"}} {
		_, err := NewWriter(io.Discard, o)
		require.Error(t, err, "%+v", o)
	}
	w, err := NewWriter(io.Discard, Options{Capacity: 1024, Name: "ein Müller.vmdk"})
	require.NoError(t, err)
	for _, c := range []struct {
		n   int
		off int64
	}{{1, -1}, {1, 1024}, {1025, 0}, {2, 1023}, {1, 1 << 62}} {
		_, err := w.WriteAt(make([]byte, c.n), c.off)
		require.Error(t, err, "%+v", c)
	}
	_, err = w.WriteAt(make([]byte, 10), 10)
	require.NoError(t, err)
	_, err = w.WriteAt(make([]byte, 10), 19)
	require.ErrorContains(t, err, "write at 19, before 20")
	_, err = w.WriteAt(nil, 1024)
	require.NoError(t, err)
}

type failing struct {
	left int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.left < len(p) {
		n := f.left
		f.left = 0
		return n, f.err
	}
	f.left -= len(p)
	return len(p), nil
}

// Wherever the stream fails the writer says so, for good, and leaves no
// goroutine behind.
func TestFailingStream(t *testing.T) {
	plain := disk(5, 1<<20)
	whole := len(image(t, plain, Options{}))
	broken := errors.New("connection reset")
	synctest.Test(t, func(t *testing.T) { // waits for goroutines, and finds those that hang
		for _, err := range []error{broken, nil} {
			for n := 0; n < whole; n += 40_000 {
				w, got := NewWriter(&failing{n, err}, Options{Capacity: int64(len(plain))})
				if got == nil {
					_, got = w.WriteAt(plain, 0)
				}
				if got == nil {
					got = w.Commit()
				}
				if err == nil {
					err = io.ErrShortWrite
				}
				require.ErrorIs(t, got, err, "after %d bytes", n)
				if w != nil {
					require.ErrorIs(t, w.Commit(), err)
					require.EqualValues(t, n, w.Written())
				}
			}
		}
	})
}

// A table can't name a grain behind the stream's first 2 TiB.
func TestImagesEndAtTwoTiB(t *testing.T) {
	w, err := NewWriter(io.Discard, Options{Capacity: 1 << 30})
	require.NoError(t, err)
	w.at = 2<<40 - sector
	_, err = w.WriteAt([]byte{1}, 0)
	require.NoError(t, err)
	_, err = w.WriteAt([]byte{1}, grainBytes)
	require.NoError(t, err)
	require.ErrorContains(t, w.Commit(), "longer than 2 TiB")
}

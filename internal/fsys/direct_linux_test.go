package fsys

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func openBoth(t *testing.T) *directFile {
	f, err := OS().OpenFile(filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE|Direct, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	d, ok := f.(*directFile)
	if !ok {
		const why = "the temporary folder's file system takes no direct I/O"
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	return d
}

// A file system that refuses requests it said it would take is not asked again,
// and the caller doesn't learn of it.
func TestRefusedDirectFallsBack(t *testing.T) {
	want := bytes.Repeat([]byte("odd"), 77)
	for _, first := range []string{"write", "read"} {
		f := openBoth(t)
		if first == "read" {
			_, err := f.osFile.WriteAt(want, 3)
			require.NoError(t, err)
		}
		f.align = 1 // now requests go out that no device takes
		if first == "write" {
			n, err := f.WriteAt(want, 3)
			require.NoError(t, err)
			require.Len(t, want, n)
		}
		got := make([]byte, len(want)+1)
		n, err := f.ReadAt(got, 3)
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, want, got[:n])
		require.True(t, f.off.Load())
	}
}

// What is aligned does go direct, and a ragged end is no reason to give up.
func TestAlignedStaysDirect(t *testing.T) {
	f := openBoth(t)
	p := Aligned(3 * Alignment)
	copy(p, bytes.Repeat([]byte{1}, len(p)))
	from, to := f.aligned(p, Alignment)
	require.Equal(t, [2]int{0, len(p)}, [2]int{from, to})
	from, to = f.aligned(p[100:], Alignment+100)
	require.Equal(t, [2]int{Alignment - 100, len(p) - 100}, [2]int{from, to}, "a head goes through the cache")
	from, to = f.aligned(p[:len(p)-1], 0)
	require.Equal(t, [2]int{0, 2 * Alignment}, [2]int{from, to}, "and so does a tail")
	from, _ = f.aligned(p[100:], Alignment)
	require.Equal(t, len(p)-100, from, "an address that never meets the offset")

	_, err := f.WriteAt(p[:Alignment+1000], 0)
	require.NoError(t, err)
	got := Aligned(4 * Alignment)
	n, err := f.ReadAt(got, 0)
	require.ErrorIs(t, err, io.EOF)
	require.True(t, bytes.Equal(p[:Alignment+1000], got[:n]))
	require.False(t, f.off.Load())
}

// Where nothing can be deallocated, Punch writes zeros, a piece at a time.
func TestWriteZeros(t *testing.T) {
	f := openBoth(t)
	want := bytes.Repeat([]byte{1}, 3<<20)
	_, err := f.WriteAt(want, 0)
	require.NoError(t, err)
	require.NoError(t, f.writeZeros(5, 2<<20+7))
	clear(want[5 : 2<<20+7])
	got := make([]byte, len(want))
	_, err = f.ReadAt(got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
}

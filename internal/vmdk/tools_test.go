package vmdk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// run runs a program of qemu's. Without it the test is skipped, or fails if
// LIFEBOAT_REQUIRE=all says that nothing may be missing.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			t.Fatalf("no %s, and LIFEBOAT_REQUIRE=all", name)
		}
		t.Skipf("no %s (Debian: qemu-utils)", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	require.NoError(t, err, "%s %q: %s", name, args, out)
	return string(out)
}

func qemuImg(t testing.TB, args ...string) string {
	t.Helper()
	return run(t, "qemu-img", args...)
}

// disk is random contents: a third noise, a third text, a third zeros, in pieces
// that don't respect grains.
func disk(seed uint64, size int64) []byte {
	noise := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	r := rand.New(noise)
	b := make([]byte, size)
	for p := b; len(p) > 0; {
		n := min(len(p), 1+r.IntN(300_000))
		switch r.IntN(3) {
		case 0:
			noise.Read(p[:n])
		case 1:
			for i := 0; i < n; i += copy(p[i:n], fmt.Sprintf("%d bottles of beer on the wall\n", i)) {
			}
		}
		p = p[n:]
	}
	if size >= sector {
		b[size-1] = 7
	}
	return b
}

// image writes a disk in one write.
func image(t testing.TB, plain []byte, o Options) []byte {
	t.Helper()
	o.Capacity = int64(len(plain))
	var b bytes.Buffer
	w, err := NewWriter(&b, o)
	require.NoError(t, err)
	n, err := w.WriteAt(plain, 0)
	require.NoError(t, err)
	require.Equal(t, len(plain), n)
	require.NoError(t, w.Commit())
	require.EqualValues(t, b.Len(), w.Written())
	return b.Bytes()
}

// read puts a disk together.
func read(src io.Reader) (plain []byte, r *Reader, err error) {
	r, err = pass(src, func(r *Reader, e Extent) {
		if plain == nil && r.Capacity() <= 1<<28 {
			plain = make([]byte, r.Capacity())
		}
		if plain != nil {
			copy(plain[e.Off:], e.Data)
		}
	})
	return plain, r, err
}

// pass gives the extents of a disk to f, and holds the reader to what it
// promises of them.
func pass(src io.Reader, f func(*Reader, Extent)) (*Reader, error) {
	r, err := NewReader(src)
	if err != nil {
		return nil, err
	}
	told := int64(0)
	for e, err := range r.Extents() {
		if err != nil {
			return r, err
		}
		if e.Off != told || e.Len <= 0 || e.Off+e.Len > r.Capacity() || e.Data != nil && int64(len(e.Data)) != e.Len {
			panic(fmt.Sprintf("extent %d+%d (%d bytes) after %d of %d", e.Off, e.Len, len(e.Data), told, r.Capacity()))
		}
		told += e.Len
		f(r, e)
	}
	if told != r.Capacity() {
		panic(fmt.Sprintf("%d of %d bytes were told of", told, r.Capacity()))
	}
	return r, nil
}

func requireDisk(t testing.TB, want []byte, image []byte) {
	t.Helper()
	src := bytes.NewReader(append(bytes.Clone(image), "and what follows"...))
	got, r, err := read(src)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.EqualValues(t, len(image), r.Consumed())
	require.Equal(t, len("and what follows"), src.Len(), "no byte too many was read")
}

func file(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

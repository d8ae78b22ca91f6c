package vmwaretest

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/vmdk"
)

// What is exported can be imported; what was never written doesn't travel.
func TestStreamsComeBack(t *testing.T) {
	const size = 70<<20 + 512
	c := newContent(size)
	parts := map[int64]string{7: "at the start", 33<<20 - 3: "over a table", size - 5: "ends!"}
	for off, s := range parts {
		require.NoError(t, c.writeAt([]byte(s), off, 1))
	}
	require.NoError(t, c.writeAt(make([]byte, blockSize), 50<<20, 1))
	var stream bytes.Buffer
	require.NoError(t, writeStream(&stream, c, "disk-0.vmdk"))
	whole := stream.Bytes()

	back := newContent(size)
	src := bytes.NewReader(append(whole, "rest"...))
	capacity, err := readStream(src, func(off int64, p []byte) error { return back.writeAt(p, off, 1) })
	require.NoError(t, err)
	require.EqualValues(t, size, capacity)
	require.Equal(t, 4, src.Len(), "nothing behind the image is read")
	for off, s := range parts {
		p := make([]byte, len(s))
		_, err := back.ReadAt(p, off)
		require.NoError(t, err)
		require.Equal(t, s, string(p))
	}
	var grains int
	for a := range back.written(1, 0) {
		grains += int((a.n + blockSize - 1) / blockSize)
	}
	require.Equal(t, 4, grains)

	_, err = readStream(bytes.NewReader(whole[:len(whole)-1]), func(int64, []byte) error { return nil })
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = readStream(bytes.NewReader(make([]byte, 1024)), func(int64, []byte) error { return nil })
	require.ErrorIs(t, err, vmdk.ErrFormat)
	full := errors.New("datastore full")
	_, err = readStream(bytes.NewReader(whole), func(int64, []byte) error { return full })
	require.ErrorIs(t, err, full)
}

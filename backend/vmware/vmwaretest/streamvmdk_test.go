package vmwaretest

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzReadStream: what is uploaded gives an error or grains inside the
// capacity, never a panic.
func FuzzReadStream(f *testing.F) {
	c := newContent(3 * blockSize)
	require.NoError(f, c.writeAt([]byte("grain"), blockSize+7, 1))
	var seed bytes.Buffer
	require.NoError(f, writeStream(&seed, c, "seed"))
	f.Add(seed.Bytes())
	f.Add(seed.Bytes()[:seed.Len()-1])
	f.Fuzz(func(t *testing.T, p []byte) {
		var last int64
		capacity, err := readStream(bytes.NewReader(p), func(off int64, p []byte) error {
			require.NotEmpty(t, p)
			last = max(last, off+int64(len(p)))
			return nil
		})
		if err == nil {
			require.LessOrEqual(t, last, capacity)
		}
	})
}

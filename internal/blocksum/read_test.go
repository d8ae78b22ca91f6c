package blocksum

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestRead(t *testing.T) {
	disk := bytes.Repeat([]byte("0123456789abcdef"), 5*dr.SumBlock/16+3) // its last block is short
	clear(disk[dr.SumBlock : 2*dr.SumBlock])
	size := int64(len(disk))
	r := bytes.NewReader(disk)
	for _, buffer := range []int{dr.SumBlock, 2 * dr.SumBlock, 16 * dr.SumBlock} {
		sums := make([]dr.Sum, 5)
		require.NoError(t, Read(size, dr.SumBlock, sums, make([]byte, buffer), r.ReadAt))
		require.True(t, sums[0].IsZero())
		for i, s := range sums {
			from := (i + 1) * dr.SumBlock
			require.Equal(t, Sum(disk[from:min(from+dr.SumBlock, len(disk))]), s)
		}
	}
	buf := make([]byte, dr.SumBlock)
	require.ErrorIs(t, Read(size, 0, make([]dr.Sum, 7), buf, r.ReadAt), dr.ErrInvalid, "beyond the last block")
	require.ErrorIs(t, Read(size, 512, make([]dr.Sum, 1), buf, r.ReadAt), dr.ErrInvalid)
	require.ErrorIs(t, Read(size, -dr.SumBlock, make([]dr.Sum, 1), buf, r.ReadAt), dr.ErrInvalid)
	broken := errors.New("broken")
	require.ErrorIs(t, Read(size, 0, make([]dr.Sum, 2), buf, func(p []byte, off int64) (int, error) { return 10, broken }), broken)
	require.NoError(t, Read(size, 0, make([]dr.Sum, 1), buf, func(p []byte, off int64) (int, error) { return len(p), io.EOF }), "all of it came")
}

package blocksum

import (
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Read fills sums with those of the consecutive blocks from off on of a disk of
// size bytes, as dr.Summer asks for it: off is a multiple of [dr.SumBlock], and
// the range ends with the disk's last block at the latest; else it is
// dr.ErrInvalid. The bytes are read by read, which may return an error together
// with all that was asked for, into buf: a multiple of dr.SumBlock.
func Read(size, off int64, sums []dr.Sum, buf []byte, read func(p []byte, off int64) (int, error)) error {
	blocks := (size - off + dr.SumBlock - 1) / dr.SumBlock
	if off%dr.SumBlock != 0 || off < 0 || int64(len(sums)) > blocks {
		return fmt.Errorf("%w: sums of %d blocks from %d on of a disk of %d bytes", dr.ErrInvalid, len(sums), off, size)
	}
	for len(sums) > 0 {
		n := min(int64(len(buf)), size-off, int64(len(sums))*dr.SumBlock)
		if k, err := read(buf[:n], off); int64(k) < n {
			return err
		}
		for at := int64(0); at < n; at += dr.SumBlock {
			sums[0] = Sum(buf[at:min(at+dr.SumBlock, n)])
			sums = sums[1:]
		}
		off += n
	}
	return nil
}

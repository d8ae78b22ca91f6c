package agentwire

import (
	"encoding/binary"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// MaxExtents is the most that one Data frame carries.
const MaxExtents = 4 << 10

// AppendExtent puts e behind b: as a signed varint how far it begins behind at,
// the end of the one before it in the frame (0 for the first), and as an unsigned
// one its length, doubled, and one more for zeros. The order of extents is the
// backend's matter; a length below zero, which none may have, is sent as 0.
func AppendExtent(b []byte, e dr.Extent, at int64) []byte {
	b = binary.AppendVarint(b, e.Off-at)
	n := uint64(max(e.Len, 0)) << 1
	if e.Zero {
		n |= 1
	}
	return binary.AppendUvarint(b, n)
}

// Extents reads those of one frame. It refuses ends beyond the largest int64.
func Extents(b []byte) ([]dr.Extent, error) {
	var out []dr.Extent
	var at int64
	for len(b) > 0 {
		gap, n := binary.Varint(b)
		if n <= 0 {
			return nil, fmt.Errorf("%w: an extent's offset", ErrProtocol)
		}
		b = b[n:]
		size, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, fmt.Errorf("%w: an extent's length", ErrProtocol)
		}
		b = b[n:]
		e := dr.Extent{Off: at + gap, Len: int64(size >> 1), Zero: size&1 == 1}
		if e.Off < 0 || e.End() < e.Off || len(out) == MaxExtents {
			return nil, fmt.Errorf("%w: an extent of %d bytes, %d behind %d", ErrProtocol, e.Len, gap, at)
		}
		out, at = append(out, e), e.End()
	}
	return out, nil
}

package agentwire

import (
	"encoding/binary"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Span is the argument of a bulk operation: a range of a disk. N counts bytes
// for Read, Write and Zero, and blocks for Sums and Packed.
type Span struct {
	Off, N int64
	Disk   dr.DiskID
}

const (
	spanHead = 18
	maxDisk  = 4 << 10
)

// Append puts the span behind b. An ID of more than 4 KiB is cut, and will not
// be found.
func (s Span) Append(b []byte) []byte {
	disk := s.Disk[:min(len(s.Disk), maxDisk)]
	b = binary.BigEndian.AppendUint64(b, uint64(s.Off))
	b = binary.BigEndian.AppendUint64(b, uint64(s.N))
	b = binary.BigEndian.AppendUint16(b, uint16(len(disk)))
	return append(b, disk...)
}

// ReadSpan reads a span, and returns how many of the frame's left bytes there
// are behind it.
func ReadSpan(l *Link, left int) (Span, int, error) {
	var head [spanHead]byte
	if left < spanHead {
		return Span{}, 0, fmt.Errorf("%w: a span of %d bytes", ErrProtocol, left)
	}
	if err := l.Fill(head[:]); err != nil {
		return Span{}, 0, err
	}
	left -= spanHead
	s := Span{Off: int64(binary.BigEndian.Uint64(head[:])), N: int64(binary.BigEndian.Uint64(head[8:]))}
	n := int(binary.BigEndian.Uint16(head[16:]))
	if n > maxDisk || n > left {
		return Span{}, 0, fmt.Errorf("%w: a disk's ID of %d bytes", ErrProtocol, n)
	}
	disk := make([]byte, n)
	if err := l.Fill(disk); err != nil {
		return Span{}, 0, err
	}
	s.Disk = dr.DiskID(disk)
	return s, left - n, nil
}

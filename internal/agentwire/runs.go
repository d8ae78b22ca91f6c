package agentwire

import (
	"encoding/binary"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// Zeros don't travel: a body is a table of runs, and behind it what isn't zero.
// The table is a count of 4 bytes and as many pairs of lengths, 4 bytes each:
// zeros, then bytes that follow in the body.

// zeroBlock is the granularity at which zeros are looked for, in bytes.
const zeroBlock = 4 << 10

// maxRuns is the longest table that a sender makes: every other block is zero.
const maxRuns = MaxBulk/zeroBlock/2 + 2

// Runs puts the table for p behind table, and appends to parts the pieces of p
// that travel. Without skip all of p does.
func Runs(table []byte, p []byte, skip bool, parts [][]byte) ([]byte, [][]byte) {
	at := len(table)
	table = append(table, 0, 0, 0, 0)
	n := uint32(0)
	for len(p) > 0 {
		zeros, data := 0, 0
		if skip {
			for zeros < len(p) {
				b := p[zeros:min(zeros+zeroBlock, len(p))]
				if !blocksum.Zero(b) {
					break
				}
				zeros += len(b)
			}
		}
		for zeros+data < len(p) {
			b := p[zeros+data : min(zeros+data+zeroBlock, len(p))]
			if skip && data > 0 && blocksum.Zero(b) {
				break
			}
			data += len(b)
		}
		table = binary.BigEndian.AppendUint32(table, uint32(zeros))
		table = binary.BigEndian.AppendUint32(table, uint32(data))
		if data > 0 {
			parts = append(parts, p[zeros:zeros+data])
		}
		p = p[zeros+data:]
		n++
	}
	binary.BigEndian.PutUint32(table[at:], n)
	return table, parts
}

// Run is one entry of a table.
type Run struct{ Zeros, Data int }

// ReadRuns reads the table of a body that takes the next left bytes and stands
// for n bytes. It refuses a table that doesn't fit.
func ReadRuns(l *Link, left, n int) ([]Run, error) {
	var b [8]byte
	if left < 4 {
		return nil, fmt.Errorf("%w: a body of %d bytes", ErrProtocol, left)
	}
	if err := l.Fill(b[:4]); err != nil {
		return nil, err
	}
	left -= 4
	count := binary.BigEndian.Uint32(b[:])
	if count > maxRuns || int(count)*8 > left {
		return nil, fmt.Errorf("%w: a table of %d runs in %d bytes", ErrProtocol, count, left)
	}
	runs := make([]Run, count)
	var all, data int64
	for i := range runs {
		if err := l.Fill(b[:]); err != nil {
			return nil, err
		}
		z, d := int64(binary.BigEndian.Uint32(b[:])), int64(binary.BigEndian.Uint32(b[4:]))
		all, data = all+z+d, data+d
		runs[i] = Run{int(z), int(d)}
	}
	if left -= int(count) * 8; all != int64(n) || data != int64(left) {
		return nil, fmt.Errorf("%w: a table for %d bytes of which %d travel, where %d and %d are due", ErrProtocol, all, data, n, left)
	}
	return runs, nil
}

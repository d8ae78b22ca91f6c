// Package fastzstd compresses one small block at a time into a Zstandard frame
// (https://www.rfc-editor.org/rfc/rfc8878), as fast as that goes at the ratio
// of the format's fastest level. It exists because compression is what bounds
// how fast a vault takes in a disk: with blocks of at most 64 KiB positions fit
// 16 bits, so the table of what was seen stays in the first-level cache, where
// a general encoder's does not. Any Zstandard decoder reads what it writes; it
// has none of its own. Whether a chunk is worth compressing is the caller's to
// decide, except for what can be seen not to be.
package fastzstd

import (
	"encoding/binary"
	"math/bits"

	"github.com/klauspost/compress/huff0"
)

// MaxBlock is the length of the longest block, in bytes.
const MaxBlock = 64 << 10

const (
	tableBits = 15
	minMatch  = 5  // bytes that are hashed
	margin    = 16 // what is left at the end goes without a search
	hashPrime = 0xcf1bbcdcbfa56300>>1 | 1
)

// Encoder holds the tables; use it for one block after another. The zero value
// is ready. It is not safe for concurrent use.
type Encoder struct {
	seen       [1 << tableBits]uint16
	seqs       []sequence
	literals   []byte
	huff       huff0.Scratch
	ll, ml, of table
}

// sequence is a row of literals and the match behind it.
type sequence struct {
	literals, match, offset uint32 // offset is the format's Offset_Value
	ll, ml, of              uint8  // codes
}

// Append appends to dst a frame that holds p, or returns false if it would not
// be shorter than p, or p is longer than MaxBlock. dst is grown as needed.
func (e *Encoder) Append(dst, p []byte) ([]byte, bool) {
	if len(p) < 2*margin || len(p) > MaxBlock {
		return dst, false
	}
	start := len(dst)
	tail := e.search(p)
	if len(e.seqs) == 0 && incompressible(p) {
		return dst, false
	}
	e.literals = append(e.literals, tail...)
	dst = binary.LittleEndian.AppendUint32(dst, 0xFD2FB528)
	// Single segment, so the window is the content, whose size comes in a
	// byte, or in two with 256 taken off.
	if len(p) < 256 {
		dst = append(dst, 1<<5, byte(len(p)))
	} else if len(p)-256 <= 0xffff {
		dst = append(dst, 1<<6|1<<5)
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(p)-256))
	}
	block := len(dst)
	dst = append(dst, 0, 0, 0)
	dst = e.appendLiterals(dst)
	dst = e.appendSequences(dst)
	size := len(dst) - block - 3
	if len(dst)-start >= len(p) {
		return dst[:start], false
	}
	header := uint32(1 | 2<<1 | size<<3) // the last block; compressed
	dst[block], dst[block+1], dst[block+2] = byte(header), byte(header>>8), byte(header>>16)
	return dst, true
}

func hash(v uint64) uint64 { return (v << (64 - 8*minMatch)) * hashPrime >> (64 - tableBits) }

// search finds matches greedily, and returns the literals behind the last. Where
// nothing matches it goes on in growing steps.
func (e *Encoder) search(p []byte) (tail []byte) {
	const one = 1 << 6 // a step, in 64ths
	clear(e.seen[:])
	e.seqs, e.literals = e.seqs[:0], e.literals[:0]
	// What is looked at ahead stays inside p.
	end := len(p) - margin
	anchor, repeat, step := 0, uint32(1), one
	for i := 1; i < end; {
		v := binary.LittleEndian.Uint64(p[i:])
		h := hash(v)
		at := int(e.seen[h])
		e.seen[h] = uint16(i)
		if binary.LittleEndian.Uint32(p[at:]) != uint32(v) {
			i += step / one
			step++
			continue
		}
		n := 4
		for i+n < end {
			if x := binary.LittleEndian.Uint64(p[i+n:]) ^ binary.LittleEndian.Uint64(p[at+n:]); x != 0 {
				n += bits.TrailingZeros64(x) >> 3
				break
			}
			n += 8
		}
		for i > anchor && at > 0 && p[i-1] == p[at-1] {
			i, at, n = i-1, at-1, n+1
		}
		e.literals = append(e.literals, p[anchor:i]...)
		s := sequence{literals: uint32(i - anchor), match: uint32(n), offset: uint32(i - at)}
		// The last offset once more has the value 1, unless there are no
		// literals; others begin at 4.
		if s.offset == repeat && s.literals > 0 {
			s.offset = 1
		} else {
			repeat = s.offset
			s.offset += 3
		}
		s.encode()
		e.seqs = append(e.seqs, s)
		i += n
		anchor, step = i, one
		if i < end {
			e.seen[hash(binary.LittleEndian.Uint64(p[i-2:]))] = uint16(i - 2)
		}
	}
	return p[anchor:]
}

// incompressible tells from every sixteenth byte that p is as good as random:
// by how often two of them are alike, compared with what chance brings.
func incompressible(p []byte) bool {
	var count [256]int
	n := 0
	for i := 0; i < len(p); i += 16 {
		count[p[i]]++
		n++
	}
	alike := 0
	for _, c := range count {
		alike += c * c
	}
	return n >= 1024 && alike < (n*n/256+n)*6/5
}

// appendLiterals writes the literals section: Huffman-coded if that helps.
func (e *Encoder) appendLiterals(dst []byte) []byte {
	n := len(e.literals)
	var out []byte
	err := huff0.ErrIncompressible
	e.huff.Reuse = huff0.ReusePolicyNone
	four := n >= 1024
	if four {
		out, _, err = huff0.Compress4X(e.literals, &e.huff)
	} else if n > 32 {
		out, _, err = huff0.Compress1X(e.literals, &e.huff)
	}
	c := len(out)
	switch {
	case err == huff0.ErrUseRLE:
		return append(literalsHeader(dst, 1, n), e.literals[0])
	case err != nil || c >= n:
		return append(literalsHeader(dst, 0, n), e.literals...)
	case !four && n < 1<<10 && c < 1<<10:
		dst = append24(dst, uint32(2|n<<4|c<<14))
	case n < 1<<14 && c < 1<<14:
		dst = binary.LittleEndian.AppendUint32(dst, uint32(2|2<<2|n<<4|c<<18))
	default:
		v := uint64(2|3<<2) | uint64(n)<<4 | uint64(c)<<22
		dst = append(binary.LittleEndian.AppendUint32(dst, uint32(v)), byte(v>>32))
	}
	return append(dst, out...)
}

// literalsHeader is that of raw (kind 0) or repeated (kind 1) literals.
func literalsHeader(dst []byte, kind, n int) []byte {
	switch {
	case n < 1<<5:
		return append(dst, byte(kind|n<<3))
	case n < 1<<12:
		return binary.LittleEndian.AppendUint16(dst, uint16(kind|1<<2|n<<4))
	default:
		return append24(dst, uint32(kind|3<<2|n<<4))
	}
}

func append24(dst []byte, v uint32) []byte { return append(dst, byte(v), byte(v>>8), byte(v>>16)) }

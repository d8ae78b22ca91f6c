package fastzstd

import (
	"encoding/binary"
	"math/bits"
)

// Codes of lengths: RFC 8878, section 3.1.1.3.2.1.1. Below the tables' first
// entry a length is its own code; behind the last, codes go up by a bit each.
var (
	llCode     = [64]uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 16, 17, 17, 18, 18, 19, 19, 20, 20, 20, 20, 21, 21, 21, 21, 22, 22, 22, 22, 22, 22, 22, 22, 23, 23, 23, 23, 23, 23, 23, 23, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24}
	llBase     = [36]uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 28, 32, 40, 48, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536}
	llBits     = [36]uint8{16: 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	mlBase     = [53]uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 34, 36, 38, 40, 44, 48, 56, 64, 80, 96, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536}
	mlBits     = [53]uint8{32: 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	mlCode     = codesOf(mlBase[:], 128)
	mlShortest = uint32(3)
)

// codesOf lists the codes of the lengths below n; bases are of lengths above
// the shortest.
func codesOf(bases []uint32, n int) (codes [128]uint8) {
	c := 0
	for i := range n {
		for c+1 < len(bases) && bases[c+1] <= uint32(i) {
			c++
		}
		codes[i] = uint8(c)
	}
	return codes
}

// encode fills in the codes.
func (s *sequence) encode() {
	if s.literals < 64 {
		s.ll = llCode[s.literals]
	} else {
		s.ll = uint8(bits.Len32(s.literals)) + 18
	}
	if m := s.match - mlShortest; m < 128 {
		s.ml = mlCode[m]
	} else {
		s.ml = uint8(bits.Len32(m)) + 35
	}
	s.of = uint8(bits.Len32(s.offset)) - 1
}

// appendSequences writes the sequences section.
func (e *Encoder) appendSequences(dst []byte) []byte {
	n := len(e.seqs)
	switch {
	case n == 0:
		return append(dst, 0)
	case n < 128:
		dst = append(dst, byte(n))
	case n < 0x7f00:
		dst = append(dst, byte(n>>8+128), byte(n))
	default:
		dst = append(dst, 255)
		dst = binary.LittleEndian.AppendUint16(dst, uint16(n-0x7f00))
	}
	var ll, ml, of [64]uint32
	for i := range e.seqs {
		s := &e.seqs[i]
		ll[s.ll&63]++
		ml[s.ml&63]++
		of[s.of&63]++
	}
	modes := len(dst)
	dst = append(dst, 0)
	var mode [3]byte
	dst, mode[0] = e.ll.build(dst, &ll, n, 9)
	dst, mode[1] = e.of.build(dst, &of, n, 8)
	dst, mode[2] = e.ml.build(dst, &ml, n, 9)
	dst[modes] = mode[0]<<6 | mode[1]<<4 | mode[2]<<2
	return e.appendBits(dst)
}

// appendBits writes the sequences from the last to the first, so that a decoder
// that reads backwards gets them in order.
func (e *Encoder) appendBits(dst []byte) []byte {
	w := bitWriter{b: dst}
	last := &e.seqs[len(e.seqs)-1]
	ml, of, ll := e.ml.start(last.ml), e.of.start(last.of), e.ll.start(last.ll)
	w.extra(last)
	for i := len(e.seqs) - 2; i >= 0; i-- {
		s := &e.seqs[i]
		of = e.of.next(&w, of, s.of)
		ml = e.ml.next(&w, ml, s.ml)
		ll = e.ll.next(&w, ll, s.ll)
		w.extra(s)
	}
	w.add(uint64(ml), e.ml.log)
	w.add(uint64(of), e.of.log)
	w.add(uint64(ll), e.ll.log)
	w.add(1, 1) // where the bits end
	w.flush()
	if w.n > 0 {
		w.b = append(w.b, byte(w.acc))
	}
	return w.b
}

// bitWriter gathers bits, low first. At most 57 may be added between two
// flushes.
type bitWriter struct {
	b   []byte
	acc uint64
	n   uint
}

func (w *bitWriter) add(v uint64, n uint8) {
	w.acc |= (v & (1<<(n&63) - 1)) << (w.n & 63)
	w.n += uint(n)
}

func (w *bitWriter) flush() {
	k := w.n / 8
	w.b = binary.LittleEndian.AppendUint64(w.b, w.acc)
	w.b = w.b[:len(w.b)-8+int(k)]
	w.acc >>= (k * 8) & 63
	if k == 8 {
		w.acc = 0
	}
	w.n &= 7
}

// extra writes what a sequence's codes leave open. Three states take 26 bits,
// the literals' and the match's lengths 32 at most, the offset 16.
func (w *bitWriter) extra(s *sequence) {
	w.flush()
	w.add(uint64(s.literals-llBase[s.ll]), llBits[s.ll])
	w.add(uint64(s.match-mlShortest-mlBase[s.ml]), mlBits[s.ml])
	w.add(uint64(s.offset)-1<<s.of, s.of)
	if w.n > 30 {
		w.flush()
	}
}

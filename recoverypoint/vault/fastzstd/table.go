package fastzstd

import (
	"encoding/binary"
	"math/bits"
)

// table is an FSE encoding table: RFC 8878, section 4.1. A log of 0 means that
// there is one symbol only, which takes no bits.
type table struct {
	log    uint8
	norm   [64]int32
	symbol [512]uint8
	state  [512]uint16
	delta  [64]transition
}

// transition is what encoding a symbol does to a state s: it gives out the
// lowest (s+bits)>>16 bits and goes on at state[s>>that + find].
type transition struct {
	find int32
	bits uint32
}

// Table modes of the sequences section.
const (
	modeRLE = 1
	modeFSE = 2
)

// build makes the table for symbols that come so often, n times in all, and
// appends its description.
func (t *table) build(dst []byte, count *[64]uint32, n int, maxLog uint8) ([]byte, byte) {
	top, distinct := 0, 0
	for s, c := range count {
		if c > 0 {
			top = s
			distinct++
		}
	}
	if distinct == 1 {
		t.log = 0
		return append(dst, byte(top)), modeRLE
	}
	// More slots than a quarter of the symbols would describe chance.
	log := min(int(maxLog), bits.Len(uint(n-1))-2)
	log = max(log, bits.Len(uint(top))+1, 5)
	t.log = min(uint8(log), maxLog)
	t.normalize(count, n, top)
	dst = t.describe(dst, top)
	t.fill(top)
	return dst, modeFSE
}

// normalize scales the counts so that they sum up to the table's size, each at
// least 1.
func (t *table) normalize(count *[64]uint32, n, top int) {
	size := int32(1) << t.log
	left, largest := size, 0
	for s := 0; s <= top; s++ {
		t.norm[s] = 0
		if count[s] > 0 {
			t.norm[s] = max(1, int32((uint64(count[s])<<t.log+uint64(n)/2)/uint64(n)))
			left -= t.norm[s]
			if t.norm[s] > t.norm[largest] {
				largest = s
			}
		}
	}
	if t.norm[largest]+left >= t.norm[largest]/2+1 {
		t.norm[largest] += left
		return
	}
	for ; left < 0; left++ { // many rare symbols: take from the frequent
		for s := 0; s <= top; s++ {
			if t.norm[s] > t.norm[largest] {
				largest = s
			}
		}
		t.norm[largest]--
	}
}

// describe appends the normalized counts: RFC 8878, section 4.1.1.
func (t *table) describe(dst []byte, top int) []byte {
	acc, n := uint64(t.log-5), uint(4)
	flush := func() {
		for n >= 16 {
			dst = binary.LittleEndian.AppendUint16(dst, uint16(acc))
			acc >>= 16
			n -= 16
		}
	}
	remaining, threshold, width := int32(1)<<t.log+1, int32(1)<<t.log, uint(t.log)+1
	zero := false // the symbol before has no slot
	for s := 0; s <= top && remaining > 1; {
		if zero {
			from := s
			for t.norm[s] == 0 {
				s++
			}
			for ; s >= from+3; from += 3 {
				acc |= 3 << n
				n += 2
				flush()
			}
			acc |= uint64(s-from) << n
			n += 2
			flush()
		}
		c := t.norm[s]
		s++
		spare := 2*threshold - 1 - remaining // values that take a bit less
		remaining -= c
		c++
		zero = c == 1
		if c >= threshold {
			c += spare
		}
		acc |= uint64(c) << n
		n += width
		if c < spare {
			n--
		}
		for remaining < threshold && threshold > 1 {
			width--
			threshold >>= 1
		}
		flush()
	}
	for ; n > 0; n -= min(n, 8) {
		dst = append(dst, byte(acc))
		acc >>= 8
	}
	return dst
}

// fill spreads the symbols over the states, as the decoder will.
func (t *table) fill(top int) {
	size := 1 << t.log
	step, mask, at := size>>1+size>>3+3, size-1, 0
	var next [64]uint16
	total := int32(0)
	for s := 0; s <= top; s++ {
		c := t.norm[s]
		next[s] = uint16(total)
		for range c {
			t.symbol[at] = uint8(s)
			at = (at + step) & mask
		}
		switch {
		case c == 1:
			t.delta[s] = transition{find: total - 1, bits: uint32(t.log)<<16 - uint32(size)}
		case c > 1:
			most := uint32(t.log) - uint32(bits.Len32(uint32(c-1))-1)
			t.delta[s] = transition{find: total - c, bits: most<<16 - uint32(c)<<most}
		}
		total += c
	}
	for u := range size {
		s := t.symbol[u]
		t.state[next[s]] = uint16(size + u)
		next[s]++
	}
}

// start is a state from which the last symbol is decoded.
func (t *table) start(symbol uint8) uint32 {
	if t.log == 0 {
		return 0
	}
	d := t.delta[symbol]
	n := (d.bits + 1<<15) >> 16
	return uint32(t.state[int32((n<<16-d.bits)>>n)+d.find])
}

// next gives out bits of the state, and returns that of the symbol before.
func (t *table) next(w *bitWriter, state uint32, symbol uint8) uint32 {
	if t.log == 0 {
		return 0
	}
	d := &t.delta[symbol&63]
	n := (state + d.bits) >> 16
	w.add(uint64(state), uint8(n))
	return uint32(t.state[(int32(state>>(n&31))+d.find)&511])
}

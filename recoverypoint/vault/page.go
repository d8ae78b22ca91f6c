package vault

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// page is one node of a disk's map.
type page struct {
	level int
	refs  [pageRefs]ref
}

func (p *page) empty() bool {
	for i := range p.refs {
		if !p.refs[i].isZero() {
			return false
		}
	}
	return true
}

// Layout of a stored page; see FORMAT.md.
const (
	pageHead    = 8
	pageBitmap  = pageRefs / 8
	refFollows  = 1 << 7 // right behind the reference before it
	refCodec    = 0x0f
	maxPageSize = pageHead + pageBitmap + pageRefs*(16+1+2+5+4+sumLen)
)

// appendPage encodes p.
func appendPage(b []byte, p *page) []byte {
	start := len(b)
	b = append(b, make([]byte, pageHead+pageBitmap)...)
	var segs []segID
	index := map[segID]int{}
	n := 0
	for i := range p.refs {
		r := &p.refs[i]
		if r.isZero() {
			continue
		}
		n++
		b[start+pageHead+i/8] |= 1 << (i % 8)
		if _, ok := index[r.seg]; !ok {
			index[r.seg] = len(segs)
			segs = append(segs, r.seg)
		}
	}
	head := b[start:]
	head[0], head[1] = 1, byte(p.level)
	binary.LittleEndian.PutUint16(head[2:], uint16(n))
	binary.LittleEndian.PutUint16(head[4:], uint16(len(segs)))
	for i := range segs {
		b = append(b, segs[i][:]...)
	}
	var prev *ref
	for i := range p.refs {
		r := &p.refs[i]
		if r.isZero() {
			continue
		}
		flags := byte(r.len.codec())
		if prev != nil && r.follows(prev) {
			b = append(b, flags|refFollows)
		} else {
			b = append(b, flags)
			b = binary.AppendUvarint(b, uint64(index[r.seg]))
			b = binary.AppendUvarint(b, uint64(r.off))
		}
		b = binary.AppendUvarint(b, uint64(r.len.stored()))
		b = append(b, r.sum[:]...)
		prev = r
	}
	return b
}

// parsePage decodes a page of which a level is wanted into p. It trusts
// nothing and allocates nothing.
func parsePage(b []byte, level int, p *page) error {
	bad := func(what string) error { return fmt.Errorf("%w: map page: %s", dr.ErrCorrupt, what) }
	if len(b) < pageHead+pageBitmap || len(b) > maxPageSize {
		return bad("length")
	}
	if b[0] != 1 || int(b[1]) != level || b[6] != 0 || b[7] != 0 {
		return bad("header")
	}
	n, k := int(binary.LittleEndian.Uint16(b[2:])), int(binary.LittleEndian.Uint16(b[4:]))
	bitmap := b[pageHead : pageHead+pageBitmap]
	b = b[pageHead+pageBitmap:]
	set := 0
	for _, x := range bitmap {
		set += bits.OnesCount8(x)
	}
	if set != n || k > n || len(b) < k*16 {
		return bad("number of references")
	}
	segs := b[:k*16]
	b = b[k*16:]
	*p = page{level: level}
	var prev *ref
	for i := range p.refs {
		if bitmap[i/8]&(1<<(i%8)) == 0 {
			continue
		}
		r := &p.refs[i]
		if len(b) == 0 {
			return bad("cut off")
		}
		flags := b[0]
		b = b[1:]
		if flags&^(refFollows|refCodec) != 0 || flags&refCodec > byte(lastCodec) {
			return bad("flags")
		}
		off := uint64(0)
		if flags&refFollows != 0 {
			if prev == nil {
				return bad("nothing to follow")
			}
			r.seg, off = prev.seg, uint64(prev.off)+uint64(prev.len.stored())
		} else {
			seg, m := binary.Uvarint(b)
			if m <= 0 || seg >= uint64(k) {
				return bad("segment")
			}
			b = b[m:]
			if off, m = binary.Uvarint(b); m <= 0 {
				return bad("offset")
			}
			b = b[m:]
			r.seg = segID(segs[seg*16:])
		}
		stored, m := binary.Uvarint(b)
		if m <= 0 || stored == 0 || stored > maxBlob || off < segmentHead || off+stored > maxSegment {
			return bad("place")
		}
		b = b[m:]
		if len(b) < sumLen {
			return bad("cut off")
		}
		r.off, r.len, r.sum = uint32(off), makeCodecLen(Codec(flags&refCodec), int(stored)), dr.Sum(b[:sumLen])
		if r.isZero() {
			return bad("zero sum")
		}
		b = b[sumLen:]
		prev = r
	}
	if len(b) != 0 {
		return bad("bytes behind its end")
	}
	return nil
}

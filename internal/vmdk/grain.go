package vmdk

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"
)

// maxPacked is what a grain may take compressed. Deflate adds a few bytes to
// what it can't shrink; a poor compressor may add more.
func (h header) maxPacked() int64 { return 2 * int64(h.grain) * sector }

// reserve makes the buffers of a grain, when the first one is near.
func (r *Reader) reserve() {
	if r.packed == nil {
		r.packed = make([]byte, sectors(grainHeader+r.h.maxPacked())*sector)
		r.grain = make([]byte, r.h.grain*sector)
	}
}

// take reads the grain for a sector of the disk whose marker has just been read.
func (r *Reader) take(lba uint64, size uint32) (Extent, error) {
	e := Extent{Off: int64(min(lba, r.h.capacity)) * sector}
	switch {
	case r.passed != 0:
		return e, fmt.Errorf("%w: a grain after the directory", ErrFormat)
	case lba >= r.h.capacity:
		return e, fmt.Errorf("%w: grain at sector %d of a disk of %d", ErrFormat, lba, r.h.capacity)
	case lba%r.h.grain != 0:
		return e, fmt.Errorf("%w: grain at sector %d of the disk, which is inside another", ErrFormat, lba)
	case e.Off < r.told:
		return e, fmt.Errorf("%w: grain at sector %d of the disk, after one at or behind it", ErrFormat, lba)
	case int64(size) > r.h.maxPacked():
		return e, fmt.Errorf("%w: grain at sector %d of the disk has %d bytes compressed", ErrFormat, lba, size)
	}
	at, err := sectorOf(r.at - sector)
	if err != nil {
		return e, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	packed := r.packed[:grainHeader+int64(size)]
	if whole := sectors(int64(len(packed))) * sector; whole > sector {
		if err := r.fill(r.packed[sector:whole]); err != nil {
			return e, err
		}
	}
	r.ledger.grain(at, int64(lba/r.h.grain))
	e.Data, err = r.unpack(packed[grainHeader:])
	if err == nil {
		left := r.Capacity() - e.Off
		if n := int64(len(e.Data)); n < min(left, int64(len(r.grain))) {
			err = fmt.Errorf("%w: it has %d bytes only", ErrFormat, n)
		}
		e.Len = min(int64(len(e.Data)), left)
		e.Data = e.Data[:e.Len]
	}
	if err != nil {
		return e, fmt.Errorf("grain at sector %d of the disk: %w", lba, err)
	}
	return e, nil
}

// unpack gives what a grain has up to the end of its zlib stream, whose checksum
// is compared there. An end in the middle of it is no end of the image: the
// decompressor's errors are not wrapped. What follows in p is ignored, as it is by other readers.
func (r *Reader) unpack(p []byte) ([]byte, error) {
	r.stored.Reset(p)
	var err error
	if r.inflate == nil {
		r.inflate, err = zlib.NewReader(&r.stored)
	} else {
		err = r.inflate.(zlib.Resetter).Reset(&r.stored, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrFormat, err)
	}
	n := 0
	for n < len(r.grain) && err == nil {
		var m int
		m, err = r.inflate.Read(r.grain[n:])
		n += m
	}
	if err == nil {
		var more [1]byte
		var m int
		if m, err = io.ReadFull(r.inflate, more[:]); m > 0 {
			return nil, fmt.Errorf("%w: it has more than %d bytes", ErrFormat, len(r.grain))
		}
	}
	if err != io.EOF {
		return nil, fmt.Errorf("%w: %v", ErrFormat, err)
	}
	return r.grain[:n], nil
}

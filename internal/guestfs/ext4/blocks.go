package ext4

import (
	"math"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// run is a stretch of a file: count blocks from logical on, at physical.
type run struct {
	logical, count, physical uint64
	hole                     bool
}

// run finds the stretch that holds a block of the file, beginning there or
// before it.
func (n *node) run(logical uint64) (run, error) {
	if n.flags&flagExtents != 0 {
		return n.extent(n.raw[0x28:0x64], logical, math.MaxUint64, -1)
	}
	return n.mapped(logical)
}

// extent looks a block up in a node of the extent tree. end is the first
// block that doesn't belong to the node; depth is what its parent promised,
// -1 for the root.
func (n *node) extent(b []byte, logical, end uint64, depth int) (run, error) {
	if le.Uint16(b) != 0xf30a {
		return run{}, guestfs.Corrupt("inode %d: no extents where they should be", n.id)
	}
	count, d := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
	if 12+12*count > len(b) || d > 5 || depth >= 0 && d != depth {
		return run{}, guestfs.Corrupt("inode %d: %d extents at depth %d", n.id, count, d)
	}
	at := -1 // the last entry that begins at logical or before
	for i := range count {
		if uint64(le.Uint32(b[12+12*i:])) > logical {
			break
		}
		at = i
	}
	next := end
	if at+1 < count {
		next = uint64(le.Uint32(b[12+12*(at+1):]))
	}
	hole := func(from uint64) (run, error) {
		if next <= logical {
			return run{}, guestfs.Corrupt("inode %d: extents out of order", n.id)
		}
		// As a file has at most 2^32 blocks, the last hole ends there.
		return run{logical: from, count: min(next, 1<<32+logical) - from, hole: true}, nil
	}
	if at < 0 {
		return hole(logical)
	}
	e := b[12+12*at:]
	if d > 0 {
		child, err := n.f.readBlock(uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32)
		if err != nil {
			return run{}, err
		}
		return n.extent(child, logical, next, d-1)
	}
	x := run{
		logical: uint64(le.Uint32(e)), count: uint64(le.Uint16(e[4:])),
		physical: uint64(le.Uint16(e[6:]))<<32 | uint64(le.Uint32(e[8:])),
	}
	if x.count > 32768 { // written to no block yet
		x.count, x.hole = x.count-32768, true
	}
	if logical >= x.logical+x.count {
		return hole(logical)
	}
	return x, nil
}

// mapped looks a block up in the older way: twelve numbers in the inode,
// then blocks of numbers, of blocks of numbers, and once more.
func (n *node) mapped(logical uint64) (run, error) {
	one := func(p uint32) run { return run{logical, 1, uint64(p), p == 0} }
	num := func(i int) uint32 { return le.Uint32(n.raw[0x28+4*i:]) }
	if logical < 12 {
		return one(num(int(logical))), nil
	}
	per := uint64(n.f.block / 4)
	rest := logical - 12
	for level, span := 0, per; level < 3; level, span = level+1, span*per {
		if rest >= span {
			rest -= span
			continue
		}
		p := num(12 + level)
		for span /= per; ; span /= per {
			if p == 0 {
				return run{logical, span*per - rest%(span*per), 0, true}, nil
			}
			b, err := n.f.readBlock(uint64(p))
			if err != nil {
				return run{}, err
			}
			p = le.Uint32(b[4*(rest/span%per):])
			if span == 1 {
				return one(p), nil
			}
		}
	}
	return run{}, guestfs.Corrupt("inode %d has no block %d", n.id, logical)
}

package xfs

import (
	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// extent is a stretch of a file: count blocks from logical on, at physical.
type extent struct {
	logical, count, physical uint64
	hole                     bool
}

// maxBlock is beyond every block of a file: 2^54 of them can be told.
const maxBlock = 1 << 54

// unpack reads one of 128 bits: 1 written or not, 54 logical, 52 physical, 21 count.
func unpack(b []byte) extent {
	hi, lo := be.Uint64(b), be.Uint64(b[8:])
	return extent{
		hole:     hi>>63 != 0, // written to no block yet: reads as zeros
		logical:  hi >> 9 & (1<<54 - 1),
		physical: (hi&0x1ff)<<43 | lo>>21,
		count:    lo & (1<<21 - 1),
	}
}

// extent finds the stretch that holds a block of the file.
func (n *node) extent(logical uint64) (extent, error) {
	switch n.form {
	case formExtents:
		if n.n > uint64(len(n.fork)/16) {
			return extent{}, guestfs.Corrupt("inode %d: %d extents within", n.id, n.n)
		}
		return n.search(n.fork[:16*n.n], logical, maxBlock)
	case formTree:
		return n.tree(logical)
	}
	return extent{}, guestfs.Corrupt("inode %d has no extents", n.id)
}

// search looks among a leaf's records. end is the first block that isn't the leaf's.
func (n *node) search(b []byte, logical, end uint64) (extent, error) {
	from := logical
	for ; len(b) >= 16; b = b[16:] {
		e := unpack(b)
		if e.logical > logical {
			end = min(end, e.logical)
			break
		}
		if logical < e.logical+e.count {
			return e, nil
		}
	}
	if end <= from {
		return extent{}, guestfs.Corrupt("inode %d: extents out of order", n.id)
	}
	return extent{logical: from, count: min(end-from, 1<<30), hole: true}, nil
}

// tree descends from the root in the inode: keys, and in the fork's second
// half the blocks that they lead to.
func (n *node) tree(logical uint64) (extent, error) {
	b := n.fork
	if len(b) < 4 {
		return extent{}, guestfs.Corrupt("inode %d: no root of extents", n.id)
	}
	level, count := int(be.Uint16(b)), int(be.Uint16(b[2:]))
	if level == 0 || level > 9 {
		return extent{}, guestfs.Corrupt("inode %d: extents of level %d", n.id, level)
	}
	b = b[4:]
	end := uint64(maxBlock)
	for {
		most := len(b) / 16
		if count == 0 || count > most {
			return extent{}, guestfs.Corrupt("inode %d: %d of %d entries at level %d", n.id, count, most, level)
		}
		if level == 0 {
			return n.search(b[:16*count], logical, end)
		}
		at := 0
		for i := 1; i < count && be.Uint64(b[8*i:]) <= logical; i++ {
			at = i
		}
		if at+1 < count {
			end = min(end, be.Uint64(b[8*(at+1):]))
		}
		child := make([]byte, n.f.block)
		if err := n.f.readAt(child, be.Uint64(b[8*most+8*at:]), 0); err != nil {
			return extent{}, err
		}
		magic, header := "BMAP", 24
		if n.f.v5 {
			magic, header = "BMA3", 72
		}
		level--
		if string(child[:4]) != magic || int(be.Uint16(child[4:])) != level {
			return extent{}, guestfs.Corrupt("inode %d: a block that is none of its extents", n.id)
		}
		count, b = int(be.Uint16(child[6:])), child[header:]
	}
}

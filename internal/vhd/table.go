package vhd

import (
	"cmp"
	"slices"
)

const (
	unused = ^uint32(0) // entry of a block that isn't in the file

	// minBlock and maxBlock are the least and the largest block taken. The
	// usual ones are 2 MiB and 512 KiB.
	minBlock = 4 << 10
	maxBlock = 256 << 20

	// maxEntries bounds the table that is kept in memory, to 16 MiB: the largest
	// disk in blocks of 512 KiB.
	maxEntries = 4 << 20

	// MaxDynamic is the largest dynamic or differencing disk, in bytes: what
	// Hyper-V and qemu-img take. The table counts sectors of the file in 32 bits,
	// and the file has more than the disk.
	MaxDynamic = 2040 << 30

	// maxPlace is the last sector at which a block may begin.
	maxPlace = int64(unused) - 1
)

// tableBytes is the room of a table in the file.
func tableBytes(entries uint32) int64 { return roundUp(4*int64(entries), sector) }

// layout is what a dynamic or differencing image's numbers come to.
type layout struct {
	block  int64 // bytes of a block's data
	bitmap int64 // bytes of the bitmap before it, whole sectors
	count  int64 // blocks of the disk
}

func layoutOf(size int64, block uint32) (layout, error) {
	l := layout{block: int64(block), bitmap: roundUp(int64(block)/sector/8, sector), count: (size + int64(block) - 1) / int64(block)}
	if size > MaxDynamic {
		return l, unsupported("a disk of %d bytes that is not fixed: want %d at most", size, int64(MaxDynamic))
	}
	if l.count > maxEntries {
		return l, unsupported("%d blocks: want %d at most", l.count, maxEntries)
	}
	return l, nil
}

// stride is what a block takes in the file.
func (l layout) stride() int64 { return l.bitmap + l.block }

// region is a part of the file that has an owner.
type region struct{ off, end int64 }

// readTable reads the entries of the disk's blocks.
func readTable(f File, at, count int64) ([]uint32, error) {
	var table []uint32
	buf := make([]byte, 64<<10)
	// It grows while it is read: a table that is only claimed costs nothing.
	for int64(len(table)) < count {
		b := buf[:min(int64(len(buf)), 4*(count-int64(len(table))))]
		if err := readFull(f, b, at+4*int64(len(table))); err != nil {
			return nil, err
		}
		for ; len(b) > 0; b = b[4:] {
			table = append(table, be.Uint32(b))
		}
	}
	return table, nil
}

// checkTable refuses blocks that overlap anything or end behind end, and returns
// where the last thing in the file ends. owned are the regions that are no blocks.
func checkTable(table []uint32, l layout, owned []region, end int64) (int64, error) {
	var blocks []uint32
	for i, e := range table {
		if e == unused {
			continue
		}
		if off := int64(e) * sector; off+l.stride() > end {
			return 0, corrupt(off, "block %d of %d bytes in a file of %d", i, l.stride(), end)
		}
		blocks = append(blocks, e)
	}
	slices.Sort(blocks)
	slices.SortFunc(owned, func(a, b region) int { return cmp.Compare(a.off, b.off) })
	at := func(i int) region {
		off := int64(blocks[i]) * sector
		return region{off, off + l.stride()}
	}
	last := owned[len(owned)-1].end
	for i := range blocks {
		if i > 0 && at(i).off < at(i-1).end {
			return 0, overlap(at(i-1), at(i))
		}
		last = max(last, at(i).end)
	}
	for i, r := range owned {
		if i > 0 && r.off < owned[i-1].end {
			return 0, overlap(owned[i-1], r)
		}
		// The first block that ends behind its beginning.
		next, _ := slices.BinarySearchFunc(blocks, r.off, func(e uint32, off int64) int {
			return cmp.Compare(int64(e)*sector+l.stride(), off+1)
		})
		if next < len(blocks) && at(next).off < r.end {
			return 0, overlap(r, at(next))
		}
	}
	return last, nil
}

func overlap(a, b region) error {
	return corrupt(b.off, "what is here up to %d and what is at %d up to %d overlap", b.end, a.off, a.end)
}

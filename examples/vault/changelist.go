package main

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"os"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// changeList says which blocks of which disks may have changed. It takes at
// most 2 MiB for a tebibyte of disk, however long the list was.
type changeList map[dr.DiskID]blockSet

// readChangeList reads the lines "OFFSET LENGTH" of a file, or "DISK OFFSET
// LENGTH" where there are several disks; "-" is standard input.
func readChangeList(name string, disks []dr.Disk) (changeList, error) {
	if name == "-" {
		return parseChangeList("standard input", os.Stdin, disks)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseChangeList(name, f, disks)
}

func parseChangeList(name string, r io.Reader, disks []dr.Disk) (changeList, error) {
	list := changeList{}
	for _, d := range disks {
		list[d.ID] = blockSet{}
	}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		if err := list.add(text, disks); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", name, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return list, nil
}

func (l changeList) add(line string, disks []dr.Disk) error {
	fields := strings.Fields(line)
	var disk dr.Disk
	switch {
	case len(fields) == 2 && len(disks) == 1:
		disk = disks[0]
	case len(fields) < 3:
		if len(disks) == 1 {
			return fmt.Errorf("%w: %q: want OFFSET LENGTH", dr.ErrInvalid, line)
		}
		return fmt.Errorf("%w: %q: want DISK OFFSET LENGTH, as there are several disks", dr.ErrInvalid, line)
	default:
		id := dr.DiskID(strings.Join(fields[:len(fields)-2], " "))
		d, ok := dr.Machine{Disks: disks}.Disk(id)
		if !ok {
			return fmt.Errorf("%w: there is no disk %q", dr.ErrInvalid, id)
		}
		disk, fields = d, fields[len(fields)-2:]
	}
	off, err := number(fields[0])
	if err != nil {
		return err
	}
	n, err := number(fields[1])
	if err != nil {
		return err
	}
	if off > disk.Size || n > disk.Size-off {
		return fmt.Errorf("%w: %d bytes at %d: disk %s has %d bytes", dr.ErrOutOfRange, n, off, disk.ID, disk.Size)
	}
	l[disk.ID].add(off, n)
	return nil
}

func number(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%w: %q is not a number of bytes", dr.ErrInvalid, s)
	}
	return n, nil
}

// extents are whole blocks: the store keeps whole blocks, and would have to
// read the rest of one that changed in part.
func (l changeList) extents(disk dr.DiskID, size int64) iter.Seq[dr.Extent] {
	return func(yield func(dr.Extent) bool) {
		for first, n := range l[disk].runs((size + dr.SumBlock - 1) / dr.SumBlock) {
			off := first * dr.SumBlock
			if !yield(dr.Extent{Off: off, Len: min(n*dr.SumBlock, size-off)}) {
				return
			}
		}
	}
}

// pageBlocks is how many blocks a page of a blockSet has: 2 GiB of disk.
const pageBlocks = 1 << 15

// blockSet is a set of block numbers, in pages that are there when one of
// their bits is.
type blockSet map[int64]*[pageBlocks / 64]uint64

// add adds the blocks that [off, off+n) touches.
func (s blockSet) add(off, n int64) {
	if n == 0 {
		return
	}
	for b, last := off/dr.SumBlock, (off+n-1)/dr.SumBlock; b <= last; {
		page := s[b/pageBlocks]
		if page == nil {
			page = new([pageBlocks / 64]uint64)
			s[b/pageBlocks] = page
		}
		for end := min(last+1, (b/pageBlocks+1)*pageBlocks); b < end; b++ {
			page[b%pageBlocks/64] |= 1 << (b % 64)
		}
	}
}

// next returns the first block at or after b, and below end, that is in the
// set, or is not; end if there is none.
func (s blockSet) next(b, end int64, in bool) int64 {
	for b < end {
		page := s[b/pageBlocks]
		if page == nil {
			if !in {
				return b
			}
			b = (b/pageBlocks + 1) * pageBlocks
			continue
		}
		word := page[b%pageBlocks/64]
		if !in {
			word = ^word
		}
		if word >>= b % 64; word != 0 {
			return min(end, b+int64(bits.TrailingZeros64(word)))
		}
		b = (b/64 + 1) * 64
	}
	return end
}

// runs yields the blocks below end in rows, ascending: the first and how many.
func (s blockSet) runs(end int64) iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		for b := s.next(0, end, true); b < end; b = s.next(b, end, true) {
			first := b
			b = s.next(b, end, false)
			if !yield(first, b-first) {
				return
			}
		}
	}
}

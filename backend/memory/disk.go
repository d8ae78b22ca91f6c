package memory

import (
	"maps"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// pageSize is that of block sums, so that a page is summed where it lies.
const pageSize = dr.SumBlock

type page struct {
	gen   uint64 // may be written in place only in the disk's generation of that number
	bytes [pageSize]byte
}

// pages is a disk's content. An absent page reads as zeros.
type pages map[int64]*page

// read fills p from off. The caller keeps it within the disk.
func (c pages) read(p []byte, off int64) {
	for len(p) > 0 {
		at := off % pageSize
		n := min(int64(len(p)), pageSize-at)
		if pg := c[off/pageSize]; pg != nil {
			copy(p[:n], pg.bytes[at:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

// sorted returns the numbers of the present pages in ascending order.
func (c pages) sorted() []int64 { return slices.Sorted(maps.Keys(c)) }

// within returns the numbers, in no order, of the present pages that overlap
// [off, end). It costs the smaller of the range and the data, so that zeroing
// 1 TiB of nothing is free.
func (c pages) within(off, end int64) []int64 {
	var found []int64
	first, last := off/pageSize, (end-1)/pageSize
	if last-first < int64(len(c)) {
		for i := first; i <= last; i++ {
			if c[i] != nil {
				found = append(found, i)
			}
		}
		return found
	}
	for i := range c {
		if i >= first && i <= last {
			found = append(found, i)
		}
	}
	return found
}

// disk is a live disk: content that changes, and who saw it change. The
// machine's mutex guards it.
type disk struct {
	dr.Disk
	content pages
	gen     uint64 // raised by every freeze
	stamps  stamps
}

func newDisk(d dr.Disk, granularity int64) *disk {
	return &disk{Disk: d, content: pages{}, stamps: stamps{granularity: granularity, last: map[int64]uint64{}}}
}

// freeze returns the present content, which never changes again.
func (d *disk) freeze() pages {
	d.gen++
	return maps.Clone(d.content)
}

// own returns page i for writing in place.
func (d *disk) own(i int64) *page {
	pg := d.content[i]
	switch {
	case pg == nil:
		pg = &page{gen: d.gen}
	case pg.gen != d.gen:
		pg = &page{gen: d.gen, bytes: pg.bytes}
	default:
		return pg
	}
	d.content[i] = pg
	return pg
}

// write copies p to off and stamps what it touches with the epoch. The caller
// keeps it within the disk.
func (d *disk) write(p []byte, off int64, epoch uint64) {
	for len(p) > 0 {
		i, at := off/pageSize, off%pageSize
		n := min(int64(len(p)), pageSize-at)
		if d.content[i] != nil || !blocksum.Zero(p[:n]) {
			copy(d.own(i).bytes[at:], p[:n])
			d.stamps.set(off, off+n, epoch)
		}
		p, off = p[n:], off+n
	}
}

// zero makes [off, end) read as zeros. Pages that did so already stay
// unstamped: their bytes don't change.
func (d *disk) zero(off, end int64, epoch uint64) {
	if off >= end {
		return
	}
	for _, i := range d.content.within(off, end) {
		from, to := max(off, i*pageSize), min(end, (i+1)*pageSize)
		if from == i*pageSize && to == min((i+1)*pageSize, d.Size) {
			delete(d.content, i)
		} else {
			clear(d.own(i).bytes[from-i*pageSize : to-i*pageSize])
		}
		d.stamps.set(from, to, epoch)
	}
}

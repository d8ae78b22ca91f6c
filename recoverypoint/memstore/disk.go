package memstore

import (
	"maps"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

const pageSize = dr.SumBlock

type page [pageSize]byte

// disk is content in pages. Pages that are not in the map read as zeros, and
// so does what a page holds beyond the disk's size.
type disk struct {
	size  int64
	pages map[int64]*page
}

// resized returns the content at another size, sharing pages. What is cut off
// is gone: growing again brings zeros.
func (d disk) resized(size int64) disk {
	c := disk{size, maps.Clone(d.pages)}
	if c.pages == nil {
		c.pages = map[int64]*page{}
	}
	if size >= d.size {
		return c
	}
	maps.DeleteFunc(c.pages, func(n int64, _ *page) bool { return n*pageSize >= size })
	if cut := size % pageSize; cut != 0 {
		if old := c.pages[size/pageSize]; old != nil {
			p := *old
			clear(p[cut:])
			c.pages[size/pageSize] = &p
		}
	}
	return c
}

// read fills p from off on; the range must be within the disk.
func (d disk) read(p []byte, off int64) {
	for len(p) > 0 {
		at := off % pageSize
		n := min(int64(len(p)), pageSize-at)
		if q := d.pages[off/pageSize]; q != nil {
			copy(p[:n], q[at:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

// sum is that of the block at off.
func (d disk) sum(off int64) dr.Sum {
	q := d.pages[off/pageSize]
	if q == nil {
		return dr.Sum{}
	}
	return blocksum.Sum(q[:min(pageSize, d.size-off)])
}

// extents lists the disk from a byte on, without gaps.
func (d disk) extents(from int64) []dr.Extent {
	var l list
	at := from
	for _, n := range slices.Sorted(maps.Keys(d.pages)) {
		end := min((n+1)*pageSize, d.size)
		if end <= at {
			continue
		}
		l.add(at, n*pageSize, true)
		at = max(at, n*pageSize)
		l.add(at, end, false)
		at = end
	}
	l.add(at, d.size, true)
	return l
}

// changes lists where d differs from old, and all that d is longer.
func (d disk) changes(old disk) []dr.Extent {
	var differ []int64
	for n, p := range d.pages {
		if q := old.pages[n]; n*pageSize < old.size && p != q && (q == nil || *p != *q) {
			differ = append(differ, n)
		}
	}
	for n := range old.pages {
		if d.pages[n] == nil && n*pageSize < d.size {
			differ = append(differ, n)
		}
	}
	slices.Sort(differ)
	var l list
	for _, n := range differ {
		l.add(n*pageSize, min((n+1)*pageSize, d.size), d.pages[n] == nil)
	}
	if d.size > old.size {
		from := old.size
		if len(l) > 0 {
			from = max(from, l[len(l)-1].End())
		}
		for _, e := range d.extents(from) {
			l.add(e.Off, e.End(), e.Zero)
		}
	}
	return l
}

// list joins extents that touch and are alike.
type list []dr.Extent

func (l *list) add(off, end int64, zero bool) {
	if end <= off {
		return
	}
	if n := len(*l); n > 0 && (*l)[n-1].End() == off && (*l)[n-1].Zero == zero {
		(*l)[n-1].Len += end - off
		return
	}
	*l = append(*l, dr.Extent{Off: off, Len: end - off, Zero: zero})
}

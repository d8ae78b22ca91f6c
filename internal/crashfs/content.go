package crashfs

import (
	"bytes"
	"io"
	"maps"
	"math"
	"slices"
)

const (
	pageSize = 4096
	maxSize  = 1 << 60 // of a file, far from where offsets overflow
)

// page is never changed once it is part of a content: that is what makes
// durable states and restarts free to share them. A nil page is a hole.
type page = *[pageSize]byte

// content is a file's content in two layers: what is durable, and what was done
// since. Neither costs anything for holes.
type content struct {
	durable     map[int64]page // by page number; without holes
	durableSize int64
	shared      bool // durable belongs to other file systems too: clone before changing

	size    int64          // as it is seen
	over    map[int64]page // pages seen instead of the durable ones; nil hides one with a hole
	hidden  int64          // durable pages from this number on are not seen
	pages   int64          // how many pages are seen
	pending []change       // what made the seen content from the durable one, oldest first
	failed  bool           // a Sync failed: pending is not all that differs
	sorted  []int64        // numbers of the pages that are seen, or nil if they must be collected again
}

// change is one write, truncation (data nil, n < 0) or punch (data nil).
type change struct {
	off, n int64
	data   []byte
}

func (c change) truncates() bool { return c.n < 0 }

func newContent(durable map[int64]page, size int64) content {
	return content{durable: durable, durableSize: size, shared: true, size: size,
		hidden: math.MaxInt64, pages: int64(len(durable))}
}

func (c *content) page(i int64) page {
	if p, ok := c.over[i]; ok {
		return p
	}
	if i < c.hidden {
		return c.durable[i]
	}
	return nil
}

func (c *content) setPage(i int64, p page) {
	switch had := c.page(i); {
	case had == nil && p != nil:
		c.pages++
		c.sorted = nil
	case had != nil && p == nil:
		c.pages--
		c.sorted = nil
	}
	if p == nil && (i >= c.hidden || c.durable[i] == nil) {
		delete(c.over, i)
		return
	}
	if c.over == nil {
		c.over = map[int64]page{}
	}
	c.over[i] = p
}

func (c *content) readAt(p []byte, off int64) (int, error) {
	want := len(p)
	if off >= c.size {
		p = nil
	} else if c.size-off < int64(len(p)) {
		p = p[:c.size-off]
	}
	for n := 0; n < len(p); {
		i, in := (off+int64(n))/pageSize, (off+int64(n))%pageSize
		part := p[n:min(len(p), n+int(pageSize-in))]
		if src := c.page(i); src != nil {
			copy(part, src[in:])
		} else {
			clear(part)
		}
		n += len(part)
	}
	if len(p) < want {
		return len(p), io.EOF
	}
	return len(p), nil
}

// write takes data as its own: it must not change afterwards.
func (c *content) write(data []byte, off int64) {
	for n := 0; n < len(data); {
		i, in := (off+int64(n))/pageSize, (off+int64(n))%pageSize
		part := data[n:min(len(data), n+int(pageSize-in))]
		if len(part) == pageSize {
			c.setPage(i, page(part))
		} else {
			fresh := new([pageSize]byte)
			if old := c.page(i); old != nil {
				*fresh = *old
			}
			copy(fresh[in:], part)
			c.setPage(i, fresh)
		}
		n += len(part)
	}
	if len(data) > 0 {
		c.size = max(c.size, off+int64(len(data)))
	}
}

func (c *content) truncate(size int64) {
	if size < c.size {
		c.zero(size, c.size)
		if first := (size + pageSize - 1) / pageSize; first < c.hidden {
			c.hidden = first
			maps.DeleteFunc(c.over, func(i int64, _ page) bool { return i >= first })
		}
	}
	c.size = size
}

// zero makes [off, end) holes, and zeros where it shares a page with more.
func (c *content) zero(off, end int64) {
	if off >= end {
		return
	}
	first, last := (off+pageSize-1)/pageSize, end/pageSize
	if end == c.size {
		last = (end + pageSize - 1) / pageSize // nothing lies behind
	}
	if first > last {
		c.blank(last, off%pageSize, end%pageSize)
		return
	}
	c.blank(first-1, pageSize-(first*pageSize-off), pageSize)
	if end > last*pageSize {
		c.blank(last, 0, end%pageSize)
	}
	if last-first <= int64(len(c.over)+len(c.durable)) {
		for i := first; i < last; i++ {
			c.setPage(i, nil)
		}
		return
	}
	list := c.list()
	from, _ := slices.BinarySearch(list, first)
	to, _ := slices.BinarySearch(list, last)
	for _, i := range list[from:to] {
		c.setPage(i, nil)
	}
}

func (c *content) blank(i, from, to int64) {
	if from >= to || i < 0 {
		return
	}
	if old := c.page(i); old != nil {
		fresh := *old
		clear(fresh[from:to])
		c.setPage(i, &fresh)
	}
}

// list is the sorted numbers of the pages that are seen.
func (c *content) list() []int64 {
	if c.sorted == nil {
		c.sorted = make([]int64, 0, c.pages)
		for i, p := range c.over {
			if p != nil {
				c.sorted = append(c.sorted, i)
			}
		}
		for i := range c.durable {
			if _, ok := c.over[i]; !ok && i < c.hidden {
				c.sorted = append(c.sorted, i)
			}
		}
		slices.Sort(c.sorted)
	}
	return c.sorted
}

func (c *content) data(off int64) (start, end int64, err error) {
	list := c.list()
	at, _ := slices.BinarySearch(list, off/pageSize)
	if off >= c.size || at == len(list) {
		return 0, 0, io.EOF
	}
	start = max(off, list[at]*pageSize)
	next := list[at] + 1
	for at++; at < len(list) && list[at] == next; at++ {
		next++
	}
	return start, min(c.size, next*pageSize), nil
}

// change does one change and remembers it as pending.
func (c *content) change(ch change) {
	c.apply(ch)
	c.pending = append(c.pending, ch)
}

func (c *content) apply(ch change) {
	switch {
	case ch.truncates():
		c.truncate(ch.off)
	case ch.data == nil:
		c.zero(ch.off, min(ch.off+ch.n, c.size))
	default:
		c.write(ch.data, ch.off)
	}
}

func writing(p []byte, off int64) change {
	return change{off: off, n: int64(len(p)), data: bytes.Clone(p)}
}

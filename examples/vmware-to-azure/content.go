package main

import (
	"bytes"
	"fmt"
	"maps"
)

// content is what one disk holds, page by page; a page that isn't there is
// zeros. Copies share their pages until they write to them: what was copied
// must not be written any more.
type content struct {
	size  int64
	pages map[int64][]byte
	own   map[int64]bool // pages that no copy has
}

const pageSize = 64 << 10

func empty(size int64) *content {
	return &content{size, map[int64][]byte{}, map[int64]bool{}}
}

func (c *content) clone() *content {
	return &content{c.size, maps.Clone(c.pages), map[int64]bool{}}
}

func (c *content) write(p []byte, off int64) {
	for len(p) > 0 {
		in := int(off % pageSize)
		n := min(len(p), pageSize-in)
		at := off / pageSize
		if !c.own[at] {
			page := make([]byte, pageSize)
			copy(page, c.pages[at])
			c.pages[at], c.own[at] = page, true
		}
		copy(c.pages[at][in:], p[:n])
		p, off = p[n:], off+int64(n)
	}
}

// reader reads a part of a disk, by its number.
type reader func(disk int, p []byte, off int64) error

var zeros [pageSize]byte

// compare reads the whole disk, and tells the first page that is another.
func (c *content) compare(disk int, read reader) error {
	p := make([]byte, 1<<20)
	for off := int64(0); off < c.size; off += int64(len(p)) {
		p = p[:min(int64(len(p)), c.size-off)]
		if err := read(disk, p, off); err != nil {
			return fmt.Errorf("disk %d at %d: %w", disk, off, err)
		}
		for in := 0; in < len(p); in += pageSize {
			got := p[in:min(len(p), in+pageSize)]
			want := c.pages[(off+int64(in))/pageSize]
			if want == nil {
				want = zeros[:]
			}
			if !bytes.Equal(got, want[:len(got)]) {
				return fmt.Errorf("disk %d differs at %d", disk, off+int64(in))
			}
		}
	}
	return nil
}

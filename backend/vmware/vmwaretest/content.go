package vmwaretest

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"
)

const (
	// blockSize is the granularity of storage and of change tracking. Real
	// tracking has blocks of 64 KiB to 1 MiB, by the size of the disk.
	blockSize = 64 << 10
	// pageBlocks blocks share a page: 32 MiB of disk.
	pageBlocks = 512
)

// content is the bytes of one VMDK extent: sparse, copied on write, so that a
// frozen copy costs the page table only and a disk of 1 TiB costs what was
// written to it. Each block remembers the tracking sequence of its last write.
type content struct {
	mu    sync.RWMutex
	size  int64
	owner *owner
	pages map[int64]*page
}

// owner tells which content may change a page or block in place.
type owner struct{ _ byte }

type page struct {
	owner  *owner
	blocks [pageBlocks]block
}

// block is data that was written: nil data with a seq reads as zeros.
type block struct {
	owner *owner
	seq   int64 // 0: never written
	data  []byte
}

func newContent(size int64) *content {
	return &content{size: size, owner: new(owner), pages: map[int64]*page{}}
}

// clone is a copy that shares every block until either side writes it.
func (c *content) clone() *content {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owner = new(owner)
	return &content{size: c.size, owner: new(owner), pages: maps.Clone(c.pages)}
}

func (c *content) Size() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.size
}

func (c *content) resize(size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.size = size
}

// ReadAt has the rules of io.ReaderAt.
func (c *content) ReadAt(p []byte, off int64) (int, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if off < 0 {
		return 0, fmt.Errorf("read at offset %d", off)
	}
	if off >= c.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), c.size-off))
	for done := 0; done < n; {
		at := off + int64(done)
		in := int(at % blockSize)
		part := p[done:min(n, done+blockSize-in)]
		var data []byte
		if pg := c.pages[at/blockSize/pageBlocks]; pg != nil {
			data = pg.blocks[at/blockSize%pageBlocks].data
		}
		if data == nil {
			clear(part)
		} else {
			copy(part, data[in:])
		}
		done += len(part)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// writeAt stores p and marks what it touched with seq. Writes never grow a disk.
func (c *content) writeAt(p []byte, off, seq int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off < 0 || off+int64(len(p)) > c.size {
		return fmt.Errorf("write of %d bytes at offset %d is outside a disk of %d bytes", len(p), off, c.size)
	}
	for len(p) > 0 {
		in := int(off % blockSize)
		n := min(len(p), blockSize-in)
		c.block(off/blockSize).put(p[:n], in, seq, c.owner)
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// block returns a block that may be changed in place, apart from its data.
func (c *content) block(i int64) *block {
	pg := c.pages[i/pageBlocks]
	switch {
	case pg == nil:
		pg = &page{owner: c.owner}
		c.pages[i/pageBlocks] = pg
	case pg.owner != c.owner:
		copied := *pg
		copied.owner = c.owner
		pg = &copied
		c.pages[i/pageBlocks] = pg
	}
	return &pg.blocks[i%pageBlocks]
}

func (b *block) put(p []byte, in int, seq int64, own *owner) {
	b.seq = seq
	if b.data == nil && allZero(p) {
		return
	}
	if b.owner != own || b.data == nil {
		data := make([]byte, blockSize)
		copy(data, b.data)
		b.data, b.owner = data, own
	}
	copy(b.data[in:], p)
}

// area is a range of bytes.
type area struct{ off, n int64 }

// stamp marks everything that was written as written now.
func (c *content) stamp(seq int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, pg := range c.pages {
		for i := range pg.blocks {
			if pg.blocks[i].seq > 0 {
				c.block(n*pageBlocks + int64(i)).seq = seq
			}
		}
	}
}

// written yields, in ascending order and merged, what was written from an offset
// on with a sequence of at least since; 1 gives everything that was ever written.
func (c *content) written(since, from int64) iter.Seq[area] {
	c.mu.RLock()
	index := slices.Sorted(maps.Keys(c.pages))
	size := c.size
	c.mu.RUnlock()
	first, _ := slices.BinarySearch(index, from/blockSize/pageBlocks)
	return func(yield func(area) bool) {
		var cur area
		var seqs [pageBlocks]int64
		for _, n := range index[first:] {
			c.seqs(n, &seqs)
			for j, seq := range seqs {
				off := (n*pageBlocks + int64(j)) * blockSize
				if seq < since || seq == 0 || off+blockSize <= from {
					continue
				}
				if cur.n > 0 && cur.off+cur.n == off {
					cur.n += blockSize
					continue
				}
				if cur.n > 0 && !yield(cur) {
					return
				}
				cur = area{off, blockSize}
			}
		}
		if cur.n > 0 && cur.off < size {
			cur.n = min(cur.n, size-cur.off)
			yield(cur)
		}
	}
}

// seqs copies the marks of a page, which may change meanwhile.
func (c *content) seqs(page int64, into *[pageBlocks]int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	pg := c.pages[page]
	for i := range into {
		into[i] = 0
		if pg != nil {
			into[i] = pg.blocks[i].seq
		}
	}
}

var zeros [blockSize]byte

func allZero(p []byte) bool {
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}

package azuretest

import (
	"fmt"
	"io"
	"slices"
	"sync"
)

const (
	pageSize  = 512
	chunkSize = 64 << 10
	perChunk  = chunkSize / pageSize
)

// pages is the content of a page blob or of a managed disk, which on Azure are
// the same thing: 512-byte pages of which each is written or clear, read as
// zeros where clear, frozen by freeze at no cost but of what is written later.
// It knows for each page when it was written or cleared last, so that any two
// moments of one line can be compared.
//
// All methods are safe for concurrent use. Offsets and lengths are multiples of
// 512 within the size, but for readAt.
type pages struct {
	mu     sync.RWMutex
	line   *lineage
	seq    uint64 // of the last change, or of the moment if frozen
	frozen bool
	size   int64
	chunks map[int64]*chunk
}

// lineage is shared by a disk and all that were frozen of it: their numbers
// can be compared.
type lineage struct {
	mu  sync.Mutex
	seq uint64
}

func (l *lineage) next() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	return l.seq
}

// chunk is never changed once it is shared.
type chunk struct {
	owner   *pages // who may write to it
	data    []byte // nil if no page was ever written
	written [perChunk / 64]uint64
	seq     [perChunk]uint64 // when the page was written or cleared
}

// span is a range of bytes.
type span struct{ off, n int64 }

func newPages(size int64) *pages {
	return &pages{line: &lineage{}, size: size, chunks: map[int64]*chunk{}}
}

// freeze returns the content as it is now, which never changes.
func (p *pages) freeze() *pages {
	if p.frozen {
		return p
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	q := &pages{line: p.line, seq: p.line.next(), frozen: true, size: p.size, chunks: make(map[int64]*chunk, len(p.chunks))}
	for i, c := range p.chunks {
		if c.owner != nil { // a shared chunk may be read by others: it isn't written even so
			c.owner = nil
		}
		q.chunks[i] = c
	}
	return q
}

// copy returns a new, writable line that begins with this content.
func (p *pages) copy() *pages {
	q := newPages(p.size)
	q.become(p)
	return q
}

// become makes the content, and the size, that of another line: every page
// that was or is written counts as changed.
func (p *pages) become(from *pages) {
	if !from.frozen {
		from = from.freeze()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	seq := p.line.next()
	for i := range p.chunks {
		if _, ok := from.chunks[i]; !ok {
			p.own(i).clear(0, perChunk, seq)
		}
	}
	for i, c := range from.chunks {
		d := *c
		d.owner = nil // its data is shared
		for j := range d.seq {
			d.seq[j] = seq
		}
		p.chunks[i] = &d
	}
	p.size, p.seq = from.size, seq
}

func (p *pages) length() int64 {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.size
}

// own returns a chunk that may be written to.
func (p *pages) own(i int64) *chunk {
	c := p.chunks[i]
	switch {
	case c == nil:
		c = &chunk{owner: p}
	case c.owner == p:
		return c
	default:
		d := *c
		d.owner, d.data = p, slices.Clone(c.data)
		c = &d
	}
	p.chunks[i] = c
	return c
}

func (c *chunk) isWritten(page int) bool { return c.written[page/64]>>(page%64)&1 == 1 }

func (c *chunk) clear(page, n int, seq uint64) {
	for i := page; i < page+n; i++ {
		c.written[i/64] &^= 1 << (i % 64)
		c.seq[i] = seq
	}
	if c.data != nil {
		clear(c.data[page*pageSize : (page+n)*pageSize])
	}
}

func (p *pages) check(off, n int64) error {
	switch {
	case p.frozen:
		return fmt.Errorf("a snapshot can't be written")
	case off < 0 || n < 0 || off%pageSize != 0 || n%pageSize != 0 || off+n > p.size:
		return fmt.Errorf("%d bytes at %d of %d", n, off, p.size)
	}
	return nil
}

func (p *pages) writeAt(b []byte, off int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.check(off, int64(len(b))); err != nil {
		return err
	}
	p.seq = p.line.next()
	for len(b) > 0 {
		c, at := p.own(off/chunkSize), off%chunkSize
		if c.data == nil {
			c.data = make([]byte, chunkSize)
		}
		n := copy(c.data[at:], b)
		for i := int(at / pageSize); i < int(at)/pageSize+n/pageSize; i++ {
			c.written[i/64] |= 1 << (i % 64)
			c.seq[i] = p.seq
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// clearAt makes pages clear, which costs nothing where none was written.
func (p *pages) clearAt(off, n int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.check(off, n); err != nil {
		return err
	}
	p.seq = p.line.next()
	for _, i := range p.within(off, n) {
		from, to := max(off, i*chunkSize), min(off+n, (i+1)*chunkSize)
		p.own(i).clear(int(from%chunkSize/pageSize), int((to-from)/pageSize), p.seq)
	}
	return nil
}

// within lists the chunks that are there in a range, ascending.
func (p *pages) within(off, n int64) []int64 {
	var list []int64
	for i := range p.chunks {
		if i*chunkSize < off+n && (i+1)*chunkSize > off {
			list = append(list, i)
		}
	}
	slices.Sort(list)
	return list
}

// resize grows the content by clear pages, or cuts it off.
func (p *pages) resize(size int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.check(0, 0); err != nil || size%pageSize != 0 || size < 0 {
		return fmt.Errorf("resize to %d bytes", size)
	}
	p.seq = p.line.next()
	if size < p.size {
		for _, i := range p.within(size, p.size-size) {
			from := max(size, i*chunkSize)
			p.own(i).clear(int(from%chunkSize/pageSize), int(((i+1)*chunkSize-from)/pageSize), p.seq)
		}
	}
	p.size = size
	return nil
}

// readAt fills b as io.ReaderAt does, of any offset and length.
func (p *pages) readAt(b []byte, off int64) (int, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if off < 0 || off > p.size {
		return 0, io.EOF
	}
	var err error
	if int64(len(b)) > p.size-off {
		b, err = b[:p.size-off], io.EOF
	}
	n := len(b)
	for len(b) > 0 {
		at := off % chunkSize
		part := b[:min(int64(len(b)), chunkSize-at)]
		if c := p.chunks[off/chunkSize]; c != nil && c.data != nil {
			copy(part, c.data[at:])
		} else {
			clear(part)
		}
		b, off = b[len(part):], off+int64(len(part))
	}
	return n, err
}

// ranges lists what is written within a range.
func (p *pages) ranges(off, n int64) []span {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var list []span
	for _, i := range p.within(off, n) {
		c := p.chunks[i]
		if (c.written[0] | c.written[1]) == 0 {
			continue
		}
		for page := range perChunk {
			at := i*chunkSize + int64(page)*pageSize
			if c.isWritten(page) && at >= off && at < off+n {
				list = join(list, span{at, pageSize})
			}
		}
	}
	return list
}

// diff lists what was written and what was cleared since an earlier moment of
// the same line, pages that are equal again among them: Azure compares no
// bytes either. It fails for another line.
func (p *pages) diff(since *pages, off, n int64) (changed, cleared []span, err error) {
	if since.line != p.line || !since.frozen || p.frozen && since.seq > p.moment() {
		return nil, nil, fmt.Errorf("the other is no earlier moment of this disk")
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, i := range p.within(off, n) {
		c := p.chunks[i]
		if c == since.chunks[i] {
			continue
		}
		for page := range perChunk {
			at := i*chunkSize + int64(page)*pageSize
			if c.seq[page] <= since.seq || at < off || at >= off+n || at >= p.size {
				continue
			}
			if c.isWritten(page) {
				changed = join(changed, span{at, pageSize})
			} else {
				cleared = join(cleared, span{at, pageSize})
			}
		}
	}
	return changed, cleared, nil
}

func (p *pages) moment() uint64 {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.seq
}

// join appends a span, as part of the last one where they meet.
func join(list []span, s span) []span {
	if l := len(list); l > 0 && list[l-1].off+list[l-1].n == s.off {
		list[l-1].n += s.n
		return list
	}
	return append(list, s)
}

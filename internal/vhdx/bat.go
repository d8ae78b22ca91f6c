package vhdx

// States of payload blocks; a sector bitmap is absent or full.
const (
	stateAbsent    = 0 // zeros, or in a differencing disk the parent's
	stateUndefined = 1
	stateZero      = 2
	stateUnmapped  = 3
	stateFull      = 6
	statePartial   = 7 // its sector bitmap says which sectors are its own
)

// entry is a BAT entry: a state and a place in the file, in whole MiB.
type entry uint64

func makeEntry(state int, off int64) entry { return entry(off/mib<<20 | int64(state)) }

func (e entry) state() int { return int(e & 7) }

// placed tells whether the entry's place counts.
func (e entry) placed() bool { return e.state() == stateFull || e.state() == statePartial }

// mebibytes is the place, up to 2⁴⁴.
func (e entry) mebibytes() int64 { return int64(e >> 20) }

func (e entry) off() int64 { return e.mebibytes() * mib }

// bat is the table in memory, without its pages of zeros: 8 bytes for each block
// of the disk at most, and no more than its file really has.
type bat struct {
	pages []*[pageEntries]entry
	dirty map[int64]struct{} // page numbers
}

func newBAT(entries int64) *bat {
	return &bat{make([]*[pageEntries]entry, (entries+pageEntries-1)/pageEntries), map[int64]struct{}{}}
}

func (b *bat) get(i int64) entry {
	if p := b.pages[i/pageEntries]; p != nil {
		return p[i%pageEntries]
	}
	return 0
}

func (b *bat) set(i int64, e entry) {
	if b.get(i) == e {
		return
	}
	n := i / pageEntries
	if b.pages[n] == nil {
		b.pages[n] = new([pageEntries]entry)
	}
	b.pages[n][i%pageEntries] = e
	b.dirty[n] = struct{}{}
}

func (b *bat) grow(entries int64) {
	for int64(len(b.pages)) < (entries+pageEntries-1)/pageEntries {
		b.pages = append(b.pages, nil)
	}
}

// encode is a page as it is in the file.
func (b *bat) encode(n int64) *[page]byte {
	raw := new([page]byte)
	if p := b.pages[n]; p != nil {
		for i, e := range p {
			le.PutUint64(raw[8*i:], uint64(e))
		}
	}
	return raw
}

// readBAT reads the table and proves that each block lies in the file and has
// its place for itself. space has the regions and the log already.
func readBAT(m medium, at region, g geometry, space *space) (*bat, error) {
	n := g.entries()
	if at.len < n*8 {
		return nil, corrupt(at.off, "a BAT of %d bytes for %d entries", at.len, n)
	}
	b := newBAT(n)
	check := batCheck{geometry: g, base: at.off, size: m.size, space: space}
	buf := make([]byte, min(mib, roundUp(n*8, page)))
	for first := int64(0); first < n; {
		buf = buf[:min(int64(len(buf)), roundUp((n-first)*8, page))]
		if err := m.read(buf, at.off+first*8); err != nil {
			return nil, err
		}
		for raw := buf; len(raw) > 0; raw = raw[page:] {
			if err := b.load(raw[:page], first, check.entry); err != nil {
				return nil, err
			}
			first += pageEntries
		}
	}
	return b, check.whole(b)
}

var zeroPage [page]byte

func (b *bat) load(raw []byte, first int64, check func(i int64, e entry) error) error {
	if [page]byte(raw) == zeroPage {
		return nil
	}
	p := new([pageEntries]entry)
	for i := range p {
		p[i] = entry(le.Uint64(raw[8*i:]))
		if err := check(first+int64(i), p[i]); err != nil {
			return err
		}
	}
	b.pages[first/pageEntries] = p
	return nil
}

// batCheck looks at the entries in their order.
type batCheck struct {
	geometry
	base, size int64
	space      *space
}

func (c *batCheck) entry(i int64, e entry) error {
	r := c.chunk()
	chunk, in := i/(r+1), i%(r+1)
	at := c.base + 8*i
	if in == r { // a sector bitmap
		switch e.state() {
		case stateAbsent:
			return nil
		case stateFull:
			return c.place(at, e, bitmapBlock, bitmapBlock)
		}
		return corrupt(at, "a sector bitmap in state %d", e.state())
	}
	block := chunk*r + in
	if block >= c.blocks() {
		return nil // room for a disk that grows; whatever it says
	}
	switch e.state() {
	case stateAbsent, stateUndefined, stateZero, stateUnmapped:
		return nil
	case statePartial:
		if !c.diff {
			return corrupt(at, "block %d is partial, but there is no parent", block)
		}
		fallthrough
	case stateFull:
		return c.place(at, e, c.held(block), c.block)
	}
	return corrupt(at, "block %d in state %d", block, e.state())
}

// place takes the room of a block, of which the first held bytes must be there.
func (c *batCheck) place(at int64, e entry, held, room int64) error {
	if e.mebibytes() > c.size/mib || e.off() > c.size-held {
		return corrupt(at, "a block at MiB %d of a file of %d bytes", e.mebibytes(), c.size)
	}
	if !c.space.take(e.off(), room) {
		return corrupt(at, "the block at MiB %d overlaps something else", e.mebibytes())
	}
	return nil
}

// whole looks at what can be told only when all entries are known: that partial
// blocks have their bitmaps. And it keeps free of use what entries without a
// block point at: whoever wrote them may count on finding that place again.
func (c *batCheck) whole(b *bat) error {
	for block := range c.blocks() {
		i := c.geometry.entry(block)
		if b.pages[i/pageEntries] == nil {
			continue
		}
		e := b.get(i)
		if e.state() == statePartial && b.get(c.bitmapEntry(block)).state() != stateFull {
			return corrupt(c.base+8*i, "block %d is partial, but there is no sector bitmap", block)
		}
		if !e.placed() && e.mebibytes() != 0 && e.mebibytes() < c.size/mib {
			c.space.cover(e.off(), c.block)
		}
	}
	return nil
}

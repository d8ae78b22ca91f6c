package vhdx

import (
	"maps"
	"slices"
)

// maxDirty is how many pages may wait for the log before a write flushes them
// itself. They take 4 MiB.
const maxDirty = 1024

// begin is called before the first change to the file, and before the first one
// to what the disk shows. Whoever reads the file later can tell by it that it
// isn't the one that it was.
func (d *Disk) begin(data bool) error {
	if d.session.file && (d.session.data || !data) {
		return nil
	}
	h := d.head
	if !d.session.file {
		h.fileWrite = NewGUID()
	}
	if data && !d.session.data {
		h.dataWrite = NewGUID()
	}
	if err := d.writeHeader(h); err != nil {
		return err
	}
	d.session.file = true
	d.session.data = d.session.data || data
	return nil
}

// writeHeader makes h the header that counts, and then the other one too, lest
// a file whose better header is lost falls back to an older state.
func (d *Disk) writeHeader(h header) error {
	for range 2 {
		h.sequence = d.head.sequence + 1
		slot := 1 - d.slot
		err := writeFull(d.medium, h.encode(), int64(headerAt0+slot*(headerAt1-headerAt0)))
		if err == nil {
			err = d.medium.Sync()
		}
		if err != nil {
			return d.fail(err)
		}
		d.head, d.slot = h, slot
	}
	return nil
}

// flush makes everything durable: first the blocks, then by the log what shows
// them. Bitmaps go before the entry that makes them count, and the entry of a
// bitmap, which stands behind those of its blocks, before theirs; so that the
// file is whole after each of the steps that many changes take.
func (d *Disk) flush() error {
	var list []change
	for _, off := range slices.Sorted(maps.Keys(d.bits.dirty)) {
		list = append(list, change{off, d.bits.pages[off]})
	}
	base := find(d.regions, regionBAT).off
	tables := slices.Sorted(maps.Keys(d.bat.dirty))
	slices.Reverse(tables)
	for _, n := range tables {
		list = append(list, change{base + n*page, d.bat.encode(n)})
	}
	if len(list) == 0 {
		return d.fail(d.medium.Sync())
	}
	for part := range slices.Chunk(list, entryPages) {
		if err := d.commit(part); err != nil {
			return err
		}
	}
	clear(d.bits.dirty)
	clear(d.bat.dirty)
	d.alloc.release()
	return nil
}

// commit changes pages of the file, all or none. What they refer to must be
// durable already, but for what an earlier commit did.
//
// The log holds one entry that counts. The next one is written to its other
// half, when all that came before is durable in its place.
func (d *Disk) commit(changes []change) error {
	return d.fail(d.tryCommit(changes))
}

func (d *Disk) tryCommit(changes []change) error {
	size, err := d.medium.Size()
	if err != nil {
		return err
	}
	if err := d.medium.Sync(); err != nil {
		return err
	}
	h := d.head
	if h.logGUID == (GUID{}) {
		h.logGUID = NewGUID()
	}
	s := &d.session
	s.sequence++
	at := s.half * (h.logSize / 2)
	s.half = 1 - s.half
	if err := writeFull(d.medium, encodeEntry(h.logGUID, s.sequence, uint32(at), size, changes), h.logAt+at); err != nil {
		return err
	}
	if err := d.medium.Sync(); err != nil {
		return err
	}
	if h.logGUID != d.head.logGUID {
		// Only now is there something for a reader to find.
		if err := d.writeHeader(h); err != nil {
			return err
		}
	}
	for _, c := range changes {
		if err := writeFull(d.medium, c.data[:], c.off); err != nil {
			return err
		}
	}
	return nil
}

// emptyLog says that all is in its place.
func (d *Disk) emptyLog() error {
	if d.head.logGUID == (GUID{}) {
		return nil
	}
	if err := d.medium.Sync(); err != nil {
		return d.fail(err)
	}
	h := d.head
	h.logGUID = GUID{}
	return d.writeHeader(h)
}

// settle flushes if much is waiting.
func (d *Disk) settle() error {
	if len(d.bits.dirty)+len(d.bat.dirty) < maxDirty {
		return nil
	}
	return d.flush()
}

// patch is pages of the file with some bytes changed.
type patch map[int64]*[page]byte

func (p patch) put(m medium, off int64, data []byte) error {
	for len(data) > 0 {
		at := off / page * page
		if p[at] == nil {
			raw := new([page]byte)
			if err := m.read(raw[:], at); err != nil {
				return err
			}
			p[at] = raw
		}
		n := copy(p[at][off-at:], data)
		off, data = off+int64(n), data[n:]
	}
	return nil
}

// commitPatch makes all of it, or nothing.
func (d *Disk) commitPatch(p patch) error {
	var list []change
	for _, off := range slices.Sorted(maps.Keys(p)) {
		list = append(list, change{off, p[off]})
	}
	if len(list) > entryPages {
		return unsupported("a change of %d pages at once", len(list))
	}
	return d.commit(list)
}

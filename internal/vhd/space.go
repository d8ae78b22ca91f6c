package vhd

import (
	"math"
	"slices"
)

// space is where in the file new blocks go. The footer stays at the file's end
// all the time, with some room for blocks before it: so the end is never
// something that the guest wrote, which could pose as a footer.
type space struct {
	floor  int64 // end of all that is no block
	next   int64 // where the next block goes, unless a place is free
	footer int64 // where the footer at the end is
	clean  int64 // blocks from here on are zeros but for their bitmap; unknown before the file grew
	free   []int64
	freed  []int64 // free once the table without them is durable
	used   bool    // something was placed or dropped
	least  int64   // in tests: the least step
}

const unknown = math.MaxInt64

// Steps in which a file grows, in bytes: an eighth of itself within these
// bounds. A step costs a Sync.
const (
	leastStep = 16 << 20
	mostStep  = 64 << 20
)

// take finds a place for a block. One that is clean holds zeros but for its
// bitmap.
func (d *Disk) take() (at int64, clean bool, err error) {
	s := &d.space
	s.used = true
	if n := len(s.free); n > 0 {
		at, s.free = s.free[n-1], s.free[:n-1]
		return at, false, nil
	}
	if s.next+d.stride() > s.footer {
		if err := d.grow(); err != nil {
			return 0, false, err
		}
	}
	at = s.next
	s.next += d.stride()
	return at, at >= s.clean, nil
}

// grow makes room for blocks. The new footer is durable before the old one may be
// overwritten; the copy at the beginning serves where it is torn.
func (d *Disk) grow() error {
	s := &d.space
	if s.next/sector > maxPlace {
		return unsupported("a file of more than %d bytes", s.next)
	}
	least := int64(leastStep)
	if s.least > 0 {
		least = s.least
	}
	step := min(max(s.footer/8, least), mostStep)
	end := s.next + max(1, step/d.stride())*d.stride()
	if err := writeFull(d.f, d.raw, end); err != nil {
		if back := d.f.Truncate(s.footer + FooterSize); back != nil {
			d.broken = back
		}
		return err
	}
	if err := d.sync(); err != nil {
		return err
	}
	// The first growth since Open begins at a footer that a place for a block
	// may straddle, and behind places of unknown content. From then on a footer
	// is where the next block's bitmap will be.
	if s.clean == unknown {
		s.clean = s.footer
	}
	s.footer = end
	return nil
}

// drop gives a block's place back.
func (d *Disk) drop(block int64) {
	at := int64(d.table[block]) * sector
	if d.fresh[block] {
		d.space.free = append(d.space.free, at)
	} else {
		d.space.freed = append(d.space.freed, at)
	}
	d.space.used = true
	d.table[block] = unused
	d.moved[block] = true
	delete(d.fresh, block)
	delete(d.dirty, block)
	d.cache.drop(block)
}

// trim cuts the file behind its last block. Everything is flushed.
func (d *Disk) trim() error {
	s := &d.space
	if !s.used {
		return nil
	}
	end := s.floor
	for _, e := range d.table {
		if e != unused {
			end = max(end, int64(e)*sector+d.stride())
		}
	}
	if end < s.footer {
		if err := writeFull(d.f, d.raw, end); err != nil {
			return err
		}
		if err := d.sync(); err != nil {
			return err
		}
		// No place behind the end may be taken any more, whatever comes of it.
		s.next, s.footer, s.clean, s.free, s.freed = end, end, unknown, nil, nil
		if err := d.f.Truncate(end + FooterSize); err != nil {
			d.broken = err
			return err
		}
		if err := d.sync(); err != nil {
			return err
		}
	}
	s.used = false
	return nil
}

// flush makes durable what was written, in an order in which a power cut shows
// nothing half: data and the bitmaps of new blocks, which nothing points to yet,
// then what points to them.
func (d *Disk) flush() error {
	if d.readOnly || !d.unsynced && len(d.dirty) == 0 && len(d.moved) == 0 && d.broken == nil {
		return nil
	}
	for block := range d.fresh {
		if err := writeFull(d.f, d.dirty[block], int64(d.table[block])*sector); err != nil {
			return err
		}
	}
	if err := d.sync(); err != nil {
		return err
	}
	// If the rest fails, a new block may be seen already: its next sectors are
	// to be durable before its bitmap tells of them.
	for block := range d.fresh {
		d.clean(block)
	}
	clear(d.fresh)
	if len(d.dirty) > 0 || len(d.moved) > 0 {
		if err := d.publish(); err != nil {
			d.unsynced = true
			return err
		}
	}
	d.space.free = append(d.space.free, d.space.freed...)
	d.space.freed = nil
	return nil
}

// publish writes what points to data that is durable.
func (d *Disk) publish() error {
	for block, m := range d.dirty {
		if err := writeFull(d.f, m, int64(d.table[block])*sector); err != nil {
			return err
		}
	}
	if err := d.writeTable(); err != nil {
		return err
	}
	if err := d.sync(); err != nil {
		return err
	}
	for block := range d.dirty {
		d.clean(block)
	}
	clear(d.moved)
	return nil
}

// clean is a block whose bitmap is in the file as it is in memory.
func (d *Disk) clean(block int64) {
	d.cache.put(block, d.dirty[block])
	delete(d.dirty, block)
}

// writeTable writes the entries that moved, those near each other at once.
func (d *Disk) writeTable() error {
	const near = 4096 / 4
	blocks := make([]int64, 0, len(d.moved))
	for block := range d.moved {
		blocks = append(blocks, block)
	}
	slices.Sort(blocks)
	for len(blocks) > 0 {
		n := 1
		for n < len(blocks) && blocks[n]/near == blocks[0]/near {
			n++
		}
		var b []byte
		for i := blocks[0]; i <= blocks[n-1]; i++ {
			b = be.AppendUint32(b, d.table[i])
		}
		if err := writeFull(d.f, b, d.head.table+4*blocks[0]); err != nil {
			return err
		}
		blocks = blocks[n:]
	}
	return nil
}

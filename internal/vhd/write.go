package vhd

import (
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// WriteAt implements [io.WriterAt] on the virtual disk, and doesn't reach beyond
// its end: what would is refused whole with [dr.ErrOutOfRange]. What was written is
// read at once, and durable after Flush. Until then a power cut may leave each
// sector of 512 bytes as it was before or as it was written since the last Flush.
func (d *Disk) WriteAt(p []byte, off int64) (done int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.change(off, int64(len(p))); err != nil || len(p) == 0 {
		return 0, err
	}
	if d.foot.kind == Fixed {
		return d.f.WriteAt(p, off)
	}
	for len(p) > 0 {
		n, err := d.writeSome(p, off)
		if err != nil {
			return done, err
		}
		p, off, done = p[n:], off+n, done+int(n)
	}
	return done, nil
}

// change allows a change of [off, off+n).
func (d *Disk) change(off, n int64) error {
	if err := d.writable(); err != nil {
		return err
	}
	if off < 0 || n < 0 || off > d.foot.Size || n > d.foot.Size-off {
		return fmt.Errorf("vhd: write %d bytes at %d of a disk of %d: %w", n, off, d.foot.Size, dr.ErrOutOfRange)
	}
	d.unsynced = true
	return nil
}

// writeSome writes a part of a sector or some sectors of a block, whichever p
// begins with, and returns how many bytes.
func (d *Disk) writeSome(p []byte, off int64) (int64, error) {
	in := off % d.block
	n := min(int64(len(p)), d.block-in)
	if in%sector == 0 && n >= sector {
		n -= n % sector
		return n, d.writeSectors(p[:n], off/d.block, in)
	}
	// The bitmap knows whole sectors only: the rest of this one comes along.
	skip := in % sector
	n = min(n, sector-skip)
	var s [sector]byte
	if _, err := d.read(s[:], off-skip); err != nil {
		return 0, err
	}
	copy(s[skip:], p[:n])
	return n, d.writeSectors(s[:], off/d.block, in-skip)
}

// writeSectors writes whole sectors from in on within one block.
func (d *Disk) writeSectors(p []byte, block, in int64) error {
	if d.table[block] == unused {
		if err := d.place(p, block, in); err != nil {
			return err
		}
	} else {
		// Where the bitmap isn't durable yet, or says that the sector isn't
		// held, this is seen by nobody before the next Flush.
		if err := writeFull(d.f, p, int64(d.table[block])*sector+d.layout.bitmap+in); err != nil {
			return err
		}
	}
	return d.hold(block, in/sector, (in+int64(len(p)))/sector)
}

// place gives a block its place in the file and writes its first sectors.
func (d *Disk) place(p []byte, block, in int64) error {
	at, clean, err := d.take()
	if err != nil {
		return err
	}
	data := at + d.layout.bitmap
	if !clean && int64(len(p)) < d.block {
		err = writeZeros(d.f, data, d.block)
	}
	if err == nil {
		err = writeFull(d.f, p, data+in)
	}
	if err != nil {
		d.space.free = append(d.space.free, at)
		return err
	}
	d.enter(block, at)
	return nil
}

// enter is a block's new place, whose content is whole but for the bitmap.
func (d *Disk) enter(block, at int64) {
	m := make(bitmap, d.layout.bitmap)
	if d.parent == nil {
		// What isn't held would read as the zeros that the place is full of.
		// Other readers don't look at the bitmap of a dynamic disk.
		m = filled(d.layout.bitmap)
	}
	d.table[block] = uint32(at / sector)
	d.moved[block], d.fresh[block], d.dirty[block] = true, true, m
}

// hold records that the image holds sectors of a block.
func (d *Disk) hold(block, from, to int64) error {
	m, err := d.bitmap(block)
	if err != nil {
		return err
	}
	if m.set(from, to) {
		d.cache.drop(block)
		d.dirty[block] = m
	}
	return d.bound()
}

// maxDirty bounds the bitmaps that wait for a Flush, in bytes.
const maxDirty = 2 << 20

// bound flushes when too much waits for it.
func (d *Disk) bound() error {
	if most := max(1, maxDirty/d.layout.bitmap); int64(len(d.dirty)) <= most && int64(len(d.moved)) <= 8*most {
		return nil
	}
	return d.flush()
}

// Zero makes [off, off+n) read as zeros, and gives room back where a dynamic
// image has whole blocks there. It is as durable as a write.
func (d *Disk) Zero(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.change(off, n); err != nil {
		return err
	}
	if d.foot.kind == Fixed {
		return writeZeros(d.f, off, n)
	}
	for n > 0 {
		block, in := off/d.block, off%d.block
		now := min(n, d.block-in)
		var err error
		if whole := in == 0 && (now == d.block || off+now == d.foot.Size); whole {
			err = d.zeroBlock(block)
		} else {
			err = d.zeroPart(block, in, now)
		}
		if err != nil {
			return err
		}
		off, n = off+now, n-now
	}
	return nil
}

// zeroBlock makes all of a block read as zeros.
func (d *Disk) zeroBlock(block int64) error {
	e := d.table[block]
	switch {
	case d.parent == nil && e == unused:
		return nil
	case d.parent == nil:
		d.drop(block)
		return d.bound()
	case e != unused:
		if err := writeZeros(d.f, int64(e)*sector+d.layout.bitmap, d.block); err != nil {
			return err
		}
		return d.hold(block, 0, d.block/sector)
	}
	// Nothing but a block of zeros hides the parent.
	at, clean, err := d.take()
	if err != nil {
		return err
	}
	if !clean {
		if err := writeZeros(d.f, at+d.layout.bitmap, d.block); err != nil {
			d.space.free = append(d.space.free, at)
			return err
		}
	}
	d.enter(block, at)
	return d.hold(block, 0, d.block/sector)
}

// zeroPart makes a part of a block read as zeros.
func (d *Disk) zeroPart(block, in, n int64) error {
	if d.parent == nil && d.table[block] == unused {
		return nil
	}
	for n > 0 {
		now, err := d.writeSome(zeros[:min(n, int64(len(zeros)))], block*d.block+in)
		if err != nil {
			return err
		}
		in, n = in+now, n-now
	}
	return nil
}

var zeros [256 << 10]byte // never written to

func writeZeros(f File, off, n int64) error {
	for n > 0 {
		now := min(n, int64(len(zeros)))
		if err := writeFull(f, zeros[:now], off); err != nil {
			return err
		}
		off, n = off+now, n-now
	}
	return nil
}

package vhdx

// WriteAt writes to the disk, which must have the whole range; nothing is
// written otherwise. After an error any part may be written.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	for done := 0; ; {
		n, err := d.overwrite(p[done:], off+int64(done))
		done += n
		if err != nil || done == len(p) {
			return done, err
		}
		n, err = d.place(p[done:], off+int64(done))
		done += n
		if err != nil || done == len(p) {
			return done, err
		}
	}
}

// overwrite writes as much from the front of p as needs no other change than
// that of bytes that the file holds already.
func (d *Disk) overwrite(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.usable(true); err != nil {
		return 0, err
	}
	if err := d.checkRange(off, int64(len(p))); err != nil {
		return 0, err
	}
	if !d.session.data {
		return 0, nil
	}
	done := 0
	for done < len(p) {
		s, n, place, err := d.at(off+int64(done), int64(len(p)-done))
		if err != nil || s != Data {
			return done, err
		}
		if err := writeFull(d.medium, p[done:][:n], place); err != nil {
			return done, err
		}
		done += int(n)
	}
	return done, nil
}

// place writes the part of p that is in the first block, and makes room for it.
func (d *Disk) place(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(true); err != nil {
		return 0, err
	}
	if err := d.checkRange(off, int64(len(p))); err != nil {
		return 0, err
	}
	if err := d.begin(true); err != nil {
		return 0, err
	}
	block := off / d.meta.block
	in := off - block*d.meta.block
	p = p[:min(int64(len(p)), d.meta.held(block)-in)]
	if err := d.writeBlock(block, in, p); err != nil {
		return 0, err
	}
	return len(p), d.settle()
}

// writeBlock writes into one block. What shows the bytes changes after they were
// written, in memory; in the file flush keeps that order.
func (d *Disk) writeBlock(block, in int64, p []byte) error {
	at := d.meta.entry(block)
	e := d.bat.get(at)
	switch e.state() {
	case stateFull:
		return writeFull(d.medium, p, e.off()+in)
	case statePartial:
		return d.writePartial(block, in, p, e.off())
	}
	partial := d.meta.diff && e.state() == stateAbsent && int64(len(p)) < d.meta.held(block)
	if partial {
		if err := d.needBitmap(block); err != nil {
			return err
		}
	}
	room, err := d.allocate()
	if err != nil {
		return err
	}
	if partial {
		per := d.meta.block / d.meta.logical
		err = d.bits.set(d.bat.get(d.meta.bitmapEntry(block)).off(), block%d.meta.chunk()*per, per, false)
		if err == nil {
			// In memory the block is partial before a sector of it counts, so
			// that a failure leaves it as it was to be seen.
			d.bat.set(at, makeEntry(statePartial, room))
			return d.writePartial(block, in, p, room)
		}
	} else if err = writeFull(d.medium, p, room+in); err == nil {
		d.bat.set(at, makeEntry(stateFull, room))
		return nil
	}
	d.alloc.gaps = append(d.alloc.gaps, room)
	return err
}

// needBitmap gives the block's chunk a sector bitmap of zeros, if it has none.
func (d *Disk) needBitmap(block int64) error {
	at := d.meta.bitmapEntry(block)
	if d.bat.get(at).state() == stateFull {
		return nil
	}
	off, err := d.extend(bitmapBlock)
	if err != nil {
		return err
	}
	d.bat.set(at, makeEntry(stateFull, off))
	return nil
}

// writePartial writes into a block whose other sectors are the parent's. Sectors
// that become the block's own are completed with the parent's bytes.
func (d *Disk) writePartial(block, in int64, p []byte, room int64) error {
	sector := d.meta.logical
	start, end := in/sector*sector, roundUp(in+int64(len(p)), sector)
	if err := d.complete(block, start, in, room); err != nil {
		return err
	}
	if err := d.complete(block, in+int64(len(p)), end, room); err != nil {
		return err
	}
	if err := writeFull(d.medium, p, room+in); err != nil {
		return err
	}
	base := d.bat.get(d.meta.bitmapEntry(block)).off()
	first := block % d.meta.chunk() * (d.meta.block / sector)
	if err := d.bits.set(base, first+start/sector, (end-start)/sector, true); err != nil {
		return err
	}
	held := d.meta.held(block)
	if set, n, err := d.sectors(block, 0, held); err != nil || !set || n < held {
		return err
	}
	d.bat.set(d.meta.entry(block), makeEntry(stateFull, room))
	return nil
}

// complete copies the parent's bytes [from, to) of a block, less than a sector,
// if the sector isn't the block's own yet.
func (d *Disk) complete(block, from, to, room int64) error {
	if from == to {
		return nil
	}
	set, _, err := d.sectors(block, from, to-from)
	if err != nil || set {
		return err
	}
	buf := make([]byte, to-from)
	if err := d.readParent(buf, block*d.meta.block+from); err != nil {
		return err
	}
	return writeFull(d.medium, buf, room+from)
}

// Zero makes [off, off+n) read as zeros, and gives whole blocks back to the file
// unless the disk is a fixed one.
func (d *Disk) Zero(off, n int64) error {
	for first := true; first || n > 0; first = false {
		done, err := d.zeroBlock(off, n)
		if err != nil {
			return err
		}
		off, n = off+done, n-done
	}
	return nil
}

// zeroBlock does the part in the first block.
func (d *Disk) zeroBlock(off, n int64) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(true); err != nil {
		return 0, err
	}
	if err := d.checkRange(off, n); err != nil || n == 0 {
		return 0, err
	}
	block := off / d.meta.block
	in := off - block*d.meta.block
	n = min(n, d.meta.held(block)-in)
	return n, d.blankBlock(block, in, n, n == d.meta.held(block))
}

// blankBlock makes [in, in+n) of a block zeros, or whole the block one of zeros.
func (d *Disk) blankBlock(block, in, n int64, whole bool) error {
	at := d.meta.entry(block)
	e := d.bat.get(at)
	if !e.placed() && (!d.meta.diff || e.state() != stateAbsent) {
		return nil // zeros
	}
	if err := d.begin(true); err != nil {
		return err
	}
	switch {
	case whole && !d.meta.fixed:
		if e.placed() {
			d.alloc.freed = append(d.alloc.freed, e.off())
		}
		d.bat.set(at, makeEntry(stateZero, 0))
		return d.settle()
	case e.state() == stateFull:
		return blank(d.medium.File, e.off()+in, n)
	}
	for zeros := make([]byte, min(n, mib)); n > 0; {
		part := zeros[:min(n, int64(len(zeros)))]
		if err := d.writeBlock(block, in, part); err != nil {
			return err
		}
		in, n = in+int64(len(part)), n-int64(len(part))
	}
	return d.settle()
}

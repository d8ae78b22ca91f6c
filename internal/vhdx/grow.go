package vhdx

import "fmt"

// Grow makes the disk larger; what it adds reads as zeros. A crash leaves the
// old size or the new one. The BAT moves to the end of the file if its region is
// too small. Children of the disk don't open any more: it is another one.
func (d *Disk) Grow(size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(true); err != nil {
		return err
	}
	next := d.meta
	next.size = size
	switch {
	case size == d.meta.size:
		return nil
	case size < d.meta.size:
		return fmt.Errorf("vhdx: a disk of %d bytes can't shrink to %d", d.meta.size, size)
	case next.check(0) != nil:
		return fmt.Errorf("vhdx: a disk of %d bytes can't grow to %d", d.meta.size, size)
	}
	if err := d.begin(true); err != nil {
		return err
	}
	if err := d.blankTail(size); err != nil {
		return err
	}
	if err := d.flush(); err != nil {
		return err
	}
	return d.resize(next.geometry)
}

// blankTail makes what the last block has behind the disk's end zeros.
func (d *Disk) blankTail(size int64) error {
	last := d.meta.blocks() - 1
	held := d.meta.held(last)
	n := min(d.meta.block, size-last*d.meta.block) - held
	if n == 0 || !d.bat.get(d.meta.entry(last)).placed() {
		return nil
	}
	// The file may end with the disk.
	length, err := d.medium.Size()
	if err != nil {
		return err
	}
	if length < d.alloc.end {
		if err := d.medium.Truncate(d.alloc.end); err != nil {
			return err
		}
	}
	return d.blankBlock(last, held, n, false)
}

// resize makes entries for the new blocks durable, and then what makes them
// count: the new size, and where the BAT is.
func (d *Disk) resize(next geometry) error {
	old := d.meta.geometry
	table := find(d.regions, regionBAT)
	if table.len >= next.entries()*8 {
		if err := d.loadBehind(table.off, next.entries()); err != nil {
			return err
		}
	}
	d.bat.grow(next.entries())
	r := next.chunk()
	for block := old.blocks(); block < next.blocks(); block++ {
		d.bat.set(next.entry(block), 0)
	}
	for i := next.bitmapEntry(old.blocks() - 1); i < next.entries(); i += r + 1 {
		if !old.diff || i >= old.entries() {
			d.bat.set(i, 0)
		}
	}
	if d.meta.fixed {
		d.appendBlocks(old.blocks(), next.blocks())
		if err := d.medium.Truncate(d.alloc.end); err != nil {
			return err
		}
	}
	p := patch{}
	was := *table
	regions := append([]region(nil), d.regions...)
	if was.len < next.entries()*8 {
		moved := find(regions, regionBAT)
		if err := d.moveBAT(moved, next.batBytes()); err != nil {
			return err
		}
		raw := encodeRegions(regions)
		for _, off := range []int64{regionAt0, regionAt1} {
			if err := p.put(d.medium, off, raw); err != nil {
				return err
			}
		}
	} else if err := d.flush(); err != nil {
		return err
	}
	if err := p.put(d.medium, d.itemAt(itemSize), le.AppendUint64(nil, uint64(next.size))); err != nil {
		return err
	}
	if err := d.commitPatch(p); err != nil {
		return err
	}
	if find(regions, regionBAT).off != was.off {
		clear(d.bat.dirty)
		for off := was.off; off+next.block <= was.off+was.len; off += next.block {
			d.alloc.gaps = append(d.alloc.gaps, off)
		}
	}
	d.regions, d.meta.size = regions, next.size
	return nil
}

// loadBehind takes in what the BAT's region has behind the entries that count,
// so that what is left there by whomever is seen as a difference.
func (d *Disk) loadBehind(base, entries int64) error {
	first := int64(len(d.bat.pages))
	d.bat.grow(entries)
	for n := first; n < int64(len(d.bat.pages)); n++ {
		var raw [page]byte
		if err := d.medium.read(raw[:], base+n*page); err != nil {
			return err
		}
		err := d.bat.load(raw[:], n*pageEntries, func(int64, entry) error { return nil })
		if err != nil {
			return err
		}
	}
	return nil
}

// moveBAT writes the table to the end of the file, where it doesn't count yet.
func (d *Disk) moveBAT(r *region, length int64) error {
	off, err := d.extend(length)
	if err != nil {
		return err
	}
	r.off, r.len = off, length
	for n, p := range d.bat.pages {
		if p == nil {
			continue
		}
		if err := writeFull(d.medium, d.bat.encode(int64(n))[:], off+int64(n)*page); err != nil {
			return err
		}
	}
	return nil
}

package vhdx

// Merge writes what the disk holds itself into its parent, which must be open
// for writing and then shows what the disk shows. The disk stays as it is, and
// may be removed; children of it must be given the parent by [Disk.SetParent]
// before. Writers wait until the merge is done.
//
// A crash leaves a pair that shows, through the child, what it did, and that can
// be merged again: the child is told beforehand by which DataWriteGUID the
// changed parent will be known. All other children of the parent are lost.
func (d *Disk) Merge() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(true); err != nil {
		return err
	}
	if !d.meta.diff {
		return errNotDifferencing
	}
	p := d.parent
	if p == nil {
		return ErrNoParent
	}
	if d.session.file {
		if err := d.flush(); err != nil {
			return err
		}
	}
	if err := d.announce(p); err != nil {
		return err
	}
	if size := d.meta.size; p.Size() < size {
		if err := p.Grow(size); err != nil {
			return err
		}
	}
	if err := d.copyTo(p); err != nil {
		return err
	}
	linkage, err := p.becomeParent()
	if err != nil {
		return err
	}
	l := d.meta.locator
	l.Linkage, l.Linkage2 = linkage, GUID{}
	return d.relink(l)
}

// announce agrees on the parent's next DataWriteGUID.
func (d *Disk) announce(p *Disk) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.usable(true); err != nil {
		return err
	}
	l := d.meta.locator
	l.Linkage, l.Linkage2 = p.head.dataWrite, NewGUID()
	if err := d.relink(l); err != nil {
		return err
	}
	h := p.head
	h.dataWrite = l.Linkage2
	if !p.session.file {
		h.fileWrite = NewGUID()
	}
	if err := p.writeHeader(h); err != nil {
		return err
	}
	p.session.file, p.session.data = true, true
	return nil
}

func (d *Disk) copyTo(p *Disk) error {
	buf := make([]byte, mib)
	for off := int64(0); off < d.meta.size; {
		s, n, place, err := d.at(off, d.meta.size-off)
		if err != nil {
			return err
		}
		switch s {
		case Zero:
			err = p.Zero(off, n)
		case Data:
			n = min(n, int64(len(buf)))
			if err = d.medium.read(buf[:n], place); err == nil {
				_, err = p.WriteAt(buf[:n], off)
			}
		}
		if err != nil {
			return err
		}
		off += n
	}
	return nil
}

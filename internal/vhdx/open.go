package vhdx

// OpenOptions say how to open an image.
type OpenOptions struct {
	// ReadOnly leaves the file as it is, with a log that waits to be replayed
	// too: it is then replayed in memory.
	ReadOnly bool
	// Parent opens the parent of a differencing disk; the caller closes it, after
	// the child. It may give nil, or be nil: what lies in the parent then can't
	// be read, and asking for it is [ErrNoParent].
	Parent func(Locator) (*Disk, error)
}

// Open opens an image. If a crash left changes in its log they are made first.
// Nobody else may write to f while the disk is open, or have it open at all if
// the disk is opened for writing.
//
// The file is not trusted: whatever it holds, Open and what reads from the disk
// return an error or bytes of this file and its parents. Memory is bounded by
// the sizes that are stated where they are defined: a BAT takes 8 bytes for each
// block, and no more than the file really has of it.
func Open(f File, o OpenOptions) (*Disk, error) {
	d, err := open(f, o.ReadOnly)
	if err != nil {
		return nil, err
	}
	if !d.meta.diff || o.Parent == nil {
		return d, nil
	}
	p, err := o.Parent(d.meta.locator)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return d, nil
	}
	if err := d.adopt(p); err != nil {
		return nil, err
	}
	return d, nil
}

// adopt takes a parent if it is the right one.
func (d *Disk) adopt(p *Disk) error {
	switch {
	case !d.meta.locator.matches(p.DataWriteGUID()):
		return ErrParentChanged
	case p.meta.logical != d.meta.logical:
		return unsupported("logical sectors of %d bytes over a parent's of %d", d.meta.logical, p.meta.logical)
	case p.Size() > d.meta.size:
		return unsupported("a child of %d bytes of a parent of %d", d.meta.size, p.Size())
	}
	depth := p.chain() + 1
	if depth > MaxChain {
		return unsupported("a chain of more than %d files", MaxChain)
	}
	d.parent, d.depth = p, depth
	return nil
}

func open(f File, readOnly bool) (*Disk, error) {
	h, slot, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	m, err := readLog(f, h)
	if err != nil {
		return nil, err
	}
	d := &Disk{depth: 1, readOnly: readOnly, medium: m, head: h, slot: slot}
	if m.over != nil && !readOnly {
		if err := d.replay(); err != nil {
			return nil, err
		}
		m, h = d.medium, d.head
	}
	d.bits.medium = m
	if d.regions, err = readRegions(m, h); err != nil {
		return nil, err
	}
	if d.meta, err = readMetadata(m, *find(d.regions, regionMetadata)); err != nil {
		return nil, err
	}
	var taken space
	taken.cover(0, headerArea)
	taken.cover(h.logAt, h.logSize)
	for _, r := range d.regions {
		taken.cover(r.off, r.len)
	}
	if d.bat, err = readBAT(m, *find(d.regions, regionBAT), d.meta.geometry, &taken); err != nil {
		return nil, err
	}
	if readOnly {
		return d, nil
	}
	d.alloc.end = max(roundUp(m.size, mib), taken.end())
	if !d.meta.fixed {
		d.alloc.gaps = taken.gaps(m.size, d.meta.block)
	}
	return d, nil
}

// replay puts what the log has into its place. The file is another one from the
// first change on.
func (d *Disk) replay() error {
	if err := d.begin(false); err != nil {
		return err
	}
	if err := d.medium.over.apply(d.medium.File, d.medium.size); err != nil {
		return err
	}
	d.medium.over = nil
	return d.emptyLog()
}

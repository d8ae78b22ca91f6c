package vhdx

import (
	"errors"
	"fmt"
)

// Options say what Create makes.
type Options struct {
	// Size of the virtual disk in bytes, a multiple of its sectors, [MaxSize] at
	// most. 0 is allowed with a parent, and means its size.
	Size int64
	// BlockSize is a power of two, from 1 MiB to 256 MiB; 0 means Hyper-V's
	// default: 32 MiB, or 2 MiB for a differencing disk.
	BlockSize uint32
	// LogicalSector and PhysicalSector are 512 or 4096 bytes. 0 means the
	// parent's, or 512 and 4096.
	LogicalSector, PhysicalSector uint32
	// Fixed allocates all blocks. Whether that takes room is the file system's
	// matter: the file is made long, not written.
	Fixed bool
	// DiskID is the virtual disk's; zero means a random one, or the parent's,
	// which no differencing disk may differ from.
	DiskID GUID
	// Parent makes a differencing disk, which shows what the parent has now and
	// breaks when that is written. It stays open until the child is closed.
	Parent *Disk
	// ParentAbsolute and ParentRelative are written down for whoever looks for
	// the parent: see [Locator]. The specification wants one of them.
	ParentAbsolute, ParentRelative string
}

// Create makes an empty disk, durable, of whatever f held. A crash before it
// returns leaves a file that Open refuses.
func Create(f File, o Options) (*Disk, error) {
	meta, err := o.metadata()
	if err != nil {
		return nil, err
	}
	d := &Disk{depth: 1, meta: meta, session: session{file: true, data: true}}
	if p := o.Parent; p != nil {
		if d.depth = p.chain() + 1; d.depth > MaxChain {
			return nil, unsupported("a chain of more than %d files", MaxChain)
		}
		linkage, err := p.becomeParent()
		if err != nil {
			return nil, err
		}
		d.parent = p
		d.meta.locator = Locator{Linkage: linkage, Absolute: o.ParentAbsolute, Relative: o.ParentRelative}
	}
	if err := d.format(f); err != nil {
		return nil, err
	}
	return d, nil
}

func (o Options) metadata() (metadata, error) {
	m := metadata{geometry: geometry{o.Size, int64(o.BlockSize), int64(o.LogicalSector), o.Parent != nil},
		fixed: o.Fixed, physical: o.PhysicalSector, diskID: o.DiskID}
	if p := o.Parent; p != nil {
		if o.Fixed {
			return m, errors.New("vhdx: a differencing disk can't be a fixed one")
		}
		if size := p.Size(); m.size == 0 {
			m.size = size
		} else if m.size < size {
			return m, fmt.Errorf("vhdx: a child of %d bytes of a parent of %d", m.size, size)
		}
		if m.logical != 0 && m.logical != p.meta.logical || m.diskID != (GUID{}) && m.diskID != p.meta.diskID {
			return m, errors.New("vhdx: a child has its parent's logical sectors and disk ID")
		}
		m.logical, m.diskID = p.meta.logical, p.meta.diskID
		set(&m.physical, p.meta.physical)
		set(&m.block, 2*mib)
	}
	set(&m.block, 32*mib)
	set(&m.logical, 512)
	set(&m.physical, 4096)
	if m.diskID == (GUID{}) {
		m.diskID = NewGUID()
	}
	if err := m.check(0); err != nil {
		return m, fmt.Errorf("vhdx: can't create a disk of %d bytes, blocks of %d, logical sectors of %d and physical ones of %d",
			m.size, m.block, m.logical, m.physical)
	}
	return m, nil
}

// set sets what is zero.
func set[T uint32 | int64](p *T, v T) {
	if *p == 0 {
		*p = v
	}
}

// Where Create puts things.
const (
	createLogAt      = 1 * mib
	createLogSize    = 1 * mib
	createMetadataAt = createLogAt + createLogSize
	createBATAt      = createMetadataAt + metadataSize
)

// format writes an empty image. The headers come last.
func (d *Disk) format(f File) error {
	g := d.meta.geometry
	d.medium, d.bits.medium = medium{File: f}, medium{File: f}
	d.bat = newBAT(g.entries())
	d.alloc.end = createBATAt + g.batBytes()
	d.regions = []region{
		{regionBAT, createBATAt, g.batBytes(), true},
		{regionMetadata, createMetadataAt, metadataSize, true},
	}
	meta, err := d.meta.encode()
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if d.meta.fixed {
		d.appendBlocks(0, g.blocks())
	}
	if err := f.Truncate(d.alloc.end); err != nil {
		return err
	}
	for n := range d.bat.dirty {
		if err := writeFull(f, d.bat.encode(n)[:], createBATAt+n*page); err != nil {
			return err
		}
	}
	clear(d.bat.dirty)
	table := encodeRegions(d.regions)
	for _, part := range []struct {
		off  int64
		data []byte
	}{{0, identifier()}, {regionAt0, table}, {regionAt1, table}, {createMetadataAt, meta}} {
		if err := writeFull(f, part.data, part.off); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return d.writeHeader(header{fileWrite: NewGUID(), dataWrite: NewGUID(), logAt: createLogAt, logSize: createLogSize})
}

// appendBlocks gives the blocks [first, end) places at the end of the file,
// which must be made that long.
func (d *Disk) appendBlocks(first, end int64) {
	for block := first; block < end; block++ {
		d.bat.set(d.meta.entry(block), makeEntry(stateFull, d.alloc.end))
		d.alloc.end += d.meta.block
	}
}

// becomeParent makes what the disk shows durable, and any later write visible to
// a child that knows the linkage.
func (d *Disk) becomeParent() (linkage GUID, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(!d.readOnly); err != nil {
		return linkage, err
	}
	if d.session.file {
		if err := d.flush(); err != nil {
			return linkage, err
		}
	}
	d.session.data = false
	return d.head.dataWrite, nil
}

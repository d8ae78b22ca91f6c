package vhdx

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
)

// Disk is an open image: the virtual disk that it shows, together with its
// parents. All methods are safe for concurrent use; what overlapping writes
// leave is one or the other, sector by sector.
//
// What was written is durable after Flush. A crash before it leaves each sector
// that was written since the Flush before as it was or as it became, and a file
// that opens.
type Disk struct {
	parent   *Disk // nil also if it wasn't given
	depth    int   // of the chain, 1 without a parent
	readOnly bool

	// mu is held for reading by what only follows the mapping, reads and writes
	// in place alike, and for writing by what changes it.
	mu      sync.RWMutex
	medium  medium
	head    header
	slot    int // of the header that counts
	regions []region
	meta    metadata
	bat     *bat
	bits    bitmaps

	session session
	alloc   allocator
	failed  error // of a write that leaves unknown what the file has
	closed  bool
}

// session is what is special since the disk was opened for writing.
type session struct {
	file     bool // FileWriteGuid is a new one
	data     bool // DataWriteGuid is
	sequence uint64
	half     int64 // of the log, for the next entry
}

// Size is the virtual disk's, in bytes.
func (d *Disk) Size() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.meta.size
}

// ID is the virtual disk's own, which SCSI calls page 83 data. It is the same
// along a chain.
func (d *Disk) ID() GUID { return d.meta.diskID }

// DataWriteGUID names what the disk shows. It changes with the first write after
// an open, and when a child was made from the disk.
func (d *Disk) DataWriteGUID() GUID {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.head.dataWrite
}

// HasParent tells whether it is a differencing disk.
func (d *Disk) HasParent() bool { return d.meta.diff }

// Parent is the open disk below this one, nil if there is none.
func (d *Disk) Parent() *Disk {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.parent
}

// Locator says where the parent is. It is empty without a parent.
func (d *Disk) Locator() Locator {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.meta.locator
}

// BlockSize is the unit of allocation, in bytes.
func (d *Disk) BlockSize() uint32 { return uint32(d.meta.block) }

// LogicalSector is 512 or 4096 bytes.
func (d *Disk) LogicalSector() uint32 { return uint32(d.meta.logical) }

// PhysicalSector is 512 or 4096 bytes.
func (d *Disk) PhysicalSector() uint32 { return d.meta.physical }

// Fixed tells whether all blocks are meant to stay allocated.
func (d *Disk) Fixed() bool { return d.meta.fixed }

// chain is how many files the disk is spread over, itself included.
func (d *Disk) chain() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.depth
}

// usable refuses what can't be done any more.
func (d *Disk) usable(toWrite bool) error {
	switch {
	case d.closed:
		return fmt.Errorf("vhdx: %w", fs.ErrClosed)
	case toWrite && d.readOnly:
		return ErrReadOnly
	case toWrite && d.failed != nil:
		return fmt.Errorf("vhdx: an earlier write failed, open the disk anew: %w", d.failed)
	}
	return nil
}

// fail remembers that what the file has is not known any more.
func (d *Disk) fail(err error) error {
	if err != nil && d.failed == nil {
		d.failed = err
	}
	return err
}

// Flush makes all that was written durable. After it failed the disk takes no
// more writes: what was written since the Flush before may be lost. To a disk
// that is only read it does nothing.
func (d *Disk) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(!d.readOnly); err != nil || !d.session.file {
		return err
	}
	return d.flush()
}

// Close makes all that was written durable and leaves an empty log. The file and
// the parent stay open: they are the caller's. The second call fails with
// [fs.ErrClosed].
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return d.usable(false)
	}
	var err error
	if d.failed != nil {
		err = d.usable(true)
	} else if d.session.file {
		if err = d.flush(); err == nil {
			err = d.emptyLog()
		}
	}
	d.closed = true
	d.bat, d.bits.pages, d.bits.dirty = nil, nil, nil
	return err
}

// checkRange refuses what isn't on the disk.
func (d *Disk) checkRange(off, n int64) error {
	if off < 0 || n < 0 || off > d.meta.size || n > d.meta.size-off {
		return fmt.Errorf("vhdx: %d bytes at %d of a disk of %d: %w", n, off, d.meta.size, errOutside)
	}
	return nil
}

var errOutside = errors.New("outside of the disk")

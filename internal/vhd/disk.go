package vhd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/google/uuid"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var errClosed = fmt.Errorf("vhd: %w", fs.ErrClosed)

// Disk is the virtual disk in an image. All methods are safe for concurrent use.
// Reads go side by side; a write or a Flush waits for them and they for it.
type Disk struct {
	f      File
	foot   footer
	raw    []byte // the footer as it is, which goes along when the file grows
	head   header
	parent *Disk
	depth  int // images below it
	layout     // of all but fixed ones

	mu       sync.RWMutex
	readOnly bool
	closed   bool
	broken   error // a Sync failed: what the file holds is unknown
	unsynced bool  // written since the last Sync

	table []uint32         // as it will be after a Flush
	moved map[int64]bool   // blocks whose entry isn't durable
	fresh map[int64]bool   // those of them whose bitmap isn't durable either
	dirty map[int64]bitmap // bitmaps that aren't durable
	cache cache            // of the others
	space space
}

// Size is the disk's size in bytes.
func (d *Disk) Size() int64 { return d.foot.Size }

// ID is the image's own, by which its children know it.
func (d *Disk) ID() uuid.UUID { return d.foot.ID }

// Kind tells how the image keeps the disk.
func (d *Disk) Kind() Kind { return d.foot.kind }

// Footer is what the image says of the disk.
func (d *Disk) Footer() Footer { return d.foot.Footer }

// BlockSize is that of the image's blocks in bytes, 0 for a fixed one.
func (d *Disk) BlockSize() uint32 { return uint32(d.block) }

// HasParent reports whether the image is differencing.
func (d *Disk) HasParent() bool { return d.foot.kind == Differencing }

// Parent is what the disk reads where the image has nothing, nil unless it is
// differencing.
func (d *Disk) Parent() *Disk { return d.parent }

// Locator tells which parent a differencing image has; else it is zero.
func (d *Disk) Locator() Locator {
	if !d.HasParent() {
		return Locator{}
	}
	return d.head.parent
}

// ReadAt implements [io.ReaderAt] on the virtual disk.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("vhd: read at %d: %w", off, dr.ErrOutOfRange)
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return 0, errClosed
	}
	if off >= d.foot.Size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	var eof error
	if left := d.foot.Size - off; int64(len(p)) > left {
		p, eof = p[:left], io.EOF
	}
	if n, err := d.read(p, off); err != nil {
		return n, err
	}
	return len(p), eof
}

// read fills all of p from within the disk.
func (d *Disk) read(p []byte, off int64) (done int, err error) {
	if d.foot.kind == Fixed {
		return 0, readFull(d.f, p, off)
	}
	for len(p) > 0 {
		block, in := off/d.block, off%d.block
		n := min(int64(len(p)), d.block-in)
		if err := d.readBlock(p[:n], block, in); err != nil {
			return done, err
		}
		p, off, done = p[n:], off+n, done+int(n)
	}
	return done, nil
}

// readBlock reads from in on within one block.
func (d *Disk) readBlock(p []byte, block, in int64) error {
	e := d.table[block]
	if e == unused {
		return d.readAbsent(p, block*d.block+in)
	}
	m, err := d.bitmap(block)
	if err != nil {
		return err
	}
	last := (in + int64(len(p)) + sector - 1) / sector
	for len(p) > 0 {
		end, held := m.run(in/sector, last)
		n := min(int64(len(p)), end*sector-in)
		if held {
			err = readFull(d.f, p[:n], int64(e)*sector+d.layout.bitmap+in)
		} else {
			err = d.readAbsent(p[:n], block*d.block+in)
		}
		if err != nil {
			return err
		}
		p, in = p[n:], in+n
	}
	return nil
}

// readAbsent reads what the image itself doesn't hold.
func (d *Disk) readAbsent(p []byte, off int64) error {
	n := 0
	if d.parent != nil {
		// A parent may be shorter, and reads as zeros from its end on.
		got, err := d.parent.ReadAt(p, off)
		if err != nil && err != io.EOF {
			return err
		}
		n = got
	}
	clear(p[n:])
	return nil
}

// bitmap is that of a block which has a place.
func (d *Disk) bitmap(block int64) (bitmap, error) {
	if m := d.dirty[block]; m != nil {
		return m, nil
	}
	if m := d.cache.get(block); m != nil {
		return m, nil
	}
	m := make(bitmap, d.layout.bitmap)
	if err := readFull(d.f, m, int64(d.table[block])*sector); err != nil {
		return nil, err
	}
	d.cache.put(block, m)
	return m, nil
}

// writable refuses changes that can't be.
func (d *Disk) writable() error {
	switch {
	case d.closed:
		return errClosed
	case d.readOnly:
		return ErrReadOnly
	}
	return d.broken
}

// Flush makes durable what was written so far. When it fails, it can be called
// again, unless it was a Sync of the file that failed. Then every further change is
// refused: of what was written since the last Flush, some is lost although the
// system still reads it, and only after its next start does the file read as what
// it holds.
func (d *Disk) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	return d.flush()
}

// Close flushes the disk and gives back what the file has too much. It closes
// neither the file nor the parent. The second call is [fs.ErrClosed].
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	err := d.finish()
	d.closed = true
	return err
}

// freeze makes a disk that others rely on as it is.
func (d *Disk) freeze() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	if err := d.finish(); err != nil {
		return err
	}
	d.readOnly = true
	return nil
}

// finish leaves the file as it may stay.
func (d *Disk) finish() error {
	if err := d.flush(); err != nil {
		return err
	}
	if d.readOnly || d.foot.kind == Fixed {
		return nil
	}
	return d.trim()
}

// sync makes the file durable. There is no second try: after a failed one the
// system may have dropped what it could not write.
func (d *Disk) sync() error {
	if d.broken != nil {
		return d.broken
	}
	if err := d.f.Sync(); err != nil {
		d.broken = fmt.Errorf("vhd: sync: %w", errors.Join(err, errUnknown))
		return d.broken
	}
	d.unsynced = false
	return nil
}

var errUnknown = errors.New("what the file holds is unknown until the system is started anew")

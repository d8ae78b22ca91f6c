package vhd

import (
	"errors"
	"fmt"
	"time"
)

// OpenOptions say how an image is opened.
type OpenOptions struct {
	// ReadOnly leaves the file as it is, and refuses changes.
	ReadOnly bool
	// Parent opens what a differencing image says is its parent. What it returns
	// takes no more writes: they would show through.
	Parent func(Locator) (*Disk, error)
	// IgnoreParentTime takes a parent whose file was written at another time
	// than the image says. It is for chains that were copied without their
	// files' times. The time is checked where the image has it and the parent's
	// [File] tells it.
	IgnoreParentTime bool
}

// maxDepth is the longest chain of images.
const maxDepth = 256

// Open opens an image. A footer that a power cut tore is made anew from its copy,
// unless ReadOnly is set.
func Open(f File, o OpenOptions) (*Disk, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	d := &Disk{f: f, readOnly: o.ReadOnly}
	found, err := d.readFooter(size)
	if err != nil {
		return nil, err
	}
	if !o.ReadOnly && d.foot.saved {
		return nil, unsupported("writing to the disk of a machine in saved state")
	}
	if d.foot.kind == Fixed {
		return d, nil
	}
	end := size
	if found.end {
		end -= FooterSize
	}
	next, floor, err := d.readMaps(end)
	if err != nil {
		return nil, err
	}
	if d.foot.kind == Differencing {
		if err := d.openParent(o); err != nil {
			return nil, err
		}
	}
	if o.ReadOnly {
		return d, nil
	}
	if !found.end || end%sector != 0 {
		end = roundUp(size, sector)
	}
	d.start(floor, roundUp(next, sector), end)
	return d, d.repair(found, end)
}

// found tells which footers are good.
type found struct{ head, end bool }

// readFooter finds the footer of a file of so many bytes.
//
// The footer at the end decides what is a fixed disk: its guest can write what it
// likes at the beginning. For the others it is the copy at the beginning, as
// what is at the end may be torn, or data of the guest where a file was cut.
func (d *Disk) readFooter(size int64) (found, error) {
	var ok found
	if size < FooterSize {
		return ok, fmt.Errorf("%w: a file of %d bytes", ErrFormat, size)
	}
	first, last := make([]byte, FooterSize), make([]byte, FooterSize)
	if err := readFull(d.f, last, size-FooterSize); err != nil {
		return ok, err
	}
	if err := readFull(d.f, first, 0); err != nil {
		return ok, err
	}
	end, endErr := parseFooter(last)
	if endErr == nil && end.kind == Fixed {
		if end.Size > size-FooterSize {
			return ok, corrupt(size-FooterSize, "a fixed disk of %d bytes in a file of %d", end.Size, size)
		}
		d.foot, d.raw = end, last
		return found{end: true}, nil
	}
	head, err := parseFooter(first)
	if err == nil && head.kind == Fixed {
		err = fmt.Errorf("%w: a fixed disk without its footer", ErrFormat)
	}
	ok = found{head: err == nil, end: endErr == nil}
	switch {
	case ok.head && ok.end && (head.Size != end.Size || head.ID != end.ID || head.kind != end.kind || head.header != end.header):
		return ok, corrupt(size-FooterSize, "the footer and its copy are of different disks")
	case ok.head:
		d.foot, d.raw = head, first
	case ok.end:
		d.foot, d.raw = end, last
	default:
		return ok, endErr
	}
	return ok, nil
}

// readMaps reads the header and the table of an image whose blocks end before
// end, and tells where the last one does and where all else does.
func (d *Disk) readMaps(end int64) (next, floor int64, err error) {
	at := d.foot.header
	if at < FooterSize || !within(at, headerSize, end) {
		return 0, 0, corrupt(offData, "a dynamic header at %d in a file of %d bytes", at, end)
	}
	b := make([]byte, headerSize)
	if err := readFull(d.f, b, int64(at)); err != nil {
		return 0, 0, err
	}
	if d.head, err = parseHeader(b, int64(at), end); err != nil {
		return 0, 0, err
	}
	if d.layout, err = layoutOf(d.foot.Size, d.head.block); err != nil {
		return 0, 0, err
	}
	if int64(d.head.entries) < d.count {
		return 0, 0, corrupt(int64(at)+offEntries, "a table of %d entries for %d blocks", d.head.entries, d.count)
	}
	owned := []region{
		{0, FooterSize},
		{int64(at), int64(at) + headerSize},
		{d.head.table, d.head.table + tableBytes(d.head.entries)},
	}
	for _, p := range d.head.places {
		if d.foot.kind == Differencing && p.space > 0 {
			owned = append(owned, region{p.off, p.off + p.space})
		}
	}
	for _, r := range owned {
		floor = max(floor, roundUp(r.end, sector))
	}
	if d.table, err = readTable(d.f, d.head.table, d.count); err != nil {
		return 0, 0, err
	}
	next, err = checkTable(d.table, d.layout, owned, end)
	return next, floor, err
}

// repair writes the footers that are missing, so that one is there while the
// other is written.
func (d *Disk) repair(f found, end int64) error {
	if !f.head {
		if err := writeFull(d.f, d.raw, 0); err != nil {
			return err
		}
		if err := d.sync(); err != nil {
			return err
		}
	}
	if size, err := d.f.Size(); err != nil {
		return err
	} else if f.end && size == end+FooterSize {
		return nil
	}
	if err := writeFull(d.f, d.raw, end); err != nil {
		return err
	}
	return d.sync()
}

// openParent finds the parent and proves that it is the one.
func (d *Disk) openParent(o OpenOptions) error {
	if err := d.head.readPaths(d.f); err != nil {
		return err
	}
	l := d.head.parent
	if o.Parent == nil {
		return fmt.Errorf("vhd: %s: %w", l.describe(), ErrNoParent)
	}
	p, err := o.Parent(l)
	if err != nil {
		return fmt.Errorf("vhd: parent %s: %w", l.describe(), err)
	}
	if p == nil {
		return fmt.Errorf("vhd: %s: %w", l.describe(), ErrNoParent)
	}
	if p.ID() != l.ID {
		return fmt.Errorf("vhd: parent %s: this is %s: %w", l.describe(), p.ID(), ErrParentChanged)
	}
	if err := d.setParent(p); err != nil {
		return err
	}
	if o.IgnoreParentTime || l.Time.IsZero() {
		return nil
	}
	modified, err := p.modified()
	if err != nil {
		return err
	}
	if !modified.IsZero() && stamp(modified) != stamp(l.Time) {
		return fmt.Errorf("vhd: parent %s: its file was written at %s, not %s: %w", l.describe(),
			modified.UTC().Format(time.RFC3339), l.Time.UTC().Format(time.RFC3339), ErrParentChanged)
	}
	return nil
}

// setParent makes p what the disk reads where the image has nothing.
func (d *Disk) setParent(p *Disk) error {
	if p.depth+1 > maxDepth {
		return unsupported("a chain of more than %d images", maxDepth)
	}
	if err := p.freeze(); err != nil {
		return fmt.Errorf("vhd: parent: %w", err)
	}
	d.parent, d.depth = p, p.depth+1
	return nil
}

// modified is when the image's file was written last; zero if it doesn't tell.
func (d *Disk) modified() (time.Time, error) {
	f, ok := d.f.(dated)
	if !ok {
		return time.Time{}, nil
	}
	t, err := f.ModTime()
	if errors.Is(err, errors.ErrUnsupported) {
		return time.Time{}, nil
	}
	return t, err
}

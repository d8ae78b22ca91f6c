package vhd

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Options say how an image is made.
type Options struct {
	// Size of the disk in bytes, whole sectors. A differencing one has its
	// parent's, which 0 stands for.
	Size int64
	// Fixed keeps the disk's bytes as they are; else the image grows with them.
	Fixed bool
	// BlockSize of an image that is not fixed, in bytes; 0: 2 MiB.
	BlockSize uint32
	ID        uuid.UUID // zero: a random one
	Time      time.Time // when it was made; zero: now
	// Parent, if set, is what the disk differs from. It takes no more writes:
	// they would show through.
	Parent *Disk
	// ParentRelative and ParentAbsolute are paths of the parent's file in the
	// form of Windows, `.\base.vhd` and `C:\disks\base.vhd`. Windows finds the
	// parent by them, and needs at least one.
	ParentRelative, ParentAbsolute string
}

const defaultBlock = 2 << 20

// Create makes an image on f, whose content is lost, and opens it for writing.
// The image is durable when it returns; a power cut before leaves a whole one,
// too, or none.
func Create(f File, o Options) (*Disk, error) {
	foot := footer{Footer: Footer{Size: o.Size, ID: o.ID, Time: o.Time}, kind: Dynamic, header: sector}
	if o.Parent != nil && o.Size == 0 {
		foot.Size = o.Parent.Size()
	}
	if foot.Size <= 0 || foot.Size%sector != 0 || foot.Size > 1<<62 {
		return nil, fmt.Errorf("vhd: a disk of %d bytes: %w", foot.Size, ErrUnsupported)
	}
	if foot.ID == uuid.Nil {
		var err error
		if foot.ID, err = uuid.NewRandom(); err != nil {
			return nil, err
		}
	}
	if foot.Time.IsZero() {
		foot.Time = time.Now()
	}
	foot.Time = stamped(stamp(foot.Time))
	d := &Disk{f: f, foot: foot}
	if err := d.f.Truncate(0); err != nil {
		return nil, err
	}
	switch {
	case o.Fixed && o.Parent != nil:
		return nil, unsupported("a fixed disk with a parent")
	case o.Fixed:
		d.foot.kind, d.foot.header = Fixed, noData
		return d, d.createFixed()
	case o.Parent != nil:
		if err := d.adopt(o); err != nil {
			return nil, err
		}
	}
	return d, d.createBlocks(o.BlockSize)
}

func (d *Disk) createFixed() error {
	if err := d.f.Truncate(d.foot.Size); err != nil {
		return err
	}
	d.raw = d.foot.bytes()
	if err := writeFull(d.f, d.raw, d.foot.Size); err != nil {
		return err
	}
	return d.sync()
}

// adopt records a new image's parent.
func (d *Disk) adopt(o Options) error {
	if d.foot.Size != o.Parent.Size() {
		return unsupported("a differencing disk of %d bytes: its parent's is of %d", d.foot.Size, o.Parent.Size())
	}
	if err := d.setParent(o.Parent); err != nil {
		return err
	}
	path := o.ParentAbsolute
	if path == "" {
		path = o.ParentRelative
	}
	d.foot.kind = Differencing
	d.head.parent = Locator{
		ID: o.Parent.ID(), Name: path[strings.LastIndexAny(path, `\/`)+1:],
		Relative: o.ParentRelative, Absolute: o.ParentAbsolute,
	}
	modified, err := o.Parent.modified()
	if err == nil && !modified.IsZero() {
		d.head.parent.Time = stamped(stamp(modified))
	}
	return err
}

// createBlocks writes an image without blocks: the footer's copy, the header, the
// table, the parent's paths and the footer. The footers are last.
func (d *Disk) createBlocks(block uint32) error {
	if block == 0 {
		block = defaultBlock
	}
	if err := checkBlock(block); err != nil {
		return err
	}
	l, err := layoutOf(d.foot.Size, block)
	if err != nil {
		return err
	}
	d.layout = l
	d.head.block, d.head.entries, d.head.table = block, uint32(l.count), sector+headerSize
	paths, end, err := d.head.setPaths(d.head.table + tableBytes(d.head.entries))
	if err != nil {
		return err
	}
	if err := writeFull(d.f, d.head.bytes(), sector); err != nil {
		return err
	}
	full := filled(4096)
	for off, n := d.head.table, tableBytes(d.head.entries); n > 0; {
		now := min(n, int64(len(full)))
		if err := writeFull(d.f, full[:now], off); err != nil {
			return err
		}
		off, n = off+now, n-now
	}
	for off, b := range paths {
		if err := writeFull(d.f, b, off); err != nil {
			return err
		}
	}
	if err := d.sync(); err != nil {
		return err
	}
	d.raw = d.foot.bytes()
	for _, off := range []int64{0, end} {
		if err := writeFull(d.f, d.raw, off); err != nil {
			return err
		}
	}
	d.table = make([]uint32, l.count)
	for i := range d.table {
		d.table[i] = unused
	}
	d.start(end, end, end)
	return d.sync()
}

// start begins to keep track of changes.
func (d *Disk) start(floor, next, footer int64) {
	d.moved, d.fresh, d.dirty = map[int64]bool{}, map[int64]bool{}, map[int64]bitmap{}
	d.space = space{floor: floor, next: next, footer: footer, clean: unknown}
}

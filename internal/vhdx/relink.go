package vhdx

import (
	"errors"
	"slices"
)

// SetParent makes p the disk's parent, after what lay between was merged, or
// where a copy took the parent's place: p must show what the parent showed. The
// paths are written down as they are in [Options]. A crash leaves the one or the
// other parent.
func (d *Disk) SetParent(p *Disk, absolute, relative string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(true); err != nil {
		return err
	}
	if !d.meta.diff {
		return errNotDifferencing
	}
	for a := p; a != nil; a = a.Parent() {
		if a == d {
			return errors.New("vhdx: a disk can't be below itself")
		}
	}
	linkage, err := p.becomeParent()
	if err != nil {
		return err
	}
	next := Disk{meta: metadata{geometry: d.meta.geometry, locator: Locator{Linkage: linkage}}}
	if err := next.adopt(p); err != nil {
		return err
	}
	if err := d.relink(Locator{Linkage: linkage, Absolute: absolute, Relative: relative}); err != nil {
		return err
	}
	d.parent, d.depth = p, next.depth
	return nil
}

var errNotDifferencing = errors.New("vhdx: not a differencing disk")

// relink replaces the parent locator.
func (d *Disk) relink(l Locator) error {
	raw, err := l.encode()
	if err != nil {
		return err
	}
	if err := d.begin(false); err != nil {
		return err
	}
	base := find(d.regions, regionMetadata)
	i := slices.IndexFunc(d.meta.items, func(it item) bool { return it.id == itemParentLocator && it.flags&flagUser == 0 })
	it := d.meta.items[i]
	it.len = int64(len(raw))
	if it.len > d.meta.items[i].len {
		if it.off, err = roomForItem(d.meta.items, i, it.len, base.len); err != nil {
			return err
		}
	}
	row := make([]byte, 32)
	it.encode(row)
	p := patch{}
	if err := p.put(d.medium, base.off+it.off, raw); err != nil {
		return err
	}
	if err := p.put(d.medium, base.off+32+32*int64(i), row); err != nil {
		return err
	}
	if err := d.commitPatch(p); err != nil {
		return err
	}
	d.meta.items[i], d.meta.locator = it, l
	return nil
}

// roomForItem finds n bytes in a metadata region that no other item but the i-th
// has.
func roomForItem(items []item, i int, n, regionLen int64) (int64, error) {
	var taken ranges
	places := []int64{metadataTableSize}
	for j, it := range items {
		if j != i && it.len > 0 {
			taken.cover(it.off, it.len)
			places = append(places, roundUp(it.off+it.len, 8))
		}
	}
	for _, off := range places {
		k := taken.search(off)
		if off+n <= regionLen && (k == len(taken) || taken[k].off >= off+n) {
			return off, nil
		}
	}
	return 0, unsupported("no room for %d bytes of metadata", n)
}

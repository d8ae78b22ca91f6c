package vhdx

import "slices"

const (
	metadataTableSize = 64 * kib
	metadataEntries   = 2047
	metadataSize      = mib // of the region that Create makes

	flagUser     = 1 << 0
	flagVirtual  = 1 << 1 // describes the disk, not the file
	flagRequired = 1 << 2

	paramFixed  = 1 << 0 // leave blocks allocated
	paramParent = 1 << 1
)

// item is a piece of metadata. Its offset is in the region.
type item struct {
	id       GUID
	off, len int64
	flags    uint32
}

// metadata is what the items say.
type metadata struct {
	geometry
	fixed    bool
	physical uint32
	diskID   GUID
	locator  Locator

	items []item
}

// encode is the item's place in the region's table.
func (i item) encode(e []byte) {
	copy(e, i.id[:])
	le.PutUint32(e[16:], uint32(i.off))
	le.PutUint32(e[20:], uint32(i.len))
	le.PutUint32(e[24:], i.flags)
	clear(e[28:32])
}

// encode makes a whole region, and remembers where things are.
func (md *metadata) encode() ([]byte, error) {
	b := make([]byte, metadataSize)
	copy(b, "metadata")
	md.items = nil
	off := int64(metadataTableSize)
	add := func(id GUID, value []byte, flags uint32) {
		it := item{id, off, int64(len(value)), flags | flagRequired}
		it.encode(b[32+32*len(md.items):])
		copy(b[off:], value)
		off += roundUp(it.len, 8)
		md.items = append(md.items, it)
	}
	var params uint32
	if md.fixed {
		params |= paramFixed
	}
	if md.diff {
		params |= paramParent
	}
	add(itemFileParameters, le.AppendUint32(le.AppendUint32(nil, uint32(md.block)), params), 0)
	add(itemSize, le.AppendUint64(nil, uint64(md.size)), flagVirtual)
	add(itemDiskID, md.diskID[:], flagVirtual)
	add(itemLogicalSector, le.AppendUint32(nil, uint32(md.logical)), flagVirtual)
	add(itemPhysicalSector, le.AppendUint32(nil, md.physical), flagVirtual)
	if md.diff {
		l, err := md.locator.encode()
		if err != nil {
			return nil, err
		}
		add(itemParentLocator, l, 0)
	}
	le.PutUint16(b[10:], uint16(len(md.items)))
	return b, nil
}

// readMetadata reads the table of a region and the items that are known.
func readMetadata(m medium, r region) (md metadata, err error) {
	table := make([]byte, metadataTableSize)
	if err := m.read(table, r.off); err != nil {
		return md, err
	}
	n := int(le.Uint16(table[10:]))
	if string(table[:8]) != "metadata" || n > metadataEntries {
		return md, corrupt(r.off, "no metadata table")
	}
	var taken ranges
	for i := range n {
		e := table[32+32*i:]
		it := item{GUID(e[:16]), int64(le.Uint32(e[16:])), int64(le.Uint32(e[20:])), le.Uint32(e[24:])}
		if it.len > 0 && (it.off < metadataTableSize || it.off > r.len-it.len || it.len > mib || !taken.add(it.off, it.len)) {
			return md, corrupt(r.off, "metadata item %v of %d bytes at %d", it.id, it.len, it.off)
		}
		if slices.ContainsFunc(md.items, func(o item) bool { return o.id == it.id && (o.flags^it.flags)&flagUser == 0 }) {
			return md, corrupt(r.off, "two metadata items %v", it.id)
		}
		md.items = append(md.items, it)
	}
	seen := map[GUID]bool{}
	for _, it := range md.items {
		ours := it.flags&flagUser == 0
		if ours {
			known, err := md.take(m, r.off, it)
			if err != nil {
				return md, err
			}
			ours, seen[it.id] = known, true
		}
		if !ours && it.flags&flagRequired != 0 {
			return md, unsupported("required metadata %v", it.id)
		}
	}
	for _, id := range []GUID{itemFileParameters, itemSize, itemDiskID, itemLogicalSector, itemPhysicalSector} {
		if !seen[id] {
			return md, corrupt(r.off, "metadata item %v is missing", id)
		}
	}
	if md.diff && !seen[itemParentLocator] {
		return md, corrupt(r.off, "a differencing disk without a parent locator")
	}
	return md, md.check(r.off)
}

// take reads an item if it is a known one.
func (md *metadata) take(m medium, base int64, it item) (known bool, err error) {
	length := map[GUID]int64{itemFileParameters: 8, itemSize: 8, itemDiskID: 16,
		itemLogicalSector: 4, itemPhysicalSector: 4, itemParentLocator: it.len}
	want, known := length[it.id]
	if !known {
		return false, nil
	}
	at := base + it.off
	if it.len != want || it.len > maxLocator {
		return true, corrupt(at, "metadata item %v of %d bytes", it.id, it.len)
	}
	b := make([]byte, it.len)
	if err := m.read(b, at); err != nil {
		return true, err
	}
	switch it.id {
	case itemFileParameters:
		md.block = int64(le.Uint32(b))
		md.fixed = b[4]&paramFixed != 0
		md.diff = b[4]&paramParent != 0
	case itemSize:
		md.size = int64(le.Uint64(b))
	case itemDiskID:
		md.diskID = GUID(b)
	case itemLogicalSector:
		md.logical = int64(le.Uint32(b))
	case itemPhysicalSector:
		md.physical = le.Uint32(b)
	case itemParentLocator:
		md.locator, err = parseLocator(b, at)
	}
	return true, err
}

func (md *metadata) check(at int64) error {
	switch {
	case md.block < minBlock || md.block > maxBlock || md.block&(md.block-1) != 0:
		return corrupt(at, "blocks of %d bytes", md.block)
	case md.logical != 512 && md.logical != 4096:
		return corrupt(at, "logical sectors of %d bytes", md.logical)
	case md.physical != 512 && md.physical != 4096:
		return corrupt(at, "physical sectors of %d bytes", md.physical)
	case md.size <= 0 || md.size > MaxSize || md.size%md.logical != 0:
		return corrupt(at, "a disk of %d bytes", md.size)
	}
	return nil
}

// itemAt is where in the file an item is that every image has.
func (d *Disk) itemAt(id GUID) int64 {
	i := slices.IndexFunc(d.meta.items, func(it item) bool { return it.id == id && it.flags&flagUser == 0 })
	return find(d.regions, regionMetadata).off + d.meta.items[i].off
}

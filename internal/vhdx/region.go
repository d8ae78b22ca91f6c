package vhdx

const (
	regionTableSize = 64 * kib
	regionEntries   = 2047 // in a table, at most
)

// region is a part of the file that a table names.
type region struct {
	id       GUID
	off, len int64
	required bool
}

// encodeRegions makes a region table.
func encodeRegions(list []region) []byte {
	b := make([]byte, regionTableSize)
	copy(b, "regi")
	le.PutUint32(b[8:], uint32(len(list)))
	for i, r := range list {
		e := b[16+32*i:]
		copy(e, r.id[:])
		le.PutUint64(e[16:], uint64(r.off))
		le.PutUint32(e[24:], uint32(r.len))
		if r.required {
			le.PutUint32(e[28:], 1)
		}
	}
	seal(b)
	return b
}

// readRegions finds the BAT and the metadata region, and checks that no region
// has a byte in common with another one, the log or the headers.
func readRegions(m medium, h header) (list []region, err error) {
	b := make([]byte, regionTableSize)
	at := int64(-1)
	for _, off := range []int64{regionAt0, regionAt1} {
		if err := m.read(b, off); err != nil {
			return nil, err
		}
		if string(b[:4]) == "regi" && sealed(b) {
			at = off
			break
		}
	}
	if at < 0 {
		return nil, corrupt(regionAt0, "no valid region table")
	}
	n := le.Uint32(b[8:])
	if n > regionEntries {
		return nil, corrupt(at, "%d regions", n)
	}
	taken := ranges{{h.logAt, h.logSize}}
	for i := range int(n) {
		e := b[16+32*i:]
		r := region{GUID(e[:16]), int64(le.Uint64(e[16:])), int64(le.Uint32(e[24:])), le.Uint32(e[28:])&1 != 0}
		if r.off%mib != 0 || r.len%mib != 0 || r.len == 0 || r.off < headerArea || r.off > m.size-r.len {
			return nil, corrupt(at, "region %v of %d bytes at %d in a file of %d", r.id, r.len, r.off, m.size)
		}
		if !taken.add(r.off, r.len) {
			return nil, corrupt(at, "region %v overlaps another one or the log", r.id)
		}
		if find(list, r.id) != nil {
			return nil, corrupt(at, "two regions %v", r.id)
		}
		if r.required && r.id != regionBAT && r.id != regionMetadata {
			return nil, unsupported("required region %v", r.id)
		}
		list = append(list, r)
	}
	for _, id := range []GUID{regionBAT, regionMetadata} {
		if find(list, id) == nil {
			return nil, corrupt(at, "region %v is missing", id)
		}
	}
	return list, nil
}

func find(list []region, id GUID) *region {
	for i := range list {
		if list[i].id == id {
			return &list[i]
		}
	}
	return nil
}

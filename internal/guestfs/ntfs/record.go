package ntfs

import (
	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// maxParts is how many records one file may be spread over: more would be
// no file that Windows can write.
const maxParts = 4096

// attribute is one of a record's.
type attribute struct {
	kind     uint32
	name     string
	flags    uint16
	resident bool
	value    []byte // if resident
	raw      []byte // the whole
	first    int64  // cluster within the attribute that raw's runs begin with
}

// rawRecord reads a record of the file table.
func (f *FS) rawRecord(id uint64) ([]byte, error) {
	if id >= 1<<48 || int64(id) >= f.mft.size/f.record {
		return nil, guestfs.Corrupt("record %d is beyond the file table", id)
	}
	b := make([]byte, f.record)
	if n, err := f.mft.ReadAt(b, int64(id)*f.record); n < len(b) {
		return nil, err
	}
	return b, f.fixup(b, "FILE")
}

// attributes are those of one record.
func (f *FS) attributes(b []byte) ([]attribute, error) {
	at, used := int(le.Uint16(b[20:])), min(int(le.Uint32(b[24:])), len(b))
	var list []attribute
	for at+16 <= used && le.Uint32(b[at:]) != 0xffffffff {
		size := int(le.Uint32(b[at+4:]))
		if size < 24 || size > used-at {
			return nil, guestfs.Corrupt("an attribute of %d bytes", size)
		}
		raw := b[at : at+size]
		a := attribute{kind: le.Uint32(raw), resident: raw[8] == 0, flags: le.Uint16(raw[12:]), raw: raw}
		name, nameAt := 2*int(raw[9]), int(le.Uint16(raw[10:]))
		if nameAt+name > size {
			return nil, guestfs.Corrupt("an attribute's name of %d bytes", name)
		}
		a.name = text(raw[nameAt : nameAt+name])
		if a.resident {
			n, v := uint64(le.Uint32(raw[16:])), uint64(le.Uint16(raw[20:]))
			if n+v > uint64(size) {
				return nil, guestfs.Corrupt("an attribute's value of %d bytes", n)
			}
			a.value = raw[v : v+n]
		} else {
			if size < 64 {
				return nil, guestfs.Corrupt("an attribute of %d bytes", size)
			}
			a.first = int64(le.Uint64(raw[16:]))
		}
		list = append(list, a)
		at += size
	}
	return list, nil
}

// collect gathers a file's attributes, over all its records.
func (f *FS) collect(id uint64) (raw []byte, list []attribute, err error) {
	if raw, err = f.rawRecord(id); err != nil {
		return nil, nil, err
	}
	if le.Uint16(raw[22:])&1 == 0 {
		return nil, nil, guestfs.Corrupt("record %d is not in use", id)
	}
	if list, err = f.attributes(raw); err != nil {
		return nil, nil, err
	}
	for _, a := range list {
		if a.kind != attrList {
			continue
		}
		b := a.value
		if !a.resident {
			s, err := f.stream([]attribute{a})
			if err != nil {
				return nil, nil, err
			}
			if s.size > 256<<10 { // the most that Windows writes
				return nil, nil, guestfs.Corrupt("a list of attributes of %d bytes", s.size)
			}
			b = make([]byte, s.size)
			if n, err := s.ReadAt(b, 0); n < len(b) {
				return nil, nil, err
			}
		}
		seen := map[uint64]bool{id: true}
		for len(b) >= 26 {
			size := int(le.Uint16(b[4:]))
			if size < 26 || size > len(b) {
				return nil, nil, guestfs.Corrupt("a list of attributes with an entry of %d bytes", size)
			}
			part := le.Uint64(b[16:]) & (1<<48 - 1)
			b = b[size:]
			if seen[part] {
				continue
			}
			if seen[part] = true; len(seen) > maxParts {
				return nil, nil, guestfs.Corrupt("more than %d records of a file", maxParts)
			}
			r, err := f.rawRecord(part)
			if err != nil {
				return nil, nil, err
			}
			if le.Uint64(r[32:])&(1<<48-1) != id {
				return nil, nil, guestfs.Corrupt("record %d isn't part of %d", part, id)
			}
			more, err := f.attributes(r)
			if err != nil {
				return nil, nil, err
			}
			list = append(list, more...)
		}
		break
	}
	return raw, list, nil
}

package ntfs

import (
	"encoding/binary"
	"io"
	"unicode/utf16"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// Records of the master file table with a fixed number.
const (
	mftRecord    = 0
	volumeRecord = 3
	rootRecord   = 5
)

// Types of attributes.
const (
	attrStandard = 0x10
	attrList     = 0x20
	attrName     = 0x30
	attrLabel    = 0x60
	attrVolume   = 0x70
	attrData     = 0x80
	attrRoot     = 0x90
	attrIndex    = 0xa0
	attrReparse  = 0xc0
)

var le = binary.LittleEndian

// FS is a file system. It is safe for concurrent use.
type FS struct {
	// Label names it; Serial is its number, which is no UUID.
	Label  string
	Serial uint64
	// Note says in what way the reader knows less than the guest would.
	Note string

	r       io.ReaderAt
	size    int64
	cluster int64
	record  int64 // bytes of a record of the table
	sector  int64
	mft     stream
}

// Is reports whether a volume begins with an NTFS boot sector.
func Is(boot []byte) bool { return len(boot) >= 11 && string(boot[3:11]) == "NTFS    " }

// Open reads the boot sector and the first records of the master file table.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	b, err := guestfs.ReadFull(r, 0, 512)
	if err != nil {
		return nil, err
	}
	if !Is(b) {
		return nil, guestfs.Corrupt("no NTFS file system")
	}
	f := &FS{r: r, size: size, sector: int64(le.Uint16(b[11:])), Serial: le.Uint64(b[0x48:])}
	per := int64(b[13])
	if per > 128 { // of large clusters: the power, negated
		per = 1 << min(256-per, 30)
	}
	f.cluster = f.sector * per
	f.record = int64(int8(b[0x40])) * f.cluster
	if n := int8(b[0x40]); n < 0 {
		f.record = 1 << min(-int(n), 30)
	}
	pow := func(n, from, to int64) bool { return n >= from && n <= to && n&(n-1) == 0 }
	if !pow(f.sector, 256, 4096) || !pow(f.cluster, 256, 2<<20) || !pow(f.record, 256, 65536) {
		return nil, guestfs.Corrupt("sectors of %d, clusters of %d, records of %d bytes", f.sector, f.cluster, f.record)
	}
	lcn := le.Uint64(b[0x30:])
	if lcn >= uint64(size/f.cluster) {
		return nil, guestfs.Corrupt("file table at cluster %d", lcn)
	}
	// The table describes itself: its first record is read where the boot
	// sector says. An attribute list in it leads to other records, which the
	// runs in the first one hold.
	f.mft = stream{f: f, size: f.record, initialized: f.record, runs: []run{{count: (f.record + f.cluster - 1) / f.cluster, lcn: int64(lcn)}}}
	raw, err := f.rawRecord(mftRecord)
	if err != nil {
		return nil, err
	}
	as, err := f.attributes(raw)
	if err != nil {
		return nil, err
	}
	for _, a := range as {
		if a.kind == attrData && a.name == "" && !a.resident {
			if f.mft, err = f.stream([]attribute{a}); err != nil {
				return nil, err
			}
		}
	}
	n, err := f.node(mftRecord)
	if err != nil {
		return nil, err
	}
	if f.mft, err = n.open(attrData, ""); err != nil {
		return nil, err
	}
	return f, f.volume()
}

// volume reads label and flags.
func (f *FS) volume() error {
	n, err := f.node(volumeRecord)
	if err != nil {
		return err
	}
	// A Windows that runs doesn't set the flag: without it the journal may
	// hold something as well.
	f.Note = "its journal was not played back: the last changes before the moment of the point may be missing"
	for _, a := range n.attrs {
		switch {
		case a.kind == attrLabel && a.resident:
			f.Label = text(a.value)
		case a.kind == attrVolume && a.resident && len(a.value) >= 12 && le.Uint16(a.value[10:])&1 != 0:
			f.Note = "the file system is marked dirty: its journal was not played back"
		}
	}
	return nil
}

// text is UTF-16 as Go tells it.
func text(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = le.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

// fixup puts the last two bytes of each sector back, which are kept apart to
// show torn writes.
func (f *FS) fixup(b []byte, what string) error {
	if len(b) < 48 || string(b[:4]) != what {
		return guestfs.Corrupt("no %s record", what)
	}
	at, n := int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	const stride = 512 // whatever the sector's size is
	if n == 0 || at+2*n > len(b) || (n-1)*stride > len(b) {
		return guestfs.Corrupt("%s record with %d fixups at %d", what, n, at)
	}
	for i := 1; i < n; i++ {
		end := i*stride - 2
		if b[end] != b[at] || b[end+1] != b[at+1] {
			return guestfs.Corrupt("%s record is torn", what)
		}
		b[end], b[end+1] = b[at+2*i], b[at+2*i+1]
	}
	return nil
}

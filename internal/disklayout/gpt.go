package disklayout

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// Medium is a disk that can be written. Sync makes what was written durable,
// in the order of the calls to it.
type Medium interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Moved says what [MoveBackup] did.
type Moved struct {
	// Table says that there is a GPT. Without one there is nothing to do: the
	// other tables know no end of the disk.
	Table bool
	// From and To are the bytes at which the backup header was and is; equal
	// if it is where it belongs.
	From, To int64
	// Wrote are the ranges that were written.
	Wrote [][2]int64
	// Alone is why the table was left alone, "" if it wasn't: it is damaged,
	// or one that other systems share in a way that nobody can mend by rule.
	Alone string
}

// mostEntries bounds the array of partitions in bytes; it has 16 KiB nearly
// everywhere.
const mostEntries = 1 << 20

// SectorOf is the sector size in bytes that a disk's GPT was made for, told by
// where its header is; 0 if there is no GPT. The same bytes are no table on a
// device with sectors of another size. A header without a protective MBR is one
// that somebody left behind.
func SectorOf(d io.ReaderAt, size int64) (int64, error) {
	if size < 1024 {
		return 0, nil
	}
	boot, err := readUpTo(d, 0, 512)
	if err != nil {
		return 0, err
	}
	if protective, _ := protection(boot); protective < 0 {
		return 0, nil
	}
	for _, sector := range []int64{512, 4096} {
		if size < 2*sector {
			continue
		}
		b, err := readUpTo(d, sector, 8)
		if err != nil {
			return 0, err
		}
		if string(b) == "EFI PART" {
			return sector, nil
		}
	}
	return 0, nil
}

// protection finds the entry of a boot sector that protects a GPT, -1 if there is
// none, and counts the others.
func protection(boot []byte) (protective, others int) {
	protective = -1
	if boot[510] != 0x55 || boot[511] != 0xaa {
		return protective, 0
	}
	for i := range 4 {
		switch boot[0x1be+16*i+4] {
		case 0:
		case 0xee:
			protective = i
		default:
			others++
		}
	}
	return protective, others
}

// header is a GPT header that was checked.
type header struct {
	raw        []byte // as long as it says
	my, other  uint64 // sectors
	firstUse   uint64
	lastUse    uint64
	entriesAt  uint64
	entriesLen int64 // bytes
}

func readHeader(d io.ReaderAt, size, sector, at int64) (header, []byte, error) {
	sectors := uint64(size / sector)
	if at < sector || at > size-sector {
		return header{}, nil, corrupt("no table at %d of %d bytes", at, size)
	}
	b, err := read(d, at, 512)
	if err != nil {
		return header{}, nil, err
	}
	n := le.Uint32(b[12:])
	if string(b[:8]) != "EFI PART" || n < 92 || n > uint32(len(b)) {
		return header{}, nil, corrupt("no table at %d", at)
	}
	h := header{raw: b[:n], my: le.Uint64(b[24:]), other: le.Uint64(b[32:]),
		firstUse: le.Uint64(b[40:]), lastUse: le.Uint64(b[48:]), entriesAt: le.Uint64(b[72:])}
	if le.Uint32(b[16:]) != h.sum() {
		return h, nil, corrupt("the table at %d has a wrong sum", at)
	}
	count, each := int64(le.Uint32(b[80:])), int64(le.Uint32(b[84:]))
	h.entriesLen = count * each
	switch {
	case h.my != uint64(at/sector):
		return h, nil, corrupt("the table at %d says that it is at sector %d", at, h.my)
	case each < 128 || each > 4096 || count == 0 || count > mostEntries/each:
		return h, nil, corrupt("%d partitions of %d bytes", count, each)
	case h.entriesAt < 2 || h.entriesAt >= sectors || uint64(h.entriesLen) > uint64(size)-h.entriesAt*uint64(sector):
		return h, nil, corrupt("partitions at sector %d of %d", h.entriesAt, sectors)
	case h.firstUse < 2 || h.firstUse > h.lastUse || h.lastUse >= sectors:
		return h, nil, corrupt("room from sector %d to %d of %d", h.firstUse, h.lastUse, sectors)
	}
	entries, err := read(d, int64(h.entriesAt)*sector, int(h.entriesLen))
	if err != nil {
		return h, nil, err
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(b[88:]) {
		return h, nil, corrupt("the partitions of the table at %d have a wrong sum", at)
	}
	for e := range chunks(entries, int(each)) {
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		if from, to := le.Uint64(e[32:]), le.Uint64(e[40:]); from > to || from < h.firstUse || to > h.lastUse {
			return h, nil, corrupt("a partition from sector %d to %d, outside of %d to %d", from, to, h.firstUse, h.lastUse)
		}
	}
	return h, entries, nil
}

func chunks(b []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for ; len(b) >= n; b = b[n:] {
			if !yield(b[:n]) {
				return
			}
		}
	}
}

// sum is the header's own, which is counted with zeros in its place.
func (h header) sum() uint32 {
	b := bytes.Clone(h.raw)
	clear(b[16:20])
	return crc32.ChecksumIEEE(b)
}

// at is the header as it is written for another place.
func (h header) at(my, other, lastUse, entriesAt uint64) []byte {
	n := header{raw: bytes.Clone(h.raw)}
	le.PutUint64(n.raw[24:], my)
	le.PutUint64(n.raw[32:], other)
	le.PutUint64(n.raw[48:], lastUse)
	le.PutUint64(n.raw[72:], entriesAt)
	le.PutUint32(n.raw[16:], n.sum())
	return n.raw
}

// MoveBackup puts the backup of a disk's GPT at its end, where firmware and
// tools look for it: for a table that was copied from a smaller disk. The room
// that partitions may take is extended by what the disk is larger. size is the
// disk's in bytes, sector the device's logical sector size.
//
// The order survives a power cut at any moment: the backup at its new place
// first, synced; then the header that names it, synced; then the protective
// MBR's size. Repeating goes on. A table that isn't sound, whose primary header
// is damaged, or whose protective MBR has other entries beside is left alone,
// and Moved.Alone says why; an error is the device's alone.
func MoveBackup(d Medium, size, sector int64) (Moved, error) {
	var m Moved
	if sector < 512 || sector > 64<<10 || size < 64*sector {
		return m, nil
	}
	boot, err := readUpTo(d, 0, 512)
	if err != nil {
		return m, err
	}
	mark, err := readUpTo(d, sector, 8)
	if err != nil {
		return m, err
	}
	alone := func(format string, args ...any) (Moved, error) {
		m.Alone = fmt.Sprintf(format, args...)
		return m, nil
	}
	protective, others := protection(boot)
	protected := protective >= 0
	m.Table = protected || string(mark) == "EFI PART"
	switch {
	case !m.Table:
		return m, nil
	case string(mark) != "EFI PART":
		return alone("there is no header at sector 1")
	case !protected:
		return alone("there is no protective MBR before it")
	case others > 0:
		return alone("the MBR before it has %d partitions of its own, which are to be kept in step by who made them", others)
	}
	h, entries, err := readHeader(d, size, sector, sector)
	if err != nil {
		if !isCorrupt(err) {
			return m, err
		}
		return alone("%v", err)
	}
	last := uint64(size/sector) - 1
	room := (uint64(len(entries)) + uint64(sector) - 1) / uint64(sector)
	m.To = int64(last) * sector
	if h.other > last || h.other != last && h.lastUse+room >= last {
		return alone("it was made for a disk of %d sectors, and this one has %d", max(h.other, h.lastUse+room+1)+1, last+1)
	}
	if h.entriesAt+room > h.firstUse {
		return alone("its partitions are listed at sector %d, where partitions may be", h.entriesAt)
	}
	m.From = int64(h.other) * sector
	_, backup, err := readHeader(d, size, sector, m.To)
	if err != nil && !isCorrupt(err) {
		return m, err
	}
	there := err == nil && bytes.Equal(backup, entries)
	if h.other == last && !there {
		return alone("its backup at the end of the disk is damaged")
	}
	write := func(p []byte, off int64) error {
		if _, err := d.WriteAt(p, off); err != nil {
			return err
		}
		m.Wrote = append(m.Wrote, [2]int64{off, int64(len(p))})
		return nil
	}
	if h.other != last {
		if !there {
			list := make([]byte, room*uint64(sector))
			copy(list, entries)
			if err := write(list, int64(last-room)*sector); err != nil {
				return m, err
			}
			p := make([]byte, sector)
			copy(p, h.at(last, 1, last-room-1, last-room))
			if err := write(p, m.To); err != nil {
				return m, err
			}
		}
		if err := d.Sync(); err != nil { // also what an attempt before this one wrote
			return m, err
		}
		p := make([]byte, sector)
		copy(p, h.at(1, last, last-room-1, h.entriesAt))
		if err := write(p, sector); err != nil {
			return m, err
		}
		if err := d.Sync(); err != nil {
			return m, err
		}
	}
	e := boot[0x1be+16*protective:][:16]
	if count := uint32(min(last, math.MaxUint32)); le.Uint32(e[8:]) == 1 && le.Uint32(e[12:]) != count && le.Uint32(e[12:]) != math.MaxUint32 {
		le.PutUint32(e[12:], count)
		p, err := readUpTo(d, 0, sector)
		if err != nil {
			return m, err
		}
		copy(p, boot)
		if err := write(p, 0); err != nil {
			return m, err
		}
		if err := d.Sync(); err != nil {
			return m, err
		}
	}
	return m, nil
}

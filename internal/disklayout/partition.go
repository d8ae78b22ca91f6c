package disklayout

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"github.com/lifeboat-dr/lifeboat/internal/signature"
)

var le = binary.LittleEndian

// maxParts is how many partitions a disk may have.
const maxParts = 1024

// Table is a disk's partition table.
type Table struct {
	// Kind is "gpt" or "mbr"; "" if there is none.
	Kind string
	// ID is GPT's GUID of the disk, or MBR's signature: "1a2b3c4d".
	ID string
	// Partitions in the order of their numbers; without a table the whole disk.
	Partitions []Volume
	// Extended is MBR's partition that holds those from number 5 on, which is
	// no place for a file system; the zero value if there is none.
	Extended Volume
}

// ReadTable reads a disk's partition table, and follows nothing in it: the
// volumes of a group's physical volumes stay partitions. With an error the
// table has what could be read. Sectors of MBR are taken to have 512 bytes.
func ReadTable(d Disk) (Table, error) {
	var t Table
	list, err := partitionTable(d, &t)
	t.Partitions = list
	return t, err
}

// partitions finds a disk's. A disk without a table is one volume.
func partitions(d Disk) ([]Volume, error) { return partitionTable(d, &Table{}) }

func partitionTable(d Disk, t *Table) ([]Volume, error) {
	if d.Size < 1024 {
		return nil, nil
	}
	boot, err := read(d, 0, 512)
	if err != nil {
		return nil, err
	}
	gpt := false
	for i := range 4 { // a protective MBR, maybe beside other entries
		gpt = gpt || boot[0x1be+16*i+4] == 0xee
	}
	if boot[510] == 0x55 && boot[511] == 0xaa && gpt {
		t.Kind = "gpt"
		return gptPartitions(d, t)
	}
	if list, ok, err := mbrPartitions(d, boot, t); ok {
		t.Kind, t.ID = "mbr", fmt.Sprintf("%08x", le.Uint32(boot[0x1b8:]))
		return list, err
	}
	return []Volume{{Disk: d.ID, Name: wholeDisk, Size: d.Size, ReaderAt: d}}, nil
}

// section is a partition's bytes.
func section(d Disk, n int, off, size int64) (Volume, error) {
	v := Volume{Disk: d.ID, Name: fmt.Sprintf("partition %d", n), Size: size, Number: n, Off: off}
	if off <= 0 || size <= 0 || off > d.Size || size > d.Size-off {
		return v, corrupt("partition %d: %d bytes at %d of a disk of %d", n, size, off, d.Size)
	}
	v.ReaderAt = io.NewSectionReader(d, off, size)
	return v, nil
}

// gptPartitions reads the table behind the protective MBR, or its copy at the
// end of the disk if that one is damaged.
func gptPartitions(d Disk, t *Table) ([]Volume, error) {
	var first error
	for _, sector := range []int64{512, 4096} {
		for _, at := range []int64{sector, d.Size - sector} {
			list, err := gptTable(d, sector, at, t)
			if err == nil {
				return list, nil
			}
			if first == nil {
				first = err
			}
		}
	}
	return nil, fmt.Errorf("GPT: %w", first)
}

func gptTable(d Disk, sector, at int64, t *Table) ([]Volume, error) {
	h, err := read(d, at, 512)
	if err != nil {
		return nil, err
	}
	size := int(le.Uint32(h[12:]))
	if string(h[:8]) != "EFI PART" || size < 92 || size > len(h) {
		return nil, corrupt("no table at %d", at)
	}
	sum := le.Uint32(h[16:])
	clear(h[16:20])
	if crc32.ChecksumIEEE(h[:size]) != sum {
		return nil, corrupt("the table at %d has a wrong sum", at)
	}
	lba, count, each := le.Uint64(h[72:]), int(le.Uint32(h[80:])), int(le.Uint32(h[84:]))
	if count < 0 || count > maxParts || each < 128 || each > 4096 || lba > uint64(d.Size/sector) {
		return nil, corrupt("%d partitions of %d bytes at sector %d", count, each, lba)
	}
	entries, err := read(d, int64(lba)*sector, count*each)
	if err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(h[88:]) {
		return nil, corrupt("the partitions of the table at %d have a wrong sum", at)
	}
	t.ID = guid(h[56:72])
	var list []Volume
	for i := range count {
		e := entries[i*each:]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		from, to := le.Uint64(e[32:]), le.Uint64(e[40:])
		if sectors := uint64(d.Size / sector); from > to || to >= sectors {
			return list, corrupt("partition %d from sector %d to %d of %d", i+1, from, to, sectors)
		}
		v, err := section(d, i+1, int64(from)*sector, int64(to-from+1)*sector)
		if err != nil {
			return list, err
		}
		v.Type, v.PartUUID = guid(e[:16]), guid(e[16:32])
		u := make([]uint16, 0, 36)
		for j := 56; j < 128 && le.Uint16(e[j:]) != 0; j += 2 {
			u = append(u, le.Uint16(e[j:]))
		}
		v.PartLabel = string(utf16.Decode(u))
		list = append(list, v)
	}
	return list, nil
}

// guid writes one as blkid does: the first three numbers are little-endian.
func guid(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// bootSectorOf is the kind of file system, or encryption, whose boot sector has
// the mark of a table without being one; "" if there is none. Of "vfat" it may be
// both.
func bootSectorOf(boot []byte) string {
	switch s, _ := signature.Probe(bytes.NewReader(boot), int64(len(boot))); s.Kind {
	case "ntfs", "BitLocker", "exfat", "vfat":
		return s.Kind
	}
	return ""
}

// mbrPartitions reads the four entries, and the chain of the extended one.
// ok is false if there is no table: then the boot sector is a file system's,
// or nothing.
func mbrPartitions(d Disk, boot []byte, t *Table) (list []Volume, ok bool, err error) {
	if owner := bootSectorOf(boot); boot[510] != 0x55 || boot[511] != 0xaa || owner != "" && owner != "vfat" {
		return nil, false, nil
	}
	used := 0
	for i := range 4 {
		e := boot[0x1be+16*i:]
		if e[0]&0x7f != 0 { // neither active nor not: a FAT's code
			return nil, false, nil
		}
		if e[4] != 0 && le.Uint32(e[8:]) > 0 {
			used++
		}
	}
	if used == 0 {
		return nil, false, nil
	}
	const sector = 512
	sign := le.Uint32(boot[0x1b8:])
	add := func(n int, kind byte, from, count uint64) error {
		v, err := section(d, n, int64(from)*sector, int64(count)*sector)
		if err != nil {
			return err
		}
		v.Type, v.PartUUID = fmt.Sprintf("0x%02x", kind), fmt.Sprintf("%08x-%02x", sign, n)
		list = append(list, v)
		return nil
	}
	extended := func(kind byte) bool { return kind == 5 || kind == 0xf || kind == 0x85 }
	var chain uint64
	for i := range 4 {
		e := boot[0x1be+16*i:]
		from, count := uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
		switch {
		case e[4] == 0 || count == 0:
		case extended(e[4]):
			chain = from
			t.Extended = Volume{
				Disk: d.ID, Number: i + 1, Off: int64(from) * sector, Size: int64(count) * sector,
				Type: fmt.Sprintf("0x%02x", e[4]), PartUUID: fmt.Sprintf("%08x-%02x", sign, i+1),
			}
		default:
			if err := add(i+1, e[4], from, count); err != nil {
				return list, true, err
			}
		}
	}
	for at, n := chain, 5; at != 0; n++ {
		if n > 5+maxParts {
			return list, true, corrupt("more than %d logical partitions", maxParts)
		}
		b, err := read(d, int64(at)*sector, sector)
		if err != nil {
			return list, true, err
		}
		if b[510] != 0x55 || b[511] != 0xaa {
			return list, true, corrupt("no table of logical partition %d", n)
		}
		e, next := b[0x1be:], b[0x1ce:]
		if count := uint64(le.Uint32(e[12:])); e[4] != 0 && count > 0 {
			if err := add(n, e[4], at+uint64(le.Uint32(e[8:])), count); err != nil {
				return list, true, err
			}
		}
		step := uint64(le.Uint32(next[8:]))
		if at = 0; extended(next[4]) && step > 0 {
			at = chain + step
		}
	}
	return list, true, nil
}

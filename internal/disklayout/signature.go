package disklayout

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/internal/signature"
)

// Signature is something that a disk or one of its partitions is recognized
// by: that somebody has put it to use. Of a partition table Kind is "gpt", "dos",
// "mac", "bsd", "sun" or "sgi", and UUID its ID, in hexadecimal digits.
type Signature struct {
	Where string // "whole disk", "partition 2"
	signature.Signature
}

// table is what a partition table's bytes are for.
const table signature.Use = "partition table"

// String is one phrase for an error: "gpt 1f2e… on the whole disk".
func (s Signature) String() string {
	if s.UUID == "" {
		return fmt.Sprintf("%s on %s", s.Kind, s.Where)
	}
	return fmt.Sprintf("%s %s on %s", s.Kind, s.UUID, s.Where)
}

// IsTable tells whether it is a partition table's. What is in the partitions
// changes while a machine lives; the table's ID stays.
func (s Signature) IsTable() bool { return s.Use == table }

// Signatures reads what is known of a disk, as wipefs does: what [Whole] tells,
// and what is in its partitions as far as the table can be read. None means
// that the disk carries nothing that is known here: not that it is empty. An
// error is the device's. What is damaged is told as far as it is recognized.
func Signatures(d Disk) ([]Signature, error) {
	found, err := Whole(d)
	if err != nil || len(found) == 0 {
		return found, err
	}
	parts, err := partitions(d)
	if err != nil && !isCorrupt(err) {
		return nil, err
	}
	const most = 32 // so many partitions say enough
	for _, p := range parts[:min(len(parts), most)] {
		if p.Name == wholeDisk {
			continue
		}
		in, err := in(p)
		if err != nil {
			return nil, err
		}
		found = append(found, in...)
	}
	return found, nil
}

// Unknown looks whether a disk without any signature is blank, and tells where it
// isn't; -1 if nothing was found. Raw volumes of databases and ciphertext without
// a header look like that. It reads both ends, a megabyte each, where everything
// that begins or ends has something, and samples between.
func Unknown(d Disk) (at int64, err error) {
	const end, sample, samples = 1 << 20, 4 << 10, 64
	look := func(off, n int64) (int64, error) {
		b, err := readUpTo(d, off, min(n, d.Size-off))
		if err != nil {
			return -1, err
		}
		if i := slices.IndexFunc(b, func(c byte) bool { return c != 0 }); i >= 0 {
			return off + int64(i), nil
		}
		return -1, nil
	}
	if d.Size <= 0 {
		return -1, nil
	}
	if at, err = look(0, end); at >= 0 || err != nil {
		return at, err
	}
	if at, err = look(max(0, d.Size-end)&^(sample-1), end+sample); at >= 0 || err != nil {
		return at, err
	}
	for i := int64(1); i < samples; i++ {
		if at, err = look(d.Size/samples*i&^(sample-1), sample); at >= 0 || err != nil {
			return at, err
		}
	}
	return -1, nil
}

// Whole reads a disk's partition table, or tables, and what fills it whole.
func Whole(d Disk) ([]Signature, error) {
	found, err := tables(d)
	if err != nil {
		return nil, err
	}
	fill, err := in(Volume{Name: wholeDisk, Size: d.Size, ReaderAt: d})
	return append(found, fill...), err
}

const wholeDisk = "whole disk"

// in tells what a volume carries.
func in(v Volume) (found []Signature, err error) {
	list, err := signature.All(v, v.Size)
	for _, s := range list {
		found = append(found, Signature{v.Name, s})
	}
	return found, err
}

// readUpTo reads n bytes; fewer come only with an error of the device.
func readUpTo(r io.ReaderAt, off, n int64) ([]byte, error) {
	p := make([]byte, n)
	got, err := r.ReadAt(p, off)
	if int64(got) < n {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read %d bytes at %d: %w", n, off, err)
	}
	return p, nil
}

// tables finds partition tables, also such as can't be read any more.
func tables(d Disk) ([]Signature, error) {
	if d.Size < 1024 {
		return nil, nil
	}
	var found []Signature
	add := func(kind, id string) {
		found = append(found, Signature{wholeDisk, signature.Signature{Kind: kind, Use: table, UUID: id}})
	}
	for _, sector := range []int64{512, 4096} {
		for _, off := range []int64{sector, d.Size - sector} {
			if len(found) > 0 || off < 512 || d.Size < off+92 {
				continue
			}
			h, err := readUpTo(d, off, 92)
			if err != nil {
				return nil, err
			}
			if string(h[:8]) == "EFI PART" {
				add("gpt", guid(h[56:72]))
			}
		}
	}
	boot, err := readUpTo(d, 0, 1024)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 && dos(boot[:512]) { // a GPT has one for its protection
		add("dos", fmt.Sprintf("%08x", le.Uint32(boot[0x1b8:])))
	}
	for _, t := range []struct {
		kind, want string
		off        int
	}{
		{"mac", "ER", 0}, {"sgi", "\x0b\xe5\xa9\x41", 0}, {"sun", "\xda\xbe", 508},
		{"bsd", "\x57\x45\x56\x82", 512}, {"bsd", "\x57\x45\x56\x82", 64},
	} {
		if strings.HasPrefix(string(boot[t.off:]), t.want) {
			add(t.kind, "")
		}
	}
	return found, nil
}

// dos tells whether a boot sector may be a partition table. One without
// entries is a boot loader's, or a table that somebody has just made: both are
// somebody's. File systems' boot sectors have the same mark.
func dos(b []byte) bool {
	if b[510] != 0x55 || b[511] != 0xaa {
		return false
	}
	owner := bootSectorOf(b)
	if owner != "vfat" {
		return owner == ""
	}
	used := false // FAT may have a table's entries where its code is
	for i := range 4 {
		e := b[0x1be+16*i:][:16]
		if e[0]&0x7f != 0 {
			return false
		}
		used = used || e[4] != 0 && le.Uint32(e[12:]) > 0
	}
	return used
}

package disklayout

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// Signature is something that a disk or one of its partitions is recognized
// by: that somebody has put it to use.
type Signature struct {
	Where string // "whole disk", "partition 2"
	Kind  string // "gpt", "dos", "ext", "xfs", "LVM2 member", "swap", ...
	// ID is what tells this one from others of its kind: a UUID or serial
	// number in hexadecimal digits, or "" where the kind has none, or none
	// that is found without reading far.
	ID string
}

// String is one phrase for an error: "gpt 1f2e… on the whole disk".
func (s Signature) String() string {
	if s.ID == "" {
		return fmt.Sprintf("%s on %s", s.Kind, s.Where)
	}
	return fmt.Sprintf("%s %s on %s", s.Kind, s.ID, s.Where)
}

// IsTable tells whether it is a partition table's. What is in the partitions
// changes while a machine lives; the table's ID stays.
func (s Signature) IsTable() bool {
	switch s.Kind {
	case "gpt", "dos", "mac", "bsd", "sun", "sgi":
		return true
	}
	return false
}

// Signatures reads what is known of a disk, as wipefs does: what [Whole] tells,
// and what is in its partitions as far as the table can be read. None means
// that the disk carries nothing that is known here: not that it is empty. An
// error is the device's. What is damaged is told as far as it is recognized.
//
// Sources: util-linux' libblkid/src/superblocks and partitions, where each
// kind's magic and its place stand.
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
		in, err := signatures(p, p.Size, p.Name)
		if err != nil {
			return nil, err
		}
		found = append(found, in...)
	}
	return found, nil
}

// Whole reads a disk's partition table, or tables, and what fills it whole.
func Whole(d Disk) ([]Signature, error) {
	found, err := tables(d)
	if err != nil {
		return nil, err
	}
	fill, err := signatures(d, d.Size, wholeDisk)
	return append(found, fill...), err
}

const wholeDisk = "whole disk"

// magic is where a kind's signature is, and how its ID is found.
type magic struct {
	kind string
	off  int64 // negative: from the end
	want string
	id   int64 // where the ID is; 0: none
	n    int   // how many bytes it has; 0 with an id: text up to 40 bytes
}

// magics is the table. Those at the same place may both be found: a wrong
// refusal costs a word in the configuration, a missed signature a disk.
var magics = []magic{
	{"ext", 0x438, "\x53\xef", 0x468, 16},
	{"xfs", 0, "XFSB", 32, 16},
	{"btrfs", 0x10040, "_BHRfS_M", 0x10020, 16},
	{"f2fs", 0x400, "\x10\x20\xf5\xf2", 0x46c, 16},
	{"jfs", 0x8000, "JFS1", 0x8088, 16},
	{"reiserfs", 0x10034, "ReIsEr", 0x10054, 16},
	{"nilfs2", 0x406, "\x34\x34", 0x498, 16},
	{"erofs", 0x400, "\xe2\xe1\xf5\xe0", 0x430, 16},
	{"squashfs", 0, "hsqs", 0, 0},
	{"squashfs", 0, "sqsh", 0, 0},
	{"gfs2", 0x10000, "\x01\x16\x19\x70", 0, 0},
	{"ocfs2", 0x400, "OCFSV2", 0, 0},
	{"ocfs2", 0x800, "OCFSV2", 0, 0},
	{"ocfs2", 0x1000, "OCFSV2", 0, 0},
	{"ocfs2", 0x2000, "OCFSV2", 0, 0},
	{"vxfs", 0x400, "\xf5\xfc\x01\xa5", 0, 0},
	{"ufs", 0x2000 + 1372, "\x54\x19\x01\x00", 0, 0},
	{"ufs", 0x2000 + 1372, "\x19\x01\x54\x19", 0, 0},
	{"ufs", 0x10000 + 1372, "\x19\x01\x54\x19", 0, 0},
	{"ntfs", 3, "NTFS    ", 0x48, 8},
	{"exfat", 3, "EXFAT   ", 0x64, 4},
	{"refs", 0, "\x00\x00\x00ReFS\x00", 0, 0},
	{"BitLocker", 3, "-FVE-FS-", 0, 0},
	{"vfat", 0x52, "FAT32   ", 0x43, 4},
	{"vfat", 0x36, "FAT16   ", 0x27, 4},
	{"vfat", 0x36, "FAT12   ", 0x27, 4},
	{"vfat", 0x36, "FAT     ", 0x27, 4},
	{"hfsplus", 0x400, "H+\x00\x04", 0, 0},
	{"hfsplus", 0x400, "HX\x00\x05", 0, 0},
	{"hfs", 0x400, "BD", 0, 0},
	{"apfs", 32, "NXSB", 72, 16},
	{"iso9660", 0x8001, "CD001", 0, 0},
	{"udf", 0x8001, "BEA01", 0, 0},
	{"udf", 0x8001, "NSR0", 0, 0},
	{"vmfs", 0x200000, "\x5e\xf1\xab\x2f", 0, 0},
	{"VMFS member", 0x100000, "\x0d\xd0\x01\xc0", 0x100082, 16},
	{"Oracle ASM", 32, "ORCLDISK", 0, 0},
	{"ceph bluestore", 0, "bluestore block device", 0, 0},

	{"LUKS", 0, "LUKS\xba\xbe", 168, 0},
	{"LUKS", 0x4000, "SKUL\xba\xbe", 0x4000 + 168, 0},
	{"LUKS", 0x8000, "SKUL\xba\xbe", 0x8000 + 168, 0},
	{"bcache", 0x1018, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", 0x1028, 16},
	{"bcachefs", 0x1018, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", 0x1038, 16},
	{"stratis", 512 + 4, "!Stra0tis\x86\xff\x02^\x41rh", 0, 0},
	{"vdo", 0, "dmvdo001", 0, 0},
	{"dm-verity", 0, "verity\x00\x00", 16, 16},
	{"dm-integrity", 0, "integrt\x00", 0, 0},
	{"linux_raid", 0, mdMagic, 16, 16},
	{"linux_raid", 0x1000, mdMagic, 0x1010, 16},
	{"Intel RAID", -1024, "Intel Raid ISM Cfg Sig. ", 0, 0},
	{"DDF RAID", -512, "\xde\x11\xde\x11", 0, 0},
	{"DDF RAID", -512, "\x11\xde\x11\xde", 0, 0},
	{"DDF RAID", -257 * 512, "\xde\x11\xde\x11", 0, 0},
}

// mdMagic is Linux' software RAID, as its own byte order has it nearly everywhere.
const mdMagic = "\xfc\x4e\x2b\xa9"

// signatures are those of one volume.
func signatures(r io.ReaderAt, size int64, where string) ([]Signature, error) {
	var found []Signature
	add := func(kind, id string) {
		s := Signature{where, kind, id}
		for _, f := range found {
			if f == s {
				return
			}
		}
		found = append(found, s)
	}
	// Everything but VMFS is in the first 68 KiB or at the end.
	const head = 68 << 10
	first, err := readUpTo(r, 0, min(head, size))
	if err != nil {
		return nil, err
	}
	at := func(off int64, n int) ([]byte, error) {
		if off < 0 || off > size-int64(n) {
			return nil, nil
		}
		if off+int64(n) <= int64(len(first)) {
			return first[off:][:n], nil
		}
		return readUpTo(r, off, int64(n))
	}
	for _, m := range magics {
		off := m.off
		if off < 0 {
			off += size
		}
		b, err := at(off, len(m.want))
		if err != nil {
			return nil, err
		}
		if string(b) != m.want {
			continue
		}
		id := ""
		if m.id > 0 {
			n := m.n
			if n == 0 {
				n = 40
			}
			if b, err = at(m.id, n); err != nil {
				return nil, err
			}
			if m.n > 0 {
				id = hex.EncodeToString(b)
			} else {
				id = printable(b)
			}
		}
		add(m.kind, id)
	}
	for _, probe := range []func(func(int64, int) ([]byte, error), int64, func(kind, id string)) error{swap, lvm, raid, zfs} {
		if err := probe(at, size, add); err != nil {
			return nil, err
		}
	}
	return found, nil
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

// printable is text up to its first byte that isn't a UUID's.
func printable(b []byte) string {
	end := bytes.IndexFunc(b, func(r rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF-", r) })
	if end < 0 {
		end = len(b)
	}
	return strings.ToLower(string(b[:end]))
}

// swap's signature is at the end of the first page, whose size is the
// machine's. One that was hibernated into is worth more than the others.
func swap(at func(int64, int) ([]byte, error), _ int64, add func(kind, id string)) error {
	for _, page := range []int64{4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10} {
		b, err := at(page-10, 10)
		if err != nil {
			return err
		}
		s := string(b)
		switch {
		case s == "SWAPSPACE2" || s == "SWAP-SPACE":
			id, err := at(0x40c, 16)
			if err != nil {
				return err
			}
			add("swap", hex.EncodeToString(id))
		case strings.HasPrefix(s, "S1SUSPEND"), strings.HasPrefix(s, "S2SUSPEND"), strings.HasPrefix(s, "ULSUSPEND"), s == "LINHIB0001":
			add("hibernated memory", "")
		}
	}
	return nil
}

// lvm's label is in one of the first four sectors.
func lvm(at func(int64, int) ([]byte, error), _ int64, add func(kind, id string)) error {
	for off := int64(0); off < 4*512; off += 512 {
		b, err := at(off, 512)
		if err != nil {
			return err
		}
		if len(b) < 512 || string(b[:8]) != "LABELONE" {
			continue
		}
		id := ""
		if h := int(le.Uint32(b[20:])); h >= 32 && h <= 512-32 && string(b[24:32]) == "LVM2 001" {
			id = hex.EncodeToString(b[h:][:32])
			if s := string(b[h:][:32]); strings.IndexFunc(s, func(r rune) bool { return r < '!' || r > '~' }) < 0 {
				id = s
			}
		}
		add("LVM2 member", id)
	}
	return nil
}

// raid finds Linux' software RAID where its old formats have it: near the end.
func raid(at func(int64, int) ([]byte, error), size int64, add func(kind, id string)) error {
	sectors := size / 512
	if off := ((sectors - 16) &^ 7) * 512; sectors > 24 { // version 1.0
		b, err := at(off, 32)
		if err != nil {
			return err
		}
		if len(b) == 32 && string(b[:4]) == mdMagic {
			add("linux_raid", hex.EncodeToString(b[16:32]))
		}
	}
	if off := size&^(64<<10-1) - 64<<10; off >= 0 { // version 0.90, in the machine's byte order
		b, err := at(off, 4)
		if err != nil {
			return err
		}
		if s := string(b); s == mdMagic || s == "\xa9\x2b\x4e\xfc" {
			add("linux_raid", "")
		}
	}
	return nil
}

// zfs has four labels, two at either end, each with a ring of uberblocks; a
// pool whose first one was overwritten can still be imported by another.
func zfs(at func(int64, int) ([]byte, error), size int64, add func(kind, id string)) error {
	const label, ring = 256 << 10, 128 << 10
	end := size &^ (label - 1)
	for _, l := range []int64{0, label, end - 2*label, end - label} {
		if l < 0 || size < 4*label {
			continue
		}
		b, err := at(l+ring, ring)
		if err != nil {
			return err
		}
		for ; len(b) >= 1024; b = b[1024:] {
			if s := string(b[:8]); s == "\x0c\xb1\xba\x00\x00\x00\x00\x00" || s == "\x00\x00\x00\x00\x00\xba\xb1\x0c" {
				add("zfs_member", "")
				return nil
			}
		}
	}
	return nil
}

// tables finds partition tables, also such as can't be read any more.
func tables(d Disk) ([]Signature, error) {
	if d.Size < 1024 {
		return nil, nil
	}
	const where = wholeDisk
	var found []Signature
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
				found = append(found, Signature{where, "gpt", guid(h[56:72])})
			}
		}
	}
	boot, err := readUpTo(d, 0, 1024)
	if err != nil {
		return nil, err
	}
	if s, ok := dos(boot[:512]); ok && len(found) == 0 { // a GPT has one for its protection
		found = append(found, s)
	}
	for _, t := range []struct {
		kind, want string
		off        int
	}{
		{"mac", "ER", 0}, {"sgi", "\x0b\xe5\xa9\x41", 0}, {"sun", "\xda\xbe", 508},
		{"bsd", "\x57\x45\x56\x82", 512}, {"bsd", "\x57\x45\x56\x82", 64},
	} {
		if strings.HasPrefix(string(boot[t.off:]), t.want) {
			found = append(found, Signature{where, t.kind, ""})
		}
	}
	return found, nil
}

// dos tells whether a boot sector may be a partition table. One without
// entries is a boot loader's, or a table that somebody has just made: both are
// somebody's. File systems' boot sectors have the same mark.
func dos(b []byte) (Signature, bool) {
	if b[510] != 0x55 || b[511] != 0xaa {
		return Signature{}, false
	}
	for _, m := range []string{"NTFS    ", "-FVE-FS-", "EXFAT   "} {
		if string(b[3:11]) == m {
			return Signature{}, false
		}
	}
	fat := string(b[0x36:0x39]) == "FAT" || string(b[0x52:0x55]) == "FAT"
	used := false
	for i := range 4 {
		e := b[0x1be+16*i:][:16]
		if e[0]&0x7f != 0 {
			used = false
			break
		}
		used = used || e[4] != 0 && le.Uint32(e[12:]) > 0
	}
	if fat && !used {
		return Signature{}, false
	}
	return Signature{wholeDisk, "dos", fmt.Sprintf("%08x", le.Uint32(b[0x1b8:]))}, true
}

package signature

import (
	"fmt"
	"slices"
)

// swap knows swap areas and memory images, by the end of the first page,
// whose size is the kernel's that made it.
func (p *probe) swap() Signature {
	for _, page := range []int64{4096, 8192, 16384, 65536} {
		b := p.at(page-10, 10)
		if b == nil {
			break
		}
		hibernated := slices.ContainsFunc([]string{"S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001"}, func(m string) bool {
			return string(b[:len(m)]) == m
		})
		if !hibernated && string(b) != "SWAPSPACE2" && string(b) != "SWAP-SPACE" {
			continue
		}
		h := p.at(1024, 44)
		s := Signature{Kind: "swap", Use: Swap, UUID: uuid(h[12:28]), Label: text(h[28:44]), Hibernated: hibernated}
		if hibernated {
			s.Kind = "swsuspend"
		}
		return s
	}
	return Signature{}
}

// linux knows Linux' own file systems.
func (p *probe) linux() Signature {
	switch {
	case p.is(0, "XFSB"):
		if b := p.at(0, 120); b != nil {
			return Signature{Kind: "xfs", Use: FileSystem, UUID: uuid(b[32:48]), Label: text(b[108:120])}
		}
	case p.is(0x10040, "_BHRfS_M"):
		// struct btrfs_super_block, include/uapi/linux/btrfs_tree.h
		if b := p.at(0x10000, 0x1000); b != nil {
			s := Signature{Kind: "btrfs", Use: FileSystem, UUID: uuid(b[0x20:0x30]), Label: text(b[0x12b:0x22b])}
			if n := le.Uint64(b[0x88:]); n > 1 {
				s.Devices = int(min(n, 1<<16))
				s.Detail = fmt.Sprintf("one of %d devices", s.Devices)
			}
			return s
		}
	case p.is(1024+56, "\x53\xef"):
		if b := p.at(1024, 1024); b != nil {
			return ext(b)
		}
	case p.is(1024, "\x10\x20\xf5\xf2"):
		if b := p.at(1024, 128); b != nil {
			return Signature{Kind: "f2fs", Use: FileSystem, UUID: uuid(b[108:124])}
		}
	case p.is(1024, "\xe2\xe1\xf5\xe0"):
		return Signature{Kind: "erofs", Use: FileSystem}
	case p.is(0, "hsqs"):
		return Signature{Kind: "squashfs", Use: FileSystem}
	}
	return Signature{}
}

// ext tells ext2, 3 and 4 apart by their features, as libblkid does: what
// ext3's driver knows is not ext4.
func ext(b []byte) Signature {
	const (
		journal      = 0x4         // compatible
		journalOnly  = 0x8         // incompatible
		ext3Incompat = 0x16        // file types, recovery, meta block groups
		ext3ReadOnly = 0x1 | 2 | 4 // sparse, large files, B-trees
	)
	compat, incompat, ro := le.Uint32(b[92:]), le.Uint32(b[96:]), le.Uint32(b[100:])
	s := Signature{Kind: "ext2", Use: FileSystem, UUID: uuid(b[104:120]), Label: text(b[120:136])}
	switch {
	case incompat&journalOnly != 0:
		s.Kind, s.Use = "jbd", Member
	case incompat&^ext3Incompat != 0 || ro&^ext3ReadOnly != 0:
		s.Kind = "ext4"
	case compat&journal != 0:
		s.Kind = "ext3"
	}
	return s
}

// others knows the file systems of other systems and of firmware.
func (p *probe) others() Signature {
	b := p.at(0, 512)
	if b == nil {
		return Signature{}
	}
	signed := b[510] == 0x55 && b[511] == 0xaa
	switch {
	case string(b[3:11]) == "NTFS    ":
		return Signature{Kind: "ntfs", Use: FileSystem, UUID: fmt.Sprintf("%016X", le.Uint64(b[72:]))}
	case string(b[3:11]) == "EXFAT   ":
		return Signature{Kind: "exfat", Use: FileSystem, UUID: serial(b[100:])}
	case string(b[3:11]) == "ReFS\x00\x00\x00\x00":
		return Signature{Kind: "ReFS", Use: FileSystem}
	case signed && string(b[82:87]) == "FAT32":
		return Signature{Kind: "vfat", Use: FileSystem, UUID: serial(b[67:]), Label: fatLabel(b[71:82])}
	case signed && string(b[54:58]) == "FAT1":
		return Signature{Kind: "vfat", Use: FileSystem, UUID: serial(b[39:]), Label: fatLabel(b[43:54])}
	case p.is(32769, "CD001"):
		return Signature{Kind: "iso9660", Use: FileSystem, Label: text(p.at(32768+40, 32))}
	}
	return Signature{}
}

func serial(b []byte) string { return fmt.Sprintf("%02X%02X-%02X%02X", b[3], b[2], b[1], b[0]) }

func fatLabel(b []byte) string {
	if l := text(b); l != "NO NAME" {
		return l
	}
	return ""
}

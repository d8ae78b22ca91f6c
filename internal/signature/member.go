package signature

import (
	"fmt"
	"slices"
)

// raid knows members of arrays: Linux' md, of which versions 0.90 and 1.0 are
// at the end so that the file system at the beginning looks whole, and the
// two formats of controllers that md runs too.
func (p *probe) raid() Signature {
	const magic = 0xa92b4efc
	s := Signature{Kind: "linux_raid_member", Use: Member}
	ends := (p.size/512 - 16) &^ 7 * 512
	for _, at := range []struct {
		off     int64
		version string
	}{{0, "1.1"}, {4096, "1.2"}, {ends, "1.0"}} {
		b := p.at(at.off, 128)
		if b == nil || le.Uint32(b) != magic || le.Uint32(b[4:]) != 1 {
			continue
		}
		s.UUID, s.Label, s.Devices = uuid(b[16:]), text(b[32:64]), int(min(le.Uint32(b[92:]), 1<<16))
		s.Detail = raidDetail(at.version, int32(le.Uint32(b[72:])), s.Devices)
		return s
	}
	// https://raid.wiki.kernel.org/index.php/RAID_superblock_formats
	if b := p.at(p.size&^(64<<10-1)-64<<10, 128); b != nil && le.Uint32(b) == magic && le.Uint32(b[4:]) == 0 {
		id := slices.Concat(swapped(b[20:24]), swapped(b[52:56]), swapped(b[56:60]), swapped(b[60:64]))
		s.UUID, s.Devices = uuid(id), int(min(le.Uint32(b[40:]), 1<<16))
		s.Detail = raidDetail("0.90", int32(le.Uint32(b[28:])), s.Devices)
		return s
	}
	if p.is(p.size-1024, "Intel Raid ISM Cfg Sig. ") {
		return Signature{Kind: "isw_raid_member", Use: Member}
	}
	if b := p.at(p.size-512, 4); b != nil && be.Uint32(b) == 0xde11de11 {
		return Signature{Kind: "ddf_raid_member", Use: Member}
	}
	return Signature{}
}

func swapped(b []byte) []byte { return []byte{b[3], b[2], b[1], b[0]} }

func raidDetail(version string, level int32, disks int) string {
	name := fmt.Sprintf("raid%d", level)
	switch level {
	case -1:
		name = "linear"
	case -4:
		name = "multipath"
	case -5:
		name = "container"
	}
	return fmt.Sprintf("version %s, %s of %d", version, name, disks)
}

// encrypted knows LUKS and BitLocker.
func (p *probe) encrypted() Signature {
	if b := p.at(0, 512); b != nil && string(b[:6]) == "LUKS\xba\xbe" {
		v := be.Uint16(b[6:])
		s := Signature{Kind: "crypto_LUKS", Use: Encrypted, UUID: printable(text(b[168:208])), Detail: fmt.Sprintf("version %d", v)}
		if v == 2 {
			s.Label = text(b[24:72])
		}
		return s
	}
	if p.is(3, "-FVE-FS-") {
		return Signature{Kind: "BitLocker", Use: Encrypted}
	}
	return Signature{}
}

// lvm knows physical volumes of LVM2: the label is in one of the first four
// sectors (lib/format_text/layout.h).
func (p *probe) lvm() Signature {
	for i := int64(0); i < 4; i++ {
		b := p.at(i*512, 512)
		if b == nil || string(b[:8]) != "LABELONE" || string(b[24:32]) != "LVM2 001" {
			continue
		}
		s := Signature{Kind: "LVM2_member", Use: Member}
		if at := le.Uint32(b[20:]); at <= 512-32 {
			id := printable(string(b[at:][:32]))
			if len(id) == 32 {
				s.UUID = fmt.Sprintf("%s-%s-%s-%s-%s-%s-%s", id[:6], id[6:10], id[10:14], id[14:18], id[18:22], id[22:26], id[26:])
			}
		}
		return s
	}
	return Signature{}
}

// pools knows members of caches and stores which no kernel table names.
func (p *probe) pools() Signature {
	switch {
	case p.is(4096+24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"):
		return Signature{Kind: "bcache", Use: Member, UUID: uuid(p.at(4096+40, 16))}
	case p.is(0, "bluestore block device"):
		return Signature{Kind: "ceph_bluestore", Use: Member}
	}
	return Signature{}
}

// zfs knows a label by an uberblock in its second half
// (https://openzfs.github.io/openzfs-docs/, module/zfs/vdev_label.c). It is
// asked last, because it reads the most.
func (p *probe) zfs() Signature {
	const magic = 0x00bab10c
	b := p.at(128<<10, 128<<10)
	for i := 0; i+8 <= len(b); i += 1024 {
		if le.Uint64(b[i:]) == magic || be.Uint64(b[i:]) == magic {
			return Signature{Kind: "zfs_member", Use: Member}
		}
	}
	return Signature{}
}

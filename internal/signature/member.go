package signature

import (
	"fmt"
	"slices"
	"strings"
)

// md1 is Linux' RAID with metadata of version 1.
func md1(p *probe, at int64, s *Signature) verdict {
	b := p.at(at, 128)
	if b == nil {
		return trace
	}
	s.UUID = uuid(b[16:])
	if le.Uint32(b[4:]) != 1 {
		return trace
	}
	version := "1.0"
	switch at {
	case 0:
		version = "1.1"
	case 4096:
		version = "1.2"
	}
	s.Label, s.Devices = text(b[32:64]), int(min(le.Uint32(b[92:]), 1<<16))
	s.Detail = raidDetail(version, int32(le.Uint32(b[72:])), s.Devices)
	return owner
}

// md0 is that of version 0.90, in the byte order of the machine that made it:
// https://raid.wiki.kernel.org/index.php/RAID_superblock_formats
func md0(p *probe, at int64, s *Signature) verdict {
	b := p.at(at, 128)
	if b == nil || !p.is(at, mdMagic) || le.Uint32(b[4:]) != 0 {
		return trace
	}
	id := slices.Concat(swapped(b[20:24]), swapped(b[52:56]), swapped(b[56:60]), swapped(b[60:64]))
	s.UUID, s.Devices = uuid(id), int(min(le.Uint32(b[40:]), 1<<16))
	s.Detail = raidDetail("0.90", int32(le.Uint32(b[28:])), s.Devices)
	return owner
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

// luks is a header; the copies of version 2's are told where it is lost.
func luks(p *probe, at int64, s *Signature) verdict {
	b := p.at(at, 512)
	if b == nil {
		return trace
	}
	version := be.Uint16(b[6:])
	s.UUID, s.Detail = printable(text(b[168:208])), fmt.Sprintf("version %d", version)
	if version == 2 {
		s.Label = text(b[24:72])
	}
	if at > 0 {
		return trace
	}
	return owner
}

// lvm is a label of LVM, in one of the first four sectors (lib/format_text/layout.h).
func lvm(p *probe, at int64, s *Signature) verdict {
	b := p.at(at, 512)
	if b == nil || string(b[24:32]) != "LVM2 001" {
		return trace
	}
	if h := le.Uint32(b[20:]); h <= 512-32 {
		id := string(b[h:][:32])
		if !strings.ContainsFunc(id, func(r rune) bool { return r < '!' || r > '~' }) {
			s.UUID = fmt.Sprintf("%s-%s-%s-%s-%s-%s-%s", id[:6], id[6:10], id[10:14], id[14:18], id[18:22], id[22:26], id[26:])
		}
	}
	return owner
}

// vmfsMember's UUID is two numbers, a short one, and bytes.
func vmfsMember(p *probe, at int64, s *Signature) verdict {
	if b := p.at(at+0x82, 16); b != nil {
		s.UUID = fmt.Sprintf("%08x-%08x-%04x-%x", le.Uint32(b), le.Uint32(b[4:]), le.Uint16(b[8:]), b[10:])
	}
	return owner
}

// zfs looks for an uberblock in a label's second half
// (https://openzfs.github.io/openzfs-docs/, module/zfs/vdev_label.c). The
// first label says enough for Probe, which saves reading the others.
func zfs(p *probe, at int64, _ *Signature) verdict {
	const magic = 0x00bab10c
	if at > 0 && !p.all {
		return nothing
	}
	b := p.at(at+128<<10, 128<<10)
	for i := 0; i+8 <= len(b); i += 1024 {
		if le.Uint64(b[i:]) == magic || be.Uint64(b[i:]) == magic {
			return owner
		}
	}
	return nothing
}

package signature

import "fmt"

// hibernated is a memory image, which is in a swap area's place.
func hibernated(_ *probe, _ int64, s *Signature) verdict {
	s.Hibernated = true
	return owner
}

// btrfs counts the devices: struct btrfs_super_block, include/uapi/linux/btrfs_tree.h.
func btrfs(p *probe, at int64, s *Signature) verdict {
	b := p.at(at+0x48, 8)
	if b == nil {
		return trace
	}
	if n := le.Uint64(b); n > 1 {
		s.Devices = int(min(n, 1<<16))
		s.Detail = fmt.Sprintf("one of %d devices", s.Devices)
	}
	return owner
}

// ext tells ext2, 3 and 4 apart by their features, as libblkid does: what
// ext3's driver knows is not ext4.
func ext(p *probe, _ int64, s *Signature) verdict {
	const (
		journal      = 0x4         // compatible
		journalOnly  = 0x8         // incompatible
		ext3Incompat = 0x16        // file types, recovery, meta block groups
		ext3ReadOnly = 0x1 | 2 | 4 // sparse, large files, B-trees
	)
	b := p.at(1024, 1024)
	if b == nil {
		return trace
	}
	compat, incompat, ro := le.Uint32(b[92:]), le.Uint32(b[96:]), le.Uint32(b[100:])
	switch {
	case incompat&journalOnly != 0:
		s.Kind, s.Use = "jbd", Member
	case incompat&^ext3Incompat != 0 || ro&^ext3ReadOnly != 0:
		s.Kind = "ext4"
	case compat&journal != 0:
		s.Kind = "ext3"
	}
	return owner
}

func ntfs(p *probe, _ int64, s *Signature) verdict {
	if b := p.at(72, 8); b != nil {
		s.UUID = fmt.Sprintf("%016X", le.Uint64(b))
	}
	return owner
}

func exfat(p *probe, _ int64, s *Signature) verdict {
	s.UUID = serial(p.at(100, 4))
	return owner
}

// vfat's boot sector has the mark of one. Serial number and label stand before
// the name of its kind, wherever that is.
func vfat(p *probe, at int64, s *Signature) verdict {
	s.UUID = serial(p.at(at-15, 4))
	if s.Label = text(p.at(at-11, 11)); s.Label == "NO NAME" {
		s.Label = ""
	}
	if p.is(510, "\x55\xaa") {
		return owner
	}
	return trace
}

func serial(b []byte) string {
	if len(b) < 4 || le.Uint32(b) == 0 {
		return ""
	}
	return fmt.Sprintf("%02X%02X-%02X%02X", b[3], b[2], b[1], b[0])
}

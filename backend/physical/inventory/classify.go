package inventory

import (
	"regexp"
	"strconv"
	"strings"
)

// role is what a whole device is to the machine.
type role int

const (
	isSkipped role = iota
	isDisk
	isVolume // built on others
	isPath   // one of several to a multipath disk
)

var mpathPart = regexp.MustCompile(`^part([0-9]{1,4})-mpath-`)

// classify says of each whole device what it is. Partitions that kpartx makes of
// a multipath disk are devices of their own to the kernel, and become its
// partitions here.
func (s *system) classify() {
	for _, d := range s.all {
		if d.whole == nil {
			d.role, d.kind = s.role(d)
			if d.role == isSkipped && d.kind != "" {
				s.report.Skipped = append(s.report.Skipped, Skipped{d.name, d.kind})
			}
		}
	}
	for _, d := range s.all {
		m := mpathPart.FindStringSubmatch(s.attr(d.dir, "dm/uuid"))
		if m == nil || len(d.slaves) != 1 || d.slaves[0].role != isDisk {
			continue
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			continue
		}
		d.whole, d.part, d.off = d.slaves[0], n, -1
		d.whole.parts = append(d.whole.parts, d)
		d.whole.holders = without(d.whole.holders, d)
	}
	for _, d := range s.all {
		if d.role == isDisk && len(d.slaves) > 0 { // multipath
			for _, path := range d.slaves {
				path.role = isPath
			}
		}
	}
}

func without(list []*device, d *device) []*device {
	var kept []*device
	for _, l := range list {
		if l != d {
			kept = append(kept, l)
		}
	}
	return kept
}

// role of a whole device; kind is a volume's kind, or why it is skipped: "" if
// that isn't worth a word.
func (s *system) role(d *device) (r role, kind string) {
	has := func(prefix string) bool { return strings.HasPrefix(d.name, prefix) }
	uuid := s.attr(d.dir, "dm/uuid")
	switch {
	case has("dm-") && strings.HasPrefix(uuid, "mpath-"):
		return isDisk, ""
	case has("dm-") && strings.HasPrefix(uuid, "LVM-"):
		return isVolume, "lvm"
	case has("dm-") && strings.HasPrefix(uuid, "CRYPT-"):
		return isVolume, "crypt"
	case has("dm-"):
		return isVolume, "dm"
	case has("md"):
		return isVolume, "md"
	case has("bcache"), has("drbd"):
		return isVolume, strings.TrimRight(d.name, "0123456789")
	case has("ram"):
		return isSkipped, ""
	case has("zram"):
		return isSkipped, "compressed memory"
	case has("loop"):
		if d.size == 0 {
			return isSkipped, ""
		}
		if s.o.Loop {
			return isDisk, ""
		}
		return isSkipped, "a loop device: a file of another file system"
	case has("nbd"):
		if d.size == 0 {
			return isSkipped, ""
		}
		return isSkipped, "a network block device: another machine's bytes"
	case has("sr"), s.attr(d.dir, "device/type") == "5":
		return isSkipped, "an optical drive"
	case has("fd"):
		return isSkipped, "a floppy drive"
	case has("zd"):
		return isSkipped, "a volume of a ZFS pool"
	case has("mtdblock"), has("ubiblock"):
		return isSkipped, "raw flash"
	case strings.HasPrefix(d.name, "mmcblk") && (strings.Contains(d.name, "boot") || strings.HasSuffix(d.name, "rpmb")):
		return isSkipped, "an area of an MMC's firmware"
	case s.attr(d.dir, "hidden") == "1":
		return isSkipped, "" // one path of an NVMe disk, which the kernel joins
	case d.size == 0:
		return isSkipped, "no medium"
	case len(d.slaves) > 0:
		return isVolume, "other"
	}
	return isDisk, ""
}

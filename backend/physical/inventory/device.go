package inventory

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/internal/disklayout"
	"github.com/lifeboat-dr/lifeboat/internal/signature"
)

// device is a block device as sysfs tells it: a whole one, or a partition.
type device struct {
	name   string // "sda1"; a '/' of its file below /dev is a '!'
	dir    string // in sysfs, from the root
	number string // "8:1"
	size   int64
	ro     bool

	role role   // of a whole device
	kind string // of a volume

	part  int     // the partition's number; 0: a whole device
	off   int64   // the partition's, in bytes; negative: only the table tells
	whole *device // what it is a partition of

	parts           []*device
	holders, slaves []*device // built on it; what it is built on

	sector int
	table  disklayout.Table
	broken error // why the table wasn't read to its end
	stale  bool  // the table and the kernel differ
	sig    signature.Signature
	failed error // why the superblock wasn't read
	mounts []Mount
	swap   bool
}

func (d *device) file() string { return "/dev/" + strings.ReplaceAll(d.name, "!", "/") }

// family is a whole device and its partitions.
func (d *device) family() []*device { return append([]*device{d}, d.parts...) }

// system is all that is known of the block devices.
type system struct {
	root
	o       Options
	report  *Report
	chosen  []*device // behind report.Disks
	volumes []*device // behind report.Volumes
	// sharedID: another disk has its world-wide name too.
	sharedID map[*device]bool
	all      []*device // in the order of names, partitions behind their disk
	byName   map[string]*device
	byDev    map[string]*device // by number
	byID     map[string][]string
	removed  []string // vanished while they were read
}

// number reads an attribute that is a whole number; ok is false if it isn't one.
func (r root) number(elem ...string) (n int64, ok bool) {
	n, err := strconv.ParseInt(r.attr(elem...), 10, 64)
	return n, err == nil && n >= 0
}

// scan lists block devices and how they lie on each other.
func (s *system) scan() {
	s.byName, s.byDev = map[string]*device{}, map[string]*device{}
	for _, name := range s.names("sys/block") {
		d := s.device(name, path.Join("sys/block", name))
		if d == nil {
			continue
		}
		s.add(d)
		for _, n := range s.names(d.dir) {
			part, ok := s.number(d.dir, n, "partition")
			if !ok || part == 0 {
				continue
			}
			p := s.device(n, path.Join(d.dir, n))
			start, ok := s.number(d.dir, n, "start")
			if p == nil || !ok || start > 1<<54 {
				continue
			}
			p.part, p.off, p.whole, p.sector = int(part), start*512, d, d.sector
			d.parts = append(d.parts, p)
		}
		slices.SortFunc(d.parts, func(a, b *device) int { return cmp.Compare(a.part, b.part) })
		for _, p := range d.parts {
			s.add(p)
		}
	}
	for _, d := range s.all {
		for _, name := range s.names(d.dir, "holders") {
			if h := s.byName[name]; h != nil && h != d && !slices.Contains(d.holders, h) {
				d.holders = append(d.holders, h)
				h.slaves = append(h.slaves, d)
			}
		}
	}
	// Holders are noted by who is built; slaves too, by device-mapper and md.
	for _, d := range s.all {
		for _, name := range s.names(d.dir, "slaves") {
			if l := s.byName[name]; l != nil && l != d && !slices.Contains(d.slaves, l) {
				d.slaves = append(d.slaves, l)
				l.holders = append(l.holders, d)
			}
		}
	}
}

func (s *system) add(d *device) {
	if s.byName[d.name] != nil || len(s.all) >= maxEntries {
		return
	}
	s.all = append(s.all, d)
	s.byName[d.name] = d
	if d.number != "" {
		s.byDev[d.number] = d
	}
}

// device reads one; nil if it has gone, or is none.
func (s *system) device(name, dir string) *device {
	number := s.attr(dir, "dev")
	sectors, ok := s.number(dir, "size")
	if !ok || number == "" || sectors > 1<<54 {
		s.removed = append(s.removed, name)
		return nil
	}
	d := &device{name: name, dir: dir, number: number, size: sectors * 512, ro: s.attr(dir, "ro") == "1"}
	if n, ok := s.number(dir, "queue/logical_block_size"); ok && n <= 1<<20 {
		d.sector = int(n)
	}
	return d
}

// bottom walks down to the disks that a device lies on, itself if nothing is
// below it. Loops, which no kernel makes, end.
func bottom(d *device) []*device {
	var found []*device
	seen := map[*device]bool{}
	var walk func(d *device)
	walk = func(d *device) {
		if seen[d] {
			return
		}
		seen[d] = true
		switch {
		case d.whole != nil:
			walk(d.whole)
		case len(d.slaves) == 0 || d.role == isDisk:
			found = append(found, d)
		default:
			for _, l := range d.slaves {
				walk(l)
			}
		}
	}
	walk(d)
	slices.SortFunc(found, func(a, b *device) int { return strings.Compare(a.name, b.name) })
	return found
}

package inventory

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// disks fills the report's disks and volumes.
func (s *system) disks() {
	var names [][]identity
	for _, d := range s.all {
		if d.whole == nil && d.role == isDisk {
			s.chosen = append(s.chosen, d)
			names = append(names, s.identities(d))
		}
	}
	ids, shared := identify(names)
	s.sharedID = map[*device]bool{}
	for i, d := range s.chosen {
		s.report.Disks = append(s.report.Disks, s.disk(d, ids[i], names[i]))
	}
	for _, same := range shared {
		var all []string
		for _, i := range same {
			all = append(all, s.chosen[i].name)
		}
		for _, i := range same {
			s.sharedID[s.chosen[i]] = true
			s.problem("disk-id-shared", s.report.Disks[i].ID, true, strings.Join(all, " and ")+" say that they are the same disk: paths to one logical unit, or clones",
				"let multipathd join the paths, protect what it makes of them, and give a clone a name of its own")
		}
	}
	for _, d := range s.all {
		if d.whole == nil && d.role == isVolume {
			s.volumes = append(s.volumes, d)
			s.report.Volumes = append(s.report.Volumes, s.volume(d))
		}
	}
	slices.SortFunc(s.removed, strings.Compare)
	for _, name := range s.removed {
		if !strings.HasPrefix(name, "loop") && !strings.HasPrefix(name, "ram") {
			s.problem("device-vanished", "", false, name+" went away, or could not be read, while it was looked at", "read the inventory again when the disks are at rest")
		}
	}
}

func (s *system) disk(d *device, id identity, names []identity) Disk {
	r := Disk{
		ID: diskID(id.id), Stable: id.rank <= serialRank, Name: d.name, Path: d.file(),
		Size: d.size, Sector: d.sector, Model: s.model(d), Serial: s.serial(d), Bus: s.bus(d),
		Rotational: s.attr(d.dir, "queue/rotational") == "1", Removable: s.attr(d.dir, "removable") == "1", ReadOnly: d.ro,
		Use: use(d),
	}
	if n, ok := s.number(d.dir, "queue/physical_block_size"); ok && n <= 1<<20 {
		r.PhysicalSector = int(n)
	}
	if id.link != "" {
		r.Path = "/dev/disk/" + id.link
	}
	if len(d.slaves) > 0 {
		// A WWN's link may lead to one of the paths after the next start.
		r.Path = "/dev/mapper/" + s.attr(d.dir, "dm/name")
		for _, n := range names {
			if strings.HasPrefix(n.id, "dm-uuid-mpath-") && n.link != "" {
				r.Path = "/dev/disk/" + n.link
			}
		}
		for _, p := range d.slaves {
			r.Paths = append(r.Paths, p.name)
			if r.Model == "" {
				r.Model, r.Serial = s.model(p), s.serial(p)
			}
		}
		slices.Sort(r.Paths)
	}
	r.Table, r.TableID = d.table.Kind, d.table.ID
	if r.Table != "" && r.Content != nil && !strings.HasSuffix(r.Content.Kind, "_raid_member") {
		r.Content = nil // left from before the table
	}
	r.Partitions = s.partitions(d)
	return r
}

// bus is how a disk is attached, as far as its place in sysfs tells.
func (s *system) bus(d *device) string {
	at, err := s.resolve(d.dir, true)
	if err != nil {
		at = d.dir
	}
	switch {
	case len(d.slaves) > 0:
		return "multipath"
	case strings.HasPrefix(d.name, "nvme"):
		return "nvme"
	case strings.HasPrefix(d.name, "loop"):
		return "loop"
	case strings.Contains(at, "/usb"):
		return "usb"
	case strings.HasPrefix(d.name, "mmcblk"):
		return "mmc"
	case strings.HasPrefix(d.name, "xvd"):
		return "xen"
	case strings.Contains(at, "/virtio"):
		return "virtio"
	case strings.Contains(at, "/ata"):
		return "sata"
	case strings.Contains(at, "/rport-"):
		return "fc"
	case strings.Contains(at, "/session"):
		return "iscsi"
	case strings.Contains(at, "/end_device-"):
		return "sas"
	case strings.HasPrefix(d.name, "sd"):
		return "scsi"
	}
	return ""
}

// partitions joins the kernel's view with the table's. What only the table
// knows is listed without a name.
func (s *system) partitions(d *device) []Partition {
	var list []Partition
	known := map[int]bool{}
	for _, p := range d.parts {
		r := Partition{Number: p.part, Name: p.name, Off: p.off, Size: p.size, Use: use(p)}
		for _, t := range d.table.Partitions {
			if d.table.Kind != "" && t.Number == p.part && t.Off == p.off && t.Size == p.size {
				r.Type, r.UUID, r.Label = t.Type, t.PartUUID, printable(t.PartLabel)
				known[p.part] = true
			}
		}
		// The kernel shows of an extended partition as much as a boot loader
		// needs: at most two sectors.
		if e := d.table.Extended; p.part == e.Number && p.off == e.Off {
			r.Type, r.UUID, r.Content = e.Type, e.PartUUID, nil
			known[p.part] = true
		}
		list = append(list, r)
	}
	if d.table.Kind == "" {
		return list
	}
	for _, t := range d.table.Partitions {
		if known[t.Number] {
			continue
		}
		d.stale = true
		if !slices.ContainsFunc(list, func(p Partition) bool { return p.Number == t.Number }) {
			list = append(list, Partition{Number: t.Number, Off: t.Off, Size: t.Size, Type: t.Type, UUID: t.PartUUID, Label: printable(t.PartLabel)})
		}
	}
	for _, p := range d.parts {
		d.stale = d.stale || !known[p.part]
	}
	slices.SortFunc(list, func(a, b Partition) int { return cmp.Compare(a.Number, b.Number) })
	return list
}

func (s *system) volume(d *device) Volume {
	r := Volume{Name: d.name, Kind: d.kind, Path: d.file(), Size: d.size, Disks: []dr.DiskID{}, Use: use(d)}
	if name := s.attr(d.dir, "dm/name"); name != "" {
		r.Path = path.Join("/dev/mapper", name)
	}
	for _, l := range d.slaves {
		r.On = append(r.On, l.name)
	}
	slices.Sort(r.On)
	for _, b := range bottom(d) {
		if id := s.idOf(b); id != "" {
			r.Disks = append(r.Disks, id)
		}
	}
	return r
}

// idOf is the ID of a disk in the report; "" of what is none.
func (s *system) idOf(d *device) dr.DiskID {
	if i := slices.Index(s.chosen, d); i >= 0 {
		return s.report.Disks[i].ID
	}
	return ""
}

func use(d *device) Use {
	u := Use{Mounts: d.mounts, Swap: d.swap}
	if d.sig.Kind != "" {
		u.Content = &Content{Kind: d.sig.Kind, Use: string(d.sig.Use), Label: d.sig.Label, UUID: d.sig.UUID, Detail: d.sig.Detail}
	}
	for _, h := range d.holders {
		u.Holders = append(u.Holders, h.name)
	}
	slices.Sort(u.Holders)
	return u
}

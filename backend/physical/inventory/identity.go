package inventory

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// links reads /dev/disk/by-id and by-path: udev's names, by the kernel's name
// of what they lead to.
func (s *system) links() {
	s.byID = map[string][]string{}
	for _, by := range []string{"by-id", "by-path"} {
		for _, name := range s.names("dev/disk", by) {
			at, err := s.resolve(path.Join("dev/disk", by, name), true)
			if dev, ok := strings.CutPrefix(at, "dev/"); err == nil && ok {
				dev = strings.ReplaceAll(dev, "/", "!")
				s.byID[dev] = append(s.byID[dev], by+"/"+name)
			}
		}
	}
}

// identity is one name that a disk has.
type identity struct {
	id   string
	link string // below /dev/disk; "" if udev made none
	rank int    // the smaller the better; see ranks
}

// Ranks of names: up to serialRank they belong to the disk itself.
const (
	worldRank  = iota // world-wide names: WWN, EUI-64, NGUID, UUID
	busRank           // serial numbers with the model, which a vendor may repeat
	serialRank        // serial numbers that a hypervisor or a bridge gives
	placeRank         // where it is plugged in
	nameRank          // the kernel's name
)

// ranks of udev's links (60-persistent-storage.rules of systemd); what isn't
// here is made of what the disk itself calls itself.
var ranks = []struct {
	is   *regexp.Regexp
	rank int
}{
	{regexp.MustCompile(`^wwn-0x`), worldRank},
	{regexp.MustCompile(`^nvme-(eui|uuid)\.`), worldRank},
	{regexp.MustCompile(`^dm-uuid-mpath-`), worldRank},
	{regexp.MustCompile(`^scsi-3[0-9a-f]{16,32}$`), worldRank},
	{regexp.MustCompile(`^(nvme|ata|scsi|mmc)-`), busRank},
	{regexp.MustCompile(`^(virtio|usb|google|dm-name|memstick)-`), serialRank},
}

// ignored are links of what is on a device, not of the device.
var ignored = regexp.MustCompile(`^(lvm-pv-uuid|md-(uuid|name)|dm-uuid-(LVM|CRYPT|part))-`)

// identities lists a disk's names, the best first.
func (s *system) identities(d *device) []identity {
	var list []identity
	for _, l := range s.byID[d.name] {
		by, name := path.Split(l)
		switch {
		case by == "by-path/":
			list = append(list, identity{"path-" + name, l, placeRank})
		case ignored.MatchString(name):
		default:
			rank := serialRank
			for _, r := range ranks {
				if r.is.MatchString(name) {
					rank = r.rank
					break
				}
			}
			list = append(list, identity{name, l, rank})
		}
	}
	for _, i := range s.own(d) {
		if !slices.ContainsFunc(list, func(l identity) bool { return l.id == i.id }) {
			list = append(list, i)
		}
	}
	list = append(list, identity{id: "name-" + d.name, rank: nameRank})
	slices.SortStableFunc(list, func(a, b identity) int {
		if a.rank != b.rank {
			return a.rank - b.rank
		}
		if a, b := preferred(a.id), preferred(b.id); a != b {
			return a - b
		}
		return strings.Compare(a.id, b.id)
	})
	return list
}

// preferred orders names of one rank, so that one is chosen whatever links
// there are: WWNs before other ways to write them.
func preferred(id string) int {
	for i, p := range []string{"wwn-", "nvme-", "scsi-", "ata-"} {
		if strings.HasPrefix(id, p) {
			return i
		}
	}
	return 9
}

// own makes the names that udev would make, of sysfs alone, so that a disk is
// called the same with and without udev.
func (s *system) own(d *device) []identity {
	var list []identity
	add := func(rank int, id string) {
		list = append(list, identity{id: id, rank: rank})
	}
	if wwid, ok := strings.CutPrefix(s.attr(d.dir, "dm/uuid"), "mpath-"); ok {
		add(worldRank, "dm-uuid-mpath-"+wwid)
		if naa, ok := strings.CutPrefix(wwid, "3"); ok {
			add(worldRank, "wwn-0x"+naa)
		}
		return list
	}
	for _, at := range []string{"wwid", "device/wwid"} {
		wwid := s.attr(d.dir, at)
		if naa, ok := strings.CutPrefix(wwid, "naa."); ok {
			add(worldRank, "wwn-0x"+naa)
		} else if strings.HasPrefix(wwid, "eui.") || strings.HasPrefix(wwid, "uuid.") {
			add(worldRank, "nvme-"+wwid)
		}
	}
	serial, model := s.serial(d), s.model(d)
	switch {
	case serial == "":
	case strings.HasPrefix(d.name, "nvme"):
		add(busRank, "nvme-"+model+"_"+serial)
	case strings.HasPrefix(d.name, "mmcblk"):
		add(busRank, "mmc-"+model+"_"+serial)
	case strings.HasPrefix(d.name, "vd"):
		add(serialRank, "virtio-"+serial)
	case strings.HasPrefix(d.name, "sd"):
		// udev's has the whole model, of which the kernel keeps 16 letters.
		add(serialRank, "serial-"+model+"_"+serial)
	}
	if place := s.place(d); place != "" {
		add(placeRank, "path-"+place)
	}
	return list
}

// place is the slot of a disk behind a PCI device that has no other disk, as
// by-path names it: others need more than a name.
func (s *system) place(d *device) string {
	at, err := s.resolve(d.dir, true)
	if err != nil {
		return ""
	}
	var slot string
	for _, c := range parts(at) {
		if pciSlot.MatchString(c) {
			slot = c
		}
	}
	if slot == "" || !strings.HasPrefix(d.name, "vd") {
		return ""
	}
	return "pci-" + slot
}

var pciSlot = regexp.MustCompile(`^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// serial number of a disk, as it says itself.
func (s *system) serial(d *device) string {
	for _, at := range []string{"device/serial", "serial"} {
		if v := s.attr(d.dir, at); v != "" {
			return v
		}
	}
	// SCSI's vital product data, page 0x80: a header of four bytes (SPC-4, 7.8.13).
	if b, err := s.read(path.Join(d.dir, "device/vpd_pg80"), maxAttribute); err == nil && len(b) > 4 {
		return printable(strings.TrimSpace(string(b[4:])))
	}
	return ""
}

func (s *system) model(d *device) string {
	model := s.attr(d.dir, "device/model")
	if model == "" {
		model = s.attr(d.dir, "device/name") // of MMC
	}
	vendor := s.attr(d.dir, "device/vendor")
	// ATA's vendor is the bus, and virtio's and NVMe's a number.
	if vendor != "" && vendor != "ATA" && !strings.HasPrefix(vendor, "0x") && model != "" {
		model = vendor + " " + model
	}
	return model
}

// diskID makes a name an ID that is safe in paths and URLs.
func diskID(name string) dr.DiskID {
	b := []byte(name)
	for i, c := range b {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			b[i] = '_'
		}
	}
	return dr.DiskID(b[:min(len(b), 120)])
}

// identify chooses each disk's ID: the best name that no other disk has too.
// Where even a world-wide name is shared, the two are paths to the same bytes,
// and shared says which.
func identify(disks [][]identity) (chosen []identity, shared [][]int) {
	chosen = make([]identity, len(disks))
	count := map[string][]int{}
	for i, list := range disks {
		for _, id := range list {
			key := string(diskID(id.id))
			if !slices.Contains(count[key], i) {
				count[key] = append(count[key], i)
			}
		}
	}
	noted := map[string]bool{}
	for i, list := range disks {
		for _, id := range list {
			key := string(diskID(id.id))
			if len(count[key]) == 1 {
				chosen[i] = id
				// The kernel's name may be another disk's after the next start:
				// better any link, of a name that no other disk has.
				for _, other := range list {
					if chosen[i].link == "" && len(count[string(diskID(other.id))]) == 1 {
						chosen[i].link = other.link
					}
				}
				break
			}
			if id.rank == worldRank && !noted[key] {
				noted[key] = true
				shared = append(shared, count[key])
			}
		}
	}
	return chosen, shared
}

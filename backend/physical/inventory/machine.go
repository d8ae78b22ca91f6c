package inventory

import (
	"fmt"
	"slices"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Machine is the configuration with which package physical protects this very
// machine, with the disks named by ID, kernel's name or path; none named means
// all that are fixed, not read-only, and have a medium. Removable ones are those
// that say so, unless the system is on them, or they are used and not on USB:
// bays for hot swapping call their disks removable. What is left out is a problem
// of the report, "disk-left-out" or "disk-read-only". A disk that isn't there is a
// dr.ErrNotFound. The order is the report's, the disk to boot from first.
func (r Report) Machine(disks ...string) (physical.Machine, error) {
	m := physical.Machine{
		ID: r.ID, Name: r.Name, Self: true, Power: dr.On, OS: "linux",
		Firmware: r.Firmware, SecureBoot: r.SecureBoot, CPUs: r.CPUs, Memory: r.Memory, NICs: r.nics(),
	}
	found := map[string]bool{}
	for _, d := range r.Disks {
		names := []string{string(d.ID), d.Name, d.Path}
		wanted := len(disks) == 0 && d.fixed() && !d.ReadOnly
		for _, n := range names {
			if slices.Contains(disks, n) {
				wanted, found[n] = true, true
			}
		}
		if wanted {
			m.Disks = append(m.Disks, physical.Disk{ID: d.ID, Name: d.Name, Path: d.Path, Boot: d.Boot})
		}
	}
	for _, n := range disks {
		if !found[n] {
			return physical.Machine{}, &dr.Error{Op: "inventory", Machine: r.ID, Disk: dr.DiskID(n), Off: -1, Err: fmt.Errorf("%w: no such disk", dr.ErrNotFound), Remedy: "take a disk of the inventory"}
		}
	}
	if len(m.Disks) == 0 {
		return physical.Machine{}, &dr.Error{Op: "inventory", Machine: r.ID, Err: fmt.Errorf("%w: there is no disk to protect", dr.ErrNotFound)}
	}
	// Of mirrored disks one is the machine's first: others start from one disk.
	boot := slices.IndexFunc(m.Disks, func(d physical.Disk) bool { return d.Boot })
	for i := range m.Disks {
		m.Disks[i].Boot = i == boot
	}
	if boot > 0 {
		first := m.Disks[boot]
		m.Disks = slices.Insert(slices.Delete(m.Disks, boot, boot+1), 0, first)
	}
	return m, nil
}

// fixed tells whether a disk is the machine's, and not something plugged in.
func (d Disk) fixed() bool {
	return !d.Removable || d.System || d.Bus != "usb" && (d.Use.inUse() || slices.ContainsFunc(d.Partitions, func(p Partition) bool { return p.Use.inUse() }))
}

func (u Use) inUse() bool { return len(u.Mounts) > 0 || u.Swap || len(u.Holders) > 0 }

// nics are the cards of hardware as a machine has them. What a bond or bridge
// carries is said of the first card that is a part of it.
func (r Report) nics() []dr.NIC {
	var list []dr.NIC
	said := map[string]bool{}
	for _, c := range r.Cards {
		if !c.Hardware {
			continue
		}
		n := dr.NIC{ID: c.ID, MAC: c.MAC, Addresses: c.Addresses, DHCP: c.DHCP.Answer == "yes"}
		if c.Master != "" && !said[c.Master] {
			said[c.Master] = true
			for _, m := range r.Cards {
				if m.Name == c.Master {
					n.Addresses = append(slices.Clone(n.Addresses), m.Addresses...)
					n.DHCP = n.DHCP || m.DHCP.Answer == "yes"
				}
			}
		}
		list = append(list, n)
	}
	return list
}

package inventory

import (
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// espType is GPT's type of the partition that UEFI starts from (UEFI
// specification 2.10, 5.3.3); MBR's is 0xef.
const espType = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"

func isESP(p Partition) bool { return p.Type == espType || p.Type == "0xef" }

// roles finds the disks that the system is on, and those that it starts from:
// by what is mounted, down through whatever is built on disks.
func (s *system) roles(lines []mountLine) {
	at := map[string]*device{}
	var rootLine mountLine
	for _, l := range lines {
		switch l.at {
		case "/":
			rootLine = l
			fallthrough
		case "/boot", "/boot/efi", "/efi":
			at[l.at] = s.find(l.number, l.source) // the last one covers the others
		}
	}
	if at["/"] == nil && rootLine.at != "" {
		s.problem("root-not-on-disk", "", false, "/ is a "+rootLine.kind+" of "+rootLine.source+", and on no disk of this machine",
			"run this on the host itself, not in a container or a rescue system; else name the disk to boot from")
	}
	for _, d := range at {
		s.each(d, func(k *Disk) { k.System = true })
	}
	boot := at["/boot"]
	if boot == nil {
		boot = at["/"]
	}
	if s.report.Firmware != dr.UEFI {
		s.each(boot, func(k *Disk) { k.Boot = true })
		return
	}
	esp := at["/boot/efi"]
	if esp == nil {
		esp = at["/efi"]
	}
	if esp == nil && boot != nil && boot.sig.Kind == "vfat" {
		esp = boot
	}
	s.each(esp, func(k *Disk) { k.Boot = true })
	if esp == nil {
		for i := range s.report.Disks {
			k := &s.report.Disks[i]
			k.Boot = k.System && slices.ContainsFunc(k.Partitions, isESP)
		}
	}
}

// each calls f with the disks that a device lies on, of btrfs with those of all
// its devices.
func (s *system) each(d *device, f func(*Disk)) {
	if d == nil {
		return
	}
	same := []*device{d}
	if d.sig.Devices > 1 && d.sig.UUID != "" {
		for _, o := range s.all {
			if o != d && o.sig.Kind == d.sig.Kind && o.sig.UUID == d.sig.UUID {
				same = append(same, o)
			}
		}
	}
	for _, o := range same {
		for _, b := range bottom(o) {
			if i := slices.Index(s.chosen, b); i >= 0 {
				f(&s.report.Disks[i])
			}
		}
	}
}

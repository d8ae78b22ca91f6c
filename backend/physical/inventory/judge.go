package inventory

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/signature"
)

// judge finds what is worth knowing before these disks are protected.
func (s *system) judge() {
	for i, d := range s.chosen {
		k := s.report.Disks[i]
		s.judgeDisk(d, k)
	}
	s.judgeGroups()
	s.judgeTwins()
	if v := s.report.System.Virtual; v != "" {
		s.problem("virtual-machine", "", false, "this is a virtual machine (hypervisor: "+v+"), not a physical one",
			"protect it through its platform if there is a backend for that: changed blocks and snapshots cost less there")
	}
	if !slices.ContainsFunc(s.report.Disks, func(d Disk) bool { return d.Boot }) && slices.ContainsFunc(s.report.Disks, func(d Disk) bool { return d.System }) {
		s.problem("boot-unknown", "", false, "the disk that the firmware starts from was not found: the system's disks have no EFI system partition, and none is mounted",
			"mount it at /boot/efi, so that its disk is protected first")
	}
	if len(s.chosen) == 0 {
		s.problem("no-disks", "", true, "no disk was found that could be protected", "run this on the host itself, with /sys and /dev")
	}
}

func (s *system) judgeDisk(d *device, k Disk) {
	if !k.Stable && !s.sharedID[d] {
		s.problem("disk-id-unstable", k.ID, false, fmt.Sprintf("%s has no world-wide name, and no serial number that is its own: its ID %s is of where it is", k.Name, k.ID),
			"give the disk a serial number of its own where the hypervisor can, and don't move it")
	}
	if k.ReadOnly {
		s.problem("disk-read-only", k.ID, false, k.Name+" is read-only: it can be copied, and not be restored to, and is left out unless it is named", "look in the kernel's log why")
	}
	if !k.fixed() {
		s.problem("disk-left-out", k.ID, false, k.Name+" is removable, and left out unless it is named", "name all disks that are to be protected, if it is one of them")
	}
	if len(k.Paths) > 0 {
		s.problem("multipath", k.ID, false, fmt.Sprintf("%s is reached over %s: the multipath device is the disk, its paths are left alone", k.Name, strings.Join(k.Paths, ", ")), "")
	}
	if d.broken != nil {
		s.problem("table-damaged", k.ID, false, fmt.Sprintf("the partition table of %s: %v", k.Name, d.broken), "repair it with gdisk or sfdisk; the kernel's view is listed")
	}
	if d.stale {
		s.problem("table-stale", k.ID, false, "the partition table of "+k.Name+" is not what the kernel uses", "run partprobe, or restart")
	}
	for _, e := range d.family() {
		s.judgeUse(k.ID, e)
	}
}

// judgeUse looks at one device of a disk, or at a volume: disk is "" then.
func (s *system) judgeUse(disk dr.DiskID, d *device) {
	if d.failed != nil {
		remedy := "check the disk and its cabling"
		if errors.Is(d.failed, fs.ErrPermission) {
			remedy = "run as root on the host itself, or in the group disk; a container must be given the devices"
		}
		s.problem("device-unreadable", disk, disk != "", fmt.Sprintf("%s can't be read: %v", d.name, d.failed), remedy)
	}
	what := d.sig.Kind
	if d.sig.Label != "" {
		what += " " + d.sig.Label
	}
	switch {
	case d.sig.Hibernated:
		s.problem("hibernated", disk, true, d.name+" holds the memory of a system that sleeps: what starts from a copy would wake it over file systems that have changed since",
			"turn the swap area on once, or make it anew with mkswap, and restart")
	case d.sig.Use == signature.Encrypted:
		s.problem("encrypted", disk, false, fmt.Sprintf("%s is %s: it is copied as ciphertext, and restored with its key slots", d.name, what),
			"keep the passphrase or recovery key elsewhere; a key in this machine's TPM will not open the copy on another one")
	case d.sig.Kind == "zfs_member", d.sig.Kind == "ceph_bluestore":
		s.problem("pool-unseen", disk, false, fmt.Sprintf("%s is a member of a pool (%s), whose file systems can't be frozen from here", d.name, what),
			"take its own snapshots in a hook, and protect all disks of the pool together")
	case d.swap || d.sig.Use == signature.Swap:
		s.problem("swap", disk, false, d.name+" is swap: it is copied with its disk, and its changes with it", "put swap on a disk that isn't protected if it swaps much")
	}
	if pid := s.elsewhere(d); pid > 0 {
		s.problem("mounted-elsewhere", disk, false, fmt.Sprintf("%s is mounted at %s in the mount namespace of process %d, and not in this one", d.name, d.mounts[0].Path, pid),
			"freeze it from there, or run the agent in the host's namespace")
	}
	if len(d.mounts) > 0 && len(d.holders) > 0 {
		s.problem("mounted-and-held", disk, false, fmt.Sprintf("%s is mounted at %s, and %s is built on it too", d.name, d.mounts[0].Path, d.holders[0].name),
			"unmount one of the two: both write the same blocks")
	}
}

// elsewhere is a process that has the device mounted, if this one's namespace
// hasn't.
func (s *system) elsewhere(d *device) int {
	if len(d.mounts) == 0 || slices.ContainsFunc(d.mounts, func(m Mount) bool { return m.PID == 0 }) {
		return 0
	}
	return d.mounts[0].PID
}

// judgeGroups finds what lies on several disks, which are of one moment only
// together.
func (s *system) judgeGroups() {
	for i, d := range s.volumes {
		v := s.report.Volumes[i]
		s.judgeUse("", d)
		if d.kind == "md" {
			s.problem("raid-members", "", false, fmt.Sprintf("%s is a RAID (%s) of disks %s: its members are copied one by one, each with its superblock", d.name, s.attr(d.dir, "md/level"), list(v.Disks)),
				"protect all its disks together; where the copy runs on one disk, a mirror starts degraded")
		} else {
			s.judgeOutside(d, v)
		}
		if d.kind != "md" && len(v.Disks) > 1 && !onRAID(d) {
			s.problem("several-devices", "", false, fmt.Sprintf("volume %s lies on disks %s", v.Path, list(v.Disks)), "protect them together")
		}
	}
	pools, devices, want := map[string][]dr.DiskID{}, map[string]int{}, map[string]int{}
	var order []string
	for _, d := range s.all {
		if d.sig.Kind != "btrfs" || d.sig.Devices < 2 {
			continue
		}
		if devices[d.sig.UUID] == 0 {
			order = append(order, d.sig.UUID)
		}
		devices[d.sig.UUID]++
		want[d.sig.UUID] = d.sig.Devices
		for _, b := range bottom(d) {
			if id := s.idOf(b); id != "" && !slices.Contains(pools[d.sig.UUID], id) {
				pools[d.sig.UUID] = append(pools[d.sig.UUID], id)
			}
		}
	}
	for _, uuid := range order {
		s.problem("several-devices", "", false, fmt.Sprintf("btrfs %s lies on disks %s", uuid, list(pools[uuid])), "protect them together")
		if devices[uuid] < want[uuid] {
			s.problem("volume-outside", "", false, fmt.Sprintf("btrfs %s has %d devices, of which %d were found on disks that could be protected", uuid, want[uuid], devices[uuid]),
				"look for the others with btrfs filesystem show")
		}
	}
}

// judgeOutside finds volumes that lie on what is no disk of the report, as a network
// block device, or on something that the kernel doesn't tell, as DRBD's.
func (s *system) judgeOutside(d *device, v Volume) {
	var out []string
	for _, b := range bottom(d) {
		if s.idOf(b) == "" && b != d {
			out = append(out, b.name)
		}
	}
	used := v.Use.inUse()
	switch {
	case len(v.Disks) > 0 && len(out) > 0:
		for _, id := range v.Disks {
			s.problem("volume-outside", id, !onRAID(d), fmt.Sprintf("volume %s lies on %s, and on %s too, which can't be protected", v.Path, list(v.Disks), strings.Join(out, ", ")),
				"move the volume to disks (pvmove), or protect none of them")
		}
	case len(v.Disks) == 0 && used && len(out) > 0:
		s.problem("volume-outside", "", false, fmt.Sprintf("volume %s lies on %s, which can't be protected", v.Path, strings.Join(out, ", ")), "protect what is on it in another way")
	case len(v.Disks) == 0 && used:
		s.problem("volume-outside", "", false, fmt.Sprintf("volume %s is used, and the kernel doesn't tell on what disks it lies", v.Path),
			"see that the disks below it are named, and that its file system is frozen with theirs")
	}
}

// onRAID tells whether a volume lies on one RAID alone, of which all is said
// already.
func onRAID(d *device) bool {
	for seen := 0; len(d.slaves) == 1 && seen < 64; seen++ {
		if d = d.slaves[0]; d.whole != nil {
			d = d.whole
		}
		if d.kind == "md" {
			return true
		}
	}
	return false
}

func list(ids []dr.DiskID) string {
	var names []string
	for _, id := range ids {
		names = append(names, string(id))
	}
	return strings.Join(names, ", ")
}

// judgeTwins finds file systems with one UUID on devices that aren't parts of
// one: what mounts by UUID takes any of them.
func (s *system) judgeTwins() {
	by := map[string][]*device{}
	var order []string
	for _, d := range s.all {
		if d.sig.Use != signature.FileSystem || d.sig.UUID == "" || d.sig.Devices > 1 || len(d.holders) > 0 || len(d.table.Partitions) > 0 && d.table.Kind != "" {
			continue
		}
		key := d.sig.Kind + " " + d.sig.UUID
		if by[key] == nil {
			order = append(order, key)
		}
		by[key] = append(by[key], d)
	}
	for _, key := range order {
		if len(by[key]) < 2 {
			continue
		}
		var names []string
		for _, d := range by[key] {
			names = append(names, d.name)
		}
		s.problem("duplicate-uuid", "", false, fmt.Sprintf("%s is on %s: which of them is mounted by UUID is chance", key, strings.Join(names, " and ")),
			"give the copy a new UUID (tune2fs -U, xfs_admin -U, btrfstune -u), or take it away")
	}
}

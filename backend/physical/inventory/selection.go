package inventory

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Blockers are the problems that keep the disks of a machine that [Report.Machine]
// made from being protected: theirs, those of the whole host, and
// "disks-incomplete", where a volume or a file system lies on some of them and on
// others. A RAID may be there in part: what starts from it is degraded.
func (r Report) Blockers(m physical.Machine) []backend.Problem {
	var found []backend.Problem
	for _, p := range r.Problems {
		if p.Blocker && (p.Disk == "" || chosen(m, p.Disk)) {
			found = append(found, p)
		}
	}
	for _, g := range r.groups() {
		var in, out []string
		for _, id := range g.disks {
			if chosen(m, id) {
				in = append(in, string(id))
			} else {
				out = append(out, string(id))
			}
		}
		if len(in) > 0 && len(out) > 0 {
			found = append(found, backend.Problem{Code: "disks-incomplete", Blocker: true,
				Text:   fmt.Sprintf("%s lies on %s, and on %s too", g.what, strings.Join(in, ", "), strings.Join(out, ", ")),
				Remedy: "protect all of them, or none"})
		}
	}
	return found
}

func chosen(m physical.Machine, id dr.DiskID) bool {
	return slices.ContainsFunc(m.Disks, func(d physical.Disk) bool { return d.ID == id })
}

// group is something that needs all its disks.
type group struct {
	what  string
	disks []dr.DiskID
}

// groups are volumes, but for RAID and what lies on it, and btrfs.
func (r Report) groups() []group {
	var list []group
	for _, v := range r.Volumes {
		if len(v.Disks) > 1 && !r.onRAID(v.Name, 0) {
			list = append(list, group{"volume " + v.Path, v.Disks})
		}
	}
	pools := map[string][]dr.DiskID{}
	r.each(func(u Use, on []dr.DiskID) {
		if u.Content != nil && u.Content.Kind == "btrfs" && u.Content.UUID != "" {
			for _, id := range on {
				if have := pools[u.Content.UUID]; !slices.Contains(have, id) {
					pools[u.Content.UUID] = append(have, id)
				}
			}
		}
	})
	for _, uuid := range slices.Sorted(maps.Keys(pools)) {
		list = append(list, group{"btrfs " + uuid, pools[uuid]})
	}
	return list
}

// onRAID tells whether a volume is a RAID or lies on one.
func (r Report) onRAID(name string, depth int) bool {
	for _, v := range r.Volumes {
		if v.Name == name {
			return v.Kind == "md" || depth < 32 && slices.ContainsFunc(v.On, func(n string) bool { return r.onRAID(n, depth+1) })
		}
	}
	return false
}

// each calls f with the use of all devices and the disks that they lie on.
func (r Report) each(f func(u Use, on []dr.DiskID)) {
	for _, d := range r.Disks {
		on := []dr.DiskID{d.ID}
		f(d.Use, on)
		for _, p := range d.Partitions {
			f(p.Use, on)
		}
	}
	for _, v := range r.Volumes {
		f(v.Use, v.Disks)
	}
}

// MountPoints are where the file systems on a machine's disks can be reached to
// freeze them: each that is mounted to be written to, once, by the mount with the
// shortest path, as a path of this host. One that only another mount namespace has
// is reached through a process there. They are sorted: deeper ones first, so that
// nothing that is still to be frozen lies below something frozen.
func (r Report) MountPoints(m physical.Machine) []string {
	best := map[string]string{} // by file system
	nth := 0
	r.each(func(u Use, on []dr.DiskID) {
		nth++
		if !slices.ContainsFunc(on, func(id dr.DiskID) bool { return chosen(m, id) }) {
			return
		}
		key := fmt.Sprint(nth)
		if u.Content != nil && u.Content.Kind == "btrfs" {
			key = "btrfs " + u.Content.UUID // over several devices
		}
		for _, t := range u.Mounts {
			at := t.Path
			if t.PID > 0 {
				at = path.Join("/proc", fmt.Sprint(t.PID), "root", t.Path)
			}
			if old := best[key]; !t.ReadOnly && (old == "" || len(at) < len(old)) {
				best[key] = at
			}
		}
	})
	list := slices.Collect(maps.Values(best))
	slices.SortFunc(list, func(a, b string) int {
		if a, b := len(parts(a)), len(parts(b)); a != b {
			return b - a
		}
		return strings.Compare(a, b)
	})
	return list
}

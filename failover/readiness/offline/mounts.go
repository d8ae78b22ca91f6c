package offline

import (
	"regexp"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// mount is a line of fstab.
type mount struct {
	device, at, kind string
	options          []string
}

// fstab reads what is mounted at boot, and mounts into the tree what is on
// the image's disks.
func (g *guest) fstab() []mount {
	text, ok := g.text("etc/fstab")
	if !ok {
		return nil
	}
	var list []mount
	for _, l := range lines(text) {
		f := strings.Fields(l)
		if len(f) < 3 {
			continue
		}
		m := mount{device: f[0], at: f[1], kind: f[2]}
		if len(f) > 3 {
			m.options = strings.Split(f[3], ",")
		}
		list = append(list, m)
	}
	tree, ok := g.tree.(*guestfs.Tree)
	if !ok {
		return list // it runs, and has mounted them itself
	}
	for _, m := range list {
		if m.at == "/" || !strings.HasPrefix(m.at, "/") || slices.Contains(m.options, "bind") || !onDisk(m) {
			continue
		}
		i := slices.IndexFunc(g.systems, func(f FileSystem) bool { return f.named(m.device) })
		switch {
		case i >= 0 && g.systems[i].vol != nil:
			tree.Mount(m.at, g.systems[i].vol)
			if n := g.systems[i].Note; n != "" {
				g.unknown("%s: %s", g.systems[i], n)
			}
		case needed(m.at):
			g.unknown("%s, which /etc/fstab mounts at %s, can't be read: what is there is not known", m.device, m.at)
		}
	}
	return list
}

// needed reports whether facts are read from below a path.
func needed(at string) bool {
	for _, p := range []string{"/boot", "/etc", "/usr", "/var", "/lib"} {
		if at == p || strings.HasPrefix(at, p+"/") && p != "/var" && at != "/boot/efi" {
			return true
		}
	}
	return at == "/var/lib"
}

func onDisk(m mount) bool {
	return strings.HasPrefix(m.device, "/dev/") || strings.Contains(m.device, "=")
}

// named reports whether fstab's device is this file system.
func (f FileSystem) named(device string) bool {
	key, value, ok := strings.Cut(device, "=")
	if !ok {
		by, isBy := strings.CutPrefix(device, "/dev/disk/by-")
		if key, value, ok = strings.Cut(by, "/"); !isBy || !ok {
			vg, lv, _ := strings.Cut(f.Volume, "/")
			return f.Device != "" && (device == f.Device || lv != "" && device == "/dev/"+vg+"/"+lv)
		}
	}
	value = strings.Trim(value, `"'`)
	has := map[string]string{"uuid": f.UUID, "label": f.Label, "partuuid": f.PartUUID, "partlabel": f.PartLabel}[strings.ToLower(key)]
	return has != "" && strings.EqualFold(has, value)
}

var (
	unstable = regexp.MustCompile(`^/dev/((sd|hd|vd|xvd)[a-z]+[0-9]*|nvme[0-9]+n[0-9]+(p[0-9]+)?|mmcblk[0-9].*|disk/by-path/.*)$`)
	stable   = regexp.MustCompile(`^((UUID|LABEL|PARTUUID|PARTLABEL)=|/dev/mapper/|/dev/disk/by-(uuid|label|partuuid|partlabel)/|/dev/(fd|sr|cdrom|zram|loop)|/dev/[a-zA-Z0-9._+]+[-a-zA-Z0-9._+]*/[a-zA-Z0-9._+])`)
	rootArg  = regexp.MustCompile(`(?m)^[^#\n]*\broot=(/dev/\S+)`)
)

// stable says whether everything that is mounted at boot is named by what
// stays as it is on another platform. /dev/disk/by-id names the disk's model
// and serial number, which belong to the platform.
func (g *guest) stable(list []mount) backend.Fact {
	const what = "mounts"
	if list == nil {
		return g.fact(what, backend.Unknown, "there is no /etc/fstab")
	}
	var open string
	for _, m := range list {
		switch {
		case slices.Contains(m.options, "noauto") || !onDisk(m):
		case unstable.MatchString(m.device), strings.HasPrefix(m.device, "/dev/disk/by-id/"):
			return g.fact(what, backend.No, "/etc/fstab mounts %s at %s", m.device, m.at)
		case !stable.MatchString(m.device):
			open = m.device
		}
	}
	for _, name := range []string{"boot/grub/grub.cfg", "boot/grub2/grub.cfg", "etc/kernel/cmdline", "etc/default/grub"} {
		text, _ := g.text(name)
		for _, m := range rootArg.FindAllStringSubmatch(text, -1) {
			if unstable.MatchString(m[1]) {
				return g.fact(what, backend.No, "/%s starts the kernel with root=%s", name, m[1])
			}
		}
	}
	if open != "" {
		return g.fact(what, backend.Unknown, "/etc/fstab names %s, and whether that stays can't be told", open)
	}
	return g.fact(what, backend.Yes, "/etc/fstab names all %d by what stays", len(list))
}

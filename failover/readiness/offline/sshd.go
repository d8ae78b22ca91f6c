package offline

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// sshd says whether sshd starts at boot, and at which port it listens: "" if
// that can't be told.
func (g *guest) sshd() (backend.Fact, string) {
	const what = "remote access"
	if !g.exists("usr/sbin/sshd") && !g.exists("usr/bin/sshd") {
		return g.fact(what, backend.No, "there is no /usr/sbin/sshd"), "22"
	}
	if g.exists("etc/ssh/sshd_not_to_be_run") {
		return g.fact(what, backend.No, "/etc/ssh/sshd_not_to_be_run is there"), "22"
	}
	port, detail, local := g.sshdConfig()
	answer, why := g.sshdStarts()
	if answer == backend.Yes && local {
		return g.fact(what, backend.No, "sshd listens to the machine itself only: %s", detail), port
	}
	if answer == backend.Yes && port == "" {
		return g.fact(what, backend.Unknown, "sshd starts (%s), but not at one port: %s", why, detail), ""
	}
	return g.fact(what, answer, "%s; %s", why, detail), port
}

// sshdConfig reads the port and where sshd listens. sshd takes the first value
// of most settings, and every Port.
func (g *guest) sshdConfig() (port, detail string, local bool) {
	var ports, addresses []string
	seen := map[string]bool{}
	var read func(name string)
	read = func(name string) {
		if seen[name] || len(seen) > 64 {
			return
		}
		seen[name] = true
		text, _ := g.text(name)
		for _, l := range lines(text) {
			f := strings.Fields(strings.Replace(l, "=", " ", 1))
			if len(f) < 2 {
				continue
			}
			switch strings.ToLower(f[0]) {
			case "match": // what follows is for some only
				return
			case "port":
				ports = append(ports, f[1])
			case "listenaddress":
				addresses = append(addresses, f[1])
			case "include":
				for _, p := range f[1:] {
					if !path.IsAbs(p) {
						p = "/etc/ssh/" + p
					}
					for _, n := range g.glob(strings.Trim(path.Dir(p), "/"), path.Base(p)) {
						read(n)
					}
				}
			}
		}
	}
	read("etc/ssh/sshd_config")
	local = len(addresses) > 0
	for _, a := range addresses {
		if !strings.HasPrefix(a, "127.") && !strings.HasPrefix(a, "::1") && !strings.HasPrefix(a, "[::1]") && !strings.HasPrefix(a, "localhost") {
			local = false
		}
	}
	if local {
		return "22", "ListenAddress " + strings.Join(addresses, ", "), true
	}
	slices.Sort(ports)
	ports = slices.Compact(ports)
	switch len(ports) {
	case 0:
		return "22", "port 22", false
	case 1:
		return ports[0], "port " + ports[0], false
	}
	if slices.Contains(ports, "22") {
		return "22", "ports " + strings.Join(ports, ", "), false
	}
	return "", "ports " + strings.Join(ports, ", "), false
}

func (g *guest) sshdStarts() (backend.Answer, string) {
	if !g.systemd() {
		return g.sshdOldInit()
	}
	for _, dir := range []string{"etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"} {
		to, err := g.tree.ReadLink(dir + "/default.target")
		if err != nil {
			continue
		}
		if t := path.Base(to); t == "rescue.target" || t == "emergency.target" {
			return backend.No, fmt.Sprintf("/%s/default.target is %s", dir, t)
		}
		break
	}
	var masked []string
	for _, unit := range []string{"ssh.service", "sshd.service", "ssh.socket", "sshd.socket"} {
		by, m := g.enabled(unit)
		if m {
			masked = append(masked, unit)
			continue
		}
		if by == "" {
			continue
		}
		// A socket starts a service, which must not be masked.
		if s, ok := strings.CutSuffix(unit, ".socket"); ok {
			if _, m := g.enabled(s + ".service"); m {
				masked = append(masked, s+".service")
				continue
			}
		}
		return backend.Yes, "started by " + by
	}
	switch id, ok := g.text("etc/machine-id"); {
	case len(masked) > 0:
		return backend.No, "masked: " + strings.Join(masked, ", ")
	case !ok || strings.TrimSpace(id) == "" || strings.TrimSpace(id) == "uninitialized":
		return backend.Unknown, "no link starts it, but /etc/machine-id says that presets are applied at the next boot"
	}
	return backend.No, "no link of systemd starts ssh.service, sshd.service or their sockets"
}

// sshdOldInit looks at the links of SysV's runlevels, and OpenRC's.
func (g *guest) sshdOldInit() (backend.Answer, string) {
	for _, dir := range []string{"etc/rc2.d", "etc/rc3.d", "etc/rc5.d", "etc/rc.d/rc3.d", "etc/rc.d/rc5.d"} {
		for _, pattern := range []string{"S[0-9][0-9]ssh", "S[0-9][0-9]sshd"} {
			if l := g.glob(dir, pattern); len(l) > 0 {
				return backend.Yes, "started by /" + l[0]
			}
		}
	}
	for _, name := range []string{"etc/runlevels/default/sshd", "etc/runlevels/boot/sshd"} {
		if _, err := g.tree.Lstat(name); err == nil {
			return backend.Yes, "started by /" + name
		}
	}
	if len(g.glob("etc", "rc[0-9].d"))+len(g.glob("etc/rc.d", "rc[0-9].d"))+len(g.glob("etc", "runlevels")) == 0 {
		return backend.Unknown, "neither systemd, nor runlevels of SysV or OpenRC"
	}
	return backend.No, "no runlevel starts it"
}

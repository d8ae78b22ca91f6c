package offline

import (
	"path"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// linux tells what is known of a Linux.
func (g *guest) linux() {
	mounts := g.fstab()
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		if text, ok := g.text(name); ok {
			g.facts.Release, _ = setting(text, "PRETTY_NAME")
			break
		}
	}
	g.facts.StableMounts = g.stable(mounts)
	port := ""
	g.facts.RemoteAccess, port = g.sshd()
	g.facts.Firewall = map[string]backend.Fact{"input": g.firewall(port)}
	g.facts.DHCP = g.dhcp()
	g.facts.Agents = g.agents()
	g.bootDrivers()
	g.facts.UpdatesPending = g.fact("pending updates", backend.Unknown, "Linux notes a due restart in /run, which is not on a disk")
}

// systemd reports whether systemd is what starts the guest.
func (g *guest) systemd() bool {
	return g.exists("usr/lib/systemd/systemd") || g.exists("lib/systemd/systemd")
}

// reached are the targets that an ordinary boot gets to.
var reached = []string{"multi-user", "graphical", "default", "sockets", "basic", "sysinit", "network", "network-online", "network-pre"}

// enabled says by which link systemd starts a unit at boot; "" if by none.
// masked says that it never does.
func (g *guest) enabled(unit string) (by string, masked bool) {
	for _, dir := range []string{"etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"} {
		name := path.Join(dir, unit)
		if to, err := g.tree.ReadLink(name); err == nil && strings.HasPrefix(dir, "etc") && (to == "/dev/null" || to == "../../../dev/null") {
			return "", true
		}
		if by != "" {
			continue
		}
		for _, t := range reached {
			for _, how := range []string{".target.wants", ".target.requires"} {
				link := path.Join(dir, t+how, unit)
				if _, err := g.tree.Lstat(link); err == nil {
					by = "/" + link
				} else {
					g.failed(link, err)
				}
			}
		}
	}
	return by, false
}

package offline

import (
	"fmt"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/internal/regf"
)

// windows tells what is known of a Windows.
func (g *guest) windows() {
	r := g.registry()
	const current = `Microsoft\Windows NT\CurrentVersion`
	build := r.text(r.software, current, "CurrentBuildNumber")
	g.facts.Release = r.text(r.software, current, "ProductName")
	if g.facts.Release != "" && build != "" {
		g.facts.Release += " (build " + build + ")"
	}
	g.facts.RemoteAccess = r.remoteDesktop()
	g.facts.Firewall = r.firewall()
	g.facts.SANPolicy = r.sanPolicy()
	g.facts.UpdatesPending = r.updates()
	g.facts.BootDrivers = map[string]backend.Fact{}
	for _, d := range windowsDrivers {
		g.facts.BootDrivers[d] = r.driver(d)
	}
	g.facts.DHCP = r.dhcp()
	g.facts.Agents = r.agents()
}

// remoteDesktop: connections are allowed, and the service isn't disabled. By
// default it starts by hand, which a connection does. A group policy comes
// before the setting.
func (r *registry) remoteDesktop() backend.Fact {
	const what = "remote access"
	where := r.control + `\Control\Terminal Server`
	deny, ok, err := r.number(r.system, where, "fDenyTSConnections")
	const policy = `Policies\Microsoft\Windows NT\Terminal Services`
	if n, set, perr := r.number(r.software, policy, "fDenyTSConnections"); set {
		deny, ok, where = n, true, policy
	} else if perr != nil {
		err = perr
	}
	start, there, serr := r.start("TermService")
	switch {
	case err != nil || serr != nil:
		return r.fact(what, backend.Unknown, "the registry can't be read")
	case !ok:
		return r.fact(what, backend.Unknown, `%s\fDenyTSConnections is not set`, where)
	case deny != 0:
		return r.fact(what, backend.No, `%s\fDenyTSConnections is %d`, where, deny)
	case !there:
		return r.fact(what, backend.No, "there is no service TermService")
	case start == 4:
		return r.fact(what, backend.No, "service TermService is disabled")
	}
	port := ""
	if n, ok, _ := r.number(r.system, r.control+`\Control\Terminal Server\WinStations\RDP-Tcp`, "PortNumber"); ok {
		port = fmt.Sprintf("; port %d", n)
	}
	return r.fact(what, backend.Yes, `%s\fDenyTSConnections is 0, service TermService starts: %s%s`, where, startName(start), port)
}

// sanPolicies are VDS_SAN_POLICY of Windows' vds.h.
var sanPolicies = []string{1: "OnlineAll", 2: "OfflineShared", 3: "OfflineAll", 4: "OfflineInternal"}

// sanPolicy: Yes if it is OnlineAll; Detail is the policy.
func (r *registry) sanPolicy() backend.Fact {
	key := r.services(`partmgr\Parameters`)
	n, ok, err := r.number(r.system, key, "SanPolicy")
	switch {
	case err != nil:
		return r.fact("SAN policy", backend.Unknown, `%s\SanPolicy can't be read`, key)
	case !ok:
		return r.fact("SAN policy", backend.Unknown, `%s\SanPolicy is not set, and the default depends on the edition`, key)
	case n == 0 || int(n) >= len(sanPolicies):
		return r.fact("SAN policy", backend.Unknown, `%s\SanPolicy is %d`, key, n)
	case n == 1:
		return backend.Fact{Answer: backend.Yes, Detail: sanPolicies[n] + r.dirty}
	}
	return backend.Fact{Answer: backend.No, Detail: sanPolicies[n] + r.dirty}
}

// updates looks at what servicing and Windows Update note while a restart is due.
func (r *registry) updates() backend.Fact {
	const what = "pending updates"
	for _, key := range []string{
		`Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending`,
		`Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired`,
	} {
		there, err := r.has(r.software, key)
		if err != nil {
			return r.fact(what, backend.Unknown, "%s can't be read", key)
		}
		if there {
			return r.fact(what, backend.Yes, "%s is there", key)
		}
	}
	key := r.control + `\Control\Session Manager`
	v, ok, err := r.value(r.system, key, "PendingFileRenameOperations")
	if err != nil {
		return r.fact(what, backend.Unknown, "%s can't be read", key)
	}
	if ok && len(v.Data) > 2 {
		return r.fact(what, backend.Yes, `%s\PendingFileRenameOperations has %d bytes`, key, len(v.Data))
	}
	return r.fact(what, backend.No, "no restart is due in Component Based Servicing, WindowsUpdate and Session Manager")
}

// windowsDrivers are the boot drivers that Azure's article lists.
var windowsDrivers = []string{"storvsc", "vmbus", "storflt", "intelide", "atapi"}

// driver: it starts with the kernel. A StartOverride that isn't zero keeps it
// from that on machines where its device was not seen.
func (r *registry) driver(name string) backend.Fact {
	start, ok, err := r.start(name)
	switch {
	case err != nil:
		return r.fact("driver "+name, backend.Unknown, "service %s can't be read", name)
	case !ok:
		return r.fact("driver "+name, backend.No, "there is no service %s", name)
	case start != 0:
		return r.fact("driver "+name, backend.No, "service %s starts: %s", name, startName(start))
	}
	if n, ok, err := r.number(r.system, r.services(name+`\StartOverride`), "0"); err != nil || ok && n != 0 {
		return r.fact("driver "+name, backend.No, "service %s starts: boot, but StartOverride is %s", name, startName(n))
	}
	return r.fact("driver "+name, backend.Yes, "service %s starts: boot", name)
}

// dhcp looks at the interfaces that have an address, or had one.
func (r *registry) dhcp() backend.Fact {
	const what = "DHCP"
	key := r.services(`Tcpip\Parameters\Interfaces`)
	if r.system == nil {
		return r.fact(what, backend.Unknown, "%s can't be read", key)
	}
	k, err := r.system.Key(key)
	if err != nil {
		return r.fact(what, backend.Unknown, "%s: %v", key, err)
	}
	var yes, no []string
	for c, err := range k.Keys() {
		if err != nil {
			return r.fact(what, backend.Unknown, "%s: %v", key, err)
		}
		v, err := c.Value("EnableDHCP")
		n, ok := v.Number()
		if err != nil || !ok {
			continue
		}
		switch {
		case n != 0:
			yes = append(yes, c.Name)
		case static(c):
			no = append(no, c.Name)
		}
	}
	switch {
	case len(yes) > 0 && len(no) == 0:
		return r.fact(what, backend.Yes, "EnableDHCP of %s", strings.Join(yes, ", "))
	case len(no) > 0 && len(yes) == 0:
		return r.fact(what, backend.No, "EnableDHCP of %s is 0", strings.Join(no, ", "))
	case len(no) == 0:
		return r.fact(what, backend.Unknown, "no interface has EnableDHCP")
	}
	return r.fact(what, backend.Unknown, "interfaces with DHCP (%s) and without (%s), and which is the first card can't be told", strings.Join(yes, ", "), strings.Join(no, ", "))
}

// static reports whether an interface has an address of its own.
func static(k *regf.Key) bool {
	v, err := k.Value("IPAddress")
	return err == nil && len(v.Data) > 4 && !strings.HasPrefix(strings.ReplaceAll(string(v.Data), "\x00", ""), "0.0.0.0")
}

// windowsAgents by the services that they install.
var windowsAgents = []struct {
	name     string
	services []string
}{
	{"vmware-tools", []string{"VMTools"}},
	{"azure-guest-agent", []string{"WindowsAzureGuestAgent"}},
	{"hyper-v-integration", []string{"vmicheartbeat"}},
	{"mobility", []string{"svagents", "InMage Scout Application Service"}},
}

func (r *registry) agents() map[string]backend.Fact {
	facts := map[string]backend.Fact{}
	for _, a := range windowsAgents {
		f := backend.Fact{Answer: backend.No, Detail: "no service " + a.services[0] + r.dirty}
		for _, s := range a.services {
			switch n, ok, err := r.start(s); {
			case err != nil:
				f = r.fact("agent "+a.name, backend.Unknown, "service %s can't be read", s)
			case ok:
				f = backend.Fact{Answer: backend.Yes, Detail: "service " + s + " starts: " + startName(n) + r.dirty}
			}
		}
		facts[a.name] = f
	}
	if v := r.text(r.software, `VMware, Inc.\VMware Tools`, "ProductVersion"); v != "" && facts["vmware-tools"].Answer == backend.Yes {
		facts["vmware-tools"] = backend.Fact{Answer: backend.Yes, Detail: v}
	}
	return facts
}

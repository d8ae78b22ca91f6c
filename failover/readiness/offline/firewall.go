package offline

import (
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// firewall says whether what starts at boot lets new connections to a port
// in from anywhere. Where several are started all must.
func (g *guest) firewall(port string) backend.Fact {
	const what = "firewall"
	if port == "" {
		return g.fact(what, backend.Unknown, "at which port sshd listens can't be told")
	}
	var answers []backend.Answer
	var details []string
	add := func(a backend.Answer, format string, args ...any) {
		answers, details = append(answers, a), append(details, fmt.Sprintf(format, args...))
	}
	on := func(unit string) bool { by, _ := g.enabled(unit); return by != "" }
	if on("nftables.service") {
		name := "etc/nftables.conf"
		if !g.exists(name) {
			name = "etc/sysconfig/nftables.conf"
		}
		text, ok := g.text(name)
		a, why := nftables(text, port)
		if !ok {
			a, why = backend.Unknown, "it can't be read"
		}
		add(a, "nftables: /%s: %s", name, why)
	}
	for _, s := range []struct{ unit, file string }{{"netfilter-persistent.service", "etc/iptables/rules.v4"}, {"iptables.service", "etc/sysconfig/iptables"}} {
		if !on(s.unit) || !g.exists(s.file) {
			continue
		}
		text, _ := g.text(s.file)
		a, why := iptables(text, port)
		add(a, "iptables: /%s: %s", s.file, why)
	}
	if text, _ := g.text("etc/ufw/ufw.conf"); on("ufw.service") {
		if v, _ := setting(text, "ENABLED"); strings.EqualFold(v, "yes") {
			a, why := g.ufw(port)
			add(a, "ufw: %s", why)
		}
	}
	if on("firewalld.service") {
		a, why := g.firewalld(port)
		add(a, "firewalld: %s", why)
	}
	if text, _ := g.text("etc/rc.local"); strings.Contains(text, "iptables") || strings.Contains(text, "nft ") {
		add(backend.Unknown, "/etc/rc.local sets rules up")
	}
	answer := backend.Yes
	for _, a := range answers {
		if a == backend.No || a == backend.Unknown && answer == backend.Yes {
			answer = a
		}
	}
	if len(answers) == 0 {
		details = []string{"no firewall starts at boot"}
	}
	return g.fact(what, answer, "%s", strings.Join(details, "; "))
}

// ufw looks at the rules that its command wrote down, in their order.
func (g *guest) ufw(port string) (backend.Answer, string) {
	text, _ := g.text("etc/ufw/user.rules")
	answer := backend.Unknown
	for l := range strings.Lines(text) {
		rule, ok := strings.CutPrefix(strings.TrimSpace(l), "### tuple ### ")
		f := strings.Fields(rule)
		// action protocol port destination port source direction
		if !ok || len(f) < 6 || !within(port, f[2], ":") || f[1] != "tcp" && f[1] != "any" || strings.Contains(rule, " out") {
			continue
		}
		from := f[5]
		if strings.HasPrefix(f[0], "route:") {
			continue
		}
		if from != "0.0.0.0/0" && from != "any" || strings.Contains(f[len(f)-1], "in_") {
			return backend.Unknown, "/etc/ufw/user.rules has a rule for some only: " + strings.Join(f, " ")
		}
		switch action, _, _ := strings.Cut(f[0], "_"); action {
		case "allow", "limit":
			return backend.Yes, "/etc/ufw/user.rules: " + strings.Join(f, " ")
		case "deny", "reject":
			return backend.No, "/etc/ufw/user.rules: " + strings.Join(f, " ")
		}
	}
	policy, ok := "", false
	if text, there := g.text("etc/default/ufw"); there {
		policy, ok = setting(text, "DEFAULT_INPUT_POLICY")
	}
	switch {
	case !ok:
		return answer, "no rule, and no DEFAULT_INPUT_POLICY in /etc/default/ufw"
	case strings.EqualFold(policy, "ACCEPT"):
		return backend.Yes, "DEFAULT_INPUT_POLICY is ACCEPT"
	}
	return backend.No, "no rule lets port " + port + " in, and DEFAULT_INPUT_POLICY is " + policy
}

// zone is a file of firewalld's.
type zone struct {
	Target   string `xml:"target,attr"`
	Services []struct {
		Name string `xml:"name,attr"`
	} `xml:"service"`
	Ports []struct {
		Port     string `xml:"port,attr"`
		Protocol string `xml:"protocol,attr"`
	} `xml:"port"`
	Rules      []struct{} `xml:"rule"`
	Interfaces []struct {
		Name string `xml:"name,attr"`
	} `xml:"interface"`
}

func (g *guest) zone(name string) (zone, string, bool) {
	for _, dir := range []string{"etc/firewalld/zones/", "usr/lib/firewalld/zones/"} {
		file := dir + name + ".xml"
		if !g.exists(file) {
			continue
		}
		text, _ := g.text(file)
		var z zone
		if err := xml.Unmarshal([]byte(text), &z); err != nil {
			return zone{}, "/" + file + " can't be parsed", false
		}
		return z, "/" + file, true
	}
	return zone{}, "no file of zone " + name, false
}

// firewalld looks at the default zone. Cards in other zones make it unknown.
func (g *guest) firewalld(port string) (backend.Answer, string) {
	name := "public"
	if text, ok := g.text("etc/firewalld/firewalld.conf"); ok {
		if v, ok := setting(text, "DefaultZone"); ok {
			name = v
		}
	}
	z, from, ok := g.zone(name)
	if !ok || strings.ContainsAny(name, "/.") {
		return backend.Unknown, from
	}
	for _, other := range g.glob("etc/firewalld/zones", "*.xml") {
		o := strings.TrimSuffix(other[strings.LastIndex(other, "/")+1:], ".xml")
		if oz, _, ok := g.zone(o); o != name && (!ok || len(oz.Interfaces) > 0) {
			return backend.Unknown, "/" + other + " has cards of its own"
		}
	}
	if len(z.Rules) > 0 {
		return backend.Unknown, from + " has rich rules"
	}
	if z.Target == "ACCEPT" {
		return backend.Yes, from + ": everything is accepted"
	}
	for _, s := range z.Services {
		if s.Name == "ssh" && port == "22" && !g.exists("etc/firewalld/services/ssh.xml") {
			return backend.Yes, from + ": service ssh"
		}
	}
	for _, p := range z.Ports {
		if p.Protocol == "tcp" && within(port, p.Port, "-") {
			return backend.Yes, from + ": port " + p.Port
		}
	}
	return backend.No, from + " doesn't let port " + port + " in"
}

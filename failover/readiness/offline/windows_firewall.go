package offline

import (
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/internal/regf"
)

// firewallProfiles with the keys that hold them.
var firewallProfiles = []struct{ name, key, inRules string }{
	{"domain", "DomainProfile", "Domain"}, {"private", "StandardProfile", "Private"}, {"public", "PublicProfile", "Public"},
}

const firewallPolicy = `Policies\Microsoft\WindowsFirewall`

// firewall says for each profile whether Remote Desktop is let in: the
// profile's firewall is off, or a rule allows TCP to the port from anywhere
// and none blocks it. Group policies come before the settings, and their
// rules beside the others.
func (r *registry) firewall() map[string]backend.Fact {
	facts := map[string]backend.Fact{}
	base := r.services(`SharedAccess\Parameters\FirewallPolicy`)
	port := "3389"
	if n, ok, _ := r.number(r.system, r.control+`\Control\Terminal Server\WinStations\RDP-Tcp`, "PortNumber"); ok {
		port = decimal(n)
	}
	start, there, err := r.start("MpsSvc")
	if err == nil && (!there || start == 4) {
		for _, p := range firewallProfiles {
			facts[p.name] = r.fact("firewall", backend.Unknown, "service MpsSvc is missing or disabled: what Windows then does depends on its version")
		}
		return facts
	}
	rules, err := r.rules(base)
	for _, p := range firewallProfiles {
		what := "firewall, profile " + p.name
		policyKey := p.key
		if p.key == "StandardProfile" {
			if there, _ := r.has(r.software, firewallPolicy+`\PrivateProfile`); there {
				policyKey = "PrivateProfile"
			}
		}
		setting := func(name string) (uint32, bool, error) {
			if n, ok, err := r.number(r.software, firewallPolicy+`\`+policyKey, name); ok || err != nil {
				return n, ok, err
			}
			return r.number(r.system, base+`\`+p.key, name)
		}
		on, ok, err1 := setting("EnableFirewall")
		inbound, has, err2 := setting("DefaultInboundAction")
		switch {
		case err != nil || err1 != nil || err2 != nil:
			facts[p.name] = r.fact(what, backend.Unknown, "%s can't be read", base)
		case ok && on == 0:
			facts[p.name] = r.fact(what, backend.Yes, `%s\EnableFirewall is 0`, p.key)
		case !ok:
			facts[p.name] = r.fact(what, backend.Unknown, `%s\EnableFirewall is not set`, p.key)
		default:
			a, why := judge(rules, p.inRules, port)
			if a == backend.No && why == "" {
				why = "no active rule lets port " + port + " in"
				if has && inbound == 0 {
					a, why = backend.Yes, `DefaultInboundAction is 0: what no rule names is let in`
				}
			}
			facts[p.name] = r.fact(what, a, "%s", why)
		}
	}
	return facts
}

func decimal(n uint32) string {
	if n == 0 {
		return "0"
	}
	var b []byte
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

// firewallRule is one such as "v2.30|Action=Allow|Active=TRUE|Dir=In|…".
type firewallRule struct {
	name     string
	fields   map[string]string
	profiles []string
}

func (r *registry) rules(base string) ([]firewallRule, error) {
	var list []firewallRule
	for _, at := range []struct {
		h   *regf.Hive
		key string
	}{{r.system, base + `\FirewallRules`}, {r.software, firewallPolicy + `\FirewallRules`}} {
		if there, err := r.has(at.h, at.key); err != nil {
			return nil, err
		} else if !there {
			continue
		}
		k, err := at.h.Key(at.key)
		if err != nil {
			return nil, err
		}
		for v, err := range k.Values() {
			if err != nil {
				return nil, err
			}
			f := firewallRule{name: v.Name, fields: map[string]string{}}
			for part := range strings.SplitSeq(v.Text(), "|") {
				if k, v, ok := strings.Cut(part, "="); ok {
					if k == "Profile" {
						f.profiles = append(f.profiles, v)
						continue
					}
					if old, ok := f.fields[k]; ok { // several are a list
						v = old + "," + v
					}
					f.fields[k] = v
				}
			}
			list = append(list, f)
		}
	}
	return list, nil
}

// judge looks for rules on a port. One that blocks wins over all that allow;
// one for some addresses only leaves it open.
func judge(rules []firewallRule, profile, port string) (backend.Answer, string) {
	answer, why := backend.No, ""
	for _, f := range rules {
		if f.fields["Active"] != "TRUE" || f.fields["Dir"] != "In" || !f.about(profile, port) {
			continue
		}
		limited := false
		for _, k := range []string{"RA4", "RA42", "RA6", "RA62", "LA4", "LA6", "IF", "IFType", "Security", "Edge2", "RMauth", "RUAuth", "RPort"} {
			_, is := f.fields[k]
			limited = limited || is
		}
		switch {
		case f.fields["Action"] == "Block" && !limited:
			return backend.No, f.name + " blocks it"
		case f.fields["Action"] == "Block":
			answer, why = backend.Unknown, f.name+" blocks it for some"
		case f.fields["Action"] == "Allow" && !limited && !(answer == backend.Unknown && strings.Contains(why, "blocks")):
			answer, why = backend.Yes, f.name+" is active, and allows it"
		case f.fields["Action"] == "Allow" && answer == backend.No:
			answer, why = backend.Unknown, f.name+" allows it for some only"
		}
	}
	return answer, why
}

// about reports whether a rule speaks of TCP to the port, in a profile, to
// the service of Remote Desktop or to any.
func (f firewallRule) about(profile, port string) bool {
	in := len(f.profiles) == 0
	for _, p := range f.profiles {
		in = in || p == profile || p == "All"
	}
	protocol, given := f.fields["Protocol"]
	if !in || given && protocol != "6" {
		return false
	}
	if p, ok := f.fields["LPort"]; ok && !within(port, p, "-") {
		return false
	}
	if p, ok := f.fields["LPort2_10"]; ok && f.fields["LPort"] == "" && !within(port, p, "-") {
		return false
	}
	if s := f.fields["Svc"]; s != "" && s != "*" && !strings.EqualFold(s, "termservice") {
		return false
	}
	app := strings.ToLower(f.fields["App"])
	return app == "" || app == "system" || strings.HasSuffix(app, `\svchost.exe`)
}

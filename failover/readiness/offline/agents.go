package offline

import (
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// agent is one of the programs that a platform puts into its guests.
type agent struct {
	name     string
	packages []string // of Debian
	files    []string // by which it is known elsewhere
}

var linuxAgents = []agent{
	{"vmware-tools", []string{"open-vm-tools"}, []string{"usr/bin/vmtoolsd", "usr/sbin/vmtoolsd"}},
	{"azure-guest-agent", []string{"waagent", "walinuxagent"}, []string{"usr/sbin/waagent", "usr/bin/waagent"}},
	{"hyper-v-integration", []string{"hyperv-daemons", "linux-cloud-tools-common"}, []string{"usr/sbin/hv_kvp_daemon", "usr/sbin/hypervkvpd", "usr/lib/hyper-v/bin/hv_kvp_daemon"}},
	{"mobility", nil, []string{"usr/local/ASR/Vx/bin/svagents", "usr/local/.vx_version"}},
}

// agents by the packages of Debian, else by their programs: the databases of
// RPM are not read.
func (g *guest) agents() map[string]backend.Fact {
	installed := g.dpkg()
	facts := map[string]backend.Fact{}
	for _, a := range linuxAgents {
		f := backend.Fact{Answer: backend.No, Detail: "none of its programs is there"}
		for _, name := range a.files {
			if g.exists(name) {
				f = backend.Fact{Answer: backend.Yes, Detail: "/" + name}
			}
		}
		for _, p := range a.packages {
			if v, ok := installed[p]; ok {
				f = backend.Fact{Answer: backend.Yes, Detail: v}
			}
		}
		if a.name == "mobility" && f.Answer == backend.Yes {
			if text, ok := g.text("usr/local/.vx_version"); ok {
				if v, ok := setting(text, "VERSION"); ok {
					f.Detail = v
				}
			}
		}
		facts[a.name] = f
	}
	return facts
}

// dpkg lists installed packages with their versions.
func (g *guest) dpkg() map[string]string {
	list := map[string]string{}
	const name = "var/lib/dpkg/status"
	if !g.exists(name) {
		return list
	}
	b, err := g.tree.ReadFile(name) // larger than a configuration file
	if err != nil {
		g.failed(name, err)
		return list
	}
	for p := range strings.SplitSeq(string(b), "\n\n") {
		var pkg, version string
		there := false
		for l := range strings.Lines(p) {
			switch k, v, _ := strings.Cut(strings.TrimRight(l, "\n"), ": "); k {
			case "Package":
				pkg = v
			case "Version":
				version = v
			case "Status":
				there = strings.HasSuffix(v, " installed")
			}
		}
		if there {
			list[pkg] = version
		}
	}
	return list
}

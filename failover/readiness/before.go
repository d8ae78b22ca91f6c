package readiness

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Via is how people get to the machine after the failover. The zero value asks
// for both ways.
type Via string

// Ways.
const (
	EitherWay Via = ""
	Internet  Via = "internet"
	VPN       Via = "vpn" // site to site
)

// Kind is what platform a machine was protected as. The zero value is unknown.
type Kind string

// Kinds.
const (
	VMware   Kind = "vmware"
	HyperV   Kind = "hyper-v"
	Physical Kind = "physical"
	Azure    Kind = "azure"
)

// Subject is what Judge judges.
type Subject struct {
	Protection dr.Protection
	Machine    dr.Machine
	Facts      backend.Facts
	// As is what the machine is protected as.
	As  Kind
	Via Via
}

// Sections of the article.
const (
	connect    = "Connect to Azure after failover"
	processing = "Failover processing"
)

// bootDrivers are those of the article, with what stands for them on Linux; ""
// where Linux has and needs nothing of the kind.
var bootDrivers = []struct{ name, linux string }{
	{"storvsc", "hv_storvsc"}, {"vmbus", "hv_vmbus"}, {"storflt", ""}, {"intelide", "ata_piix"}, {"atapi", "ata_generic"},
}

// Judge answers the checks of a machine before its failover: "Connect to Azure
// after failover", and "Failover processing". On its way home none of the latter
// applies. The order of checks is always the same.
func Judge(s Subject) []Check {
	os := s.Facts.OS
	if os == "" {
		os = system(s.Machine.OS)
	}
	all := append(connectWindows(s, os), connectLinux(s, os)...)
	return append(all, slow(s, os)...)
}

func system(os string) string {
	os = strings.ToLower(os)
	switch {
	case strings.Contains(os, "win") && !strings.Contains(os, "darwin"):
		return "windows"
	case strings.Contains(os, "linux"):
		return "linux"
	}
	return ""
}

// about answers for one system: on another it doesn't apply, on an unknown one
// nobody can tell.
func about(want, os string, c Check, answer func(Check) Check) Check {
	switch os {
	case want:
		return answer(c)
	case "":
		c.Result, c.Detail = Unknown, "the guest's operating system is not known"
		return c
	}
	return c.none("the guest runs " + os)
}

func connectWindows(s Subject, os string) []Check {
	f := s.Facts
	is := func(c Check, answer func(Check) Check) Check {
		c.Phase, c.Source = BeforeFailover, connect
		return about("windows", os, c, answer)
	}
	all := []Check{is(Check{Code: "windows-rdp-enabled", Title: "Remote Desktop is enabled", Severity: Blocker,
		Causes: []string{"Remote Desktop was never enabled", "a policy forbids it", "service TermService is disabled"},
		Remedy: "enable Remote Desktop on the machine, and replicate once more"}, func(c Check) Check { return c.good(f.RemoteAccess, f.From) })}
	for _, p := range []struct {
		key, name string
		way       Via
	}{{"public", "Public", Internet}, {"domain", "Domain", VPN}, {"private", "Private", VPN}} {
		for _, udp := range []bool{false, true} {
			key, proto, severity := p.key, "TCP", Blocker
			if udp {
				// Remote Desktop works over TCP alone, and is slower so.
				key, proto, severity = key+"-udp", "UDP", Warning
			}
			all = append(all, is(Check{Code: "windows-firewall-" + key, Title: fmt.Sprintf("Windows Firewall allows RDP over %s for %s networks", proto, p.name), Severity: severity,
				Causes: []string{"the rules of Remote Desktop are off, or are not for profile " + p.name, "a policy blocks them"},
				Remedy: "in Windows Firewall > Allowed apps, allow Remote Desktop for " + p.name}, func(c Check) Check {
				if s.Via != EitherWay && s.Via != p.way {
					return c.none("people come by " + string(s.Via))
				}
				return c.good(f.Firewall[key], f.From)
			}))
		}
	}
	return append(all,
		is(Check{Code: "windows-san-policy", Title: "SAN policy is OnlineAll", Severity: Blocker,
			Causes: []string{"Windows Server keeps shared disks offline by default"},
			Remedy: "run: diskpart, san policy=OnlineAll (https://support.microsoft.com/kb/3031135)"}, func(c Check) Check {
			san := f.SANPolicy
			// Behind the policy's name may stand a doubt of whoever read it.
			if san.Answer == backend.Yes && san.Detail != "" && !strings.HasPrefix(strings.ToLower(san.Detail), "onlineall") {
				san.Answer = backend.No
			}
			return c.good(san, f.From)
		}),
		is(Check{Code: "windows-updates-pending", Title: "No Windows updates are pending", Severity: Blocker,
			Causes: []string{"updates are installed, and the machine was not restarted", "updates wait to be installed"},
			Remedy: "install the updates and restart, before the failover: nobody can log on until updates are done"}, func(c Check) Check { return c.bad(f.UpdatesPending, f.From) }))
}

func connectLinux(s Subject, os string) []Check {
	f := s.Facts
	is := func(c Check, answer func(Check) Check) Check {
		c.Phase = BeforeFailover
		return about("linux", os, c, answer)
	}
	return []Check{
		is(Check{Code: "linux-sshd-at-boot", Title: "The Secure Shell service starts with the system", Severity: Blocker, Source: connect,
			Causes: []string{"the service is disabled or masked", "no sshd is installed"},
			Remedy: "systemctl enable ssh (or sshd), and replicate once more"}, func(c Check) Check { return c.good(f.RemoteAccess, f.From) }),
		is(Check{Code: "linux-firewall-ssh", Title: "Firewall rules allow an SSH connection", Severity: Blocker, Source: connect,
			Causes: []string{"the packet filter drops what it isn't told to allow"},
			Remedy: "allow port 22, or the one that sshd listens on, in the guest's firewall"}, func(c Check) Check { return c.good(f.Firewall["input"], f.From) }),
		is(Check{Code: "linux-stable-mounts", Title: "Mounts don't name disks by their place", Severity: Warning, Source: "disks have other names at another platform",
			Remedy: "use UUID= or LABEL= in /etc/fstab and on the kernel's command line"}, func(c Check) Check { return c.good(f.StableMounts, f.From) }),
	}
}

// slow are the conditions under which a failover takes 8 to 10 minutes more.
func slow(s Subject, os string) []Check {
	f := s.Facts
	is := func(c Check, answer func(Check) Check) Check {
		c.Severity, c.Phase, c.Source = Warning, BeforeFailover, processing
		if c.Remedy == "" {
			c.Remedy = "allow 8 to 10 minutes more for the failover"
		}
		switch {
		case !s.Protection.AtHome():
			return c.none("the machine is on its way home")
		case s.As == "":
			c.Result, c.Detail = Unknown, "it isn't known as what the machine is protected"
			return c
		}
		return answer(c)
	}
	only := func(kind Kind, answer func(Check) Check) func(Check) Check {
		return func(c Check) Check {
			if s.As != kind {
				return c.none("the machine is protected as " + string(s.As))
			}
			return answer(c)
		}
	}
	all := []Check{
		is(Check{Code: "slow-mobility-version", Title: "The Mobility service is of version 9.8 or later", Remedy: "update the Mobility service"}, only(VMware, func(c Check) Check {
			a := f.Agents["mobility"]
			if a.Answer == backend.No {
				return c.none("no Mobility service is installed")
			}
			old, known := before98(a.Detail)
			if a.Answer != backend.Yes || !known {
				a.Answer = backend.Unknown
			} else if old {
				a.Answer = backend.No
			}
			return c.good(a, f.From)
		})),
		is(Check{Code: "slow-physical", Title: "The machine is no physical server"}, func(c Check) Check {
			if s.As == Physical {
				return c.good(backend.Fact{Answer: backend.No, Detail: "it is protected as a physical server"}, "")
			}
			return c.good(backend.Fact{Answer: backend.Yes, Detail: "it is protected as " + string(s.As)}, "")
		}),
		is(Check{Code: "slow-vmware-linux", Title: "The machine is no Linux machine on VMware"}, only(VMware, func(c Check) Check {
			var a backend.Fact
			switch os {
			case "linux":
				a = backend.Fact{Answer: backend.No, Detail: "it runs Linux on VMware"}
			case "windows":
				a = backend.Fact{Answer: backend.Yes, Detail: "it runs Windows"}
			}
			return c.good(a, f.From)
		})),
		is(Check{Code: "slow-hyperv-as-physical", Title: "The machine is no Hyper-V machine protected as a physical server", Remedy: "protect it by its Hyper-V host"}, only(Physical, func(c Check) Check {
			return c.bad(f.Agents["hyper-v-integration"], f.From)
		})),
		is(Check{Code: "slow-no-dhcp", Title: "The DHCP service is enabled", Remedy: "set the service Dhcp to start automatically, whether or not addresses are static"}, only(VMware, func(c Check) Check {
			a := f.DHCPService
			if a.Answer == backend.Unknown {
				a = f.DHCP // one that leases an address has the service
			}
			return c.good(a, f.From)
		})),
	}
	for _, d := range bootDrivers {
		all = append(all, is(Check{Code: "slow-driver-" + d.name, Title: "Boot driver " + d.name + " is there",
			Remedy: "make the driver start at boot (Windows: Start=0; Linux: rebuild the initramfs with " + cmpOr(d.linux, d.name) + ")"}, only(VMware, func(c Check) Check {
			name := d.name
			if os == "linux" {
				if name = d.linux; name == "" {
					return c.none("Linux needs no such driver")
				}
			}
			return c.good(f.BootDrivers[name], f.From)
		})))
	}
	return all
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// before98 reads "9.7.1.0".
func before98(version string) (old, known bool) {
	p := strings.SplitN(strings.TrimSpace(version), ".", 3)
	if len(p) < 2 {
		return false, false
	}
	major, err1 := strconv.Atoi(p[0])
	minor, err2 := strconv.Atoi(p[1])
	return major < 9 || major == 9 && minor < 8, err1 == nil && err2 == nil
}

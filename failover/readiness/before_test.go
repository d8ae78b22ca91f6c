package readiness_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/readiness"
)

var (
	home = dr.Protection{ID: "p", Home: "home", Active: dr.Place{Site: "home", Machine: "m"}, Standby: dr.Place{Site: "azure"}, State: dr.Protected}
	away = dr.Protection{ID: "p", Home: "home", Active: dr.Place{Site: "azure", Machine: "r"}, Standby: dr.Place{Site: "home", Machine: "m"}, State: dr.Protected}
	yes  = backend.Fact{Answer: backend.Yes}
	no   = backend.Fact{Answer: backend.No}
)

func find(t *testing.T, checks []readiness.Check, code string) readiness.Check {
	t.Helper()
	i := slices.IndexFunc(checks, func(c readiness.Check) bool { return c.Code == code })
	require.GreaterOrEqual(t, i, 0, code)
	return checks[i]
}

func firewall(key string, f backend.Fact) backend.Facts {
	return backend.Facts{Firewall: map[string]backend.Fact{key: f}}
}

// Each sentence of the article: what passes it, and what fails it. What isn't
// known passes none.
func TestEverySentence(t *testing.T) {
	agent := func(name string, f backend.Fact) backend.Facts {
		return backend.Facts{Agents: map[string]backend.Fact{name: f}}
	}
	driver := func(name string, f backend.Fact) backend.Facts {
		return backend.Facts{BootDrivers: map[string]backend.Fact{name: f}}
	}
	version := func(v string) backend.Fact { return backend.Fact{Answer: backend.Yes, Detail: v} }
	for _, c := range []struct {
		sentence, code, os string
		as                 readiness.Kind
		via                readiness.Via
		good, bad          backend.Facts
	}{
		{"Windows, internet: Enable RDP", "windows-rdp-enabled", "windows", "vmware", "internet", backend.Facts{RemoteAccess: yes}, backend.Facts{RemoteAccess: no}},
		{"Windows, internet: TCP rules are added for Public", "windows-firewall-public", "windows", "vmware", "internet", firewall("public", yes), firewall("public", no)},
		{"Windows, internet: UDP rules are added for Public", "windows-firewall-public-udp", "windows", "vmware", "internet", firewall("public-udp", yes), firewall("public-udp", no)},
		{"Windows, VPN: Enable RDP on the machine", "windows-rdp-enabled", "windows", "vmware", "vpn", backend.Facts{RemoteAccess: yes}, backend.Facts{RemoteAccess: no}},
		{"Windows, VPN: RDP is allowed for Domain", "windows-firewall-domain", "windows", "vmware", "vpn", firewall("domain", yes), firewall("domain", no)},
		{"Windows, VPN: RDP is allowed for Private", "windows-firewall-private", "windows", "vmware", "vpn", firewall("private", yes), firewall("private", no)},
		{"Windows: SAN policy is set to OnlineAll", "windows-san-policy", "windows", "vmware", "", backend.Facts{SANPolicy: version("OnlineAll")}, backend.Facts{SANPolicy: version("OfflineShared")}},
		{"Windows: SAN policy, read from a registry that was in use", "windows-san-policy", "windows", "vmware", "", backend.Facts{SANPolicy: version("OnlineAll; the hive was in use")}, backend.Facts{SANPolicy: version("OfflineAll; the hive was in use")}},
		{"Windows: no Windows updates pending", "windows-updates-pending", "windows", "vmware", "", backend.Facts{UpdatesPending: no}, backend.Facts{UpdatesPending: yes}},
		{"Linux: the Secure Shell service starts automatically on boot", "linux-sshd-at-boot", "linux", "vmware", "", backend.Facts{RemoteAccess: yes}, backend.Facts{RemoteAccess: no}},
		{"Linux: firewall rules allow an SSH connection", "linux-firewall-ssh", "linux", "vmware", "", firewall("input", yes), firewall("input", no)},
		{"Slow: Mobility service older than 9.8", "slow-mobility-version", "windows", "vmware", "", agent("mobility", version("9.8.0.1")), agent("mobility", version("9.7.99"))},
		{"Slow: Hyper-V VMs protected as physical servers", "slow-hyperv-as-physical", "windows", "physical", "", agent("hyper-v-integration", no), agent("hyper-v-integration", yes)},
		{"Slow: no DHCP service enabled", "slow-no-dhcp", "windows", "vmware", "", backend.Facts{DHCPService: yes, DHCP: no}, backend.Facts{DHCPService: no, DHCP: yes}},
		{"Slow: boot driver storvsc", "slow-driver-storvsc", "windows", "vmware", "", driver("storvsc", yes), driver("storvsc", no)},
		{"Slow: boot driver vmbus", "slow-driver-vmbus", "windows", "vmware", "", driver("vmbus", yes), driver("vmbus", no)},
		{"Slow: boot driver storflt", "slow-driver-storflt", "windows", "vmware", "", driver("storflt", yes), driver("storflt", no)},
		{"Slow: boot driver intelide", "slow-driver-intelide", "windows", "vmware", "", driver("intelide", yes), driver("intelide", no)},
		{"Slow: boot driver atapi", "slow-driver-atapi", "windows", "vmware", "", driver("atapi", yes), driver("atapi", no)},
		{"Slow: boot driver storvsc on Linux", "slow-driver-storvsc", "linux", "vmware", "", driver("hv_storvsc", yes), driver("hv_storvsc", no)},
	} {
		t.Run(c.sentence, func(t *testing.T) {
			result := func(f backend.Facts) readiness.Check {
				f.OS, f.From = c.os, "here"
				return find(t, readiness.Judge(readiness.Subject{Protection: home, Facts: f, As: c.as, Via: c.via}), c.code)
			}
			require.Equal(t, readiness.Passed, result(c.good).Result)
			failed := result(c.bad)
			require.Equal(t, readiness.Failed, failed.Result)
			require.NotEmpty(t, failed.Remedy)
			require.Equal(t, "here", failed.From)
			require.Equal(t, readiness.Unknown, result(backend.Facts{}).Result)
		})
	}
	for _, c := range []struct {
		sentence, code, os string
		bad, good          readiness.Kind
	}{
		{"Slow: physical servers", "slow-physical", "windows", readiness.Physical, readiness.VMware},
		{"Slow: VMware Linux VMs", "slow-vmware-linux", "linux", readiness.VMware, readiness.HyperV},
	} {
		t.Run(c.sentence, func(t *testing.T) {
			result := func(as readiness.Kind) readiness.Result {
				return find(t, readiness.Judge(readiness.Subject{Protection: home, Facts: backend.Facts{OS: c.os}, As: as}), c.code).Result
			}
			require.Equal(t, readiness.Failed, result(c.bad))
			require.Contains(t, []readiness.Result{readiness.Passed, readiness.NotApplicable}, result(c.good))
			require.Equal(t, readiness.Unknown, result(""))
		})
	}
}

func TestNothingKnownPassesNothing(t *testing.T) {
	for _, os := range []string{"", "windows", "linux"} {
		checks := readiness.Judge(readiness.Subject{Protection: home, Machine: dr.Machine{OS: os}})
		for _, c := range checks {
			require.NotEqual(t, readiness.Passed, c.Result, c.Code)
			require.NotEqual(t, readiness.Failed, c.Result, c.Code)
			require.NotEmpty(t, c.Title, c.Code)
			require.NotEmpty(t, c.Source, c.Code)
			require.NotEmpty(t, c.Phase, c.Code)
		}
		require.False(t, readiness.Ready(checks), os)
	}
	require.False(t, readiness.Ready(nil))
}

func TestOnItsWayHomeNothingIsSlow(t *testing.T) {
	for _, c := range readiness.Judge(readiness.Subject{Protection: away, As: readiness.Physical}) {
		if strings.HasPrefix(c.Code, "slow-") {
			require.Equal(t, readiness.NotApplicable, c.Result, c.Code)
		}
	}
}

func TestTheWayPeopleComeDecidesWhichProfilesCount(t *testing.T) {
	f := backend.Facts{OS: "windows", RemoteAccess: yes, SANPolicy: yes, UpdatesPending: no, Firewall: map[string]backend.Fact{"public": yes}}
	require.True(t, readiness.Ready(readiness.Judge(readiness.Subject{Protection: home, Facts: f, Via: readiness.Internet})))
	require.False(t, readiness.Ready(readiness.Judge(readiness.Subject{Protection: home, Facts: f, Via: readiness.VPN})))
	require.False(t, readiness.Ready(readiness.Judge(readiness.Subject{Protection: home, Facts: f})))
}

package offline_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

const (
	windowsSystem = `[HKEY_LOCAL_MACHINE\HIVE\Select]
"Current"=dword:00000002
"Default"=dword:00000002

[HKEY_LOCAL_MACHINE\HIVE\ControlSet001\Control\Terminal Server]
"fDenyTSConnections"=dword:00000001

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Control\Terminal Server]
"fDenyTSConnections"=dword:00000000

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Control\Session Manager]
"BootExecute"="autocheck"

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\TermService]
"Start"=dword:00000003

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\MpsSvc]
"Start"=dword:00000002

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\partmgr\Parameters]
"SanPolicy"=dword:00000001

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\storvsc]
"Start"=dword:00000000

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\vmbus]
"Start"=dword:00000000

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\vmbus\StartOverride]
"0"=dword:00000003

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\intelide]
"Start"=dword:00000003

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\atapi]
"Start"=dword:00000000

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\VMTools]
"Start"=dword:00000002

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\Tcpip\Parameters\Interfaces\{1}]
"EnableDHCP"=dword:00000001

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\SharedAccess\Parameters\FirewallPolicy\DomainProfile]
"EnableFirewall"=dword:00000000

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\SharedAccess\Parameters\FirewallPolicy\StandardProfile]
"EnableFirewall"=dword:00000001

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\SharedAccess\Parameters\FirewallPolicy\PublicProfile]
"EnableFirewall"=dword:00000001

[HKEY_LOCAL_MACHINE\HIVE\ControlSet002\Services\SharedAccess\Parameters\FirewallPolicy\FirewallRules]
"RemoteDesktop-UserMode-In-TCP"="v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=6|Profile=Private|LPort=3389|App=%SystemRoot%\\system32\\svchost.exe|Svc=termservice|"
"RemoteDesktop-UserMode-In-UDP"="v2.30|Action=Allow|Active=TRUE|Dir=In|Protocol=17|Profile=Public|LPort=3389|"
"Some"="v2.30|Action=Allow|Active=FALSE|Dir=In|Protocol=6|Profile=Public|LPort=3389|"

`
	windowsSoftware = `[HKEY_LOCAL_MACHINE\HIVE\Microsoft\Windows NT\CurrentVersion]
"ProductName"="Windows Server 2022 Datacenter"
"CurrentBuildNumber"="20348"

[HKEY_LOCAL_MACHINE\HIVE\VMware, Inc.\VMware Tools]
"ProductVersion"="12.3.0"

`
)

func onNTFS(t *testing.T, system, software string, dirty bool) *image {
	_, err := os.Stat("/dev/fuse")
	guestfstest.Need(t, err == nil, "there is no /dev/fuse")
	name := guestfstest.Image(t, 64<<20, "mkfs.ntfs", "-q", "-F", "-f")
	guestfstest.Mounted(t, name, "ntfs-3g", func(dir string) {
		config := filepath.Join(dir, "Windows", "System32", "config")
		require.NoError(t, os.MkdirAll(config, 0o755))
		for file, text := range map[string]string{"SYSTEM": system, "SOFTWARE": software} {
			b, err := os.ReadFile(guestfstest.Hive(t, text))
			require.NoError(t, err)
			if dirty {
				b[4]++
			}
			require.NoError(t, os.WriteFile(filepath.Join(config, file), b, 0o600))
		}
	})
	return open(t, name)
}

func TestAWindowsIsKnownFromItsDisk(t *testing.T) {
	f := inspect(t, onNTFS(t, windowsSystem, windowsSoftware, false))
	require.Equal(t, "windows", f.OS)
	require.Contains(t, strings.Join(f.Unknown, "\n"), "journal was not played back")
	require.Equal(t, "Windows Server 2022 Datacenter (build 20348)", f.Release)
	for _, c := range []struct {
		what   string
		fact   backend.Fact
		want   backend.Answer
		detail string
	}{
		{"remote desktop", f.RemoteAccess, backend.Yes, `ControlSet002\Control\Terminal Server\fDenyTSConnections is 0`},
		{"domain", f.Firewall["domain"], backend.Yes, "EnableFirewall is 0"},
		{"private", f.Firewall["private"], backend.Yes, "RemoteDesktop-UserMode-In-TCP is active"},
		{"public", f.Firewall["public"], backend.No, "no active rule"},
		{"SAN policy", f.SANPolicy, backend.Yes, "OnlineAll"},
		{"updates", f.UpdatesPending, backend.No, "no restart is due"},
		{"storvsc", f.BootDrivers["storvsc"], backend.Yes, "boot"},
		{"vmbus", f.BootDrivers["vmbus"], backend.No, "StartOverride is manual"},
		{"storflt", f.BootDrivers["storflt"], backend.No, "no service storflt"},
		{"intelide", f.BootDrivers["intelide"], backend.No, "manual"},
		{"atapi", f.BootDrivers["atapi"], backend.Yes, "boot"},
		{"DHCP", f.DHCP, backend.Yes, "EnableDHCP of {1}"},
		{"tools", f.Agents["vmware-tools"], backend.Yes, "12.3.0"},
		{"agent", f.Agents["azure-guest-agent"], backend.No, "no service"},
	} {
		require.Equal(t, c.want, c.fact.Answer, "%s: %s", c.what, c.fact.Detail)
		require.Contains(t, c.fact.Detail, c.detail, c.what)
	}
}

func TestWhatIsWrongWithAWindowsIsTold(t *testing.T) {
	system := strings.NewReplacer(
		`"SanPolicy"=dword:00000001`, `"SanPolicy"=dword:00000002`,
		`"BootExecute"="autocheck"`, `"PendingFileRenameOperations"="\\??\\C:\\x"`,
		`"EnableDHCP"=dword:00000001`, `"EnableDHCP"=dword:00000000`+"\n"+`"IPAddress"="10.0.0.9"`,
		"|Active=TRUE|Dir=In|Protocol=6|Profile=Private|", "|Active=TRUE|Dir=In|Protocol=6|RA4=10.0.0.0/8|",
	).Replace(windowsSystem) + "[HKEY_LOCAL_MACHINE\\HIVE\\ControlSet002\\Control\\Terminal Server\\WinStations\\RDP-Tcp]\n\"PortNumber\"=dword:00000d3d\n\n"
	software := windowsSoftware + "[HKEY_LOCAL_MACHINE\\HIVE\\Policies\\Microsoft\\Windows NT\\Terminal Services]\n\"fDenyTSConnections\"=dword:00000001\n\n"
	f := inspect(t, onNTFS(t, system, software, true))
	for _, c := range []struct {
		what   string
		fact   backend.Fact
		want   backend.Answer
		detail string
	}{
		{"remote desktop", f.RemoteAccess, backend.No, `Policies\Microsoft\Windows NT\Terminal Services\fDenyTSConnections is 1`},
		{"private", f.Firewall["private"], backend.Unknown, "for some only"},
		{"SAN policy", f.SANPolicy, backend.No, "OfflineShared"},
		{"updates", f.UpdatesPending, backend.Yes, "PendingFileRenameOperations"},
		{"DHCP", f.DHCP, backend.No, "EnableDHCP of {1} is 0"},
		{"storvsc", f.BootDrivers["storvsc"], backend.Yes, "was being written"},
	} {
		require.Equal(t, c.want, c.fact.Answer, "%s: %s", c.what, c.fact.Detail)
		require.Contains(t, c.fact.Detail, c.detail, c.what)
	}
	require.Contains(t, strings.Join(f.Unknown, "\n"), "hive SYSTEM and SOFTWARE was being written")
}

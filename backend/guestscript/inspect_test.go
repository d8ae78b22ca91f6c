package guestscript_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/guestscript"
)

// tools are what the script may count on; the rest of a guest is made here.
var tools = []string{"sed", "awk", "grep", "tr", "cut", "head", "cat", "uname", "readlink", "sh"}

// guest is a root folder, with programs that print what the test says.
type guest struct{ root, bin string }

func newGuest(t *testing.T, files, programs map[string]string) guest {
	g := guest{t.TempDir(), t.TempDir()}
	for _, p := range tools {
		at, err := exec.LookPath(p)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(at, filepath.Join(g.bin, p)))
	}
	for name, text := range files {
		at := filepath.Join(g.root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
		if to, is := strings.CutPrefix(text, "-> "); is {
			require.NoError(t, os.Symlink(to, at))
			continue
		}
		require.NoError(t, os.WriteFile(at, []byte(text), 0o644))
	}
	for name, body := range programs {
		require.NoError(t, os.WriteFile(filepath.Join(g.bin, name), []byte("#!/bin/sh\n"+body), 0o755))
	}
	return g
}

func (g guest) facts(t *testing.T, shell string) backend.Facts {
	c := exec.Command(shell, "-c", guestscript.Linux)
	c.Env = []string{"LIFEBOAT_ROOT=" + g.root, "PATH=" + g.bin}
	out, err := c.Output()
	require.NoError(t, err)
	require.Less(t, len(out), 4096, "Azure passes no more on")
	f, err := guestscript.Parse(out, "test", at)
	require.NoError(t, err, string(out))
	require.Equal(t, "linux", f.OS)
	return f
}

func shells(t *testing.T) []string {
	var all []string
	for _, s := range []string{"dash", "bash"} {
		at, err := exec.LookPath(s)
		if err != nil {
			if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
				t.Fatalf("%s is not installed, and LIFEBOAT_REQUIRE=all", s)
			}
			continue
		}
		all = append(all, at)
	}
	if len(all) == 0 {
		t.Skip("neither dash nor bash is installed")
	}
	return all
}

const unit = "usr/lib/systemd/system/"

func TestInspectLinux(t *testing.T) {
	type files = map[string]string
	systemctl := func(states string) string {
		return "case $2 in " + states + " *) exit 1;; esac"
	}
	nft := func(rules string) files {
		return files{"nft": "cat <<'E'\ntable inet filter {\n chain input {\n  type filter hook input priority filter; " + rules + "\n }\n}\nE"}
	}
	iptables := func(rules string) files { return files{"iptables": "cat <<'E'\n" + rules + "\nE"} }
	access := func(f backend.Facts) backend.Answer { return f.RemoteAccess.Answer }
	input := func(f backend.Facts) backend.Answer { return f.Firewall["input"].Answer }
	mounts := func(f backend.Facts) backend.Answer { return f.StableMounts.Answer }
	vmbus := func(f backend.Facts) backend.Answer { return f.BootDrivers["hv_vmbus"].Answer }
	updates := func(f backend.Facts) backend.Answer { return f.UpdatesPending.Answer }
	dhcp := func(f backend.Facts) backend.Answer { return f.DHCP.Answer }
	for _, c := range []struct {
		name            string
		files, programs files
		fact            func(backend.Facts) backend.Answer
		want            backend.Answer
	}{
		{"sshd enabled", nil, files{"systemctl": systemctl("ssh.service) echo enabled;;")}, access, backend.Yes},
		{"sshd disabled", nil, files{"systemctl": systemctl("ssh.service) echo disabled;;")}, access, backend.No},
		{"sshd by socket", nil, files{"systemctl": systemctl("ssh.service) echo disabled;; ssh.socket) echo enabled;;")}, access, backend.Yes},
		{"sshd masked", nil, files{"systemctl": systemctl("sshd.service) echo masked;;")}, access, backend.No},
		{"socket enabled, service masked", nil, files{"systemctl": systemctl("ssh.service) echo masked;; ssh.socket) echo enabled;;")}, access, backend.Unknown},
		{"links without systemctl", files{unit + "ssh.service": "x", "etc/systemd/system/multi-user.target.wants/ssh.service": "-> /lib/systemd/system/ssh.service"}, nil, access, backend.Yes},
		{"a mask without systemctl", files{unit + "sshd.service": "x", "etc/systemd/system/sshd.service": "-> /dev/null"}, nil, access, backend.No},
		{"a unit nobody wants", files{unit + "ssh.service": "x"}, nil, access, backend.No},
		{"sysv", files{"etc/rc3.d/S01ssh": "-> ../init.d/ssh"}, nil, access, backend.Yes},
		{"no sshd", nil, nil, access, backend.No},
		{"sshd that nothing starts", files{"usr/sbin/sshd": ""}, nil, access, backend.Unknown},

		{"no firewall tools", nil, nil, input, backend.Unknown},
		{"nft, accept", nil, nft("policy accept;"), input, backend.Yes},
		{"nft, drop", nil, nft("policy drop;\n iif \"lo\" accept\n ct state established,related accept"), input, backend.No},
		{"nft, 22 let in", nil, nft("policy drop;\n ct state established,related accept\n tcp dport { 22, 80 } accept"), input, backend.Yes},
		{"nft, 22 for some", nil, nft("policy drop;\n ip saddr 10.0.0.0/8 tcp dport 22 accept"), input, backend.Unknown},
		{"nft, another port", nil, nft("policy drop;\n tcp dport 2222 accept"), input, backend.No},
		{"nft, a jump", nil, nft("policy drop;\n jump more"), input, backend.Unknown},
		{"nft, not allowed to ask", nil, files{"nft": "exit 1"}, input, backend.Unknown},
		{"iptables, accept", nil, iptables("-P INPUT ACCEPT"), input, backend.Yes},
		{"iptables, drop", nil, iptables("-P INPUT DROP\n-A INPUT -i lo -j ACCEPT"), input, backend.No},
		{"iptables, 22 let in", nil, iptables("-P INPUT DROP\n-A INPUT -p tcp -m tcp --dport 22 -m comment --comment \"for us\" -j ACCEPT"), input, backend.Yes},
		{"iptables, 22 for some", nil, iptables("-P INPUT DROP\n-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT"), input, backend.Unknown},
		{"iptables, rejected at the end", nil, iptables("-P INPUT ACCEPT\n-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited"), input, backend.No},
		{"ufw, 22", nil, files{"ufw": "printf 'Status: active\\nDefault: deny (incoming), allow (outgoing)\\n22/tcp                     ALLOW IN    Anywhere\\n'"}, input, backend.Yes},
		{"ufw, nothing", nil, files{"ufw": "printf 'Status: active\\nDefault: deny (incoming), allow (outgoing)\\n80/tcp ALLOW IN Anywhere\\n'"}, input, backend.No},
		{"ufw, for some", nil, files{"ufw": "printf 'Status: active\\nDefault: deny (incoming)\\n22/tcp ALLOW IN 10.0.0.0/8\\n'"}, input, backend.Unknown},
		{"firewalld, ssh", nil, files{"firewall-cmd": "case $* in --state) echo running;; --get-default-zone) echo public;; *query-service=ssh) exit 0;; *) exit 1;; esac"}, input, backend.Yes},
		{"firewalld, no ssh", nil, files{"firewall-cmd": "case $* in --state) echo running;; --get-default-zone) echo public;; *rich*) exit 0;; *) exit 1;; esac"}, input, backend.No},

		{"no initramfs tool", nil, nil, vmbus, backend.Unknown},
		{"mounts by UUID", files{"etc/fstab": "UUID=1-2 / ext4 defaults 0 1\n"}, nil, mounts, backend.Yes},
		{"mounts by place", files{"etc/fstab": "/dev/sda1 / ext4 defaults 0 1\n"}, nil, mounts, backend.No},
		{"root by place", files{"etc/fstab": "UUID=1 / ext4 defaults 0 1\n", "proc/cmdline": "quiet root=/dev/sda1 ro"}, nil, mounts, backend.No},
		{"no fstab", nil, nil, mounts, backend.Unknown},
		{"a restart is due", files{"run/reboot-required": ""}, nil, updates, backend.Yes},
		{"nobody keeps account", nil, nil, updates, backend.Unknown},
		{"leased", nil, files{"ip": "echo 'default via 10.0.0.1 dev eth0 proto dhcp'"}, dhcp, backend.Yes},
		{"static", nil, files{"ip": "case $* in *addr*) echo 'inet 10.0.0.2/24 scope global eth0';; *) echo 'default via 10.0.0.1 dev eth0';; esac"}, dhcp, backend.No},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t, c.files, c.programs)
			for _, s := range shells(t) {
				f := g.facts(t, s)
				require.Equal(t, c.want, c.fact(f), "%s: %+v", s, f)
			}
		})
	}
}

// What names in a guest look like must not break the JSON.
func TestInspectLinuxOfAnOddGuest(t *testing.T) {
	g := newGuest(t, map[string]string{"etc/os-release": "PRETTY_NAME=\"Odd \\\"quoted\\\" \x01 \xff Linux\"\n", "etc/fstab": "/dev/sda1 /a\"b\\c ext4 x 0 0\n"}, nil)
	for _, s := range shells(t) {
		f := g.facts(t, s)
		require.Contains(t, f.Release, "Odd")
		require.Equal(t, backend.No, f.StableMounts.Answer)
	}
}

package offline_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

// pack makes an initramfs with cpio and a compressor, behind an archive of
// microcode that isn't compressed.
func pack(t testing.TB, compress string, modules ...string) string {
	t.Helper()
	for _, tool := range []string{"cpio", strings.Fields(compress)[0]} {
		guestfstest.Has(t, tool)
	}
	dir := t.TempDir()
	main := map[string]string{"init": "#!/bin/sh\n", "usr/lib/modules/6.1.0-1-amd64/kernel/drivers/other.ko": strings.Repeat("x", 300_000)}
	for _, m := range modules {
		main["usr/lib/modules/6.1.0-1-amd64/kernel/drivers/hv/"+m] = "ELF"
	}
	files(t, filepath.Join(dir, "early"), map[string]string{"kernel/x86/microcode/GenuineIntel.bin": "micro"})
	files(t, filepath.Join(dir, "main"), main)
	guestfstest.Run(t, "bash", "-ec", `cd "$0"; (cd early; find . | cpio -o -H newc --quiet) >initrd; head -c 512 /dev/zero >>initrd; (cd main; find . | cpio -o -H newc --quiet | `+compress+`) >>initrd`, dir)
	b, err := os.ReadFile(filepath.Join(dir, "initrd"))
	require.NoError(t, err)
	return string(b)
}

func onExt4(t testing.TB, all map[string]string) *image {
	dir := t.TempDir()
	files(t, dir, all)
	return open(t, guestfstest.Image(t, 8<<20, "mke2fs", "-q", "-F", "-t", "ext4", "-d", dir))
}

func TestADebianIsKnownFromItsDisk(t *testing.T) {
	for _, c := range []string{"gzip -1", "zstd -19 -q", "xz --check=crc32", "xz -T2 --block-size=100000", "lz4 -l", "bzip2", "lzma -1", "cat -"} {
		all := debian()
		all["boot/initrd.img-6.1.0-1-amd64"] = pack(t, c, "hv_vmbus.ko", "hv_storvsc.ko.xz")
		f := inspect(t, onExt4(t, all))
		require.Equal(t, "linux", f.OS)
		require.Equal(t, "Debian GNU/Linux 12 (bookworm)", f.Release)
		require.Equal(t, "recovery point p1", f.From)
		require.Equal(t, moment, f.At)
		for _, y := range []backend.Fact{f.RemoteAccess, f.Firewall["input"], f.DHCP, f.StableMounts, f.Agents["vmware-tools"], f.BootDrivers["hv_vmbus"], f.BootDrivers["hv_storvsc"], f.BootDrivers["hv_netvsc"], f.BootDrivers["ata_piix"]} {
			require.Equal(t, backend.Yes, y.Answer, "%+v", f)
			require.NotEmpty(t, y.Detail)
		}
		require.Equal(t, "2:12.2.0-1", f.Agents["vmware-tools"].Detail)
		require.Equal(t, backend.No, f.Agents["azure-guest-agent"].Answer)
		require.Equal(t, backend.Unknown, f.SANPolicy.Answer)
	}
}

func TestWhatIsWrongWithALinuxIsTold(t *testing.T) {
	with := func(more ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	const wants = "etc/systemd/system/multi-user.target.wants/"
	nft := func(rules string) map[string]string {
		return with(wants+"nftables.service", "->x", "etc/nftables.conf", "#!/usr/sbin/nft -f\nflush ruleset\ntable inet filter {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\t\tct state established,related accept\n\t\tiif \"lo\" accept\n"+rules+"\n\t}\n\tchain forward {\n\t\ttype filter hook forward priority 0; policy drop;\n\t}\n}\n")
	}
	ipt := func(rules string) map[string]string {
		return with(wants+"netfilter-persistent.service", "->x", "etc/iptables/rules.v4", "*nat\n:INPUT ACCEPT [0:0]\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n:mine - [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"+rules+"COMMIT\n")
	}
	ufw := func(rules string) map[string]string {
		return with(wants+"ufw.service", "->x", "etc/ufw/ufw.conf", "ENABLED=yes\n", "etc/default/ufw", "DEFAULT_INPUT_POLICY=\"DROP\"\n", "etc/ufw/user.rules", rules)
	}
	fwd := func(zone string) map[string]string {
		return with(wants+"firewalld.service", "->x", "etc/firewalld/firewalld.conf", "DefaultZone=public\n", "etc/firewalld/zones/public.xml", "<zone>"+zone+"</zone>")
	}
	sshd := func(f backend.Facts) backend.Fact { return f.RemoteAccess }
	wall := func(f backend.Facts) backend.Fact { return f.Firewall["input"] }
	mounts := func(f backend.Facts) backend.Fact { return f.StableMounts }
	dhcp := func(f backend.Facts) backend.Fact { return f.DHCP }
	for _, c := range []struct {
		name   string
		change map[string]string // "" takes a file away
		fact   func(backend.Facts) backend.Fact
		want   backend.Answer
		detail string
	}{
		{"sshd is disabled", with(wants+"ssh.service", ""), sshd, backend.No, "no link"},
		{"sshd is masked", with("etc/systemd/system/ssh.service", "->/dev/null"), sshd, backend.No, "masked: ssh.service"},
		{"a socket starts it", with(wants+"ssh.service", "", "etc/systemd/system/sockets.target.wants/ssh.socket", "->x"), sshd, backend.Yes, "ssh.socket"},
		{"a socket of a masked service", with("etc/systemd/system/ssh.service", "->/dev/null", "etc/systemd/system/sockets.target.wants/ssh.socket", "->x"), sshd, backend.No, "masked"},
		{"there is none", with("usr/sbin/sshd", ""), sshd, backend.No, "/usr/sbin/sshd"},
		{"presets are due", with(wants+"ssh.service", "", "etc/machine-id", "uninitialized\n"), sshd, backend.Unknown, "presets"},
		{"it starts to rescue", with("etc/systemd/system/default.target", "->/lib/systemd/system/rescue.target"), sshd, backend.No, "rescue.target"},
		{"another port", with("etc/ssh/sshd_config.d/port.conf", "Port 2222\n"), sshd, backend.Yes, "port 2222"},
		{"for itself only", with("etc/ssh/sshd_config", "ListenAddress 127.0.0.1\n"), sshd, backend.No, "127.0.0.1"},
		{"SysV", with("usr/lib/systemd/systemd", "", "etc/rc3.d/S01ssh", "->../init.d/ssh"), sshd, backend.Yes, "S01ssh"},
		{"OpenRC", with("usr/lib/systemd/systemd", "", "etc/runlevels/default/sshd", "->/etc/init.d/sshd"), sshd, backend.Yes, "runlevels"},

		{"nft lets it in", nft("\t\ttcp dport { ssh, 80 } counter packets 0 bytes 0 accept comment \"x\""), wall, backend.Yes, "tcp dport"},
		{"nft lets others in", nft("\t\ttcp dport 443 accept\n\t\tudp dport 22 accept"), wall, backend.No, "policy is drop"},
		{"nft lets some in", nft("\t\tip saddr 10.0.0.0/8 tcp dport 22 accept"), wall, backend.Unknown, "10.0.0.0/8"},
		{"nft jumps", nft("\t\tjump services"), wall, backend.Unknown, "jump"},
		{"iptables lets it in", ipt("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"), wall, backend.Yes, "--dport 22"},
		{"iptables by a chain", ipt("-A INPUT -j mine\n-A mine -p tcp -m multiport --dports 80,20:25 -j ACCEPT\n"), wall, backend.Yes, "multiport"},
		{"iptables drops", ipt("-A INPUT -p tcp -m tcp --dport 22 -j REJECT --reject-with tcp-reset\n-A INPUT -j ACCEPT\n"), wall, backend.No, "REJECT"},
		{"iptables has nothing", ipt("-A INPUT -p udp -m udp --dport 22 -j ACCEPT\n"), wall, backend.No, "policy of INPUT is DROP"},
		{"iptables for some", ipt("-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT\n"), wall, backend.Unknown, "for some only"},
		{"iptables of a comment", ipt("-A INPUT -p tcp -m comment --comment \"let us in\" -m tcp --dport 22 -j ACCEPT\n"), wall, backend.Yes, "let us in"},
		{"ufw lets it in", ufw("### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n"), wall, backend.Yes, "allow tcp 22"},
		{"ufw doesn't", ufw("### tuple ### allow tcp 80,443 0.0.0.0/0 any 0.0.0.0/0 in\n"), wall, backend.No, "DROP"},
		{"ufw for some", ufw("### tuple ### allow tcp 22 0.0.0.0/0 any 10.0.0.0/8 in\n"), wall, backend.Unknown, "for some"},
		{"firewalld lets it in", fwd(`<service name="ssh"/>`), wall, backend.Yes, "service ssh"},
		{"firewalld doesn't", fwd(`<service name="http"/>`), wall, backend.No, "port 22"},
		{"firewalld of rich rules", fwd(`<rule family="ipv4"><accept/></rule>`), wall, backend.Unknown, "rich"},
		{"the firewall knows another port", map[string]string{wants + "ufw.service": "->x", "etc/ufw/ufw.conf": "ENABLED=yes\n", "etc/default/ufw": "DEFAULT_INPUT_POLICY=\"DROP\"\n", "etc/ufw/user.rules": "### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n", "etc/ssh/sshd_config": "Port 2222\n"}, wall, backend.No, "port 2222"},

		{"a disk by its letter", with("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n"), mounts, backend.No, "/dev/sda1 at /"},
		{"a disk by its model", with("etc/fstab", "/dev/disk/by-id/scsi-36000c29-part1 / ext4 defaults 0 1\n"), mounts, backend.No, "by-id"},
		{"LVM", with("etc/fstab", "/dev/mapper/vg-root / ext4 defaults 0 1\n/dev/vg/swap none swap sw 0 0\n"), mounts, backend.Yes, "all 2"},
		{"the kernel's argument", with("boot/grub/grub.cfg", "\tlinux /boot/vmlinuz root=/dev/vda1 ro\n"), mounts, backend.No, "root=/dev/vda1"},
		{"something else", with("etc/fstab", "/dev/strange / ext4 defaults 0 1\n"), mounts, backend.Unknown, "/dev/strange"},

		{"static", with("etc/network/interfaces", "iface eth0 inet static\n address 10.0.0.1/24\n"), dhcp, backend.No, "eth0"},
		{"netplan", with("etc/network/interfaces", "", "etc/netplan/01.yaml", "network:\n  ethernets:\n    ens3:\n      dhcp4: true\n"), dhcp, backend.Yes, "ens3"},
		{"netplan, static", with("etc/network/interfaces", "", "etc/netplan/01.yaml", "network:\n  version: 2\n  ethernets:\n    ens3:\n      addresses: [10.0.0.2/24]\n"), dhcp, backend.No, "ens3"},
		{"a profile", with("etc/network/interfaces", "", "etc/NetworkManager/system-connections/a.nmconnection", "[connection]\nid=a\ntype=ethernet\n[ipv4]\nmethod=manual\n"), dhcp, backend.No, "nmconnection"},
		{"ifcfg", with("etc/network/interfaces", "", "etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nBOOTPROTO=\"dhcp\"\n"), dhcp, backend.Yes, "ifcfg-eth0"},
		{"networkd", with("etc/network/interfaces", "", wants+"systemd-networkd.service", "->x", "etc/systemd/network/10.network", "[Match]\nName=e*\n[Network]\nDHCP=ipv4\n"), dhcp, backend.Yes, "10.network"},
		{"two that differ", with("etc/network/interfaces", "iface eth0 inet static\niface eth1 inet dhcp\n"), dhcp, backend.Unknown, "differ"},
		{"the first by its address", with("etc/sysconfig/network-scripts/ifcfg-a", "HWADDR=52:54:00:12:34:56\nBOOTPROTO=none\n"), dhcp, backend.No, "ifcfg-a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			all := debian()
			maps.Copy(all, c.change)
			maps.DeleteFunc(all, func(_, text string) bool { return text == "" })
			all["boot/initrd.img-6.1.0-1-amd64"] = "not an archive"
			facts := inspect(t, onExt4(t, all))
			f := c.fact(facts)
			require.Equal(t, c.want, f.Answer, f.Detail)
			require.Contains(t, f.Detail, c.detail)
			if c.want == backend.Unknown {
				require.Contains(t, strings.Join(facts.Unknown, "\n"), c.detail)
			}
			require.Equal(t, backend.Unknown, facts.BootDrivers["hv_vmbus"].Answer, "the initramfs can't be read")
			require.Equal(t, backend.Yes, facts.BootDrivers["ata_piix"].Answer, "it is in the kernel")
		})
	}
}

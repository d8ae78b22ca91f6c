package offline_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/readiness/offline"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

// image is files as an opened point.
type image struct {
	point dr.Point
	files map[dr.DiskID]*os.File
}

func (i *image) Point() dr.Point { return i.point }
func (i *image) Close() error    { return nil }
func (i *image) ReadAt(ctx context.Context, d dr.DiskID, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return i.files[d].ReadAt(p, off)
}

var moment = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func open(t testing.TB, names ...string) *image {
	i := &image{point: dr.Point{ID: "p1", Time: moment, Machine: dr.Machine{ID: "m", NICs: []dr.NIC{{MAC: "52:54:00:12:34:56"}}}}, files: map[dr.DiskID]*os.File{}}
	for n, name := range names {
		f, size := guestfstest.Open(t, name)
		id := dr.DiskID([]string{"os", "data", "more"}[n])
		i.files[id] = f
		i.point.Machine.Disks = append(i.point.Machine.Disks, dr.Disk{ID: id, Size: size, Boot: n == 0})
	}
	return i
}

// files writes a tree: a value that begins with "->" is a link.
func files(t testing.TB, dir string, all map[string]string) {
	t.Helper()
	for name, text := range all {
		name = filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		if to, ok := strings.CutPrefix(text, "->"); ok {
			require.NoError(t, os.Symlink(to, name))
			continue
		}
		require.NoError(t, os.WriteFile(name, []byte(text), 0o755))
	}
}

// debian is the least that makes a Debian: tests change it.
func debian() map[string]string {
	return map[string]string{
		"etc/os-release":                        "->../usr/lib/os-release",
		"usr/lib/os-release":                    "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
		"etc/machine-id":                        "0123456789abcdef0123456789abcdef\n",
		"usr/lib/systemd/systemd":               "ELF",
		"usr/sbin/sshd":                         "ELF",
		"usr/lib/systemd/system/default.target": "->graphical.target",
		"usr/lib/systemd/system/ssh.service":    "[Service]\n",
		"etc/systemd/system/multi-user.target.wants/ssh.service": "->/usr/lib/systemd/system/ssh.service",
		"etc/ssh/sshd_config":                       "Include /etc/ssh/sshd_config.d/*.conf\n#Port 22\n",
		"etc/fstab":                                 "# <device>\nUUID=aaaa / ext4 errors=remount-ro 0 1\n/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n",
		"etc/network/interfaces":                    "auto lo\niface lo inet loopback\nallow-hotplug ens3\niface ens3 inet dhcp\n",
		"var/lib/dpkg/status":                       "Package: open-vm-tools\nStatus: install ok installed\nVersion: 2:12.2.0-1\n\nPackage: waagent\nStatus: deinstall ok config-files\nVersion: 2.2\n\n",
		"boot/vmlinuz-6.1.0-1-amd64":                "kernel",
		"lib/modules/6.1.0-1-amd64/modules.builtin": "kernel/drivers/ata/ata_piix.ko\n",
		"lib/modules/6.1.0-1-amd64/modules.dep":     "kernel/drivers/net/hyperv/hv_netvsc.ko: kernel/drivers/hv/hv_vmbus.ko\n",
	}
}

func inspect(t testing.TB, i dr.Image) backend.Facts {
	t.Helper()
	var read int64
	f, err := offline.Inspect(t.Context(), i, offline.Options{Done: func(n int64) { read = n }})
	require.NoError(t, err)
	t.Logf("%d KiB read: %+v", read>>10, f)
	return f
}

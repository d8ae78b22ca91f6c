package inventory_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical/inventory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Links in circles, and links that lead out of the root, are followed as the
// machine itself would: to an end, and not out.
func TestLinks(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(outside, []byte("PRETTY_NAME=\"outside\"\n"), 0o600))
	r := build(t, oneDisk+`
sys/block/sdx -> sdx
sys/block/sdy -> ../block/sdz
sys/block/sdz -> ../block/sdy
dev/disk/by-id/wwn-0x1 -> wwn-0x2
dev/disk/by-id/wwn-0x2 -> wwn-0x1
dev/disk/by-id/wwn-0x3 -> ../../../../../../../../../../dev/sda
etc/os-release -> `+outside+`
usr/lib/os-release -> ../../../../../../../../../../..`+outside+`
sys/class/net/eth0/master -> ../eth0
sys/class/net/eth0/device -> ../eth0/device
block sys/devices/virtual/block/dm-0 253:0 1048576
block sys/devices/virtual/block/dm-1 253:1 1048576
holds dm-0 dm-1
holds dm-1 dm-0
proc/self/mountinfo = 22 1 253:0 / / rw - ext4 /dev/dm-0 rw
`).read()
	require.Empty(t, r.System.Release)
	require.Equal(t, "/dev/disk/by-id/wwn-0x3", disk(t, r, "sda").Path, "/.. is /")
	for _, name := range []string{"sdx", "sdy", "sdz"} {
		require.True(t, has(r, "device-vanished", name), name)
	}
	require.Len(t, r.Volumes, 2)
}

func has(r inventory.Report, code, text string) bool {
	for _, p := range r.Problems {
		if p.Code == code && strings.Contains(p.Text, text) {
			return true
		}
	}
	return false
}

// Files without an end, and pipes that nobody writes to, cost neither memory nor
// time.
func TestEndlessFiles(t *testing.T) {
	f := build(t, oneDisk)
	for _, name := range []string{"proc/self/mountinfo", "proc/cpuinfo", "etc/os-release", "proc/swaps", "sys/devices/pci0000:00/ata1/block/sda/device/model"} {
		require.NoError(t, os.WriteFile(f.path(name), nil, 0o600))
		require.NoError(t, os.Truncate(f.path(name), 64<<30))
	}
	for _, name := range []string{"sys/class/dmi/id/product_name", "etc/hostname", "sys/devices/pci0000:00/ata1/block/sda/serial"} {
		require.NoError(t, unix.Mkfifo(f.path(name), 0o600))
	}
	require.NoError(t, os.Remove(f.path("dev/sda1")))
	require.NoError(t, unix.Mkfifo(f.path("dev/sda1"), 0o600))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := f.read()
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(512<<20))
	require.True(t, has(r, "mounts-unknown", "bytes"), r.Problems)
	require.True(t, has(r, "device-unreadable", "sda1"), r.Problems)
	require.Empty(t, r.System.Product)
}

// Whatever disks and files call themselves, a terminal shows it as one line.
func TestForeignTextIsPrintable(t *testing.T) {
	r := build(t, oneDisk+`
sys/class/dmi/id/product_name = "evil\x1b[2J\nnew line"
proc/sys/kernel/hostname = "ho\x00st\xff"
sys/devices/pci0000:00/ata1/block/sda/device/model = "\x1b]0;title\x07"
proc/cpuinfo = "processor: 0\nmodel name: \x1b[31mred\n"
`).read()
	for _, c := range r.String() {
		require.True(t, c == '\n' || unicode.IsPrint(c), "%q", c)
	}
	require.NoError(t, r.ID.Validate())
}

// Devices that come and go while they are read: each report is whole, and says
// of a disk all or nothing.
func TestDevicesComeAndGo(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	f := build(t, oneDisk+"block sys/devices/pci0000:00/ata2/block/sdb 8:16 1073741824\nblock sys/devices/virtual/block/dm-0 253:0 1048576\nholds sdb dm-0\n")
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 1))
		for ctx.Err() == nil {
			for _, name := range []string{"sys/devices/pci0000:00/ata2", "dev/sdb", "sys/devices/virtual/block/dm-0/dev", "sys/devices/pci0000:00/ata1/block/sda/sda1/size"} {
				if rng.IntN(2) == 0 {
					away := filepath.Join(f.root, "away")
					_ = os.Rename(filepath.Join(f.root, name), away)
					runtime.Gosched()
					_ = os.Rename(away, filepath.Join(f.root, name))
				}
			}
		}
	})
	rounds, gone := 60, 0
	if os.Getenv("LIFEBOAT_LONG") != "" {
		rounds = 3000
	}
	for range rounds {
		r := f.read()
		require.GreaterOrEqual(t, len(r.Disks), 1)
		for _, d := range r.Disks {
			require.EqualValues(t, 1<<30, d.Size)
		}
		if len(r.Disks) < 2 {
			gone++
			require.True(t, has(r, "device-vanished", "sdb"), r.Problems)
		}
	}
	stop()
	wg.Wait()
	t.Logf("sdb was gone in %d of %d", gone, rounds)
}

func TestReadErrors(t *testing.T) {
	_, err := inventory.Read(t.Context(), inventory.Options{Root: t.TempDir()})
	var e *dr.Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.Remedy)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, err = inventory.Read(ctx, build(t, oneDisk).options())
	require.ErrorIs(t, err, context.Canceled)

	r := build(t, "sys/block/.keep = x").read()
	require.True(t, has(r, "no-disks", ""))
	_, err = r.Machine()
	require.ErrorIs(t, err, dr.ErrNotFound)
}

// The facts of the running system, and what it says of a due restart.
func TestFacts(t *testing.T) {
	const linux = `
etc/os-release = PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
etc/fstab = UUID=0123 / ext4 defaults 0 1
usr/sbin/sshd = ELF
usr/lib/systemd/systemd = ELF
etc/ssh/sshd_config = #
etc/systemd/system/multi-user.target.wants/ssh.service -> /usr/lib/systemd/system/ssh.service
usr/lib/systemd/system/ssh.service = [Service]
proc/sys/kernel/osrelease = 6.1.0-28-amd64
boot/vmlinuz-6.1.0-28-amd64 = kernel
lib/modules/6.1.0-28-amd64/modules.builtin = kernel/drivers/ata/ata_piix.ko
`
	for _, c := range []struct {
		name, more string
		pending    backend.Answer
		detail     string
	}{
		{"nobody notes", "", backend.Unknown, "nothing here notes"},
		{"noted", "run/reboot-required = yes\nrun/reboot-required.pkgs = \"linux-image\\nlibc6\\n\"", backend.Yes, "of 2 packages"},
		{"would be noted", "etc/kernel/postinst.d/unattended-upgrades = x", backend.No, "would be"},
		{"another kernel", "proc/sys/kernel/osrelease = 6.1.0-27-amd64", backend.Yes, "not installed any more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := build(t, oneDisk+linux+c.more)
			facts, err := inventory.Inspector("m", f.options())(t.Context(), "m")
			require.NoError(t, err)
			require.Equal(t, "this host", facts.From)
			require.WithinDuration(t, time.Now(), facts.At, time.Minute)
			require.Equal(t, "linux", facts.OS)
			require.Equal(t, backend.Yes, facts.RemoteAccess.Answer, facts)
			require.Equal(t, backend.Yes, facts.StableMounts.Answer)
			require.Equal(t, backend.Yes, facts.BootDrivers["ata_piix"].Answer)
			require.Equal(t, c.pending, facts.UpdatesPending.Answer, facts.UpdatesPending)
			require.Contains(t, facts.UpdatesPending.Detail, c.detail)
			for _, u := range facts.Unknown {
				require.NotContains(t, u, "not on a disk")
			}
		})
	}
	_, err := inventory.Inspector("m", build(t, oneDisk).options())(t.Context(), "other")
	require.ErrorIs(t, err, dr.ErrUnsupported)
	_, err = inventory.Inspect(t.Context(), build(t, oneDisk).options())
	require.ErrorIs(t, err, dr.ErrUnsupported, "no Linux is there")
	require.False(t, errors.Is(err, dr.ErrNotFound))
}

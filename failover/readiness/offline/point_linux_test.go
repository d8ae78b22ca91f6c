package offline_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/readiness/offline"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// large is a disk of 100 GiB as an installer leaves it: an EFI system
// partition, /boot on XFS, and a volume group with the root and a swap.
func large(t *testing.T) string {
	guestfstest.Need(t, os.Geteuid() == 0, "loop devices need root")
	for _, tool := range []string{"sfdisk", "lvm", "losetup"} {
		guestfstest.Has(t, tool)
	}
	boot := guestfstest.Image(t, 320<<20, "mkfs.xfs", "-q", "-L", "boot")
	guestfstest.Mounted(t, boot, "", func(dir string) {
		files(t, dir, map[string]string{"vmlinuz-6.1.0-1-amd64": "kernel", "initrd.img-6.1.0-1-amd64": pack(t, "zstd -q", "hv_vmbus.ko", "hv_storvsc.ko")})
	})
	all := debian()
	delete(all, "boot/vmlinuz-6.1.0-1-amd64")
	all["boot/nothing"] = "hidden by what is mounted here"
	all["etc/fstab"] = "/dev/mapper/debian--vg-root / ext4 defaults 0 1\nLABEL=boot /boot xfs defaults 0 2\nUUID=1234-ABCD /boot/efi vfat umask=0077 0 1\n/dev/debian-vg/swap none swap sw 0 0\n"
	dir := t.TempDir()
	files(t, dir, all)
	root := guestfstest.Image(t, 300<<20, "mke2fs", "-q", "-F", "-t", "ext4", "-d", dir)

	disk := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(disk, nil, 0o600))
	require.NoError(t, os.Truncate(disk, 100<<30))
	guestfstest.Run(t, "bash", "-ec", `
printf 'label: gpt\nsize=512M,type=U\nsize=320M\nsize=90G,type=V\n' | sfdisk -q "$0"
from=$(sfdisk -l -o start "$0" | tail -1)
dev=$(losetup -f --show -o $((from*512)) "$0")
trap 'losetup -d $dev' EXIT
lvm() { command lvm "$@" --driverloaded n --nolocking --config 'devices { use_devicesfile=0 filter=["a|'$dev'|","r|.*|"] }' >/dev/null 2>&1; }
lvm pvcreate -ff -y $dev
lvm vgcreate debian-vg $dev
lvm lvcreate -an -Zn -Wn -y -n root -L 300M debian-vg
lvm lvcreate -an -Zn -Wn -y -n swap -L 1G debian-vg
put() { dd if="$1" of="$0" bs=1M seek=$2 conv=notrunc,sparse status=none; }
put "$1" $(($(sfdisk -l -o start "$0" | tail -2 | head -1)/2048))
put "$2" $((from/2048+1))
`, disk, boot, root)
	return disk
}

// stored puts the data of a disk into a new vault, and opens the point.
func stored(t *testing.T, name string) dr.Image {
	f, size := guestfstest.Open(t, name)
	v, err := vault.OpenDir(t.TempDir(), vault.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { v.Close() })
	p := dr.Point{ID: "p1", Time: moment, Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "os", Size: size, Boot: true}}}}
	d, err := v.Create(t.Context(), p)
	require.NoError(t, err)
	b := make([]byte, 1<<20)
	for off := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		require.NoError(t, err)
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		require.NoError(t, err)
		for off = from; off < to; off += int64(len(b)) {
			part := b[:min(int64(len(b)), to-off)]
			_, err := f.ReadAt(part, off)
			require.NoError(t, err)
			_, err = d.WriteAt(t.Context(), "os", part, off)
			require.NoError(t, err)
		}
		off = to
	}
	require.NoError(t, d.Commit(t.Context(), p))
	require.NoError(t, d.Close())
	img, err := v.Open(t.Context(), "m", "p1")
	require.NoError(t, err)
	t.Cleanup(func() { img.Close() })
	return img
}

// From a disk in a vault to facts: over GPT, LVM, ext4 and XFS, reading little.
func TestThePointOfALargeDiskIsInspectedByReadingLittle(t *testing.T) {
	img := stored(t, large(t))
	var read int64
	start := time.Now()
	f, err := offline.Inspect(t.Context(), img, offline.Options{Done: func(n int64) { read = n }})
	require.NoError(t, err)
	t.Logf("%d KiB of 100 GiB read in %v", read>>10, time.Since(start).Round(time.Millisecond))
	require.Less(t, read, int64(32<<20))
	require.Equal(t, "Debian GNU/Linux 12 (bookworm)", f.Release)
	require.Equal(t, moment, f.At)
	require.Equal(t, backend.Yes, f.StableMounts.Answer, f.StableMounts.Detail)
	require.Equal(t, backend.Yes, f.BootDrivers["hv_storvsc"].Answer, f.BootDrivers["hv_storvsc"].Detail)
	require.Contains(t, f.BootDrivers["hv_storvsc"].Detail, "/boot/initrd.img-6.1.0-1-amd64")
	require.Equal(t, []string{"pending updates: Linux notes a due restart in /run, which is not on a disk"}, f.Unknown)

	all, err := offline.FileSystems(t.Context(), img)
	require.NoError(t, err)
	var kinds []string
	for _, s := range all {
		kinds = append(kinds, s.Volume+" "+s.Kind)
		if s.Volume == "debian-vg/root" {
			b, err := fs.ReadFile(s.FS, "etc/fstab")
			require.NoError(t, err)
			require.Contains(t, string(b), "LABEL=boot")
			b, err = fs.ReadFile(s.FS, "boot/nothing")
			require.NoError(t, err, "nothing is mounted into a file system by itself")
			require.NotEmpty(t, b)
		} else if s.FS == nil {
			require.ErrorIs(t, s.Err, dr.ErrUnsupported)
		}
	}
	require.ElementsMatch(t, []string{"partition 1 ", "partition 2 xfs", "debian-vg/root ext4", "debian-vg/swap "}, kinds)

	_, err = offline.Inspect(t.Context(), img, offline.Options{MaxRead: 1 << 20})
	if err == nil || !strings.Contains(err.Error(), "would have to be read") {
		f, err := offline.Inspect(t.Context(), img, offline.Options{MaxRead: 1 << 20})
		require.NoError(t, err)
		require.Contains(t, strings.Join(f.Unknown, "\n"), "would have to be read")
	}
}

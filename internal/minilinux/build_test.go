package minilinux

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/disklayout"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/ext4"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
	"github.com/lifeboat-dr/lifeboat/internal/minilinux/guest"
)

// What is built is what other readers of disks find, and the same bytes when
// it is built again.
func TestBuild(t *testing.T) {
	for _, firmware := range []dr.Firmware{dr.BIOS, dr.UEFI} {
		t.Run(string(firmware), func(t *testing.T) {
			o := Options{Firmware: firmware, Name: "web-1", Size: 128 * mib, Address: netip.MustParsePrefix("192.168.7.9/22")}
			image := built(t, o)
			disk, err := os.ReadFile(image)
			require.NoError(t, err)
			require.Len(t, disk, 128*mib)
			again, err := os.ReadFile(built(t, o))
			require.NoError(t, err)
			require.True(t, bytes.Equal(disk, again), "two builds differ")
			require.NotContains(t, strings.ToLower(guestfstest.Run(t, "sfdisk", "--verify", image)), "invalid")
			volumes, errs := disklayout.Volumes([]disklayout.Disk{{ID: "0", Size: int64(len(disk)), ReaderAt: bytes.NewReader(disk)}})
			require.Empty(t, errs)
			require.Len(t, volumes, 2)
			f, err := ext4.Open(volumes[1], volumes[1].Size)
			require.NoError(t, err)
			root := guestfs.NewTree(f)
			host, err := fs.ReadFile(root, "etc/hostname")
			require.NoError(t, err)
			require.Equal(t, "web-1\n", string(host))
			interfaces, err := fs.ReadFile(root, guest.NetworkFile[1:])
			require.NoError(t, err)
			require.Contains(t, string(interfaces), "address 192.168.7.9/22")
			fstab, err := fs.ReadFile(root, "etc/fstab")
			require.NoError(t, err)
			require.Contains(t, string(fstab), uuid(o.id("root")))
			require.NotEqual(t, o.id("root"), Options{Name: "web-2"}.id("root"), "two machines with one UUID")
			ring, err := fs.Stat(root, guest.RingFile[1:])
			require.NoError(t, err)
			require.EqualValues(t, 256*guest.RecordSize, ring.Size())
			checked(t, image)

			boot := filepath.Join(t.TempDir(), "boot")
			require.NoError(t, os.WriteFile(boot, disk[bootStart:bootStart+bootSize], 0o600))
			p, err := findPackages()
			require.NoError(t, err)
			require.NoError(t, p.run(t.Context(), t.TempDir(), "fsck.fat", "-n", boot))
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	for _, o := range []Options{
		{}, {Path: path, Size: 95 * mib}, {Path: path, Size: 128*mib + 512}, {Path: path, Firmware: "coreboot"},
		{Path: path, Name: "a b"}, {Path: path, Address: netip.MustParsePrefix("fd00::1/64")},
		{Path: path, Service: Service{Every: time.Microsecond}}, {Path: path, Service: Service{Ring: -1}},
		{Path: path, Service: Service{Ring: 1 << 20}},
	} {
		require.Error(t, Build(t.Context(), o))
	}
	require.NoFileExists(t, path)
}

// A build that is called off leaves nothing.
func TestBuildCalledOff(t *testing.T) {
	if err := Ready(); err != nil {
		lack(t, err.Error())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "disk")
	require.ErrorIs(t, Build(ctx, Options{Path: path}), context.Canceled)
	require.NoFileExists(t, path)
}

func TestWithoutPackages(t *testing.T) {
	t.Chdir(t.TempDir())
	require.ErrorIs(t, Ready(), ErrNoPackages)
	require.True(t, errors.Is(Build(t.Context(), Options{Path: "disk"}), ErrNoPackages))
}

// Every driver comes with what it needs, and none is named that this kernel
// doesn't have by any name.
func TestDriversAreWhole(t *testing.T) {
	if err := Ready(); err != nil {
		lack(t, err.Error())
	}
	p, err := findPackages()
	require.NoError(t, err)
	modules, err := p.modules()
	require.NoError(t, err)
	have := map[string]bool{}
	for _, m := range modules {
		have[m.name] = true
	}
	for _, m := range modules {
		for _, n := range m.needs {
			require.True(t, have[n], "%s needs %s", m.name, n)
		}
	}
	for _, name := range []string{"virtio_blk", "virtio_net", "virtio_ring", "ata_piix", "libata", "vmw_pvscsi", "hv_storvsc", "button"} {
		require.True(t, have[name], name)
	}
	list := string(driverList(modules))
	require.Contains(t, list, "needs virtio_blk virtio")
	require.Regexp(t, `(?m)^alias acpi\*:LNXPWRBN:\* button$`, list)
}

// The kernel's own unpacker is the judge of the format when the machine
// starts; this is cpio's.
func TestArchive(t *testing.T) {
	var c cpio
	c.add("dev", cpioDir, nil, 0, 0)
	c.add("dev/console", cpioChar, nil, 5, 1)
	c.add("odd", cpioFile, []byte("abc"), 0, 0)
	c.add("init", cpioRun, []byte("four"), 0, 0)
	raw := c.bytes()
	require.Zero(t, len(raw)%4)
	file := filepath.Join(t.TempDir(), "archive")
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	require.Regexp(t, `(?s)drwxr-xr-x.* dev\n.*crw------- .*5, +1 .*dev/console\n-rw-r--r--.* 3 .*odd\n-rwxr-xr-x.* 4 .*init\n`,
		guestfstest.Run(t, "cpio", "-itv", "--quiet", "-F", file))
}

// What was there before is not removed by a build that fails.
func TestFailedBuildRemovesNothingElse(t *testing.T) {
	if err := Ready(); err != nil {
		lack(t, err.Error())
	}
	dir := t.TempDir()
	kept := filepath.Join(dir, "kept")
	require.NoError(t, os.WriteFile(kept, nil, 0o600))
	require.Error(t, Build(t.Context(), Options{Path: dir}))
	require.FileExists(t, kept)
}

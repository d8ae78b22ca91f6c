package inventory_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

const twoDisks = oneDisk + `
block sys/devices/pci0000:00/ata2/block/sdb 8:16 1073741824
sys/devices/pci0000:00/ata2/block/sdb/wwid = naa.5000000000000002
`

const first, second dr.DiskID = "wwn-0x5000000000000001", "wwn-0x5000000000000002"

// In a sandbox all mounts are read-only, and the file systems are written to by
// others: they are to be frozen.
func TestMountsOfASandboxAreWrittenTo(t *testing.T) {
	r := build(t, oneDisk+`proc/self/mountinfo = "22 1 8:1 / / ro,nosuid - ext4 /dev/sda1 rw,discard\n23 22 8:2 / /iso ro - iso9660 /dev/sda2 ro\n"`).read()
	m, err := r.Machine()
	require.NoError(t, err)
	require.Equal(t, []string{"/"}, r.MountPoints(m))
}

// A bay for hot swapping calls its disks removable. A stick is left out, and it
// is said.
func TestRemovableDisks(t *testing.T) {
	const usb = `
block sys/devices/pci0000:00/usb1/block/sdc 8:32 1073741824
sys/devices/pci0000:00/usb1/block/sdc/removable = 1
sys/devices/pci0000:00/ata2/block/sdb/removable = 1
`
	for mounts, want := range map[string][]dr.DiskID{
		"22 1 8:1 / / rw - ext4 /dev/sda1 rw": {first},
		"22 1 8:1 / / rw - ext4 /dev/sda1 rw\\n23 22 8:16 / /srv rw - xfs /dev/sdb rw\\n24 22 8:32 / /media rw - vfat /dev/sdc rw": {first, second},
	} {
		r := build(t, twoDisks+usb+"proc/self/mountinfo = \""+mounts+"\"").read()
		m, err := r.Machine()
		require.NoError(t, err)
		var got []dr.DiskID
		for _, d := range m.Disks {
			got = append(got, d.ID)
		}
		require.Equal(t, want, got)
		require.Contains(t, codes(r, "name-sdc"), "disk-left-out")
		if len(want) == 1 {
			require.Contains(t, codes(r, second), "disk-left-out")
		} else {
			require.NotContains(t, codes(r, second), "disk-left-out")
		}
	}
}

// A volume that lies on something beside the disks would be restored without it.
func TestVolumeOutsideOfTheDisks(t *testing.T) {
	r := build(t, twoDisks+`
block sys/devices/virtual/block/nbd0 43:0 1073741824
block sys/devices/virtual/block/dm-0 253:0 1048576
sys/devices/virtual/block/dm-0/dm/name = vg-lv
sys/devices/virtual/block/dm-0/dm/uuid = LVM-1
holds sda1 dm-0
holds nbd0 dm-0
block sys/devices/virtual/block/drbd0 147:0 1048576
proc/self/mountinfo = "22 1 147:0 / /data rw - ext4 /dev/drbd0 rw"
`).read()
	require.True(t, has(r, "volume-outside", "nbd0"))
	require.True(t, has(r, "volume-outside", "drbd0"))
	m, err := r.Machine("sda")
	require.NoError(t, err)
	require.Len(t, r.Blockers(m), 1)
	require.Contains(t, r.Blockers(m)[0].Text, "nbd0")
	m, err = r.Machine("sdb")
	require.NoError(t, err)
	require.Empty(t, r.Blockers(m), "nothing of it is on this one")

	r = build(t, twoDisks+"sig sdb btrfs 00000000-0000-4000-8000-0000000000ff root 2\n").read()
	require.True(t, has(r, "volume-outside", "2 devices, of which 1"))
}

// Where the firmware starts from a disk that nobody mounted, it is said.
func TestDiskToStartFromUnknown(t *testing.T) {
	const efi = "sys/firmware/efi/fw_platform_size = 64\nproc/self/mountinfo = 22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
	require.True(t, has(build(t, twoDisks+efi).read(), "boot-unknown", "EFI"))
	require.False(t, has(build(t, twoDisks+efi+"proc/self/mountinfo = \"22 1 8:1 / / rw - ext4 /dev/sda1 rw\\n23 22 8:2 / /boot/efi rw - vfat /dev/sda2 rw\"\n").read(), "boot-unknown", ""))
}

// The ID may be a name that udev has no link of: then another link leads to the
// disk, and not the kernel's name, which may be another disk's tomorrow.
func TestPathStaysWhereTheIDHasNoLink(t *testing.T) {
	r := build(t, twoDisks+"dev/disk/by-id/ata-ACME_1 -> ../../sda\ndev/disk/by-path/pci-0000:00-ata-2 -> ../../sdb\n").read()
	require.Equal(t, first, disk(t, r, "sda").ID)
	require.Equal(t, "/dev/disk/by-id/ata-ACME_1", disk(t, r, "sda").Path)
	require.Equal(t, "/dev/disk/by-path/pci-0000:00-ata-2", disk(t, r, "sdb").Path)
}

package inventory_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/backend/physical/inventory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var update = flag.Bool("update", false, "write the golden files")

var machines = []string{"raid-server", "laptop", "cloud", "san"}

// Whole machines against what a person has read and found right.
func TestGoldenMachines(t *testing.T) {
	for _, name := range machines {
		t.Run(name, func(t *testing.T) {
			r := load(t, name).read()
			require.WithinDuration(t, time.Now(), r.At, time.Minute)
			r.At = time.Time{}
			golden(t, name+".txt", r.String())
			b, err := json.MarshalIndent(r, "", " ")
			require.NoError(t, err)
			golden(t, name+".json", string(b)+"\n")
			var back inventory.Report
			require.NoError(t, json.Unmarshal(b, &back))
			require.Equal(t, r, back, "it is plain values")
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(name, []byte(got), 0o644))
	}
	want, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "%s; -update writes it", name)
}

func disk(t *testing.T, r inventory.Report, name string) inventory.Disk {
	t.Helper()
	for _, d := range r.Disks {
		if d.Name == name {
			return d
		}
	}
	t.Fatalf("no disk %s", name)
	return inventory.Disk{}
}

func codes(r inventory.Report, disk dr.DiskID) (list []string) {
	for _, p := range r.Problems {
		if p.Disk == disk {
			list = append(list, p.Code)
		}
	}
	return list
}

// The configuration of this very machine: which disks by default, which by name,
// and one disk to start from.
func TestMachineOfAReport(t *testing.T) {
	r := load(t, "raid-server").read()
	m, err := r.Machine()
	require.NoError(t, err)
	require.Equal(t, physical.Machine{
		ID: "4c4c4544-0058-4b10-8032-b7c04f4c3032", Name: "db1", Self: true, Power: dr.On, OS: "linux",
		Firmware: dr.BIOS, CPUs: 4, Memory: 16336812 << 10,
		Disks: []physical.Disk{ // the stick is removable
			{ID: "wwn-0x50014ee2b1234567", Name: "sda", Path: "/dev/disk/by-id/wwn-0x50014ee2b1234567", Boot: true},
			{ID: "wwn-0x50014ee2b7654321", Name: "sdb", Path: "/dev/disk/by-id/wwn-0x50014ee2b7654321"},
		},
		NICs: []dr.NIC{
			{ID: "eno1", MAC: "44:a8:42:00:00:01", Addresses: []string{"198.51.100.20/24"}},
			{ID: "eno2", MAC: "44:a8:42:00:00:02"},
		},
	}, m)
	require.Empty(t, r.Blockers(m))
	m, err = r.Machine("sdb", "usb-SanDisk_Cruzer_20051739-0_0")
	require.NoError(t, err)
	require.Len(t, m.Disks, 2)
	require.True(t, m.Disks[0].Boot)
	require.Empty(t, r.Blockers(m), "a mirror may be there in part")
	require.Equal(t, []string{"/boot", "/"}, r.MountPoints(m))
	_, err = r.Machine("sda", "sdz")
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.ErrorContains(t, err, "sdz")

	// What blocks one disk doesn't block the others.
	r = load(t, "san").read()
	m, err = r.Machine("sda")
	require.NoError(t, err)
	require.Empty(t, r.Blockers(m))
	require.True(t, m.Disks[0].Boot)
	m, err = r.Machine("sda", "sdg")
	require.NoError(t, err)
	require.Len(t, r.Blockers(m), 1)
	m, err = r.Machine("sda", "sdd")
	require.NoError(t, err)
	require.Len(t, r.Blockers(m), 1)
	require.Equal(t, "disks-incomplete", r.Blockers(m)[0].Code)
	require.Contains(t, r.Blockers(m)[0].Text, "btrfs")
	require.Equal(t, []string{"/boot/efi", "/srv/pool", "/boot", "/"}, r.MountPoints(m))
	m, err = r.Machine("sda", "sdd", "sde", "dm-1")
	require.NoError(t, err)
	require.Empty(t, r.Blockers(m))
	require.Equal(t, []string{"/proc/4242/root/u01", "/boot/efi", "/srv/pool", "/boot", "/"}, r.MountPoints(m))
	require.Equal(t, "/dev/disk/by-id/dm-uuid-mpath-360002ac0000000000000000100012345", disk(t, r, "dm-1").Path)
}

// A disk is called the same with and without udev, so that an agent in a rescue
// system finds it again.
func TestIDsDoNotDependOnUdev(t *testing.T) {
	for _, name := range machines {
		f := load(t, name)
		with := f.read()
		require.NoError(t, os.RemoveAll(filepath.Join(f.root, "dev/disk")))
		without := f.read()
		for i, d := range with.Disks {
			if strings.HasPrefix(string(d.ID), "wwn-") || strings.HasPrefix(string(d.ID), "virtio-") || strings.HasPrefix(string(d.ID), "path-pci") || strings.HasPrefix(string(d.ID), "nvme-") {
				if name == "raid-server" {
					continue // the fixture's kernel doesn't tell the WWN
				}
				require.Equal(t, d.ID, without.Disks[i].ID)
			}
			require.NotContains(t, without.Disks[i].Path, "/dev/disk/")
		}
	}
}

const oneDisk = `
sys/class/dmi/id/sys_vendor = ACME
block sys/devices/pci0000:00/ata1/block/sda 8:0 1073741824
sys/devices/pci0000:00/ata1/block/sda/wwid = naa.5000000000000001
part sda 1 8:1 1048576 536870912
part sda 2 8:2 537919488 104857600
table sda mbr 0000abcd
entry sda 1 0x83
entry sda 2 0x82
`

// What is told of a disk that has something the matter.
func TestProblems(t *testing.T) {
	const id = "wwn-0x5000000000000001"
	for _, c := range []struct {
		name, more string
		want       []string
		blocker    bool
	}{
		{"none", "", nil, false},
		{"hibernated", "sig sda2 swsuspend 01234567-89ab-cdef-0123-456789abcdef", []string{"hibernated"}, true},
		{"swap that isn't used", "sig sda2 swap 01234567-89ab-cdef-0123-456789abcdef", []string{"swap"}, false},
		{"read-only", "sys/devices/pci0000:00/ata1/block/sda/ro = 1", []string{"disk-read-only"}, false},
		{"mounted and held", "block sys/devices/virtual/block/dm-0 253:0 1048576\nholds sda1 dm-0\nproc/self/mountinfo = 22 1 8:1 / / rw - ext4 /dev/sda1 rw", []string{"mounted-and-held"}, false},
		{"stale table", "part sda 3 8:3 700000256 1048576", []string{"table-stale"}, false},
		{"encrypted", "sig sda1 crypto_LUKS 01234567-89ab-cdef-0123-456789abcdef", []string{"encrypted"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := build(t, oneDisk+c.more).read()
			require.Equal(t, c.want, codes(r, id))
			for _, p := range r.Problems {
				require.NotEmpty(t, p.Text)
				if p.Disk == id {
					require.Equal(t, c.blocker, p.Blocker, "%+v", p)
				}
			}
		})
	}
}

// A volume over two disks, of which only one is chosen, would be restored torn.
func TestVolumeOverSeveralDisks(t *testing.T) {
	r := build(t, oneDisk+`
block sys/devices/pci0000:00/ata2/block/sdb 8:16 1073741824
sys/devices/pci0000:00/ata2/block/sdb/wwid = naa.5000000000000002
block sys/devices/virtual/block/dm-0 253:0 1048576
sys/devices/virtual/block/dm-0/dm/name = vg-lv
sys/devices/virtual/block/dm-0/dm/uuid = LVM-1
holds sda1 dm-0
holds sdb dm-0
`).read()
	require.True(t, has(r, "several-devices", "vg-lv"))
	m, err := r.Machine("sda")
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(r.Blockers(m), func(p backend.Problem) bool { return p.Code == "disks-incomplete" }))
	m, err = r.Machine()
	require.NoError(t, err)
	require.False(t, slices.ContainsFunc(r.Blockers(m), func(p backend.Problem) bool { return p.Code == "disks-incomplete" }))
}

// Which disks the system is on, and which it starts from, where that isn't one
// and the same: / is a btrfs over two disks, and a third has the ESP that is
// mounted, although one of the two has one as well.
func TestRoles(t *testing.T) {
	r := build(t, `
sys/firmware/efi/fw_platform_size = 64
block sys/devices/pci0000:00/ata1/block/sda 8:0 1073741824
part sda 1 8:1 1048576 104857600
part sda 2 8:2 105906176 536870912
table sda gpt 00000000-0000-4000-8000-00000000000a
entry sda 1 c12a7328-f81f-11d2-ba4b-00a0c93ec93b 00000000-0000-4000-8000-000000000001
entry sda 2 0fc63daf-8483-4772-8e79-3d69d8477de4 00000000-0000-4000-8000-000000000002
block sys/devices/pci0000:00/ata2/block/sdb 8:16 1073741824
block sys/devices/pci0000:00/ata3/block/sdc 8:32 1073741824
part sdc 1 8:33 1048576 104857600
block sys/devices/pci0000:00/ata4/block/sdd 8:48 1073741824
sig sda2 btrfs 00000000-0000-4000-8000-0000000000ff root 2
sig sdb btrfs 00000000-0000-4000-8000-0000000000ff root 2
sig sdc1 vfat ABCD-1234 -
dev/disk/by-id/wwn-0x1 -> /dev/sdd
proc/self/mountinfo = "22 1 0:30 /@ / rw - btrfs /dev/sdb rw\n23 22 8:33 / /boot/efi rw - vfat /dev/sdc1 rw\n"
`).read()
	var system, boot []string
	for _, d := range r.Disks {
		if d.System {
			system = append(system, d.Name)
		}
		if d.Boot {
			boot = append(boot, d.Name)
		}
	}
	require.Equal(t, []string{"sda", "sdb", "sdc"}, system)
	require.Equal(t, []string{"sdc"}, boot)
	require.EqualValues(t, "wwn-0x1", disk(t, r, "sdd").ID, "a link from the root")
	m, err := r.Machine()
	require.NoError(t, err)
	require.Equal(t, "sdc", m.Disks[0].Name, "the disk to start from goes first")
	require.Len(t, m.Disks, 4)
}

// What is built on a multipath disk lies on that disk, not on its paths.
func TestVolumeOnMultipath(t *testing.T) {
	text, err := os.ReadFile("testdata/san.machine")
	require.NoError(t, err)
	r := build(t, string(text)+`
block sys/devices/virtual/block/dm-7 253:7 1073741824
sys/devices/virtual/block/dm-7/dm/name = vg-lv
sys/devices/virtual/block/dm-7/dm/uuid = LVM-7
holds dm-2 dm-7
`).read()
	i := slices.IndexFunc(r.Volumes, func(v inventory.Volume) bool { return v.Name == "dm-7" })
	require.Equal(t, []dr.DiskID{"wwn-0x60002ac0000000000000000100012345"}, r.Volumes[i].Disks)
}

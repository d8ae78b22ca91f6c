package fsfreeze

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tree makes a sysfs of devices, each with its number, its parts and what is
// built on it, as the kernel documents them.
type tree struct {
	t     testing.TB
	root  string
	nodes map[string]device
}

func newTree(t testing.TB) *tree {
	tr := &tree{t, t.TempDir(), map[string]device{}}
	require.NoError(t, os.MkdirAll(filepath.Join(tr.root, "dev/block"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(tr.root, "class/block"), 0o700))
	return tr
}

// add makes a device, as a part of another if that is named.
func (tr *tree) add(name, parent, number string) {
	tr.t.Helper()
	dev, err := parseDevice(number)
	require.NoError(tr.t, err)
	dir := filepath.Join(tr.root, "devices", parent, name)
	require.NoError(tr.t, os.MkdirAll(filepath.Join(dir, "holders"), 0o700))
	require.NoError(tr.t, os.WriteFile(filepath.Join(dir, "dev"), []byte(number+"\n"), 0o600))
	if parent != "" {
		require.NoError(tr.t, os.WriteFile(filepath.Join(dir, "partition"), []byte("1\n"), 0o600))
	}
	require.NoError(tr.t, os.Symlink(dir, filepath.Join(tr.root, "dev/block", number)))
	require.NoError(tr.t, os.Symlink(dir, filepath.Join(tr.root, "class/block", name)))
	tr.nodes["/dev/"+name] = dev
}

// hold has a device built on another.
func (tr *tree) hold(below, above string) {
	tr.t.Helper()
	require.NoError(tr.t, os.Symlink(filepath.Join(tr.root, "class/block", above), filepath.Join(tr.root, "class/block", below, "holders", above)))
}

func (tr *tree) btrfs(name string, members ...string) {
	tr.t.Helper()
	dir := filepath.Join(tr.root, "fs/btrfs", name, "devices")
	require.NoError(tr.t, os.MkdirAll(dir, 0o700))
	for _, m := range members {
		require.NoError(tr.t, os.Symlink(filepath.Join(tr.root, "class/block", m), filepath.Join(dir, m)))
	}
}

func (tr *tree) find(mounts, swaps string, disks ...string) (*found, error) {
	all, err := parseMounts([]byte(mounts))
	require.NoError(tr.t, err)
	f := &finder{sys: tr.root, mounts: all, swaps: []byte(swaps), node: func(path string) (device, bool, string, error) {
		d, ok := tr.nodes[path]
		if !ok {
			return d, false, "", fs.ErrNotExist
		}
		return d, true, "", nil
	}}
	return f.find(disks, nil)
}

// names are the places of what was found, in the order of freezing.
func (f *found) names() (at []string) {
	for _, s := range f.systems {
		at = append(at, s.first().at+" "+string(s.state))
	}
	return at
}

// A machine as an installer makes it: firmware's partition, /boot, and LVM over
// encryption with root, home and swap; and a second disk that isn't asked for.
func TestFindsWhatStandsOnADisk(t *testing.T) {
	tr := newTree(t)
	tr.add("sda", "", "8:0")
	for i := 1; i <= 4; i++ {
		tr.add(fmt.Sprint("sda", i), "sda", fmt.Sprint("8:", i))
	}
	tr.add("sdb", "", "8:16")
	for i, name := range []string{"dm-0", "dm-1", "dm-2", "dm-3"} {
		tr.add(name, "", fmt.Sprint("253:", i))
	}
	tr.hold("sda3", "dm-0") // LUKS
	tr.hold("dm-0", "dm-1") // root
	tr.hold("dm-0", "dm-2") // home
	tr.hold("dm-0", "dm-3") // swap
	mounts := strings.Join([]string{
		`25 1 253:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw`,
		`26 25 0:5 / /proc rw - proc proc rw`,
		`40 25 8:2 / /boot rw,relatime - ext2 /dev/sda2 rw`,
		`41 40 8:1 / /boot/efi rw,relatime - vfat /dev/sda1 rw`,
		`42 25 253:2 / /home rw - xfs /dev/mapper/vg-home rw`,
		`43 25 253:2 /x /srv/with\040space rw - xfs /dev/mapper/vg-home rw`,
		`44 25 8:16 / /mnt/other rw - ext4 /dev/sdb rw`,
		`45 25 253:1 /usr /usr ro - ext4 /dev/mapper/vg-root rw`,
	}, "\n")
	tr.nodes["/dev/mapper/vg-swap"] = device{253, 3}
	swaps := "Filename\tType\tSize\n/dev/mapper/vg-swap partition 1 0 -2\n/swapfile file 1 0 -3\n"

	out, err := tr.find(mounts, swaps, "/dev/sda")
	require.NoError(t, err)
	require.Equal(t, []string{"/boot/efi frozen", "/home frozen", "/boot frozen", "/ frozen"}, out.names())
	require.Equal(t, []device{{8, 4}}, out.bare, "the partition that nobody mounted")
	require.Equal(t, []string{"/dev/mapper/vg-swap is swap: not held."}, out.notes)
	require.Equal(t, "/srv/with space", out.systems[1].mounts[1].at)

	out, err = tr.find(mounts, "", "/dev/sda2")
	require.NoError(t, err)
	require.Equal(t, []string{"/boot frozen"}, out.names(), "only a partition is asked for")

	out, err = tr.find(strings.ReplaceAll(mounts, "/dev/mapper/vg-home rw", "/dev/mapper/vg-home ro"), swaps, "/dev/sda")
	require.NoError(t, err)
	require.Contains(t, out.names(), "/home read-only")
}

// An array over two disks, and a btrfs over two others, are found by any of
// them.
func TestFindsWhatStandsOnSeveralDisks(t *testing.T) {
	tr := newTree(t)
	for i, name := range []string{"sda", "sdb", "sdc", "sdd"} {
		tr.add(name, "", fmt.Sprint("8:", 16*i))
	}
	tr.add("md0", "", "9:0")
	tr.add("md0p1", "md0", "259:0")
	tr.hold("sda", "md0")
	tr.hold("sdb", "md0")
	tr.btrfs("0b1e", "sdc", "sdd")
	mounts := `25 1 0:30 /root / rw - btrfs /dev/sdc rw
26 25 0:31 /home /home rw - btrfs /dev/sdc rw
27 25 259:0 / /srv rw - ext4 /dev/md0p1 rw
28 25 0:44 / /net rw - nfs server:/x rw
29 25 0:45 / /var/overlay rw - overlay overlay rw,lowerdir=/a`
	for _, disk := range []string{"/dev/sda", "/dev/sdb"} {
		out, err := tr.find(mounts, "", disk)
		require.NoError(t, err)
		require.Equal(t, []string{"/srv frozen"}, out.names())
		require.Empty(t, out.bare)
	}
	for _, disk := range []string{"/dev/sdc", "/dev/sdd"} {
		out, err := tr.find(mounts, "", disk)
		require.NoError(t, err)
		require.Equal(t, []string{"/ frozen"}, out.names(), "its subvolumes are one file system")
		require.Empty(t, out.bare)
	}
	_, err := tr.find(mounts, "", "/dev/sdz")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func FuzzMountinfo(f *testing.F) {
	f.Add([]byte("25 1 253:1 / / rw shared:1 - ext4 /dev/x rw\n"))
	f.Add([]byte(`25 1 0:1 / /a\040b rw - x y` + "\n"))
	f.Add([]byte("- - - - - - -\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		mounts, err := parseMounts(b)
		if err != nil {
			return
		}
		for _, m := range mounts {
			require.NotEmpty(t, m.kind)
			require.GreaterOrEqual(t, mountOf(mounts, m.at), 0)
		}
	})
}

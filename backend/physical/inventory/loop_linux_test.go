package inventory_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend/physical/inventory"
)

// lack skips the test, or fails it where everything has to be there.
func lack(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

func run(t *testing.T, stdin string, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			lack(t, name+" is not installed")
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return strings.TrimSpace(string(out))
}

// loopDisk makes a loop device of a new file, partitioned by sfdisk.
func loopDisk(t *testing.T, size int64, sector int, script string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "loop devices need root")
	}
	file := filepath.Join(t.TempDir(), "disk.img")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, size))
	dev := run(t, "", "losetup", "--find", "--show", "--sector-size", fmt.Sprint(sector), file)
	t.Cleanup(func() { run(t, "", "losetup", "-d", dev) })
	if script != "" {
		// partx adds them one by one: that needs no reader of tables in the kernel.
		run(t, script, "sfdisk", "-q", "--no-reread", dev)
		run(t, "", "partx", "--add", dev)
		t.Cleanup(func() { run(t, "", "partx", "--delete", dev) })
	}
	return dev
}

// blk is what lsblk says of a device.
type blk struct {
	Name, Fstype, Label, UUID, Partuuid, Parttype, Partlabel, Pttype string
	Size                                                             int64
	Ro, Rm, Rota                                                     bool
	LogSec                                                           int `json:"log-sec"`
	Mountpoints                                                      []string
	Children                                                         []blk
}

func lsblk(t *testing.T, dev string) blk {
	t.Helper()
	out := run(t, "", "lsblk", "--json", "--bytes", "-o", "NAME,SIZE,RO,RM,ROTA,LOG-SEC,MOUNTPOINTS", dev)
	var v struct{ Blockdevices []blk }
	require.NoError(t, json.Unmarshal([]byte(out), &v))
	require.Len(t, v.Blockdevices, 1)
	b := v.Blockdevices[0]
	// lsblk asks udev of contents, which may not run; blkid reads them.
	b.probe(t)
	for i := range b.Children {
		b.Children[i].probe(t)
	}
	return b
}

func (b *blk) probe(t *testing.T) {
	path, err := exec.LookPath("/usr/sbin/blkid")
	if err != nil {
		lack(t, "blkid is not installed")
	}
	out, _ := exec.Command(path, "-p", "-o", "export", "/dev/"+b.Name).Output() // 2: nothing found
	for l := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimSpace(l), "=")
		v = strings.ReplaceAll(v, `\ `, " ")
		switch k {
		case "TYPE":
			b.Fstype = v
		case "LABEL":
			b.Label = v
		case "UUID":
			b.UUID = v
		case "PTTYPE":
			b.Pttype = v
		case "PART_ENTRY_UUID":
			b.Partuuid = v
		case "PART_ENTRY_TYPE":
			b.Parttype = v
		case "PART_ENTRY_NAME":
			b.Partlabel = v
		}
	}
}

func readLoops(t *testing.T) inventory.Report {
	t.Helper()
	r, err := inventory.Read(t.Context(), inventory.Options{Loop: true})
	require.NoError(t, err)
	return r
}

// agree compares a disk of the report with what util-linux says.
func agree(t *testing.T, dev string) inventory.Disk {
	t.Helper()
	d, b := disk(t, readLoops(t), strings.TrimPrefix(dev, "/dev/")), lsblk(t, dev)
	require.Equal(t, b.Size, d.Size)
	require.Equal(t, b.LogSec, d.Sector)
	require.Equal(t, b.Ro, d.ReadOnly)
	require.Equal(t, b.Rm, d.Removable)
	require.Equal(t, strings.Replace(b.Pttype, "dos", "mbr", 1), d.Table)
	same(t, b, d.Use)
	require.Len(t, d.Partitions, len(b.Children))
	for i, c := range b.Children {
		p := d.Partitions[i]
		require.Equal(t, c.Name, p.Name)
		require.Equal(t, c.Size, p.Size)
		require.Equal(t, strings.ToLower(c.Partuuid), p.UUID, p.Name)
		require.Equal(t, c.Parttype, strings.Replace(p.Type, "0x0", "0x", 1), p.Name)
		require.Equal(t, c.Partlabel, p.Label)
		same(t, c, p.Use)
	}
	return d
}

func same(t *testing.T, b blk, u inventory.Use) {
	t.Helper()
	var c inventory.Content
	if u.Content != nil {
		c = *u.Content
	}
	require.Equal(t, b.Fstype, c.Kind, b.Name)
	require.Equal(t, b.Label, c.Label, b.Name)
	require.Equal(t, b.UUID, c.UUID, b.Name)
	var mounts []string
	for _, m := range b.Mountpoints {
		if m != "" && m != "[SWAP]" {
			mounts = append(mounts, m)
		}
	}
	var ours []string
	for _, m := range u.Mounts {
		if m.PID == 0 {
			ours = append(ours, m.Path)
		}
	}
	require.ElementsMatch(t, mounts, ours, b.Name)
}

const everything = `label: gpt
size=16M, type=uefi, name="EFI System"
size=64M, name=root
size=320M
size=128M
size=16M, type=swap
size=16M, type=raid
size=32M, type=lvm
`

// Real devices, partitioned and formatted by the real tools: what util-linux says
// of them is what we say.
func TestRealDisksAndUtilLinux(t *testing.T) {
	dev := loopDisk(t, 700<<20, 512, everything)
	run(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root fs", dev+"p2")
	run(t, "", "mkfs.xfs", "-q", "-f", "-L", "data", dev+"p3")
	run(t, "", "mkfs.btrfs", "-q", "-f", "-L", "pool", dev+"p4")
	run(t, "", "mkswap", "-q", "-L", "sw", dev+"p5")
	run(t, "", "pvcreate", "-q", "-y", "--config", `devices{use_devicesfile=0 filter=["a|`+dev+`p7|","r|.*|"]} global{locking_type=0}`, dev+"p7")
	d := agree(t, dev)
	require.Equal(t, "gpt", d.Table)
	require.Equal(t, "LVM2_member", d.Partitions[6].Content.Kind)

	for i, kind := range map[int]string{2: "ext4", 3: "xfs", 4: "btrfs"} {
		at := filepath.Join(t.TempDir(), "a mount of "+kind)
		require.NoError(t, os.Mkdir(at, 0o700))
		if err := unix.Mount(fmt.Sprintf("%sp%d", dev, i), at, kind, 0, ""); err != nil {
			lack(t, kind+" can't be mounted: "+err.Error())
		}
		t.Cleanup(func() { require.NoError(t, unix.Unmount(at, 0)) })
	}
	d = agree(t, dev)
	for _, i := range []int{1, 2, 3} {
		require.Len(t, d.Partitions[i].Mounts, 1)
		require.Equal(t, d.Partitions[i].Content.Kind, d.Partitions[i].Mounts[0].Kind)
	}
}

// MBR with logical partitions, sectors of 4 KiB, and a file system without a table.
func TestRealTables(t *testing.T) {
	dev := loopDisk(t, 64<<20, 512, "label: dos\n1: size=8M,type=83,bootable\n2: size=40M,type=5\n5: size=8M,type=82\n6: size=8M,type=83\n")
	require.Equal(t, "mbr", agree(t, dev).Table)

	dev = loopDisk(t, 64<<20, 4096, "label: gpt\nsize=16M\nsize=16M,type=swap\n")
	run(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", dev+"p1")
	require.Equal(t, 4096, agree(t, dev).Sector)

	dev = loopDisk(t, 64<<20, 512, "")
	run(t, "", "mke2fs", "-q", "-F", "-t", "ext4", dev)
	require.Equal(t, "ext4", agree(t, dev).Content.Kind)
}

// This very machine: whatever it is, its disks are found, and so is where / is if
// it is on one.
func TestThisMachine(t *testing.T) {
	r, err := inventory.Read(t.Context(), inventory.Options{})
	require.NoError(t, err)
	require.NoError(t, r.ID.Validate())
	require.Positive(t, r.CPUs)
	require.Positive(t, r.Memory)
	require.NotEmpty(t, r.System.Kernel)
	t.Logf("\n%s", r)
	out := run(t, "", "lsblk", "--json", "--bytes", "-d", "-o", "NAME,SIZE,TYPE", "-e", "1,7,11,43")
	var v struct {
		Blockdevices []struct {
			Name, Type string
			Size       int64
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &v))
	for _, b := range v.Blockdevices {
		if b.Type == "disk" && b.Size > 0 && !strings.HasPrefix(b.Name, "zram") {
			require.Equal(t, b.Size, disk(t, r, b.Name).Size)
		}
	}
	var st unix.Stat_t
	require.NoError(t, unix.Stat("/", &st))
	_, err = os.Stat(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return // / is on no device
	}
	found := false
	for _, d := range r.Disks {
		found = found || d.System
	}
	require.True(t, found, "/ is on a disk")
}

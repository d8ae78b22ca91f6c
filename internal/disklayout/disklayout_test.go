package disklayout

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

// disk makes a disk of 256 MiB that sfdisk parts by a script.
func disk(t testing.TB, script string) string {
	t.Helper()
	guestfstest.Has(t, "sfdisk")
	name := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(name, nil, 0o600))
	require.NoError(t, os.Truncate(name, 256<<20))
	if script != "" {
		guestfstest.Run(t, "bash", "-ec", `printf '%b' "$1" | sfdisk -q "$0"`, name, script)
	}
	return name
}

func volumes(t testing.TB, names ...string) ([]Volume, []error) {
	var disks []Disk
	for _, n := range names {
		f, size := guestfstest.Open(t, n)
		disks = append(disks, Disk{ID: filepath.Base(filepath.Dir(n)), Size: size, ReaderAt: f})
	}
	return Volumes(disks)
}

// mark writes a text at a byte of a disk.
func mark(t testing.TB, name string, at int64, text string) {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(text), at)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func head(t testing.TB, v Volume, n int) string {
	b := make([]byte, n)
	_, err := v.ReadAt(b, 0)
	require.NoError(t, err)
	return string(b)
}

func TestPartitionsAreFoundAsSfdiskMadeThem(t *testing.T) {
	gpt := disk(t, "label: gpt\nstart=2048,size=20480,name=EFI,uuid=11111111-2222-3333-4444-555555555555\nstart=40960,size=40960\n")
	mark(t, gpt, 2048*512, "first")
	mark(t, gpt, 40960*512, "second")
	check := func(name string) {
		list, errs := volumes(t, name)
		require.Empty(t, errs)
		require.Len(t, list, 2)
		require.Equal(t, "11111111-2222-3333-4444-555555555555", list[0].PartUUID)
		require.Equal(t, "EFI", list[0].PartLabel)
		require.EqualValues(t, 20480*512, list[0].Size)
		require.Equal(t, "first", head(t, list[0], 5))
		require.Equal(t, "second", head(t, list[1], 6))
	}
	check(gpt)
	mark(t, gpt, 512, "broken") // the copy at the end is as good
	check(gpt)

	mbr := disk(t, "label: dos\nlabel-id: 0xdeadbeef\nstart=2048,size=20480\nstart=40960,size=200000,type=5\nstart=43008,size=20480\nstart=65536,size=20480\n")
	mark(t, mbr, 43008*512, "five")
	mark(t, mbr, 65536*512, "six!")
	list, errs := volumes(t, mbr)
	require.Empty(t, errs)
	require.Len(t, list, 3)
	require.Equal(t, "deadbeef-01", list[0].PartUUID)
	require.Equal(t, "partition 5", list[1].Name)
	require.Equal(t, "five", head(t, list[1], 4))
	require.Equal(t, "deadbeef-06", list[2].PartUUID)
	require.Equal(t, "six!", head(t, list[2], 4))

	list, errs = volumes(t, disk(t, ""))
	require.Empty(t, errs)
	require.Len(t, list, 1)
	require.Equal(t, "whole disk", list[0].Name)
}

// The group is made by LVM's tools. The kernel needn't have device-mapper: no
// volume is activated, and what their extents hold is written to the disks.
func TestLogicalVolumesAreFoundAsLVMMadeThem(t *testing.T) {
	guestfstest.Need(t, os.Geteuid() == 0, "loop devices need root")
	guestfstest.Has(t, "lvm")
	disks := []string{disk(t, "label: gpt\nstart=2048,size=20480\nstart=40960,size=400000\n"), disk(t, "")}
	script := `
export LVM_SUPPRESS_FD_WARNINGS=1
a=$(losetup -f --show -o $((40960*512)) --sizelimit $((400000*512)) "$1"); b=$(losetup -f --show "$2")
trap 'losetup -d $a $b' EXIT
lvm() { command lvm "$@" --config 'devices { use_devicesfile=0 filter=["a|'$a'|","a|'$b'|","r|.*|"] } activation { udev_sync=0 udev_rules=0 } global { event_activation=0 }' --driverloaded n --nolocking -qq >/dev/null; }
lvm pvcreate -ff -y $a $b
lvm vgcreate debian-vg $a $b
lvm lvcreate -an -Zn -Wn -y -n root -L 40M debian-vg $a
lvm lvcreate -an -Zn -Wn -y -n other -L 8M debian-vg $a
lvm lvextend -y -L 60M debian-vg/root $b 2>&1
lvm lvcreate -an -Zn -Wn -y -n striped -i 2 -I 64 -L 16M debian-vg
command lvm pvs --config 'devices { use_devicesfile=0 filter=["a|'$a'|","a|'$b'|","r|.*|"] }' --segments --noheadings -o lv_name,pv_name,pvseg_start,pvseg_size,seg_start_pe 2>/dev/null
`
	said := guestfstest.Run(t, "bash", append([]string{"-ec", script, "lvm"}, disks...)...)
	t.Log(said)
	// Every extent of both disks begins with where it is.
	const extent = 4 << 20
	for i, name := range disks {
		for e := range 40 {
			at := int64(1<<20 + e*extent)
			if i == 0 {
				at += 40960 * 512
			}
			mark(t, name, at, string(rune('A'+i))+string(rune('0'+e)))
		}
	}
	list, errs := volumes(t, disks...)
	require.Empty(t, errs)
	byName := map[string]Volume{}
	for _, v := range list {
		byName[v.Name] = v
	}
	root := byName["debian-vg/root"]
	require.NoError(t, root.Err)
	require.Equal(t, "/dev/mapper/debian--vg-root", root.Device)
	require.EqualValues(t, 60<<20, root.Size)
	at := func(v Volume, off int64) string {
		b := make([]byte, 2)
		_, err := v.ReadAt(b, off)
		require.NoError(t, err)
		return string(b)
	}
	require.Equal(t, "A0", at(root, 0))
	require.Equal(t, "A9", at(root, 9*extent))
	require.Equal(t, "B0", at(root, 10*extent))
	require.Equal(t, "B4", at(root, 14*extent))
	striped := byName["debian-vg/striped"]
	require.NoError(t, striped.Err)
	one, two := at(striped, 0), at(striped, 64<<10)
	require.ElementsMatch(t, []byte{'A', 'B'}, []byte{one[0], two[0]}, "stripes alternate")
	// What lies behind the first stripe of each disk follows in turns.
	next := at(striped, 2*extent)
	require.Equal(t, one[0], next[0])
	require.Equal(t, one[1]+1, next[1])

	list, _ = volumes(t, disks[0])
	for _, v := range list {
		if v.Name == "debian-vg/root" {
			require.ErrorContains(t, v.Err, "none of the disks")
		}
	}
}

const vgText = `vg { id = "A" seqno = 3 extent_size = 8192 # sectors
physical_volumes { pv0 { id = "x-y" pe_start = 2048 } }
logical_volumes { thin { status = ["READ", "VISIBLE"] segment_count = 1 segment1 { start_extent = 0 extent_count = 4 type = "thin" } } } }`

func TestWhatLVMHasAndIsNotReadIsTold(t *testing.T) {
	name, body, err := group(vgText)
	require.NoError(t, err)
	list, errs := logical([]physical{{id: "xy", vol: Volume{Size: 1 << 30, ReaderAt: bytes.NewReader(nil)}, meta: description{name, body}}})
	require.Empty(t, errs)
	require.Len(t, list, 1)
	require.ErrorIs(t, list[0].Err, dr.ErrUnsupported)
	require.ErrorContains(t, list[0].Err, `"thin"`)
}

func FuzzDescription(f *testing.F) {
	f.Add(vgText)
	f.Add(strings.ReplaceAll(vgText, `"thin"`, `"striped" stripe_count = 1 stripes = ["pv0", 0]`))
	f.Fuzz(func(t *testing.T, text string) {
		name, body, err := group(text)
		if err != nil {
			require.ErrorIs(t, err, dr.ErrCorrupt)
			return
		}
		list, _ := logical([]physical{{id: "xy", vol: Volume{Size: 1 << 30, ReaderAt: bytes.NewReader(make([]byte, 1<<16))}, meta: description{name, body}}})
		for _, v := range list {
			if v.Err == nil {
				b := make([]byte, 4096)
				v.ReadAt(b, 0)
				v.ReadAt(b, v.Size-100)
			}
		}
	})
}

func FuzzTables(f *testing.F) {
	plain := make([]byte, 1<<16)
	f.Add(plain)
	mbr := bytes.Clone(plain)
	mbr[510], mbr[511], mbr[0x1be+4], mbr[0x1be+8], mbr[0x1be+12] = 0x55, 0xaa, 5, 1, 9
	f.Add(mbr)
	gpt := bytes.Clone(mbr)
	gpt[0x1be+4] = 0xee
	copy(gpt[512:], "EFI PART")
	f.Add(gpt)
	lvm := bytes.Clone(plain)
	copy(lvm[512:], "LABELONE")
	lvm[512+20] = 32
	copy(lvm[512+24:], "LVM2 001")
	f.Add(lvm)
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _ := Volumes([]Disk{{ID: "d", Size: int64(len(b)), ReaderAt: bytes.NewReader(b)}})
		for _, v := range list {
			if v.Err == nil {
				v.ReadAt(make([]byte, 512), 0)
			}
		}
	})
}

// A table is told with everything that names a partition, and without following
// what is in it.
func TestTable(t *testing.T) {
	read := func(script string) Table {
		f, size := guestfstest.Open(t, disk(t, script))
		table, err := ReadTable(Disk{ID: "d", Size: size, ReaderAt: f})
		require.NoError(t, err)
		return table
	}
	g := read("label: gpt\nlabel-id: 99999999-2222-3333-4444-555555555555\nstart=2048,size=20480,type=uefi,name=EFI,uuid=11111111-2222-3333-4444-555555555555\n")
	require.Equal(t, "gpt", g.Kind)
	require.Equal(t, "99999999-2222-3333-4444-555555555555", g.ID)
	require.Len(t, g.Partitions, 1)
	p := g.Partitions[0]
	p.ReaderAt = nil
	require.Equal(t, Volume{Disk: "d", Name: "partition 1", Number: 1, Off: 1 << 20, Size: 10 << 20,
		Type: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", PartUUID: "11111111-2222-3333-4444-555555555555", PartLabel: "EFI"}, p)

	m := read("label: dos\nlabel-id: 0x1a2b3c4d\n1: start=2048,size=20480,type=83\n2: start=40960,size=81920,type=5\n5: start=43008,size=20480,type=82\n")
	require.Equal(t, "mbr", m.Kind)
	require.Equal(t, "1a2b3c4d", m.ID)
	require.Equal(t, Volume{Disk: "d", Number: 2, Off: 40960 * 512, Size: 81920 * 512, Type: "0x05", PartUUID: "1a2b3c4d-02"}, m.Extended)
	require.Len(t, m.Partitions, 2)
	require.Equal(t, 5, m.Partitions[1].Number)
	require.EqualValues(t, 43008*512, m.Partitions[1].Off)
	require.Equal(t, "0x82", m.Partitions[1].Type)

	none := read("")
	require.Empty(t, none.Kind)
	require.Len(t, none.Partitions, 1)
}

package inventory

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// A disk that never answers is a problem of that disk, after the time that it
// was given.
func TestDiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Report
		a, b := &device{name: "sda", role: isDisk, size: 1}, &device{name: "sdb", role: isDisk, size: 1}
		s := &system{root: root("/nowhere"), o: Options{DeviceTimeout: 7 * time.Second}, report: &r, all: []*device{a, b}}
		never := make(chan struct{})
		start := time.Now()
		require.NoError(t, s.contents(t.Context(), func(d *device) look {
			if d == a {
				<-never
			}
			return look{}
		}))
		require.Equal(t, 7*time.Second, time.Since(start))
		require.ErrorContains(t, a.failed, "within 7s")
		require.NoError(t, b.failed)

		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		err := s.contents(ctx, func(*device) look { <-never; return look{} })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		close(never)
	})
}

func TestParsers(t *testing.T) {
	require.Equal(t, []mountLine{{number: "8:1", subtree: "/a b", at: "/mnt/x\ty", kind: "ext4", source: "/dev/sda1", ro: true}},
		parseMounts([]byte("36 35 8:1 /a\\040b /mnt/x\\011y rw,noatime master:1 shared:2 - ext4 /dev/sda1 ro,errors=continue\nshort - line\n36 35 8:1 / / rw -\n")))
	require.Equal(t, []string{"/dev/dm-1", "/swap file"}, parseSwaps([]byte("Filename Type Size\n/dev/dm-1 partition 1 0 -2\n/swap\\040file file 1 0 -3\n\n")))
	require.Equal(t, []gateway{{"eth0", "192.0.2.1"}}, parseRoutes("Iface Destination Gateway\neth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\neth1 00000000 00000000 1 0 0 0 00000000\n", false))
	for list, n := range map[string]int{"0-3": 4, "0": 1, "0-1,8-9": 4, "": 0, "x": 0, "3-1": 0, "0-99999999": 0} {
		require.Equal(t, n, parseList(list), list)
	}
	for id, ok := range map[string]bool{
		"4c4c4544-0058-4b10-8032-b7c04f4c3032": true, "00000000-0000-0000-0000-000000000000": false,
		"ffffffff-ffff-ffff-ffff-ffffffffffff": false, "03000200-0400-0500-0006-000700080009": false, "none": false, "": false,
	} {
		require.Equal(t, ok, realUUID(id), id)
	}
	for _, c := range [][6]string{
		{"VMware, Inc.", "VMware7,1", "", "", "g", "vmware"}, {"Microsoft Corporation", "Virtual Machine", "", "", "g", "hyper-v"},
		{"Microsoft Corporation", "Surface Pro", "", "", "", ""}, {"Amazon EC2", "m5.large", "", "", "g", "amazon"},
		{"Amazon EC2", "m5.metal", "", "", "", ""}, {"", "", "", "xen", "", "xen"}, {"", "", "", "", "g", "unknown"}, {"Dell Inc.", "PowerEdge", "", "", "", ""},
	} {
		require.Equal(t, c[5], hypervisor(c[0], c[1], c[2], c[3], c[4] != ""), c)
	}
}

// An ID is the best name that no other disk has.
func TestIdentify(t *testing.T) {
	w := func(id string) identity { return identity{id: id, rank: worldRank} }
	b := func(id string) identity { return identity{id: id, rank: busRank} }
	n := func(id string) identity { return identity{id: id, rank: nameRank} }
	chosen, shared := identify([][]identity{
		{w("wwn-1"), b("ata-x"), n("name-a")},
		{w("wwn-2"), b("ata-x"), n("name-b")},
		{b("ata-x"), n("name-c")},
		{w("wwn-3"), n("name-d")},
		{w("wwn-3"), n("name-e")},
	})
	var ids []string
	for _, c := range chosen {
		ids = append(ids, c.id)
	}
	require.Equal(t, []string{"wwn-1", "wwn-2", "name-c", "name-d", "name-e"}, ids)
	require.Equal(t, [][]int{{3, 4}}, shared)
	require.Equal(t, dr.DiskID("usb-a_b_0_0"), diskID("usb-a b:0/0"))
}

func FuzzText(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n")
	f.Add("Filename\tType\n/dev/dm-1 partition 8388604 0 -2\n")
	f.Add("eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n")
	f.Add("00000000000000000000000000000000 00 00000000000000000000000000000000 00 20010db8000000000000000000000001 400 1 0 3 eth0\n")
	f.Add("processor : 0\nmodel name : x\nflags : hypervisor\n0-3,5")
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range parseMounts([]byte(text)) {
			if m.number == "" || m.kind == "" {
				t.Fatalf("%+v", m)
			}
		}
		parseSwaps([]byte(text))
		for _, v6 := range []bool{false, true} {
			for _, g := range parseRoutes(text, v6) {
				if g.to == "" {
					t.Fatalf("%+v", g)
				}
			}
		}
		model, n, _ := parseCPUs([]byte(text))
		if n < 0 || parseList(text) < 0 {
			t.Fatal("negative")
		}
		for _, s := range []string{model, osRelease([]byte(text)), printable(text), string(diskID(text))} {
			if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
				t.Fatalf("%q", s)
			}
		}
	})
}

// FuzzRead changes one file of a machine.
func FuzzRead(f *testing.F) {
	files := []string{
		"sys/block/sda/size", "sys/block/sda/dev", "sys/block/sda/sda1/start", "sys/block/sda/sda1/partition", "sys/block/sda/queue/logical_block_size",
		"sys/block/sda/wwid", "sys/block/sda/device/vpd_pg80", "sys/block/sda/dm/uuid", "sys/block/sda/dm/name", "proc/self/mountinfo", "proc/1/mountinfo",
		"proc/swaps", "proc/net/route", "proc/cpuinfo", "proc/meminfo", "sys/class/dmi/id/product_uuid", "etc/machine-id", "etc/netplan/a.yaml",
		"etc/network/interfaces", "dev/sda", "dev/sda1",
	}
	dir := f.TempDir()
	put := func(t testing.TB, name, text string) {
		name = filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	}
	normal := map[string]string{
		"sys/block/sda/size": "2048\n", "sys/block/sda/dev": "8:0\n", "sys/block/sda/sda1/size": "1024\n", "sys/block/sda/sda1/dev": "8:1\n",
		"sys/block/sda/sda1/start": "512\n", "sys/block/sda/sda1/partition": "1\n", "sys/class/net/eth0/device/x": "", "sys/class/net/eth0/address": "52:54:00:00:00:01\n",
		"proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "etc/passwd": "root\n",
	}
	for name, text := range normal {
		put(f, name, text)
	}
	for i, name := range files {
		f.Add(uint8(i), normal[name])
	}
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		name := files[int(which)%len(files)]
		put(t, name, text)
		defer func() {
			if old, ok := normal[name]; ok {
				put(t, name, old)
			} else {
				require.NoError(t, os.Remove(filepath.Join(dir, name)))
			}
		}()
		r, err := Read(t.Context(), Options{Root: dir})
		require.NoError(t, err)
		require.NoError(t, r.ID.Validate())
		for _, c := range r.String() {
			if c != '\n' && !unicode.IsPrint(c) {
				t.Fatalf("%q in %q", c, r.String())
			}
		}
		for _, d := range r.Disks {
			if d.ID == "" || d.Size <= 0 {
				t.Fatalf("%+v", d)
			}
		}
	})
}

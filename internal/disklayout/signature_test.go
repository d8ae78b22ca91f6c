package disklayout

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

func signaturesOf(t testing.TB, name string) []Signature {
	t.Helper()
	f, size := guestfstest.Open(t, name)
	list, err := Signatures(Disk{ID: "d", Size: size, ReaderAt: f})
	require.NoError(t, err)
	return list
}

// What the tools that make them write is found, with the ID that blkid tells.
func TestSignaturesAreFoundAsTheirToolsMakeThem(t *testing.T) {
	for _, c := range []struct {
		kind, tool, made string // shell; $0 is the disk
	}{
		{"ext4", "mke2fs", `mke2fs -q -t ext4 $0`},
		{"xfs", "mkfs.xfs", `truncate -s 400M $0; mkfs.xfs -q -f $0`},
		{"btrfs", "mkfs.btrfs", `mkfs.btrfs -q -f $0`},
		{"vfat", "mkfs.vfat", `mkfs.vfat -F 32 $0 >/dev/null`},
		{"ntfs", "mkfs.ntfs", `mkfs.ntfs -q -Q -F $0 >/dev/null`},
		{"swap", "mkswap", `mkswap -q $0`},
		{"crypto_LUKS", "cryptsetup", `echo secret | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $0 -`},
		{"gpt", "sfdisk", `echo 'label: gpt' | sfdisk -q $0`},
		{"dos", "sfdisk", `printf 'label: dos\nstart=2048\n' | sfdisk -q $0`},
	} {
		t.Run(c.kind, func(t *testing.T) {
			guestfstest.Has(t, c.tool)
			name := filepath.Join(t.TempDir(), "disk")
			require.NoError(t, os.WriteFile(name, nil, 0o600))
			require.NoError(t, os.Truncate(name, 128<<20))
			guestfstest.Run(t, "bash", "-ec", c.made, name)
			list := signaturesOf(t, name)
			i := slices.IndexFunc(list, func(s Signature) bool { return s.Kind == c.kind })
			require.GreaterOrEqual(t, i, 0, "%v", list)
			require.NotEmpty(t, list[i].UUID)
			require.Equal(t, wholeDisk, list[i].Where)
			require.Equal(t, c.kind == "gpt" || c.kind == "dos", list[i].IsTable())
			require.Len(t, list, 1, "%v", list) // no boot sector that is taken for a table
			if !list[i].IsTable() {
				f, size := guestfstest.Open(t, name)
				table, err := ReadTable(Disk{ID: "d", Size: size, ReaderAt: f})
				require.NoError(t, err)
				require.Empty(t, table.Kind)
			}
			// wipefs agrees, and what it has wiped is found no more.
			guestfstest.Run(t, "wipefs", "-qaf", name)
			require.Empty(t, signaturesOf(t, name))
		})
	}
}

func TestWhatIsInPartitionsIsToldToo(t *testing.T) {
	name := disk(t, "label: gpt\nstart=2048,size=204800\nstart=206848,size=40960\n")
	guestfstest.Has(t, "mke2fs")
	guestfstest.Run(t, "mke2fs", "-q", "-F", "-E", "offset=1048576", name, "64M")
	mark(t, name, 206848*512+4086, "SWAPSPACE2")
	var said []string
	for _, s := range signaturesOf(t, name) {
		said = append(said, s.Kind+" "+s.Where)
	}
	require.Equal(t, []string{"gpt whole disk", "ext2 partition 1", "swap partition 2"}, said)

	// A table that is damaged, and one of which only the backup is left.
	mark(t, name, 512+60, "xxxx")
	require.Equal(t, "gpt", signaturesOf(t, name)[0].Kind)
	mark(t, name, 0, string(make([]byte, 34*512)))
	require.Equal(t, "gpt", signaturesOf(t, name)[0].Kind)
}

// Those that no tool here makes, by their bytes.
func TestSignaturesByTheirBytes(t *testing.T) {
	const size = 4 << 20
	for _, c := range []struct {
		kind string
		off  int64
		text string
	}{
		{"linux_raid_member", 4096, "\xfc\x4e\x2b\xa9"}, {"linux_raid_member", 0, "\xfc\x4e\x2b\xa9"},
		{"linux_raid_member", ((size/512 - 16) &^ 7) * 512, "\xfc\x4e\x2b\xa9"}, {"linux_raid_member", size - 64<<10, "\xfc\x4e\x2b\xa9"},
		{"zfs_member", 128<<10 + 4*1024, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
		{"zfs_member", size - 256<<10 + 128<<10, "\x00\x00\x00\x00\x00\xba\xb1\x0c"},
		{"isw_raid_member", size - 1024, "Intel Raid ISM Cfg Sig. 1.3"},
		{"swsuspend", 4086, "S1SUSPEND\x00"},
		{"LVM2_member", 1536, "LABELONE\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00LVM2 001abcdefghijklmnopqrstuvwxyz012345"},
		{"oracleasm", 32, "ORCLDISK"}, {"VMFS", 0x200000, "\x5e\xf1\xab\x2f"},
		{"BitLocker", 3, "-FVE-FS-"}, {"sun", 508, "\xda\xbe"},
	} {
		b := make([]byte, size)
		copy(b[c.off:], c.text)
		list, err := Signatures(Disk{ID: "d", Size: size, ReaderAt: bytes.NewReader(b)})
		require.NoError(t, err)
		require.Len(t, list, 1, c.kind)
		require.Equal(t, c.kind, list[0].Kind)
	}
	list, err := Signatures(Disk{ID: "d", Size: size, ReaderAt: bytes.NewReader(make([]byte, size))})
	require.NoError(t, err)
	require.Empty(t, list)
}

func FuzzSignatures(f *testing.F) {
	f.Add([]byte("LUKS\xba\xbe"), uint32(0), uint32(1<<20))
	f.Add([]byte("LABELONE\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\x01\x00\x00LVM2 001"), uint32(1536), uint32(4096))
	f.Add([]byte("EFI PART"), uint32(512), uint32(1024))
	f.Fuzz(func(t *testing.T, b []byte, off, size uint32) {
		size %= 2 << 20
		disk := make([]byte, size)
		if int(off) < len(disk) {
			copy(disk[off:], b)
		}
		_, err := Signatures(Disk{ID: "d", Size: int64(size), ReaderAt: bytes.NewReader(disk)})
		require.NoError(t, err)
	})
}

// What a file system's boot sector has where a table's entries are is its code.
func TestBootSectorsOfFileSystemsAreNoTables(t *testing.T) {
	for name, table := range map[string]string{"MSDOS5.0": "mbr", "NTFS    ": "", "EXFAT   ": "", "-FVE-FS-": ""} {
		b := make([]byte, 1<<20)
		copy(b[3:], name)
		copy(b[0x1be:], "\x80\x01\x01\x00\x07\x01\x01\x00\x08\x00\x00\x00\x08\x00\x00\x00")
		copy(b[510:], "\x55\xaa")
		got, err := ReadTable(Disk{ID: "d", Size: int64(len(b)), ReaderAt: bytes.NewReader(b)})
		require.NoError(t, err)
		require.Equal(t, table, got.Kind, name)
	}
}

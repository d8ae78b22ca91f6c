package signature_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/signature"
	"github.com/lifeboat-dr/lifeboat/internal/signature/signaturetest"
)

// lack skips the test, or fails it where everything has to be there.
func lack(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

func tool(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if p, err := exec.LookPath(dir + name); err == nil {
			return p
		}
	}
	lack(t, name+" is not installed")
	return ""
}

const id = "01234567-89ab-cdef-0123-456789abcdef"

func empty(t *testing.T, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "device")
	require.NoError(t, os.WriteFile(name, nil, 0o600))
	require.NoError(t, os.Truncate(name, size))
	return name
}

func probe(t *testing.T, name string) signature.Signature {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	s, err := signature.Probe(f, info.Size())
	require.NoError(t, err)
	return s
}

// blkid says what libblkid reads in a file.
func blkid(t *testing.T, name string) map[string]string {
	t.Helper()
	out, err := exec.Command(tool(t, "blkid"), "-p", "-o", "export", name).CombinedOutput()
	require.NoError(t, err, "%s", out)
	m := map[string]string{}
	for l := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimSpace(l), "=")
		m[k] = strings.ReplaceAll(v, `\ `, " ")
	}
	return m
}

// What the real tools make is recognised as libblkid recognises it.
func TestRealToolsAndBlkid(t *testing.T) {
	for _, c := range []struct {
		kind string
		size int64
		make []string
	}{
		{"ext2", 4 << 20, []string{"mke2fs", "-q", "-F", "-t", "ext2", "-L", "a label", "-U", id}},
		{"ext3", 16 << 20, []string{"mke2fs", "-q", "-F", "-t", "ext3", "-L", "a", "-U", id}},
		{"ext4", 16 << 20, []string{"mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-U", id}},
		{"jbd", 16 << 20, []string{"mke2fs", "-q", "-F", "-O", "journal_dev", "-U", id}},
		{"xfs", 320 << 20, []string{"mkfs.xfs", "-q", "-f", "-L", "data", "-m", "uuid=" + id}},
		{"btrfs", 128 << 20, []string{"mkfs.btrfs", "-q", "-f", "-L", "pool", "-U", id}},
		{"swap", 4 << 20, []string{"mkswap", "-q", "-L", "sw", "-U", id}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			name := empty(t, c.size)
			out, err := exec.Command(tool(t, c.make[0]), append(c.make[1:], name)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			got, want := probe(t, name), blkid(t, name)
			require.Equal(t, c.kind, got.Kind)
			require.Equal(t, want["TYPE"], got.Kind)
			require.Equal(t, want["LABEL"], got.Label)
			require.Equal(t, id, got.UUID)
			if c.kind != "jbd" { // blkid calls that one's LOGUUID
				require.Equal(t, want["UUID"], got.UUID)
			}
		})
	}
}

// What can't be made here without a kernel that has it is written by hand, and
// libblkid takes it for that too.
func TestWrittenSignaturesAndBlkid(t *testing.T) {
	const pv = "abcdef-0123-4567-89ab-cdef-0123-456789"
	for _, c := range []struct {
		kind, id, label string
		devices         int
		want            signature.Signature
	}{
		{"ext4", id, "root", 1, signature.Signature{Kind: "ext4", Use: signature.FileSystem}},
		{"vfat", "ABCD-1234", "EFI", 1, signature.Signature{Kind: "vfat", Use: signature.FileSystem}},
		{"swap", id, "sw", 1, signature.Signature{Kind: "swap", Use: signature.Swap}},
		{"swsuspend", id, "", 1, signature.Signature{Kind: "swsuspend", Use: signature.Swap, Hibernated: true}},
		{"crypto_LUKS", id, "secret", 1, signature.Signature{Kind: "crypto_LUKS", Use: signature.Encrypted, Detail: "version 2"}},
		{"LVM2_member", pv, "", 1, signature.Signature{Kind: "LVM2_member", Use: signature.Member}},
		{"linux_raid_member", id, "host:0", 2, signature.Signature{Kind: "linux_raid_member", Use: signature.Member, Detail: "version 1.2, raid1 of 2", Devices: 2}},
		{"md-1.0", id, "host:0", 2, signature.Signature{Kind: "linux_raid_member", Use: signature.Member, Detail: "version 1.0, raid1 of 2", Devices: 2}},
		{"md-0.90", id, "", 3, signature.Signature{Kind: "linux_raid_member", Use: signature.Member, Detail: "version 0.90, raid1 of 3", Devices: 3}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			name := empty(t, 64<<20)
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			require.NoError(t, err)
			require.NoError(t, signaturetest.Write(f, 64<<20, c.kind, c.id, c.label, c.devices))
			require.NoError(t, f.Close())
			c.want.UUID, c.want.Label = c.id, c.label
			require.Equal(t, c.want, probe(t, name))
			b := blkid(t, name)
			require.Equal(t, c.want.Kind, b["TYPE"], b)
			require.Equal(t, c.want.UUID, b["UUID"])
		})
	}
}

// A mirror's member carries a whole file system: it is the array's all the same.
func TestMembersGoFirst(t *testing.T) {
	name := empty(t, 64<<20)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, signaturetest.Write(f, 64<<20, "ext4", id, "root", 1))
	require.Equal(t, "ext4", probe(t, name).Kind)
	require.NoError(t, signaturetest.Write(f, 64<<20, "md-1.0", id, "host:0", 2))
	require.Equal(t, "linux_raid_member", probe(t, name).Kind)
}

// Names are libblkid's: what reads them elsewhere knows those.
func TestNamesAreBlkids(t *testing.T) {
	out, err := exec.Command(tool(t, "blkid"), "-k").Output()
	require.NoError(t, err)
	known := append(strings.Fields(string(out)), "bcachefs") // since util-linux 2.39
	for _, k := range signature.Kinds() {
		require.Contains(t, known, k)
	}
}

// What a device was before is told too, once each, and doesn't own it.
func TestAllTellsTraces(t *testing.T) {
	const size = 4 << 20
	b := make(buffer, size)
	require.NoError(t, signaturetest.Write(&b, size, "ext4", id, "root", 1))
	for _, m := range []struct {
		off   int64
		magic string
	}{
		{4096, "\xfc\x4e\x2b\xa9"}, {16 << 10, "SKUL\xba\xbe\x00\x02"}, {32 << 10, "SKUL\xba\xbe\x00\x02"}, {512, "LABELONE"},
		{384<<10 + 7<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"}, {size - 128<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"}, {0x36, "FAT16   "},
		{size - 257*512, "\xde\x11\xde\x11"},
	} {
		_, _ = b.WriteAt([]byte(m.magic), m.off)
	}
	own, err := signature.Probe(bytes.NewReader(b), size)
	require.NoError(t, err)
	require.Equal(t, "ext4", own.Kind)
	list, err := signature.All(bytes.NewReader(b), size)
	require.NoError(t, err)
	var kinds []string
	for _, s := range list {
		kinds = append(kinds, s.Kind)
	}
	require.Equal(t, []string{"linux_raid_member", "ddf_raid_member", "crypto_LUKS", "LVM2_member", "ext4", "vfat", "zfs_member"}, kinds)
	require.Contains(t, list, own)

	// None of them is found where they are alone.
	_, _ = b.WriteAt(make([]byte, 1024), 1024)
	own, err = signature.Probe(bytes.NewReader(b), size)
	require.NoError(t, err)
	require.Zero(t, own)

	// What can't be read isn't empty.
	_, err = signature.All(bytes.NewReader(b[:3<<20]), size)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = signature.All(failing{1 << 20}, size)
	require.ErrorContains(t, err, "medium error")
}

type failing struct{ at int64 }

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.at {
		return 0, errors.New("medium error")
	}
	return len(p), nil
}

// A device that can't be read isn't one without a signature.
func TestReadErrors(t *testing.T) {
	for _, at := range []int64{0, 1 << 20, 2 << 20} {
		s, err := signature.Probe(failing{at}, 64<<20)
		require.ErrorContains(t, err, "medium error")
		require.Zero(t, s)
	}
	s, err := signature.Probe(bytes.NewReader(nil), 0)
	require.NoError(t, err)
	require.Zero(t, s)
	s, err = signature.Probe(bytes.NewReader(make([]byte, 600)), 1<<30) // shorter than it says
	require.NoError(t, err)
	require.Zero(t, s)
}

func seeds(f *testing.F) {
	for _, kind := range []string{"ext4", "xfs", "btrfs", "vfat", "swap", "crypto_LUKS", "LVM2_member", "linux_raid_member", "md-1.0", "md-0.90"} {
		var b buffer
		require.NoError(f, signaturetest.Write(&b, 256<<10, kind, id, "label", 2))
		f.Add([]byte(b), int64(256<<10))
	}
	f.Add(make([]byte, 512), int64(512))
}

func sane(t *testing.T, s signature.Signature) {
	for _, text := range []string{s.Kind, s.Label, s.UUID, s.Detail} {
		if strings.ContainsAny(text, "\x00\n\x1b") {
			t.Fatalf("%q can't be printed", text)
		}
	}
	if (s.Kind == "") != (s.Use == "") {
		t.Fatalf("%+v", s)
	}
}

func FuzzProbe(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		s, err := signature.Probe(bytes.NewReader(b), size)
		if err != nil {
			t.Fatalf("a reader that doesn't fail: %v", err)
		}
		sane(t, s)
	})
}

func FuzzAll(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		list, err := signature.All(bytes.NewReader(b), size)
		if size > int64(len(b)) {
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			return
		}
		require.NoError(t, err)
		own, err := signature.Probe(bytes.NewReader(b), size)
		require.NoError(t, err)
		if own.Kind != "" && !slices.ContainsFunc(list, func(s signature.Signature) bool { return s.Kind == own.Kind && s.UUID == own.UUID }) {
			t.Fatalf("%+v owns it, and isn't one of %+v", own, list)
		}
		for _, s := range list {
			sane(t, s)
		}
	})
}

type buffer []byte

func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(*b) {
		*b = append(*b, make([]byte, need-len(*b))...)
	}
	return copy((*b)[off:], p), nil
}

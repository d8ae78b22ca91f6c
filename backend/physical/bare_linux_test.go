package physical

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/disklayout"
	"github.com/lifeboat-dr/lifeboat/internal/signature"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// part gives a disk a GPT by a script of sfdisk's.
func part(t *testing.T, device, script string) {
	t.Helper()
	out, err := command(t, "bash", "-ec", `printf '%b' "$1" | sfdisk -q --no-reread --no-tell-kernel "$0"`, device, script)
	require.NoError(t, err, out)
}

// loopOn makes a loop device with options over a new file.
func loopOn(t *testing.T, size int64, options ...string) (device string) {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "loop devices need root")
	}
	file := filepath.Join(t.TempDir(), "backing.img")
	require.NoError(t, errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)))
	device, err := command(t, "losetup", append(options, "--find", "--show", file)...)
	if err != nil {
		lack(t, "losetup can't make a loop device: "+device)
	}
	t.Cleanup(func() { _, _ = command(t, "losetup", "-d", device) })
	return device
}

// bareHost is a host of one machine of one disk.
func bareHost(t *testing.T, root, device string, givenUp bool) *Host {
	t.Helper()
	h, err := Open(Config{Root: root, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Machines: []Machine{
		{ID: "m", Power: dr.Off, Disks: []Disk{{ID: "d", Path: device, GivenUp: givenUp}}}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

// captured captures a machine that is off.
func captured(t *testing.T, h *Host, name dr.PointID) dr.Point {
	t.Helper()
	img, err := h.Capture(t.Context(), "m", name, dr.CrashConsistent)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	require.NoError(t, h.Release(t.Context(), "m", name))
	return img.Point()
}

func drafted(h *Host, p dr.PointID) error {
	d, err := h.Draft(context.Background(), "m", dr.Point{ID: p})
	if err != nil {
		return err
	}
	return errors.Join(d.Commit(context.Background(), dr.Point{ID: p}), d.Close())
}

func foreignTo(t *testing.T, h *Host, says ...string) {
	t.Helper()
	m, err := h.Machine(t.Context(), "m")
	require.NoError(t, err)
	_, prepare := h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: m})
	for _, err := range []error{prepare, drafted(h, "p")} {
		var foreign *ForeignError
		require.ErrorAs(t, err, &foreign)
		require.ErrorIs(t, err, dr.ErrExists)
		require.True(t, dr.IsPermanent(err))
		for i, s := range says {
			require.Contains(t, foreign.What[i], s)
		}
		require.ErrorContains(t, err, "givenUp")
	}
}

func TestForeignDiskIsNeverWrittenWithoutTheWord(t *testing.T) {
	for _, c := range []struct{ kind, make string }{
		{"ext4", "mkfs.ext4 -q -F $0"}, {"swap", "mkswap -q $0"}, {"xfs", "mkfs.xfs -q -f $0"}, {"btrfs", "mkfs.btrfs -q -f $0"},
		{"LVM2_member", `printf 'LABELONE\0\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001' | dd of=$0 bs=512 seek=1 conv=notrunc status=none`},
		{"linux_raid_member", `printf '\xfc\x4e\x2b\xa9' | dd of=$0 bs=4096 seek=1 conv=notrunc status=none`},
		{"crypto_LUKS", `printf 'LUKS\xba\xbe\0\x02' | dd of=$0 conv=notrunc status=none`},
		{"gpt", `echo 'label: gpt' | sfdisk -q --no-reread --no-tell-kernel $0`},
	} {
		t.Run(c.kind, func(t *testing.T) {
			device := loopOn(t, 310<<20)
			out, err := command(t, "bash", "-ec", c.make, device)
			require.NoError(t, err, out)
			root := t.TempDir()
			h := bareHost(t, root, device, false)
			foreignTo(t, h, c.kind)
			require.NoError(t, h.Close())
			h = bareHost(t, root, device, true)
			m, err := h.Machine(t.Context(), "m")
			require.NoError(t, err)
			r, err := h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: m})
			require.NoError(t, err)
			require.True(t, r.Torn, "what is on it is of no worth")
			require.NoError(t, drafted(h, "p"))
		})
	}
	// A raw volume of a database, or ciphertext without a header.
	for _, at := range []int64{1<<20 - 1, 64<<20 + 100, 128<<20 - 1} {
		device := loopOn(t, 128<<20)
		f, err := os.OpenFile(device, os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte{1}, at)
		require.NoError(t, errors.Join(err, f.Close()))
		h := bareHost(t, t.TempDir(), device, false)
		foreignTo(t, h, fmt.Sprintf("data of no known kind at byte %d", at))
	}
	// What is blank is anybody's.
	require.NoError(t, drafted(bareHost(t, t.TempDir(), loopOn(t, 16<<20), false), "p"))
}

// What fills a disk stays what it is when its kind's name changes.
func TestGrownFileSystemIsKnownAgain(t *testing.T) {
	looks := func(kind, uuid string) seen {
		s := signature.Signature{Kind: kind, Use: signature.FileSystem, UUID: uuid}
		return seen{Path: "/dev/x", Size: 1, Content: content([]disklayout.Signature{{Where: "whole disk", Signature: s}})}
	}
	was := looks("ext3", "11111111-2222-3333-4444-555555555555")
	require.True(t, was.knows(looks("ext4", "11111111-2222-3333-4444-555555555555"), false))
	require.False(t, was.knows(looks("ext3", "99999999-2222-3333-4444-555555555555"), false))
	require.False(t, was.knows(looks("ext3", ""), false))
}

// The machine that was replicated gets its own disks back without a word; a
// disk that somebody put in its place, it doesn't.
func TestOwnDiskIsKnownAgain(t *testing.T) {
	const gpt = "label: gpt\nlabel-id: %s\nfirst-lba: 34\nstart=40,size=20000\n"
	mine, theirs := "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"
	device, root := loopOn(t, 16<<20), t.TempDir()
	part(t, device, strings.ReplaceAll(gpt, "%s", mine))
	h := bareHost(t, root, device, false)
	foreignTo(t, h, "gpt "+mine)
	require.ErrorIs(t, h.Remove(t.Context(), "other"), nil)
	captured(t, h, "a")
	// It runs, and what is in its partition changes.
	require.NoError(t, h.Start(t.Context(), "m"))
	out, err := command(t, "mkfs.ext4", "-q", "-F", "-E", "offset=20480", device, "9M")
	require.NoError(t, err, out)
	require.NoError(t, h.Stop(t.Context(), "m"))
	require.NoError(t, h.Close())

	h = bareHost(t, root, device, false)
	d, err := h.Draft(t.Context(), "m", dr.Point{ID: "b"})
	require.NoError(t, err, "it is still its disk")
	junk := make([]byte, 1<<20)
	_, _ = rand.Read(junk)
	_, err = d.WriteAt(t.Context(), "d", junk, 4<<20)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.NoError(t, h.Close())

	// Torn, with whatever is on it by now: it is copied to again.
	part(t, device, strings.ReplaceAll(gpt, "%s", theirs))
	h = bareHost(t, root, device, false)
	require.NoError(t, drafted(h, "c"))
	// What came by the copy is its own from here on.
	require.NoError(t, drafted(h, "d"))
	m, err := h.Machine(t.Context(), "m")
	require.NoError(t, err)
	r, err := h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: m})
	require.NoError(t, err)
	require.Equal(t, backend.Replica{ID: "m", Holds: "d"}, r)
	require.NoError(t, h.Close())

	// Another disk at the same path.
	part(t, device, strings.ReplaceAll(gpt, "%s", mine))
	h = bareHost(t, root, device, false)
	foreignTo(t, h, "gpt "+mine)
	require.NoError(t, h.Close())
	h = bareHost(t, root, device, true)
	r, err = h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: m})
	require.NoError(t, err)
	require.Equal(t, backend.Replica{ID: "m", Torn: true}, r, "it holds nothing of ours")
	require.NoError(t, h.Close())

	// The same table on other hardware: a copy of our disk that somebody made.
	part(t, device, strings.ReplaceAll(gpt, "%s", theirs))
	h = bareHost(t, root, device, false)
	h.hardware = func(string) (string, error) { return "wwn-1", nil }
	captured(t, h, "e")
	require.NoError(t, drafted(h, "f"))
	h.hardware = func(string) (string, error) { return "wwn-2", nil }
	foreignTo(t, h, "gpt "+theirs)
}

// A copy of a machine's disk on a larger one: what tools say of it once the
// machine was started, and what the kernel sees.
func TestLargerBareDiskIsMadeReady(t *testing.T) {
	if _, err := command(t, "sgdisk", "--version"); err != nil {
		lack(t, "sgdisk is not installed")
	}
	source, target := loopOn(t, 32<<20), loopOn(t, 48<<20, "-P")
	part(t, source, "label: gpt\nstart=2048,size=8192,name=EFI\nstart=10240,size=40960,name=root\n")
	ext4(t, target) // somebody's
	// A partition that the kernel has of before, whatever tables it can read.
	out, err := command(t, "addpart", target, "9", "8192", "8192")
	require.NoError(t, err, out)
	stale := "/sys/class/block/" + filepath.Base(target) + "p9"
	require.FileExists(t, stale+"/partition")
	home := bareHost(t, t.TempDir(), source, false)
	p := captured(t, home, "p")

	tracker := NewBitmapTracker(0)
	started := 0
	root := t.TempDir()
	cfg := Config{Root: root, Tracker: tracker, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Machines: []Machine{{ID: "m", Power: dr.Off, Disks: []Disk{{ID: "x", Path: target, GivenUp: true}}}},
		Hooks: Hooks{Start: func(context.Context, Event) error {
			started++
			out, err := command(t, "sgdisk", "-v", target)
			require.NoError(t, err, out)
			require.Contains(t, out, "No problems found", "before the machine starts")
			return nil
		}}}
	h, err := Open(cfg)
	require.NoError(t, err)
	defer h.Close()
	r, err := h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: p.Machine})
	require.NoError(t, err)
	require.True(t, r.Torn)
	img, err := home.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	d, err := h.Draft(t.Context(), "m", p)
	require.NoError(t, err)
	_, err = replication.Copy(t.Context(), d, img, replication.CopyOptions{})
	require.NoError(t, err)
	require.NoError(t, errors.Join(d.Close(), img.Close()))
	require.NoFileExists(t, stale+"/partition", "the kernel goes by the table from before")
	out, err = command(t, "sgdisk", "-v", target)
	require.NotContains(t, out, "No problems found", "%s %v", out, err)

	// A first attempt fails behind the table; the machine holds nothing then.
	h.reread = func(string) error { return nil }
	require.NoError(t, h.Start(t.Context(), "m"))
	require.Equal(t, 1, started)
	out, err = command(t, "sfdisk", "--verify", target)
	require.NoError(t, err, out)
	require.NotContains(t, out, "backup")

	// What was changed of it is a change since the point.
	require.NoError(t, h.Stop(t.Context(), "m"))
	after, err := h.Capture(t.Context(), "m", "after", dr.CrashConsistent)
	require.NoError(t, err)
	defer after.Close()
	changed, _ := dr.As[dr.ChangeTracker](after)
	var first, end bool
	var n int64
	for e, err := range changed.Changes(t.Context(), "d", p) {
		require.NoError(t, err)
		first = first || e.Off == 0
		end = end || e.End() == 48<<20
		n += e.Len
	}
	require.True(t, first && end)
	require.LessOrEqual(t, n, int64(16<<20+128<<10), "the new part, and the first block")
}

// The rest of a larger disk is cleared: all of it where the device can do that
// by itself, else the end, where old labels are.
func TestRestOfALargerDiskIsCleared(t *testing.T) {
	const size, used = 6 << 20, 1<<20 + 512
	for _, can := range []bool{true, false} {
		device := loopOn(t, size)
		junk := make([]byte, size)
		_, _ = rand.Read(junk)
		copy(junk[(size/512-16)&^7*512:], "\xfc\x4e\x2b\xa9") // an old RAID's label
		require.NoError(t, os.WriteFile(device, junk, 0o600))
		h := bareHost(t, t.TempDir(), device, true)
		if !can {
			h.deallocate = func(string, int64, int64) (bool, error) { return false, nil }
		}
		d, err := h.Draft(t.Context(), "m", dr.Point{ID: "p", Machine: dr.Machine{Disks: []dr.Disk{{ID: "d", Size: used}}}})
		require.NoError(t, err)
		require.NoError(t, errors.Join(d.Commit(t.Context(), dr.Point{ID: "p"}), d.Close()))
		b, err := os.ReadFile(device)
		require.NoError(t, err)
		require.Equal(t, junk[:used], b[:used], "what the copy reaches is the copy's")
		from := size - 1<<20
		if can {
			from = used/4096*4096 + 4096
		}
		require.Equal(t, junk[used:from], b[used:from])
		require.Equal(t, make([]byte, size-from), b[from:])
		// Once is enough, until the machine has run.
		calls := 0
		h.deallocate = func(string, int64, int64) (bool, error) { calls++; return true, nil }
		p := dr.Point{ID: "q", Machine: dr.Machine{Disks: []dr.Disk{{ID: "d", Size: used}}}}
		for _, want := range []int{0, 1} {
			d, err = h.Draft(t.Context(), "m", p)
			require.NoError(t, err)
			require.NoError(t, errors.Join(d.Commit(t.Context(), p), d.Close()))
			require.Equal(t, want, calls)
			require.NoError(t, h.Start(t.Context(), "m"))
			require.NoError(t, h.Stop(t.Context(), "m"))
		}
		p.Machine.Disks[0].Size -= 512 // more is behind
		for want := 2; want < 4; want++ {
			d, err = h.Draft(t.Context(), "m", p)
			require.NoError(t, err)
			require.NoError(t, d.Close())
			require.Equal(t, want, calls, "without a commit nobody knows whether it is durable")
		}
	}
}

// The table of a disk with sectors of 512 bytes is none on one with 4096.
func TestTableOfOtherSectorsIsRefused(t *testing.T) {
	device := loopOn(t, 16<<20, "-b", "4096")
	table := loopOn(t, 16<<20)
	part(t, table, "label: gpt\nfirst-lba: 34\nstart=40,size=20000\n")
	b, err := os.ReadFile(table)
	require.NoError(t, err)
	root := t.TempDir()
	h := bareHost(t, root, device, true)
	d, err := h.Draft(t.Context(), "m", dr.Point{ID: "p"})
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), "d", b[:1<<20], 0)
	var sectors *SectorError
	require.ErrorAs(t, err, &sectors, "refused before much was copied")
	require.Equal(t, &SectorError{device, 512, 4096}, sectors)
	require.ErrorIs(t, err, dr.ErrUnsupported)
	require.NoError(t, d.Close())

	// Another road to the disk: found before it is started.
	d, err = h.Draft(t.Context(), "m", dr.Point{ID: "p"})
	require.NoError(t, err)
	for off := 0; off < 1<<20; off += 512 {
		if off != 512 {
			_, err = d.WriteAt(t.Context(), "d", b[off:][:512], int64(off))
			require.NoError(t, err)
		}
	}
	_, err = d.WriteAt(t.Context(), "d", b[512:516], 512)
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), "d", b[516:1024], 516)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context(), dr.Point{ID: "p"}))
	require.NoError(t, d.Close())
	err = h.Start(t.Context(), "m")
	require.ErrorAs(t, err, &sectors)
	m, err := h.Machine(t.Context(), "m")
	require.NoError(t, err)
	require.Equal(t, dr.Off, m.Power)

	// An MBR doesn't say what it counts in; what is found by it does.
	other := loopOn(t, 16<<20)
	part(t, other, "label: dos\nstart=64,size=20000\n")
	out, err := command(t, "mkfs.ext4", "-q", "-F", "-E", "offset=32768", other, "9M")
	require.NoError(t, err, out)
	b, err = os.ReadFile(other)
	require.NoError(t, err)
	h2 := bareHost(t, t.TempDir(), loopOn(t, 16<<20, "-b", "4096"), true)
	d, err = h2.Draft(t.Context(), "m", dr.Point{ID: "p"})
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), "d", b, 0)
	require.NoError(t, err)
	require.NoError(t, errors.Join(d.Commit(t.Context(), dr.Point{ID: "p"}), d.Close()))
	require.ErrorAs(t, h2.Start(t.Context(), "m"), &sectors)
}

// partition makes a partition of a device for the kernel, whatever tables that
// can read, and a node of it.
func partition(t *testing.T, device string) string {
	t.Helper()
	out, err := command(t, "addpart", device, "1", "2048", "40960")
	require.NoError(t, err, out)
	name := filepath.Base(device) + "p1"
	b, err := os.ReadFile("/sys/class/block/" + name + "/dev")
	require.NoError(t, err)
	var major, minor uint32
	_, err = fmt.Sscanf(string(b), "%d:%d", &major, &minor)
	require.NoError(t, err)
	node := filepath.Join(t.TempDir(), name)
	require.NoError(t, unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))))
	return node
}

// Given up or not: a disk whose partition is in use is never written.
func TestGivenUpDiskInUseIsNeverWritten(t *testing.T) {
	device := loopOn(t, 32<<20, "-P")
	node := partition(t, device)
	h := bareHost(t, t.TempDir(), device, true)
	ext4(t, node)
	unmount := mount(t, node)
	refuses(t, h, device, "a mount point")
	// The kernel keeps the table of a disk that is in use, and says so.
	require.ErrorIs(t, rereadTable(device), unix.EBUSY)
	unmount()
	out, err := command(t, "mkswap", node)
	require.NoError(t, err, out)
	if out, err := command(t, "swapon", node); err == nil {
		refuses(t, h, device, "swap")
		out, err = command(t, "swapoff", node)
		require.NoError(t, err, out)
	} else {
		t.Logf("swap not checked: %s", out)
	}
	// Below another device, as a volume group's active member is.
	upper, err := command(t, "losetup", "--find", "--show", node)
	require.NoError(t, err, upper)
	t.Cleanup(func() { _, _ = command(t, "losetup", "-d", upper) })
	refuses(t, h, device, upper)
	out, err = command(t, "losetup", "-d", upper)
	require.NoError(t, err, out)
	require.NoError(t, drafted(h, "p"))
}

// An interrupted copy to a blank disk can be repeated without a word: to that
// disk, and to no other.
func TestInterruptedCopyToABlankDiskIsRepeated(t *testing.T) {
	device, root := loopOn(t, 16<<20), t.TempDir()
	h := bareHost(t, root, device, false)
	h.hardware = func(string) (string, error) { return "wwn-1", nil }
	d, err := h.Draft(t.Context(), "m", dr.Point{ID: "p"})
	require.NoError(t, err)
	part(t, device, "label: gpt\nfirst-lba: 34\nstart=40,size=20000\n")
	require.NoError(t, errors.Join(d.Close(), h.Close()))

	h = bareHost(t, root, device, false)
	h.hardware = func(string) (string, error) { return "wwn-2", nil }
	foreignTo(t, h, "gpt")
	h.hardware = func(string) (string, error) { return "wwn-1", nil }
	require.NoError(t, drafted(h, "p"))

	// So can one to the blank disk that was put in its place.
	out, err := command(t, "blkdiscard", "-z", device)
	require.NoError(t, err, out)
	h.hardware = func(string) (string, error) { return "wwn-3", nil }
	m, err := h.Machine(t.Context(), "m")
	require.NoError(t, err)
	r, err := h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: m})
	require.NoError(t, err)
	require.Empty(t, r.Holds)
	d, err = h.Draft(t.Context(), "m", dr.Point{ID: "q"})
	require.NoError(t, err)
	part(t, device, "label: gpt\nfirst-lba: 34\nstart=40,size=20000\n")
	require.NoError(t, d.Close())
	require.NoError(t, drafted(h, "q"))
	h.hardware = func(string) (string, error) { return "wwn-1", nil }
	foreignTo(t, h, "gpt")
}

// Of the disks that are given up only those that were copied to are the machine's.
func TestDiskThatWasNotCopiedToStaysForeign(t *testing.T) {
	a, b, root := loopOn(t, 16<<20), loopOn(t, 16<<20), t.TempDir()
	part(t, b, "label: gpt\nfirst-lba: 34\nstart=40,size=20000\n")
	for _, givenUp := range []bool{true, false} {
		h, err := Open(Config{Root: root, Machines: []Machine{{ID: "m", Power: dr.Off,
			Disks: []Disk{{ID: "a", Path: a, GivenUp: true}, {ID: "b", Path: b, GivenUp: givenUp}}}}})
		require.NoError(t, err)
		p := dr.Point{ID: "p", Machine: dr.Machine{Disks: []dr.Disk{{ID: "a", Size: 1 << 20}}}}
		d, err := h.Draft(t.Context(), "m", p)
		if givenUp {
			require.NoError(t, err)
			require.NoError(t, errors.Join(d.Commit(t.Context(), p), d.Close()))
		} else {
			var foreign *ForeignError
			require.ErrorAs(t, err, &foreign)
			require.Equal(t, b, foreign.Path)
		}
		require.NoError(t, h.Close())
	}
}

// A disk that is exchanged between Prepare, which tells what the disks hold, and
// the draft doesn't get a delta over something else.
func TestDiskExchangedBehindPrepareGetsNoDelta(t *testing.T) {
	device := loopOn(t, 16<<20)
	h := bareHost(t, t.TempDir(), device, true)
	h.hardware = func(string) (string, error) { return "wwn-1", nil }
	require.NoError(t, drafted(h, "p"))
	m, err := h.Machine(t.Context(), "m")
	require.NoError(t, err)
	place := backend.Placement{Original: "m", Machine: m}
	r, err := h.Prepare(t.Context(), place)
	require.NoError(t, err)
	require.Equal(t, dr.PointID("p"), r.Holds)
	h.hardware = func(string) (string, error) { return "wwn-2", nil }
	require.ErrorIs(t, drafted(h, "q"), dr.ErrConflict)
	r, err = h.Prepare(t.Context(), place)
	require.NoError(t, err)
	require.Equal(t, backend.Replica{ID: "m", Torn: true}, r)
	require.NoError(t, drafted(h, "q"))
}

// The tracker tells what was written to a disk, and nothing of the one that has
// been put in its place.
func TestChangesOfAnExchangedDiskAreLost(t *testing.T) {
	for _, power := range []dr.Power{dr.Off, dr.On} {
		for _, by := range []string{"its own name", "its table"} {
			if power == dr.On && by == "its table" {
				continue // a table of a machine that runs is changed by the machine
			}
			device := loopOn(t, 16<<20)
			part(t, device, "label: gpt\nfirst-lba: 34\nstart=40,size=20000\n")
			h, err := Open(Config{Root: t.TempDir(), Tracker: NewBitmapTracker(0), Machines: []Machine{
				{ID: "m", Power: power, Disks: []Disk{{ID: "d", Path: device}}}}})
			require.NoError(t, err)
			t.Cleanup(func() { _ = h.Close() })
			h.hardware = func(string) (string, error) { return "wwn-1", nil }
			changes := func(name dr.PointID, since dr.Point) (dr.Point, error) {
				img, err := h.Capture(t.Context(), "m", name, dr.CrashConsistent)
				require.NoError(t, err)
				if s, ok := dr.As[dr.Settler](img); ok {
					_, err := s.Settle(t.Context())
					require.NoError(t, err)
				}
				defer img.Close()
				c, ok := dr.As[dr.ChangeTracker](img)
				require.True(t, ok)
				for _, err := range c.Changes(t.Context(), "d", since) {
					if err != nil {
						return img.Point(), err
					}
				}
				return img.Point(), nil
			}
			a, _ := changes("a", dr.Point{})
			b, err := changes("b", a)
			require.NoError(t, err, "%s %s", power, by)
			if by == "its table" {
				part(t, device, "label: gpt\nfirst-lba: 34\nstart=40,size=20000\n")
			} else {
				h.hardware = func(string) (string, error) { return "wwn-2", nil }
			}
			_, err = changes("c", b)
			require.ErrorIs(t, err, dr.ErrChangesLost, "%s %s", power, by)
		}
	}
}

// Two paths to one logical unit that no multipath joins are one disk, given up or
// not.
func TestTwoPathsToOneUnitAreNotTwoDisks(t *testing.T) {
	a, b := loopOn(t, 1<<20), loopOn(t, 1<<20)
	h, err := Open(Config{Root: t.TempDir(), Machines: []Machine{{ID: "m", Power: dr.Off,
		Disks: []Disk{{ID: "a", Path: a, GivenUp: true}, {ID: "b", Path: b, GivenUp: true}}}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	names := map[string]string{}
	h.hardware = func(path string) (string, error) { return names[path], nil }
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"naa.1", "naa.1", true}, {"eui.1", "eui.1 partition 2", true}, {"nvme.1 partition 2", "nvme.1 partition 2", true},
		{"naa.1", "naa.2", false}, {"naa.1 partition 1", "naa.1 partition 2", false}, {"0123456789", "0123456789", false}, {"", "", false},
	} {
		names[a], names[b] = c.a, c.b
		m, err := h.Machine(t.Context(), "m")
		require.NoError(t, err)
		_, err = h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: m})
		require.NoError(t, err)
		err = drafted(h, "p")
		if c.same {
			require.ErrorIs(t, err, dr.ErrInvalid, "%v", c)
			require.ErrorContains(t, err, b)
		} else {
			require.NoError(t, err, "%v", c)
		}
	}
}

// A device that writes zeros instead of forgetting blocks isn't waited for.
func TestSlowDeviceIsClearedAtItsEndAlone(t *testing.T) {
	const size = 8 << 30
	device := loopOn(t, size)
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt(make([]byte, 4096-1), size-4096)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{1}, size-1)
	require.NoError(t, errors.Join(err, f.Sync()))
	h := bareHost(t, t.TempDir(), device, true)
	calls := 0
	h.deallocate = func(string, int64, int64) (bool, error) {
		calls++
		time.Sleep(25 * time.Second)
		return true, nil
	}
	synctest.Test(t, func(t *testing.T) {
		p := dr.Point{ID: "p", Machine: dr.Machine{Disks: []dr.Disk{{ID: "d", Size: 1 << 20}}}}
		d, err := h.Draft(t.Context(), "m", p)
		require.NoError(t, err)
		require.NoError(t, errors.Join(d.Commit(t.Context(), p), d.Close()))
	})
	require.Equal(t, 3, calls)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, size-1)
	require.NoError(t, err)
	require.Equal(t, []byte{0}, b)
}

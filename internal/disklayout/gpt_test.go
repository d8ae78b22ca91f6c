package disklayout

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

// medium is a disk in memory that fails on demand, and that remembers in what
// order it was written and synced.
type medium struct {
	b    []byte
	ops  []op
	stop int // operations until it fails; 0: never
}

type op struct {
	off  int64 // negative: a sync
	data []byte
}

var errPower = errors.New("power is off")

func (m *medium) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *medium) step(o op) error {
	m.ops = append(m.ops, o)
	if m.stop > 0 && len(m.ops) >= m.stop {
		return errPower
	}
	return nil
}

func (m *medium) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m.b)) {
		return 0, io.ErrShortWrite
	}
	if err := m.step(op{off, bytes.Clone(p)}); err != nil {
		return 0, err
	}
	return copy(m.b[off:], p), nil
}

func (m *medium) Sync() error { return m.step(op{off: -1}) }

const twoPartitions = "label: gpt\nfirst-lba: 34\nstart=40,size=200,name=EFI\nstart=400,size=600\n"

// larger is the table that sfdisk made of a disk of a megabyte, on one that is
// larger by some bytes.
func larger(t testing.TB, script string, by int64) *medium {
	t.Helper()
	guestfstest.Has(t, "sfdisk")
	name := filepath.Join(t.TempDir(), "small")
	require.NoError(t, os.WriteFile(name, make([]byte, 1<<20), 0o600))
	guestfstest.Run(t, "bash", "-ec", `printf '%b' "$1" | sfdisk -q "$0"`, name, script)
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return &medium{b: append(b, make([]byte, by)...)}
}

// verified has sgdisk and sfdisk look at a disk, and returns what they say.
func verified(t testing.TB, b []byte) (said string, good bool) {
	t.Helper()
	guestfstest.Has(t, "sgdisk")
	guestfstest.Has(t, "sfdisk")
	name := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(name, b, 0o600))
	gd, err := exec.Command("sgdisk", "-v", name).CombinedOutput()
	good = err == nil && bytes.Contains(gd, []byte("No problems found"))
	fd, err := exec.Command("sfdisk", "--verify", name).CombinedOutput()
	good = good && err == nil && !bytes.Contains(fd, []byte("The backup GPT table is"))
	return string(gd) + string(fd), good
}

func TestBackupIsMovedToTheEndAsToolsWantIt(t *testing.T) {
	m := larger(t, twoPartitions, 16<<20)
	said, good := verified(t, m.b)
	require.False(t, good, "the tools see that it isn't there yet: %s", said)
	got, err := MoveBackup(m, int64(len(m.b)), 512)
	require.NoError(t, err)
	require.Empty(t, got.Alone)
	require.Equal(t, int64(1<<20-512), got.From)
	require.Equal(t, int64(len(m.b)-512), got.To)
	said, good = verified(t, m.b)
	require.True(t, good, said)

	// The backup alone names the same partitions.
	for _, spoil := range []int64{0, 512} {
		b := bytes.Clone(m.b)
		clear(b[512:1024])
		if spoil == 0 {
			b = m.b
		}
		list, err := gptPartitions(Disk{ID: "d", Size: int64(len(b)), ReaderAt: bytes.NewReader(b)}, &Table{})
		require.NoError(t, err)
		require.Len(t, list, 2)
		require.Equal(t, "EFI", list[0].PartLabel)
		require.EqualValues(t, 600*512, list[1].Size)
	}

	// What is right is left alone.
	m.ops = nil
	got, err = MoveBackup(m, int64(len(m.b)), 512)
	require.NoError(t, err)
	require.Empty(t, got.Wrote)
	require.Empty(t, m.ops)
}

// At whatever operation the power fails, and whatever of the unsynced writes
// arrived, the table can be read, by the primary header and its own backup; and
// repeating ends well.
func TestPowerMayFailWhileTheBackupIsMoved(t *testing.T) {
	start := larger(t, twoPartitions, 1<<20)
	whole := &medium{b: bytes.Clone(start.b)}
	_, err := MoveBackup(whole, int64(len(whole.b)), 512)
	require.NoError(t, err)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for stop := 1; stop <= len(whole.ops); stop++ {
		for range 8 {
			m := &medium{b: bytes.Clone(start.b), stop: stop}
			_, err := MoveBackup(m, int64(len(m.b)), 512)
			require.ErrorIs(t, err, errPower)
			// What wasn't synced arrives in part, by sectors.
			b := bytes.Clone(start.b)
			synced := 0
			for i, o := range m.ops[:stop-1] {
				if o.off < 0 {
					synced = i
				}
			}
			for i, o := range m.ops {
				for at := 0; at < len(o.data); at += 512 {
					if i < synced || rnd.IntN(2) == 0 {
						copy(b[int(o.off)+at:], o.data[at:min(at+512, len(o.data))])
					}
				}
			}
			h, entries, err := readHeader(bytes.NewReader(b), int64(len(b)), 512, 512)
			require.NoError(t, err, "stopped at operation %d", stop)
			_, backup, err := readHeader(bytes.NewReader(b), int64(len(b)), 512, int64(h.other)*512)
			require.NoError(t, err, "stopped at operation %d: the backup that the header names", stop)
			require.True(t, bytes.Equal(entries, backup))

			again := &medium{b: b}
			_, err = MoveBackup(again, int64(len(b)), 512)
			require.NoError(t, err)
			require.True(t, bytes.Equal(whole.b, again.b), "stopped at operation %d", stop)
		}
	}
}

func TestTablesThatAreLeftAlone(t *testing.T) {
	for _, c := range []struct {
		what  string
		spoil func(b []byte)
		why   string
	}{
		{"a damaged header", func(b []byte) { b[512+60] ^= 1 }, "wrong sum"},
		{"damaged partitions", func(b []byte) { b[1024+40] ^= 1 }, "wrong sum"},
		{"no header", func(b []byte) { clear(b[512:1024]) }, "no header"},
		{"no protection", func(b []byte) { clear(b[:512]) }, "no protective MBR"},
		{"a hybrid", func(b []byte) { b[0x1ce+4] = 0x83; b[0x1ce+12] = 1 }, "partitions of its own"},
	} {
		m := larger(t, twoPartitions, 1<<20)
		c.spoil(m.b)
		got, err := MoveBackup(m, int64(len(m.b)), 512)
		require.NoError(t, err, c.what)
		require.True(t, got.Table)
		require.Contains(t, got.Alone, c.why, c.what)
		require.Empty(t, m.ops, c.what)
	}
	// On a smaller disk, and of another sector size.
	m := larger(t, twoPartitions, 0)
	got, err := MoveBackup(m, 900<<10, 512)
	require.NoError(t, err)
	require.NotEmpty(t, got.Alone)
	got, err = MoveBackup(m, int64(len(m.b)), 4096)
	require.NoError(t, err)
	require.Contains(t, got.Alone, "no header")
	sector, err := SectorOf(m, int64(len(m.b)))
	require.NoError(t, err)
	require.EqualValues(t, 512, sector)
	clear(m.b[:512])
	sector, err = SectorOf(m, int64(len(m.b)))
	require.NoError(t, err)
	require.Zero(t, sector, "somebody's that was left behind")
	require.Empty(t, m.ops)

	// Other tables know no end.
	m = larger(t, "label: dos\nstart=64,size=1000\n", 1<<20)
	got, err = MoveBackup(m, int64(len(m.b)), 512)
	require.NoError(t, err)
	require.Equal(t, Moved{}, got)
}

// Whatever a header says, with sums that are right: it is moved, or left alone,
// and nothing is written where partitions are.
func FuzzMoveBackup(f *testing.F) {
	f.Add(uint16(2047), uint16(34), uint16(2014), uint16(2), uint32(128), uint32(128), uint16(40), uint16(239), uint16(3000), false)
	f.Add(uint16(2047), uint16(34), uint16(2014), uint16(2), uint32(128), uint32(128), uint16(40), uint16(239), uint16(2048), false)
	f.Add(uint16(255), uint16(6), uint16(250), uint16(2), uint32(128), uint32(128), uint16(40), uint16(200), uint16(300), true)
	f.Fuzz(func(t *testing.T, other, first, last, at uint16, count, each uint32, from, to, sectors uint16, big bool) {
		sector := 512
		if big {
			sector = 4096
		}
		sectors %= 4096
		if sectors < 4 {
			return
		}
		b := make([]byte, int(sectors)*sector)
		b[510], b[511], b[0x1be+4], b[0x1be+8] = 0x55, 0xaa, 0xee, 1
		h := b[sector:]
		copy(h, "EFI PART")
		le.PutUint32(h[12:], 92)
		for off, v := range map[int]uint16{24: 1, 32: other, 40: first, 48: last, 72: at} {
			le.PutUint64(h[off:], uint64(v))
		}
		le.PutUint32(h[80:], count)
		le.PutUint32(h[84:], each)
		if e := int(at) * sector; e+4096 <= len(b) && e >= 2*sector && each >= 48 {
			b[e] = 1
			le.PutUint64(b[e+32:], uint64(from))
			le.PutUint64(b[e+40:], uint64(to))
			if n := uint64(count) * uint64(each); n < uint64(len(b)-e) {
				le.PutUint32(h[88:], crc32.ChecksumIEEE(b[e:][:n]))
			}
		}
		le.PutUint32(h[16:], header{raw: h[:92]}.sum())
		m := &medium{b: b}
		got, err := MoveBackup(m, int64(len(b)), int64(sector))
		require.NoError(t, err)
		if len(got.Wrote) == 0 {
			return
		}
		for _, w := range got.Wrote {
			require.False(t, w[0] < (int64(to)+1)*int64(sector) && w[0]+w[1] > int64(from)*int64(sector), "a partition was written to")
		}
		m.ops = nil
		again, err := MoveBackup(m, int64(len(b)), int64(sector))
		require.NoError(t, err)
		require.Empty(t, again.Wrote, "what was moved is where it belongs")
		require.Empty(t, again.Alone)
	})
}

// A count that is negative as an int of 32 bits is refused as any other that is
// too large.
func TestTableOfTooManyPartitions(t *testing.T) {
	b := make([]byte, 64<<10)
	copy(b[510:], "\x55\xaa")
	b[0x1be+4] = 0xee
	h := b[512:]
	copy(h, "EFI PART")
	binary.LittleEndian.PutUint32(h[12:], 92)
	binary.LittleEndian.PutUint64(h[72:], 2)
	binary.LittleEndian.PutUint32(h[80:], 0xffffffff)
	binary.LittleEndian.PutUint32(h[84:], 128)
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	_, err := ReadTable(Disk{ID: "d", Size: int64(len(b)), ReaderAt: bytes.NewReader(b)})
	require.ErrorIs(t, err, dr.ErrCorrupt)
}

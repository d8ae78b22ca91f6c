package physical

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/disklayout"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs/guestfstest"
)

// smallGPT is a disk of a megabyte with a partition.
func smallGPT(t *testing.T) []byte {
	t.Helper()
	guestfstest.Has(t, "sfdisk")
	name := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(name, make([]byte, 1<<20), 0o600))
	guestfstest.Run(t, "bash", "-ec", `printf 'label: gpt\nfirst-lba: 34\nstart=40,size=1000\n' | sfdisk -q "$0"`, name)
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return b
}

type onDisk struct{ *bytes.Reader }

func (onDisk) WriteAt([]byte, int64) (int, error) { return 0, errors.New("nothing is to be written") }
func (onDisk) Sync() error                        { return nil }

// Power is cut at every operation of a start that makes a larger disk ready:
// the machine is off, or may run; and starting it again ends well.
func TestPowerCutWhileADiskIsMadeReady(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	table := smallGPT(t)
	const size = 3 << 20
	cuts := 0
	for _, torn := range []bool{false, true} {
		for n := 1; ; n++ {
			fs := crashfs.New(seed)
			require.NoError(t, fs.MkdirAll("/disks", 0o700))
			f, err := fs.OpenFile("/disks/x", os.O_CREATE|os.O_RDWR, 0o600)
			require.NoError(t, err)
			junk := bytes.Repeat([]byte("junk"), size/4)
			_, err = f.WriteAt(junk, 0)
			require.NoError(t, errors.Join(err, f.Sync(), f.Close(), fs.SyncDir("/disks"), fs.SyncDir("/")))
			open := func() *Host {
				h, err := Open(Config{Root: "/root", FS: fs, Machines: []Machine{{ID: "m", Power: dr.Off, Disks: []Disk{{ID: "x", Path: "/disks/x", GivenUp: true}}}}})
				require.NoError(t, err)
				return h
			}
			h := open()
			p := dr.Point{ID: "p", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: 1 << 20}}}}
			_, err = h.Prepare(t.Context(), backend.Placement{Original: "m", Machine: p.Machine})
			require.NoError(t, err)
			d, err := h.Draft(t.Context(), "m", p)
			require.NoError(t, err)
			_, err = d.WriteAt(t.Context(), "a", table, 0)
			require.NoError(t, errors.Join(err, d.Commit(t.Context(), p), d.Close()))
			fs.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Torn: torn})
			err = h.Start(t.Context(), "m")
			fired := fs.Fired() > 0
			if fired {
				fs = fs.Restart()
				h = open()
				m, err := h.Machine(t.Context(), "m")
				require.NoError(t, err)
				if m.Power == dr.Off { // else the hook is called again, and the table was ready before
					require.NoError(t, h.Start(t.Context(), "m"))
				}
				cuts++
			} else {
				require.NoError(t, err)
			}
			require.NoError(t, h.Close())
			f, err = fs.OpenFile("/disks/x", os.O_RDONLY, 0)
			require.NoError(t, err)
			b := make([]byte, size)
			_, err = f.ReadAt(b, 0)
			require.NoError(t, errors.Join(err, f.Close()))
			moved, err := disklayout.MoveBackup(onDisk{bytes.NewReader(b)}, size, 512)
			require.NoError(t, err)
			require.True(t, moved.Table)
			require.Empty(t, moved.Alone)
			require.Equal(t, moved.From, moved.To, "cut %d", n)
			require.Equal(t, table[40*512:1040*512], b[40*512:1040*512])
			require.Equal(t, make([]byte, size-1<<20-33*512), b[1<<20:size-33*512], "the rest is cleared of what was there")
			if !fired {
				break
			}
		}
	}
	t.Logf("%d cuts", cuts)
	require.Greater(t, cuts, 10)
}

// A disk of a firmware's or Linux' mirror has the table of the array, which ends
// before the disk, and the array's metadata behind it. On a disk of its size all
// of that is as it was.
func TestMetadataOfAnArrayBehindTheTableStays(t *testing.T) {
	const size = 3 << 20
	disk := append(smallGPT(t), make([]byte, size-1<<20)...)
	copy(disk[size-8<<10:], "\xfc\x4e\x2b\xa9\x01\x00\x00\x00") // md, version 1.0
	copy(disk[size-1024:], "Intel Raid ISM Cfg Sig. 1.3.00")
	path := filepath.Join(t.TempDir(), "x")
	require.NoError(t, errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)))
	h, err := Open(Config{Root: t.TempDir(), Machines: []Machine{{ID: "m", Power: dr.Off, Disks: []Disk{{ID: "x", Path: path, GivenUp: true}}}}})
	require.NoError(t, err)
	defer h.Close()
	p := dr.Point{ID: "p", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "x", Size: size}}}}
	d, err := h.Draft(t.Context(), "m", p)
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), "x", disk, 0)
	require.NoError(t, errors.Join(err, d.Commit(t.Context(), p), d.Close()))
	require.NoError(t, h.Start(t.Context(), "m"))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(disk, b), "the disk is as it was copied")
}

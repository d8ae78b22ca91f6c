package crashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

var errIO = error(syscall.EIO)

// WriteFileAtomic is what this file system was made to prove: whichever
// operation fails or meets the power cut, the name holds the old content or the
// new, and the new if it was acknowledged.
func TestWriteFileAtomicHoldsAtEveryOperation(t *testing.T) {
	old, fresh := strings.Repeat("old", 3000), strings.Repeat("fresh", 3000)
	for _, fault := range []crashfs.Fault{{}, {Torn: true}, {Err: errIO}, {Err: syscall.ENOSPC, Torn: true}} {
		t.Run(fmt.Sprintf("%v torn=%v", fault.Err, fault.Torn), func(t *testing.T) {
			for n := 1; ; n++ {
				for seed := range uint64(20) {
					disk := crashfs.New(seed)
					require.NoError(t, fsys.WriteFileAtomic(disk, "/head", []byte(old), 0o600))
					fault.N = n
					disk.Inject(fault)
					err := fsys.WriteFileAtomic(disk, "/head", []byte(fresh), 0o600)
					if disk.Fired() == 0 {
						require.NoError(t, err)
						require.Greater(t, n, 5)
						return
					}
					if fault.Err != nil {
						require.ErrorIs(t, err, fault.Err)
						require.Contains(t, []string{old, fresh}, content(t, disk, "/head"))
					} else {
						require.ErrorIs(t, err, crashfs.ErrPowerLost)
					}
					for range 5 {
						require.Contains(t, []string{old, fresh}, content(t, disk.Restart(), "/head"), "n %d seed %d", n, seed)
					}
				}
			}
		})
	}
}

// The same loop finds each sync that is forgotten.
func TestForgottenSyncsAreFound(t *testing.T) {
	for _, forget := range []crashfs.Kind{crashfs.Sync, crashfs.SyncDir} {
		t.Run(forget.String(), func(t *testing.T) {
			for seed := range uint64(1000) {
				disk := crashfs.New(seed)
				require.NoError(t, fsys.WriteFileAtomic(forgetful{disk, forget}, "/head", []byte("new"), 0o600))
				if content(t, disk.Restart(), "/head") != "new" {
					return
				}
			}
			t.Fatal("nothing was ever lost")
		})
	}
}

// forgetful acknowledges one kind of sync without doing it.
type forgetful struct {
	fsys.FS
	kind crashfs.Kind
}

func (f forgetful) SyncDir(name string) error {
	if f.kind == crashfs.SyncDir {
		return nil
	}
	return f.FS.SyncDir(name)
}

func (f forgetful) OpenFile(name string, flag int, perm os.FileMode) (fsys.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil || f.kind != crashfs.Sync {
		return file, err
	}
	return unsynced{file}, nil
}

type unsynced struct{ fsys.File }

func (unsynced) Sync() error { return nil }

func TestInject(t *testing.T) {
	disk := crashfs.New(1)
	disk.Inject(crashfs.Fault{N: 2, Match: crashfs.On("*.seg", crashfs.Write), Err: errIO})
	disk.Inject(crashfs.Fault{N: 1, Match: crashfs.On("/dir/bad", crashfs.Create, crashfs.Rename), Err: errIO, Stays: true})
	require.NoError(t, disk.MkdirAll("/dir", 0o700))
	f := create(t, disk, "/dir/1.seg")
	other := create(t, disk, "/dir/other")
	write(t, f, "first", 0)
	write(t, other, "no segment", 0)
	_, err := f.WriteAt([]byte("SECOND"), 0)
	require.ErrorIs(t, err, errIO)
	require.ErrorContains(t, err, "/dir/1.seg")
	require.Equal(t, "first", content(t, disk, "/dir/1.seg"), "not torn: nothing was written")
	write(t, f, "third", 0)
	for range 2 {
		_, err = disk.OpenFile("/dir/bad", os.O_RDWR|os.O_CREATE, 0o600)
		require.ErrorIs(t, err, errIO)
		require.ErrorIs(t, disk.Rename("/dir/1.seg", "/dir/bad"), errIO)
	}
	require.Equal(t, 5, disk.Fired())
	require.Panics(t, func() { crashfs.On("[") })
}

func TestTornWriteIsAPrefixOfSectors(t *testing.T) {
	lengths := map[int]bool{}
	for seed := range uint64(100) {
		disk := crashfs.New(seed)
		f := create(t, disk, "/f")
		disk.Inject(crashfs.Fault{Match: crashfs.On("f", crashfs.Write), Err: errIO, Torn: true})
		n, err := f.WriteAt(bytes.Repeat([]byte("x"), 1500), 100)
		require.ErrorIs(t, err, errIO)
		if n > 0 {
			require.Equal(t, strings.Repeat("\x00", 100)+strings.Repeat("x", n), content(t, disk, "/f"))
		}
		lengths[n] = true
	}
	require.Equal(t, map[int]bool{0: true, 412: true, 924: true, 1436: true}, lengths)
}

func TestTraceCutsAtAChosenOperation(t *testing.T) {
	disk := crashfs.New(1)
	var seen []string
	disk.Trace(func(o crashfs.Op) {
		seen = append(seen, o.String())
		if o.Kind == crashfs.Rename {
			disk.Cut()
		}
	})
	require.ErrorIs(t, fsys.WriteFileAtomic(disk, "/head", []byte("x"), 0o600), crashfs.ErrPowerLost)
	require.Equal(t, []string{"1 create /head.tmp0", "2 write /head.tmp0 [0, +1)", "3 sync /head.tmp0", "4 close /head.tmp0",
		"5 rename /head.tmp0 → /head"}, seen)
	require.EqualValues(t, 5, disk.Ops())
}

func TestBudget(t *testing.T) {
	disk := crashfs.New(1)
	disk.Budget(3 * 4096)
	f := create(t, disk, "/f")
	n, err := f.WriteAt(make([]byte, 5*4096), 100)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Equal(t, 3*4096-100, n)
	write(t, f, "over what is there", 0)
	g := create(t, disk, "/g")
	_, err = g.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Punch(0, 4096))
	write(t, g, "x", 0)

	// A file that is open takes its room until it is closed.
	require.NoError(t, disk.Remove("/f"))
	_, err = g.WriteAt([]byte("x"), 4096)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Close())
	write(t, g, "x", 4096)
	require.EqualValues(t, 2*4096, disk.Used())
	require.NoError(t, g.Sync())
	require.NoError(t, disk.SyncDir("/"))

	disk = disk.Restart()
	require.EqualValues(t, 2*4096, disk.Used())
	g, err = disk.OpenFile("/g", os.O_RDWR, 0)
	require.NoError(t, err)
	write(t, g, "x", 8192)
	_, err = g.WriteAt([]byte("x"), 12288)
	require.ErrorIs(t, err, syscall.ENOSPC)
	disk.Budget(0)
	write(t, g, "x", 12288)

	h := create(t, disk, "/h")
	write(t, h, "x", 0)
	require.NoError(t, g.Close())
	require.NoError(t, disk.Rename("/h", "/g"))
	require.EqualValues(t, 4096, disk.Used(), "what was replaced gives its room back")
}

func TestConcurrentUse(t *testing.T) {
	disk := crashfs.New(1)
	disk.Trace(func(crashfs.Op) {})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 200 {
				name := fmt.Sprintf("/%d", w)
				err := fsys.WriteFileAtomic(disk, name, []byte(name), 0o600)
				if errors.Is(err, crashfs.ErrPowerLost) {
					return
				}
				if err != nil {
					t.Error(err)
				}
				if w == 0 && i == 150 {
					disk.Cut()
				}
			}
		})
	}
	wg.Wait()
	after := disk.Restart()
	require.Equal(t, "/0", content(t, after, "/0"))
}

// BenchmarkRestart is a cut and a restart of a tree of 20 small files of which
// one has unsynced data, including making it.
func BenchmarkRestart(b *testing.B) {
	disk := crashfs.New(1)
	for i := range 20 {
		require.NoError(b, fsys.WriteFileAtomic(disk, fmt.Sprintf("/f%d", i), make([]byte, 10_000), 0o600))
	}
	b.ReportAllocs()
	for b.Loop() {
		f, err := disk.OpenFile("/f1", os.O_RDWR|os.O_CREATE, 0o600)
		require.NoError(b, err)
		write(b, f, "some bytes", 0)
		disk = disk.Restart()
	}
}

func BenchmarkWrite(b *testing.B) {
	const size = 1 << 20
	disk := crashfs.New(1)
	f, err := disk.OpenFile("/f", os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(b, err)
	p := make([]byte, size)
	b.SetBytes(size)
	b.ReportAllocs()
	for i := int64(0); b.Loop(); i++ {
		_, err := f.WriteAt(p, i%64*size)
		require.NoError(b, err)
		if i%64 == 63 {
			require.NoError(b, f.Sync())
		}
	}
}

package vhdx

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func newDisk(t testing.TB, o Options) (*Disk, *memFile) {
	t.Helper()
	f := &memFile{}
	d, err := Create(f, o)
	require.NoError(t, err)
	return d, f
}

func reopen(t testing.TB, f File, o OpenOptions) *Disk {
	t.Helper()
	d, err := Open(f, o)
	require.NoError(t, err)
	return d
}

func write(t testing.TB, d *Disk, text string, off int64) {
	t.Helper()
	n, err := d.WriteAt([]byte(text), off)
	require.NoError(t, err)
	require.Equal(t, len(text), n)
}

func requireText(t testing.TB, d *Disk, want string, off int64) {
	t.Helper()
	got := make([]byte, len(want))
	_, err := d.ReadAt(got, off)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

func TestDefaults(t *testing.T) {
	base, f := newDisk(t, Options{Size: 1 << 40})
	require.EqualValues(t, 1<<40, base.Size())
	require.EqualValues(t, 32*mib, base.BlockSize())
	require.EqualValues(t, 512, base.LogicalSector())
	require.EqualValues(t, 4096, base.PhysicalSector())
	require.NotEqual(t, GUID{}, base.ID())
	require.False(t, base.Fixed())
	require.False(t, base.HasParent())
	require.Nil(t, base.Parent())
	require.EqualValues(t, 4*mib, f.size)

	child, _ := newDisk(t, Options{Parent: base, ParentAbsolute: `C:\base.vhdx`, ParentRelative: `.\base.vhdx`})
	require.EqualValues(t, 1<<40, child.Size())
	require.EqualValues(t, 2*mib, child.BlockSize())
	require.Equal(t, base.ID(), child.ID())
	require.Same(t, base, child.Parent())
	require.True(t, child.HasParent())
	require.Equal(t, base.DataWriteGUID(), child.Locator().Linkage)
	require.Equal(t, `C:\base.vhdx`, child.Locator().Absolute)
	require.Equal(t, `.\base.vhdx`, child.Locator().Relative)
	require.NotEqual(t, base.DataWriteGUID(), child.DataWriteGUID())

	for _, o := range []Options{{}, {Size: 100}, {Size: -512}, {Size: MaxSize + 512}, {Size: mib, BlockSize: 512}, {Size: mib, BlockSize: 3 * mib},
		{Size: mib, LogicalSector: 1024}, {Size: mib, PhysicalSector: 1}, {Parent: base, Fixed: true}, {Parent: base, Size: mib},
		{Parent: base, DiskID: NewGUID()}, {Parent: base, LogicalSector: 4096}} {
		_, err := Create(&memFile{}, o)
		require.Error(t, err, "%+v", o)
	}
}

// The chain is bounded before anything recurses along it.
func TestChainTooLong(t *testing.T) {
	base, _ := newDisk(t, Options{Size: mib, BlockSize: mib})
	child, f := newDisk(t, Options{Parent: base})
	require.NoError(t, child.Close())
	base.depth = MaxChain // as if it had as many below it
	_, err := Create(&memFile{}, Options{Parent: base})
	require.ErrorIs(t, err, ErrUnsupported)
	_, err = Open(f, OpenOptions{Parent: func(Locator) (*Disk, error) { return base, nil }})
	require.ErrorIs(t, err, ErrUnsupported)
}

// A child opens as long as its parent shows what it showed, and no longer.
func TestParentChanged(t *testing.T) {
	base, baseFile := newDisk(t, Options{Size: 10 * mib, BlockSize: mib})
	write(t, base, "old", 5000)
	child, childFile := newDisk(t, Options{Parent: base})
	write(t, child, "new", 7000)
	require.NoError(t, child.Close())
	require.NoError(t, base.Close())
	open := func() error {
		base := reopen(t, baseFile, OpenOptions{})
		defer func() { require.NoError(t, base.Close()) }()
		child, err := Open(childFile, OpenOptions{Parent: func(l Locator) (*Disk, error) {
			require.Equal(t, child.Locator().Linkage, l.Linkage)
			return base, nil
		}})
		if err == nil {
			requireText(t, child, "old", 5000)
			requireText(t, child, "new", 7000)
		}
		return err
	}
	require.NoError(t, open())

	// To be open for writing, and to be read, changes nothing.
	base = reopen(t, baseFile, OpenOptions{})
	before := baseFile.writes
	id := base.DataWriteGUID()
	requireText(t, base, "old", 5000)
	require.NoError(t, base.Zero(9*mib, mib)) // zeros already
	require.NoError(t, base.Flush())
	require.NoError(t, base.Close())
	require.Equal(t, before, baseFile.writes)
	require.NoError(t, open())

	base = reopen(t, baseFile, OpenOptions{})
	write(t, base, "o", 5000)
	require.NotEqual(t, id, base.DataWriteGUID())
	require.NoError(t, base.Close())
	require.ErrorIs(t, open(), ErrParentChanged)

	// Also when the child was made, and the parent written, in one session.
	base = reopen(t, baseFile, OpenOptions{})
	write(t, base, "x", 0)
	child, childFile = newDisk(t, Options{Parent: base})
	require.NoError(t, child.Close())
	write(t, base, "y", 0)
	require.NoError(t, base.Close())
	require.ErrorIs(t, open(), ErrParentChanged)
}

func TestWithoutParent(t *testing.T) {
	base, _ := newDisk(t, Options{Size: 10 * mib, BlockSize: mib})
	child, childFile := newDisk(t, Options{Parent: base, BlockSize: mib})
	write(t, child, string(bytes.Repeat([]byte("x"), 512)), 1024)
	require.NoError(t, child.Close())

	refused := errors.New("no such parent")
	_, err := Open(childFile, OpenOptions{Parent: func(Locator) (*Disk, error) { return nil, refused }})
	require.ErrorIs(t, err, refused)

	child = reopen(t, childFile, OpenOptions{})
	require.True(t, child.HasParent())
	require.Nil(t, child.Parent())
	requireText(t, child, "xxxx", 1500)
	_, err = child.ReadAt(make([]byte, 10), 5000)
	require.ErrorIs(t, err, ErrNoParent)
	n, err := child.ReadAt(make([]byte, 1024), 1024)
	require.ErrorIs(t, err, ErrNoParent)
	require.Equal(t, 512, n)
	write(t, child, string(bytes.Repeat([]byte("y"), 512)), 5120)
	_, err = child.WriteAt([]byte("half a sector"), 100)
	require.ErrorIs(t, err, ErrNoParent)
	require.ErrorIs(t, child.Merge(), ErrNoParent)
	require.Error(t, base.Merge())
	require.NoError(t, child.Close())
}

func allocated(t testing.TB, d *Disk, off, n int64) (list []Range) {
	t.Helper()
	for r, err := range d.Allocated(off, n) {
		require.NoError(t, err)
		list = append(list, r)
	}
	return list
}

func TestAllocated(t *testing.T) {
	base, _ := newDisk(t, Options{Size: 10*mib + 4096, BlockSize: mib})
	write(t, base, "x", mib+5)
	require.Equal(t, []Range{{0, mib, Zero}, {mib, mib, Data}, {2 * mib, 8*mib + 4096, Zero}}, allocated(t, base, 0, base.Size()))
	require.Equal(t, []Range{{mib + 3, 7, Data}}, allocated(t, base, mib+3, 7))
	require.Empty(t, allocated(t, base, 5, 0))

	child, _ := newDisk(t, Options{Parent: base, BlockSize: mib})
	write(t, child, "x", mib+512)
	write(t, child, string(make([]byte, 1024)), 3*mib+511)
	require.NoError(t, child.Zero(5*mib, 2*mib))
	require.NoError(t, child.Zero(10*mib, 4096)) // the whole of the last block
	require.Equal(t, []Range{{0, mib + 512, FromParent}, {mib + 512, 512, Data}, {mib + 1024, 2*mib - 1024, FromParent},
		{3 * mib, 1536, Data}, {3*mib + 1536, 2*mib - 1536, FromParent}, {5 * mib, 2 * mib, Zero}, {7 * mib, 3 * mib, FromParent},
		{10 * mib, 4096, Zero}}, allocated(t, child, 0, child.Size()))

	for _, bad := range [][2]int64{{-1, 5}, {0, 11 * mib}, {11 * mib, 1}, {1, math.MaxInt64}} {
		var err error
		for _, err = range child.Allocated(bad[0], bad[1]) {
		}
		if bad[1] > 0 && bad[0]+bad[1] > 0 {
			require.Error(t, err, "%v", bad)
		}
	}
}

// A block given back is used again, but not before a crash would find it given
// back.
func TestRoomIsUsedAgain(t *testing.T) {
	d, f := newDisk(t, Options{Size: 10 * mib, BlockSize: mib})
	write(t, d, "first", 0)
	require.NoError(t, d.Flush())
	require.NoError(t, d.Zero(0, mib))
	write(t, d, "second", 2*mib)
	require.EqualValues(t, 6*mib, f.size)
	require.NoError(t, d.Flush())
	write(t, d, "third", 4*mib+9)
	require.EqualValues(t, 6*mib, f.size)
	requireText(t, d, "\x00\x00\x00\x00\x00\x00\x00\x00\x00third\x00", 4*mib)
	require.NoError(t, d.Zero(2*mib, mib))
	require.NoError(t, d.Close())

	// So is what a crash left behind.
	d = reopen(t, f, OpenOptions{})
	write(t, d, "fourth", 6*mib+7)
	require.EqualValues(t, 6*mib, f.size)
	requireText(t, d, "\x00\x00\x00\x00\x00\x00\x00fourth\x00", 6*mib)
	requireText(t, d, "third", 4*mib+9)
	require.NoError(t, d.Close())
}

// Where the file can, zeros are asked for and not written.
func TestPunch(t *testing.T) {
	f := &punchFile{}
	d, err := Create(f, Options{Size: 40 * mib, Fixed: true})
	require.NoError(t, err)
	write(t, d, "abcdefgh", 1000)
	before := f.writes
	require.NoError(t, d.Zero(1002, 3))
	requireText(t, d, "ab\x00\x00\x00fgh", 1000)
	require.NoError(t, d.Zero(0, 40*mib))
	requireText(t, d, string(make([]byte, 8)), 1000)
	require.Equal(t, before, f.writes)
	require.Equal(t, 3, f.punches)
	require.Equal(t, []Range{{0, 40 * mib, Data}}, allocated(t, d, 0, 40*mib))
	require.NoError(t, d.Close())
}

type punchFile struct {
	memFile
	punches int
}

func (f *punchFile) Punch(off, n int64) error {
	f.punches++
	before := f.writes
	_, err := f.WriteAt(make([]byte, n), off)
	f.writes = before
	return err
}

func TestSetParent(t *testing.T) {
	a, aFile := newDisk(t, Options{Size: 10 * mib, BlockSize: mib})
	write(t, a, "aaaaaaaaaa", 0)
	b, bFile := newDisk(t, Options{Parent: a, BlockSize: mib})
	write(t, b, "bbbb", 2)
	c, cFile := newDisk(t, Options{Parent: b, BlockSize: mib, ParentRelative: "b"})
	write(t, c, "c", 4)
	require.Error(t, b.SetParent(c, "", ""), "a ring")
	require.NoError(t, b.Merge())
	requireText(t, c, "aabbcbaaaa", 0)
	long := `C:\` + string(bytes.Repeat([]byte("long"), 2000))
	require.NoError(t, c.SetParent(a, long, "a"))
	requireText(t, c, "aabbcbaaaa", 0)
	require.Equal(t, Locator{Linkage: a.DataWriteGUID(), Absolute: long, Relative: "a"}, c.Locator())
	require.Error(t, a.SetParent(b, "", ""))
	require.Error(t, c.SetParent(c, "", ""), "a ring")
	for _, d := range []*Disk{c, b, a} {
		require.NoError(t, d.Close())
	}
	a = reopen(t, aFile, OpenOptions{ReadOnly: true})
	c = reopen(t, cFile, OpenOptions{Parent: func(l Locator) (*Disk, error) {
		require.Equal(t, long, l.Absolute)
		return a, nil
	}})
	requireText(t, c, "aabbcbaaaa", 0)
	// The merged one is as good as before.
	b = reopen(t, bFile, OpenOptions{Parent: func(l Locator) (*Disk, error) { return a, nil }})
	requireText(t, b, "aabbbbaaaa", 0)
	require.ErrorIs(t, b.Merge(), ErrReadOnly)
	requireText(t, b, "aabbbbaaaa", 0)
}

func TestReadOnly(t *testing.T) {
	d, f := newDisk(t, Options{Size: 10 * mib, BlockSize: mib})
	write(t, d, "some", 10)
	require.NoError(t, d.Close())
	before := f.writes
	image := make([]byte, f.size)
	_, err := f.ReadAt(image, 0)
	require.NoError(t, err)
	d = reopen(t, ReaderFile(bytes.NewReader(image), f.size), OpenOptions{ReadOnly: true})
	requireText(t, d, "some", 10)
	_, err = d.WriteAt([]byte("x"), 10)
	require.ErrorIs(t, err, ErrReadOnly)
	require.ErrorIs(t, d.Zero(0, 10), ErrReadOnly)
	require.ErrorIs(t, d.Grow(20*mib), ErrReadOnly)
	require.NoError(t, d.Flush())
	child, _ := newDisk(t, Options{Parent: d})
	requireText(t, child, "some", 10)
	require.NoError(t, d.Close())
	require.Equal(t, before, f.writes)

	require.ErrorIs(t, d.Close(), fs.ErrClosed)
	_, err = d.ReadAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, fs.ErrClosed)
	require.ErrorIs(t, d.Flush(), fs.ErrClosed)
	_, err = child.ReadAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, fs.ErrClosed)
}

func TestEdges(t *testing.T) {
	d, _ := newDisk(t, Options{Size: 3*mib + 512, BlockSize: 2 * mib})
	n, err := d.ReadAt(make([]byte, 100), 3*mib+500)
	require.Equal(t, 12, n)
	require.Equal(t, io.EOF, err)
	n, err = d.ReadAt(make([]byte, 1), 3*mib+512)
	require.Zero(t, n)
	require.Equal(t, io.EOF, err)
	n, err = d.ReadAt(nil, math.MaxInt64)
	require.Zero(t, n)
	require.NoError(t, err)
	_, err = d.ReadAt(make([]byte, 1), -1)
	require.Error(t, err)
	for _, off := range []int64{-1, 3*mib + 500, math.MaxInt64} {
		n, err = d.WriteAt(make([]byte, 100), off)
		require.Error(t, err)
		require.Zero(t, n)
		require.Error(t, d.Zero(off, 100))
	}
	require.NoError(t, d.Zero(3*mib+512, 0))
	require.Error(t, d.Zero(0, -1))
	require.Error(t, d.Grow(mib))
	require.Error(t, d.Grow(3*mib+513))
	require.Error(t, d.Grow(MaxSize+512))
	require.NoError(t, d.Grow(d.Size()))
	require.Equal(t, "zero", Zero.String())
	require.Equal(t, "state 9", State(9).String())
}

// A failed Sync is the end of writing: nobody knows what the file has.
func TestSyncFails(t *testing.T) {
	f := &failing{}
	d, err := Create(f, Options{Size: 10 * mib})
	require.NoError(t, err)
	write(t, d, "x", 0)
	f.err = errors.New("disk on fire")
	require.ErrorIs(t, d.Flush(), f.err)
	cause := f.err
	f.err = nil
	_, err = d.WriteAt([]byte("y"), 0)
	require.ErrorIs(t, err, cause)
	require.ErrorIs(t, d.Flush(), cause)
	requireText(t, d, "x", 0)
	require.ErrorIs(t, d.Close(), cause)
}

type failing struct {
	memFile
	err error
}

func (f *failing) Sync() error { return f.err }

// Readers, writers and flushes at once, over a chain: for the race detector.
func TestConcurrent(t *testing.T) {
	base, _ := newDisk(t, Options{Size: 16 * mib, BlockSize: mib})
	for i := range int64(16) {
		write(t, base, "base", i*mib)
	}
	d, f := newDisk(t, Options{Parent: base, BlockSize: mib})
	var wg sync.WaitGroup
	for w := range int64(4) {
		wg.Go(func() {
			mine := w * 4 * mib
			for i := range int64(60) {
				off := mine + i*37_000
				text := bytes.Repeat([]byte{byte(w), byte(i)}, 2500)
				if _, err := d.WriteAt(text, off); err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, len(text))
				if _, err := d.ReadAt(got, off); err != nil || !bytes.Equal(got, text) {
					t.Error("read something else", err)
					return
				}
				if i%20 == 7 {
					if err := d.Flush(); err != nil {
						t.Error(err)
					}
				}
				if i%20 == 9 {
					for _, err := range d.Allocated(0, d.Size()) {
						if err != nil {
							t.Error(err)
						}
					}
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, d.Grow(20*mib))
	require.NoError(t, d.Close())
	requireText(t, reopen(t, f, OpenOptions{Parent: func(Locator) (*Disk, error) { return base, nil }}), "base", 3*mib)
}

// What somebody left in a block behind the disk's end, or in the BAT behind its
// entries, is not what a grown disk shows.
func TestGrowOverGarbage(t *testing.T) {
	for _, diff := range []bool{false, true} {
		o := Options{Size: 3*mib + 512*5, BlockSize: 2 * mib}
		if diff {
			o.Parent, _ = newDisk(t, o)
		}
		d, f := newDisk(t, o)
		write(t, d, "end", 3*mib+512*5-3)
		place := d.bat.get(d.meta.entry(1)).off()
		require.NoError(t, d.Close())
		garbage := bytes.Repeat([]byte{0xff}, 100_000)
		_, err := f.WriteAt(garbage, place+mib+512*5)
		require.NoError(t, err)
		_, err = f.WriteAt(garbage[:8*1000], createBATAt+2*8)
		require.NoError(t, err)
		if diff {
			_, err = f.WriteAt(make([]byte, 8), createBATAt+2048*8) // there is no bitmap to lose: the tail is written
			require.NoError(t, err)
			_, err = f.WriteAt(make([]byte, 8), createBATAt+8)
			require.NoError(t, err)
		}
		o2 := OpenOptions{Parent: func(Locator) (*Disk, error) { return o.Parent, nil }}
		d = reopen(t, f, o2)
		require.NoError(t, d.Grow(1200*mib))
		require.NoError(t, d.Close())
		d = reopen(t, f, o2)
		got := make([]byte, mib)
		for _, off := range []int64{3*mib + 512*5, 4 * mib, 600 * mib, 1199 * mib} {
			_, err = d.ReadAt(got, off)
			require.NoError(t, err)
			require.Equal(t, -1, differs(got, make([]byte, mib)), "at %d", off)
		}
		if !diff {
			requireText(t, d, "end", 3*mib+512*5-3)
		}
	}
}

// Bits that a crash left for a block that isn't there are not believed later.
func TestStaleBits(t *testing.T) {
	base, _ := newDisk(t, Options{Size: 4 * mib, BlockSize: mib})
	write(t, base, "base", mib+3000)
	d, f := newDisk(t, Options{Parent: base, BlockSize: mib})
	write(t, d, "x", 0)
	bitmap := d.bat.get(d.meta.bitmapEntry(0)).off()
	require.NoError(t, d.Close())
	_, err := f.WriteAt(bytes.Repeat([]byte{0xff}, 256), bitmap+256) // of block 1
	require.NoError(t, err)
	d = reopen(t, f, OpenOptions{Parent: func(Locator) (*Disk, error) { return base, nil }})
	requireText(t, d, "base", mib+3000)
	write(t, d, "y", mib+10_000)
	requireText(t, d, "base", mib+3000)
}

package vhd

import (
	"bytes"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

const small = 16 << 10 // a block of tests

func create(t testing.TB, f File, o Options) *Disk {
	t.Helper()
	d, err := Create(f, o)
	require.NoError(t, err)
	return d
}

func open(t testing.TB, f File, o OpenOptions) *Disk {
	t.Helper()
	d, err := Open(f, o)
	require.NoError(t, err)
	return d
}

func write(t testing.TB, d *Disk, p []byte, off int64) {
	t.Helper()
	n, err := d.WriteAt(p, off)
	require.NoError(t, err)
	require.Equal(t, len(p), n)
}

// with answers for a parent.
func with(parent *Disk) func(Locator) (*Disk, error) {
	return func(Locator) (*Disk, error) { return parent, nil }
}

func TestEveryKindKeepsWhatIsWritten(t *testing.T) {
	base := newMemory(nil)
	for name, o := range map[string]Options{
		"fixed":        {Size: 100 << 10, Fixed: true},
		"dynamic":      {Size: 100 << 10, BlockSize: small},
		"differencing": {BlockSize: small, Parent: create(t, base, Options{Size: 100 << 10, BlockSize: small}), ParentRelative: `.\base.vhd`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newMemory(nil)
			o.ID, o.Time = uuid.New(), time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
			d := create(t, f, o)
			require.Equal(t, name, d.Kind().String())
			require.Equal(t, o.ID, d.ID())
			requireContent(t, make([]byte, 100<<10), d, "new")
			write(t, d, []byte("across two blocks"), small-5)
			want := make([]byte, 100<<10)
			copy(want[small-5:], "across two blocks")
			requireContent(t, want, d, "written")
			require.NoError(t, d.Close())
			require.ErrorIs(t, d.Close(), fs.ErrClosed)
			_, err := d.ReadAt(want[:1], 0)
			require.ErrorIs(t, err, fs.ErrClosed)

			d = open(t, f, OpenOptions{ReadOnly: true, Parent: with(o.Parent)})
			requireContent(t, want, d, "opened again")
			require.Equal(t, Footer{Size: 100 << 10, ID: o.ID, Time: o.Time.Truncate(time.Second)}, d.Footer())
			_, err = d.WriteAt([]byte{1}, 0)
			require.ErrorIs(t, err, ErrReadOnly)
			require.ErrorIs(t, d.Zero(0, 1), ErrReadOnly)
			require.NoError(t, d.Flush())
		})
	}
}

func TestTheEndsOfADisk(t *testing.T) {
	for _, o := range []Options{{Size: small + 512, BlockSize: small}, {Size: small + 512, Fixed: true}} {
		d := create(t, newMemory(nil), o)
		n, err := d.ReadAt(make([]byte, 1024), small)
		require.Equal(t, 512, n)
		require.Equal(t, io.EOF, err)
		n, err = d.ReadAt(make([]byte, 1), small+512)
		require.Zero(t, n)
		require.Equal(t, io.EOF, err)
		_, err = d.ReadAt(make([]byte, 1), -1)
		require.Error(t, err)
		for _, off := range []int64{-1, small + 1, small + 512, 1 << 62} {
			n, err = d.WriteAt(make([]byte, 512), off)
			require.Zero(t, n)
			require.ErrorIs(t, err, dr.ErrOutOfRange, "at %d", off)
			require.ErrorIs(t, d.Zero(off, 512), dr.ErrOutOfRange)
		}
		write(t, d, bytes.Repeat([]byte{7}, 512), small)
		require.NoError(t, d.Zero(0, d.Size()))
		requireContent(t, make([]byte, small+512), d, "zeroed")
	}
}

// A history of one disk, or of a chain, against plain bytes.
func TestRandomHistories(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	for range rounds {
		history(t, rnd)
	}
}

// link is an image of a chain.
type link struct {
	f    File
	disk *Disk
	want []byte
}

func history(t *testing.T, rnd *rand.Rand) {
	size := int64(1+rnd.IntN(12*small/sector)) * sector
	block := uint32(minBlock << rnd.IntN(3))
	first := link{f: newMemory(nil), want: make([]byte, size)}
	first.disk = create(t, first.f, Options{Size: size, BlockSize: block, Fixed: rnd.IntN(8) == 0})
	chain := []link{first}
	for range 150 {
		l := &chain[len(chain)-1]
		off := rnd.Int64N(size)
		n := min(1+rnd.Int64N([]int64{3 * sector, 3 * small}[rnd.IntN(2)]), size-off)
		switch k := rnd.IntN(40); {
		case k < 25:
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			write(t, l.disk, p, off)
			copy(l.want[off:], p)
		case k < 30:
			require.NoError(t, l.disk.Zero(off, n))
			clear(l.want[off : off+n])
		case k < 34:
			p := make([]byte, n)
			_, err := l.disk.ReadAt(p, off)
			require.NoError(t, err)
			require.True(t, bytes.Equal(l.want[off:off+n], p))
		case k < 37:
			require.NoError(t, l.disk.Flush())
		case k < 39:
			reopen(t, rnd, chain)
		case len(chain) < 5:
			child := link{f: newMemory(nil), want: bytes.Clone(l.want)}
			child.disk = create(t, child.f, Options{Parent: l.disk, BlockSize: uint32(minBlock << rnd.IntN(3)), ParentRelative: `.\base.vhd`})
			chain = append(chain, child)
		}
	}
	reopen(t, rnd, chain)
	for _, l := range chain {
		requireContent(t, l.want, l.disk, "at the end")
	}
}

// reopen closes a chain and opens it again, each with its parent.
func reopen(t *testing.T, rnd *rand.Rand, chain []link) {
	for i := range chain {
		l := &chain[i]
		require.NoError(t, l.disk.Close())
		size, err := l.f.Size()
		require.NoError(t, err)
		o := OpenOptions{ReadOnly: i < len(chain)-1 && rnd.IntN(2) == 0}
		if i > 0 {
			o.Parent = with(chain[i-1].disk)
		}
		l.disk = open(t, l.f, o)
		now, err := l.f.Size()
		require.NoError(t, err)
		require.Equal(t, size, now, "opening leaves a whole file as it is")
		if l.disk.Kind() != Fixed {
			held := int64(0)
			for _, e := range l.disk.table {
				if e != unused {
					held++
				}
			}
			require.GreaterOrEqual(t, size, l.disk.head.table+held*l.disk.stride())
		}
	}
}

func TestAClosedImageHasNoRoomToSpare(t *testing.T) {
	f := newMemory(nil)
	d := create(t, f, Options{Size: 1 << 30})
	empty := f.size
	write(t, d, []byte{1}, 0)
	write(t, d, []byte{1}, 512<<20)
	require.NoError(t, d.Flush())
	require.GreaterOrEqual(t, f.size, empty+leastStep-d.stride(), "there is room for more")
	require.NoError(t, d.Zero(512<<20, 2<<20))
	require.NoError(t, d.Close())
	require.Equal(t, empty+512+2<<20, f.size)

	d = open(t, f, OpenOptions{})
	require.NoError(t, d.Zero(0, 1<<30))
	require.NoError(t, d.Close())
	require.Equal(t, empty, f.size)
}

func TestAPlaceThatIsUsedAgainIsEmpty(t *testing.T) {
	f := newMemory(nil)
	d := create(t, f, Options{Size: 1 << 20, BlockSize: small})
	write(t, d, bytes.Repeat([]byte{7}, small), 0)
	for i := range int64(4) {
		require.NoError(t, d.Flush())
		require.NoError(t, d.Zero(i*small, small))
		require.NoError(t, d.Flush())
		want := make([]byte, 1<<20)
		want[(i+1)*small+7000] = 9
		write(t, d, []byte{9}, (i+1)*small+7000)
		requireContent(t, want, d, "beside one byte")
	}
	require.NoError(t, d.Close())
	require.Less(t, f.size, int64(5*small), "one place served all")
}

func TestZerosHideTheParent(t *testing.T) {
	base := create(t, newMemory(nil), Options{Size: 4 * small, BlockSize: small})
	write(t, base, bytes.Repeat([]byte{7}, 4*small), 0)
	f := newMemory(nil)
	d := create(t, f, Options{Parent: base, BlockSize: small, ParentAbsolute: `C:\base.vhd`})
	require.NoError(t, d.Zero(small, 2*small+100))
	want := bytes.Repeat([]byte{7}, 4*small)
	clear(want[small : 3*small+100])
	requireContent(t, want, d, "zeroed")
	require.NoError(t, d.Close())
	requireContent(t, want, open(t, f, OpenOptions{Parent: with(base)}), "opened again")
	requireContent(t, bytes.Repeat([]byte{7}, 4*small), base, "the parent")
}

func TestAParentTakesNoMoreWrites(t *testing.T) {
	base := newMemory(nil)
	p := create(t, base, Options{Size: 4 * small, BlockSize: small})
	write(t, p, []byte("held back"), 0)
	child := newMemory(nil)
	create(t, child, Options{Parent: p, ParentRelative: "base.vhd"})
	_, err := p.WriteAt([]byte{1}, 0)
	require.ErrorIs(t, err, ErrReadOnly)

	p = open(t, base, OpenOptions{})
	got := make([]byte, 9)
	_, err = p.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, "held back", string(got), "a parent is flushed")
	open(t, child, OpenOptions{Parent: with(p)})
	require.ErrorIs(t, p.Zero(0, 512), ErrReadOnly)
}

// touched is a file whose time a test sets.
type touched struct {
	File
	at time.Time
}

func (f *touched) ModTime() (time.Time, error) { return f.at, nil }

func TestAParentIsKnown(t *testing.T) {
	base := &touched{newMemory(nil), time.Date(2026, 2, 3, 4, 5, 6, 7, time.UTC)}
	p := create(t, base, Options{Size: 4 * small, BlockSize: small})
	child := newMemory(nil)
	d := create(t, child, Options{Parent: p, ParentRelative: `.\disks\Grüße.vhd`, ParentAbsolute: `C:\disks\Grüße.vhd`})
	require.Equal(t, p, d.Parent())
	require.NoError(t, d.Close())

	d = open(t, child, OpenOptions{Parent: func(l Locator) (*Disk, error) {
		require.Equal(t, Locator{
			ID: p.ID(), Time: base.at.Truncate(time.Second), Name: "Grüße.vhd",
			Relative: `.\disks\Grüße.vhd`, Absolute: `C:\disks\Grüße.vhd`,
		}, l)
		return p, nil
	}})
	require.True(t, d.HasParent())
	require.Equal(t, "Grüße.vhd", d.Locator().Name)

	for _, parent := range []func(Locator) (*Disk, error){nil, with(nil)} {
		_, err := Open(child, OpenOptions{Parent: parent})
		require.ErrorIs(t, err, ErrNoParent)
	}
	_, err := Open(child, OpenOptions{Parent: func(Locator) (*Disk, error) { return nil, io.ErrNoProgress }})
	require.ErrorIs(t, err, io.ErrNoProgress)
	_, err = Open(child, OpenOptions{Parent: with(create(t, newMemory(nil), Options{Size: 4 * small}))})
	require.ErrorIs(t, err, ErrParentChanged)

	base.at = base.at.Add(time.Second)
	_, err = Open(child, OpenOptions{Parent: with(p)})
	require.ErrorIs(t, err, ErrParentChanged)
	open(t, child, OpenOptions{Parent: with(p), IgnoreParentTime: true})
}

func TestLongChainsEnd(t *testing.T) {
	d := create(t, newMemory(nil), Options{Size: small, BlockSize: small})
	for range maxDepth {
		d = create(t, newMemory(nil), Options{Parent: d, BlockSize: small, ParentRelative: "p"})
	}
	_, err := Create(newMemory(nil), Options{Parent: d, BlockSize: small, ParentRelative: "p"})
	require.ErrorIs(t, err, ErrUnsupported)
}

func TestCreateRefuses(t *testing.T) {
	parent := create(t, newMemory(nil), Options{Size: small})
	for _, o := range []Options{
		{}, {Size: -512}, {Size: 513}, {Size: MaxDynamic + 512}, {Size: 1 << 20, BlockSize: 3 << 20}, {Size: 1 << 20, BlockSize: 512},
		{Size: 1 << 20, BlockSize: 512 << 20}, {Size: MaxDynamic, BlockSize: 4096}, {Parent: parent, Fixed: true},
		{Parent: parent, Size: 2 * small}, {Parent: parent, ParentRelative: string(bytes.Repeat([]byte("x"), 300))},
		{Parent: parent, ParentRelative: string(bytes.Repeat([]byte(`x\`), 20000))},
	} {
		_, err := Create(newMemory(nil), o)
		require.ErrorIs(t, err, ErrUnsupported, "%+v", o)
	}
}

func TestTheLargestDiskEndsWhereTheFormatDoes(t *testing.T) {
	f := newMemory(nil)
	d := create(t, f, Options{Size: MaxDynamic})
	write(t, d, []byte("last"), MaxDynamic-4)
	require.NoError(t, d.Flush())
	d.space.next, d.space.footer = (maxPlace+1)*sector, (maxPlace+1)*sector
	_, err := d.WriteAt([]byte("more"), 0)
	require.ErrorIs(t, err, ErrUnsupported)
	require.NoError(t, d.Zero(0, MaxDynamic/2), "zeros need no place")
	d = open(t, f, OpenOptions{ReadOnly: true})
	got := make([]byte, 4)
	_, err = d.ReadAt(got, MaxDynamic-4)
	require.NoError(t, err)
	require.Equal(t, "last", string(got))
}

func ranges(t *testing.T, d *Disk, off, n int64) (all []Range) {
	for r, err := range d.Allocated(off, n) {
		require.NoError(t, err)
		all = append(all, r)
	}
	return all
}

func TestWhatAFileHolds(t *testing.T) {
	p := create(t, newMemory(nil), Options{Size: 4 * small, BlockSize: small})
	write(t, p, []byte{1}, small+700)
	require.Equal(t, []Range{{0, small, Zero}, {small, small, Data}, {2 * small, 2 * small, Zero}}, ranges(t, p, 0, 4*small))
	d := create(t, newMemory(nil), Options{Parent: p, BlockSize: small, ParentRelative: "p"})
	write(t, d, []byte{1}, 700)
	write(t, d, make([]byte, 1024), small-512)
	require.Equal(t, []Range{
		{0, 512, FromParent}, {512, 512, Data}, {1024, small - 1536, FromParent}, {small - 512, 1024, Data}, {small + 512, 3*small - 512, FromParent},
	}, ranges(t, d, 0, 4*small))
	require.Equal(t, []Range{{700, 10, Data}}, ranges(t, d, 700, 10))
	require.Empty(t, ranges(t, d, 4*small, 0))
	fixed := create(t, newMemory(nil), Options{Size: small, Fixed: true})
	require.Equal(t, []Range{{100, 1000, Data}}, ranges(t, fixed, 100, 1000))
	for _, err := range d.Allocated(small, 4*small) {
		require.ErrorIs(t, err, dr.ErrOutOfRange)
	}
	require.NoError(t, d.Close())
	for _, err := range d.Allocated(0, 1) {
		require.ErrorIs(t, err, fs.ErrClosed)
	}
}

// Readers and writers of their own parts share a disk, and nobody sees another's.
func TestConcurrentUse(t *testing.T) {
	base := create(t, newMemory(nil), Options{Size: 64 * small, BlockSize: small})
	write(t, base, bytes.Repeat([]byte{1}, 64*small), 0)
	for _, o := range []Options{{Size: 64 * small, BlockSize: small}, {Parent: base, BlockSize: small, ParentRelative: "p"}} {
		d := create(t, newMemory(nil), o)
		d.space.least = small
		var wg sync.WaitGroup
		for i := range int64(4) {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 11))
				own, want := i*16*small, make([]byte, 16*small)
				if _, err := d.ReadAt(want, own); !assert.NoError(t, err) {
					return
				}
				for range 150 {
					p := make([]byte, 1+rnd.IntN(3*small))
					off := rnd.Int64N(int64(len(want)-len(p)) + 1)
					switch rnd.IntN(6) {
					case 0:
						assert.NoError(t, d.Flush())
					case 1:
						assert.NoError(t, d.Zero(own+off, int64(len(p))))
						clear(want[off:][:len(p)])
					case 2, 3:
						for i := range p {
							p[i] = byte(rnd.Uint32())
						}
						copy(want[off:], p)
						_, err := d.WriteAt(p, own+off)
						assert.NoError(t, err)
					default:
						_, err := d.ReadAt(p, own+off)
						assert.NoError(t, err)
						assert.True(t, bytes.Equal(want[off:][:len(p)], p))
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, d.Close())
	}
}

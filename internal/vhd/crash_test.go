package vhd

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
)

// versions are what each sector of a disk may hold after a power cut: the last
// flushed content and all that was written since. The last one is what it reads.
type versions [][][]byte

func newVersions(content []byte) versions {
	v := make(versions, len(content)/sector)
	for i := range v {
		v[i] = [][]byte{content[i*sector : (i+1)*sector]}
	}
	return v
}

// write applies what is done to [off, off+len(p)), also if it failed.
func (v versions) write(p []byte, off int64) {
	for len(p) > 0 {
		i, in := off/sector, off%sector
		n := min(int64(len(p)), sector-in)
		s := bytes.Clone(v[i][len(v[i])-1])
		copy(s[in:], p[:n])
		v[i] = append(v[i], s)
		p, off = p[n:], off+n
	}
}

func (v versions) flushed() {
	for i := range v {
		v[i] = v[i][len(v[i])-1:]
	}
}

// check requires that every sector is one of its versions, and makes it the one.
func (v versions) check(t *testing.T, d *Disk, what string) {
	t.Helper()
	b := content(t, d)
	for i := range v {
		s := b[i*sector : (i+1)*sector]
		if !slices.ContainsFunc(v[i], func(x []byte) bool { return bytes.Equal(x, s) }) {
			require.Fail(t, what, "sector %d is none of its %d versions: % x", i, len(v[i]), s[:16])
		}
		v[i] = [][]byte{s}
	}
}

// isLast requires what a disk reads that nothing happened to.
func (v versions) isLast(t *testing.T, d *Disk) {
	t.Helper()
	b := content(t, d)
	for i := range v {
		require.True(t, bytes.Equal(v[i][len(v[i])-1], b[i*sector:(i+1)*sector]), "sector %d", i)
	}
}

// at is the image in the file system.
func at(t *testing.T, disk *crashfs.FS, flag int) File {
	f, err := disk.OpenFile("/d.vhd", os.O_RDWR|flag, 0o600)
	require.NoError(t, err)
	return f
}

// crash is a history that is interrupted again and again.
type crash struct {
	rnd    *rand.Rand
	parent *Disk
	step   int64
	v      versions
}

func newCrash(t *testing.T, seed uint64) *crash {
	c := &crash{rnd: rand.New(rand.NewPCG(seed, 7))}
	size := int64(1+c.rnd.IntN(40)) * sector * 5
	start := make([]byte, size)
	if c.rnd.IntN(2) == 0 {
		for i := range start {
			start[i] = byte(c.rnd.Uint32())
		}
		c.parent = create(t, newMemory(nil), Options{Size: size})
		write(t, c.parent, start, 0)
	}
	c.v = newVersions(start)
	c.step = int64(1 + c.rnd.IntN(3*(minBlock+sector))) // a few blocks
	return c
}

func (c *crash) create(f File) (*Disk, error) {
	o := Options{BlockSize: minBlock, Parent: c.parent}
	if c.parent != nil {
		o.ParentRelative = "base.vhd"
	} else {
		o.Size = int64(len(c.v)) * sector
	}
	return Create(f, o)
}

// run writes until something fails.
func (c *crash) run(d *Disk, ops int) error {
	d.space.least = c.step
	size := d.Size()
	for range ops {
		off := c.rnd.Int64N(size)
		n := min(1+c.rnd.Int64N([]int64{2 * sector, 4 * minBlock}[c.rnd.IntN(2)]), size-off)
		var err error
		switch k := c.rnd.IntN(20); {
		case k < 12:
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(c.rnd.Uint32())
			}
			c.v.write(p, off)
			_, err = d.WriteAt(p, off)
		case k < 16:
			c.v.write(make([]byte, n), off)
			err = d.Zero(off, n)
		default:
			if err = d.Flush(); err == nil {
				c.v.flushed()
			}
		}
		if err != nil {
			return err
		}
	}
	err := d.Close()
	if err == nil {
		c.v.flushed()
	}
	return err
}

// Power is cut at a random operation, several times in a row, and each time what
// was flushed is there, and of the rest each sector is old or new.
func TestPowerCuts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rounds := 400
	if testing.Short() {
		rounds = 100
	}
	torn := 0
	for round := range rounds {
		powerCuts(t, seed+uint64(round), &torn)
	}
	t.Logf("%d of the images had lost the footer at the end", torn)
	require.NotZero(t, torn, "the copy at the beginning served")
}

func powerCuts(t *testing.T, seed uint64, torn *int) {
	what := fmt.Sprintf("seed %d", seed)
	c := newCrash(t, seed)
	disk := crashfs.New(seed)
	d, err := c.create(at(t, disk, os.O_CREATE))
	require.NoError(t, err)
	require.NoError(t, disk.SyncDir("/"))
	for range 4 {
		disk.Inject(crashfs.Fault{N: 1 + c.rnd.IntN(60), Match: crashfs.Mutating, Torn: true})
		err := c.run(d, 30)
		if err != nil {
			require.ErrorIs(t, err, crashfs.ErrPowerLost, what)
		}
		disk = disk.Restart()
		f := at(t, disk, 0)
		o := OpenOptions{ReadOnly: true}
		if c.parent != nil {
			o.Parent = with(c.parent)
		}
		d, err = Open(f, o)
		require.NoError(t, err, what)
		if size, _ := f.Size(); size%sector != 0 {
			*torn++
		} else if b := make([]byte, FooterSize); readFull(f, b, size-FooterSize) == nil && !bytes.Equal(b, d.raw) {
			*torn++
			require.NotEqual(t, cookie, string(b[:8]))
		}
		c.v.check(t, d, what)
		o.ReadOnly = false
		if c.rnd.IntN(4) == 0 {
			disk.Inject(crashfs.Fault{N: 1 + c.rnd.IntN(3), Match: crashfs.Mutating, Torn: true})
		}
		if d, err = Open(f, o); err != nil { // power is cut during the repair, too
			require.ErrorIs(t, err, crashfs.ErrPowerLost, what)
			disk = disk.Restart()
			f = at(t, disk, 0)
			d, err = Open(f, o)
			require.NoError(t, err, what)
		}
		c.v.isLast(t, d)
	}
}

// A new image is there whole when Create returns, and before whole or not at all.
func TestPowerCutsWhileAnImageIsMade(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for n := 1; ; n++ {
		for round := range uint64(20) {
			c := newCrash(t, seed+round)
			disk := crashfs.New(seed + round)
			f := at(t, disk, os.O_CREATE)
			require.NoError(t, disk.SyncDir("/"))
			disk.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Torn: true})
			_, err := c.create(f)
			fired := disk.Fired()
			require.Equal(t, fired > 0, err != nil)
			var o OpenOptions
			if c.parent != nil {
				o.Parent = with(c.parent)
			}
			d, openErr := Open(at(t, disk.Restart(), 0), o)
			if openErr == nil {
				c.v.check(t, d, "new")
			} else {
				require.Error(t, err)
				require.ErrorIs(t, openErr, ErrFormat, "round %d, operation %d", round, n)
			}
			if fired == 0 && c.parent == nil && n > 10 {
				return
			}
		}
	}
}

// An operation fails, and the disk goes on as if it had not been asked for; after
// a failed Sync only a start of the system tells what the file holds.
func TestFailedOperations(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	injected := errors.New("injected")
	rounds := uint64(300)
	if testing.Short() {
		rounds = 60
	}
	for round := range rounds {
		c := newCrash(t, seed+round)
		what := fmt.Sprintf("seed %d", seed+round)
		disk := crashfs.New(seed + round)
		f := at(t, disk, os.O_CREATE)
		d, err := c.create(f)
		require.NoError(t, err)
		require.NoError(t, disk.SyncDir("/"))
		disk.Inject(crashfs.Fault{N: 1 + c.rnd.IntN(60), Err: injected, Match: func(o crashfs.Op) bool { return crashfs.Mutating(o) || o.Kind == crashfs.Read }, Torn: true})
		err = c.run(d, 30)
		if err != nil {
			require.ErrorIs(t, err, injected, what)
			if d.broken == nil && !d.closed {
				c.v.check(t, d, what) // what failed may have been done in part
				if err = c.run(d, 30); d.broken == nil {
					require.NoError(t, err, what)
				}
			}
			if d.broken != nil {
				_, err = d.WriteAt([]byte{1}, 0)
				require.Error(t, err)
				// What the file reads isn't what it holds, until the system starts
				// anew.
				disk = disk.Restart()
			}
		}
		var o OpenOptions
		if c.parent != nil {
			o.Parent = with(c.parent)
		}
		d, err = Open(at(t, disk, 0), o)
		require.NoError(t, err, what)
		c.v.check(t, d, what)
		require.NoError(t, c.run(d, 30), what)
		d, err = Open(at(t, disk.Restart(), 0), o)
		require.NoError(t, err, what)
		c.v.isLast(t, d)
	}
}

func TestAFullFileSystem(t *testing.T) {
	disk := crashfs.New(1)
	d := create(t, at(t, disk, os.O_CREATE), Options{Size: 64 * small, BlockSize: small})
	d.space.least = small
	want := make([]byte, d.Size())
	disk.Budget(10 * small)
	p := bytes.Repeat([]byte{7}, small)
	full := 0
	for i := range int64(64) {
		n, err := d.WriteAt(p, i*small)
		copy(want[i*small:], p[:n])
		if err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			full++
		}
	}
	require.NotZero(t, full)
	disk.Budget(0)
	requireContent(t, want, d, "full")
	for i := range int64(64) {
		write(t, d, p, i*small)
	}
	require.NoError(t, d.Close())
	d = open(t, at(t, disk, 0), OpenOptions{})
	requireContent(t, bytes.Repeat(p, 64), d, "with room again")
}

// A guest fills its dynamic disk with footers of fixed disks, and power is cut: if
// one of them were found at the end of the file, the image would be taken for the
// disk's bytes.
func TestNoGuestCanPoseAsTheFooter(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	forged := bytes.Repeat(Footer{Size: sector}.Bytes(), 4*minBlock/sector)
	for round := range uint64(400) {
		what := fmt.Sprintf("seed %d", seed+round)
		rnd := rand.New(rand.NewPCG(seed+round, 8))
		disk := crashfs.New(seed + round)
		d := create(t, at(t, disk, os.O_CREATE), Options{Size: 64 * minBlock, BlockSize: minBlock})
		require.NoError(t, disk.SyncDir("/"))
		for range 4 {
			d.space.least = 1 + rnd.Int64N(4*minBlock)
			disk.Inject(crashfs.Fault{N: 1 + rnd.IntN(40), Match: crashfs.Mutating, Torn: true})
			var err error
			for range 20 {
				off := rnd.Int64N(60) * minBlock
				switch rnd.IntN(6) {
				case 0:
					err = d.Zero(off, 4*minBlock)
				case 1:
					err = d.Flush()
				default:
					_, err = d.WriteAt(forged[:(1+rnd.IntN(len(forged)/sector))*sector], off)
				}
				if err != nil {
					break
				}
			}
			if err == nil {
				_ = d.Close()
			}
			disk = disk.Restart()
			d, err = Open(at(t, disk, 0), OpenOptions{})
			require.NoError(t, err, what)
			require.Equal(t, Dynamic, d.Kind(), what)
		}
	}
}

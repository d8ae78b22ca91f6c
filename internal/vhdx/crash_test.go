package vhdx

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// promise is what a disk must show after a crash: each sector as it was at the
// last Flush or as a write since made it.
type promise struct {
	now     []byte
	flushed []byte
	since   map[int64][][]byte // by sector of 512 bytes
	grown   int64              // the size that a Grow which didn't return asked for
}

func newPromise(content []byte) *promise {
	return &promise{now: bytes.Clone(content), flushed: bytes.Clone(content), since: map[int64][][]byte{}}
}

func (p *promise) write(data []byte, off int64) {
	copy(p.now[off:], data)
	for s := off / 512; s*512 < off+int64(len(data)); s++ {
		p.since[s] = append(p.since[s], bytes.Clone(p.now[s*512:][:512]))
	}
}

func (p *promise) flush() {
	p.flushed = bytes.Clone(p.now)
	clear(p.since)
}

func (p *promise) grow(size int64) {
	more := make([]byte, size-int64(len(p.now)))
	p.now, p.flushed, p.grown = append(p.now, more...), append(p.flushed, more...), 0
}

// check reads the whole disk, and returns it.
func (p *promise) check(d *Disk) ([]byte, error) {
	size := d.Size()
	if size != int64(len(p.now)) && size != p.grown {
		return nil, fmt.Errorf("%d bytes, not %d or %d", size, len(p.now), p.grown)
	}
	got := make([]byte, size)
	if n, err := d.ReadAt(got, 0); err != nil && err != io.EOF || n < len(got) {
		return nil, fmt.Errorf("read %d of %d: %w", n, size, err)
	}
	for off := 0; off < len(got); off += 512 {
		sector := got[off:][:512]
		want := make([]byte, 512)
		if off < len(p.flushed) {
			want = p.flushed[off:][:512]
		}
		ok := bytes.Equal(sector, want)
		for _, v := range p.since[int64(off/512)] {
			ok = ok || bytes.Equal(sector, v)
		}
		if !ok {
			return nil, fmt.Errorf("sector %d is neither what was flushed nor what was written since", off/512)
		}
	}
	return got, nil
}

// script is a history of a base and a child of it, up to the merge, that ends
// where power is cut.
type script struct {
	rng         *rand.Rand
	fs          fsys.FS
	base, child *Disk
	file        map[string]fsys.File
	inBase      *promise // what the base shows, while that is known
	inChild     *promise
	creating    string
	noPunch     bool
}

// keep hides that zeros can be asked for, in half of the histories.
func (s *script) keep(name string, f fsys.File) File {
	s.file[name] = f
	if s.noPunch {
		return struct{ File }{f}
	}
	return f
}

func (s *script) open(name string, o OpenOptions) (*Disk, error) {
	f, err := s.fs.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return Open(s.keep(name, f), o)
}

func (s *script) create(name string, o Options) (*Disk, error) {
	s.creating = name
	f, err := s.fs.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	d, err := Create(s.keep(name, f), o)
	if err == nil {
		err = s.fs.SyncDir(".")
	}
	if err == nil {
		s.creating = ""
	}
	return d, err
}

func (s *script) run() (err error) {
	o := Options{Size: 2*mib + 4096*(1+s.rng.Int64N(200)), BlockSize: mib, LogicalSector: []uint32{512, 4096}[s.rng.IntN(2)]}
	if s.base, err = s.create("base", o); err != nil {
		return err
	}
	s.inBase = newPromise(make([]byte, o.Size))
	if s.base, err = s.use(s.base, "base", s.inBase, OpenOptions{}); err != nil {
		return err
	}
	if err := s.base.Close(); err != nil {
		return err
	}
	s.inBase.flush()
	if s.base, err = s.open("base", OpenOptions{}); err != nil {
		return err
	}
	o = Options{Parent: s.base, BlockSize: mib << s.rng.IntN(2)}
	if s.child, err = s.create("child", o); err != nil {
		return err
	}
	s.inChild = newPromise(s.inBase.now)
	parent := func(Locator) (*Disk, error) { return s.base, nil }
	if s.child, err = s.use(s.child, "child", s.inChild, OpenOptions{Parent: parent}); err != nil {
		return err
	}
	if err := s.child.Flush(); err != nil {
		return err
	}
	s.inChild.flush()
	s.inBase = nil // a merge may leave anything there
	return s.child.Merge()
}

// use does ten things to a disk.
func (s *script) use(d *Disk, name string, p *promise, o OpenOptions) (*Disk, error) {
	for range 10 {
		size := int64(len(p.now))
		// The medium knows no sector that two writes share: it may keep the bytes
		// of the second without those of the first.
		off := s.rng.Int64N(size/512) * 512
		n := min(size-off, 512*(1+s.rng.Int64N(80)))
		var err error
		switch s.rng.IntN(9) {
		case 0, 1:
			if err = d.Flush(); err == nil {
				p.flush()
			}
		case 2:
			p.write(make([]byte, n), off)
			err = d.Zero(off, n)
		case 3:
			off = off / mib * mib
			n = min(size-off, mib)
			p.write(make([]byte, n), off)
			err = d.Zero(off, n)
		case 4:
			grown := size + 4096*s.rng.Int64N(400)
			p.grown = grown
			if err = d.Grow(grown); err == nil {
				p.grow(grown)
			}
		case 5:
			if err = d.Close(); err == nil {
				p.flush()
				d, err = s.open(name, o)
			}
		default:
			data := noise(s.rng, n)
			p.write(data, off)
			_, err = d.WriteAt(data, off)
		}
		if err != nil {
			return nil, err
		}
	}
	return d, nil
}

// survey opens what is left after a crash and holds it against the promises.
func (s *script) survey(fs fsys.FS) (err error) {
	after := &script{fs: fs, file: map[string]fsys.File{}}
	if after.base, err = after.open("base", OpenOptions{}); err != nil {
		if s.creating == "base" {
			return nil
		}
		return fmt.Errorf("base: %w", err)
	}
	if s.inBase != nil {
		if _, err := s.inBase.check(after.base); err != nil {
			return fmt.Errorf("base: %w", err)
		}
	}
	if s.inChild == nil {
		return after.base.Close()
	}
	o := OpenOptions{Parent: func(Locator) (*Disk, error) { return after.base, nil }}
	if after.child, err = after.open("child", o); err != nil {
		return fmt.Errorf("child: %w", err)
	}
	shown, err := s.inChild.check(after.child)
	if err != nil {
		return fmt.Errorf("child: %w", err)
	}
	// The merge, begun or not, can be done now, and nothing gets lost.
	if err := after.child.Merge(); err != nil {
		return fmt.Errorf("merge: %w", err)
	}
	for _, d := range []*Disk{after.child, after.base} {
		got := make([]byte, len(shown))
		if _, err := d.ReadAt(got, 0); err != nil {
			return err
		}
		if i := differs(got, shown); i >= 0 {
			return fmt.Errorf("byte %d is another one after the merge", i)
		}
	}
	return errors.Join(after.child.Close(), after.base.Close())
}

// cutAt runs the history of a seed up to the n-th change of the medium and looks
// at states that the cut may have left. It tells whether the history got there.
func cutAt(t *testing.T, seed uint64, n int, sample func(fs fsys.FS)) bool {
	disk := crashfs.New(seed + uint64(n)<<32)
	disk.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Torn: true})
	s := &script{rng: rand.New(rand.NewPCG(seed, 1)), fs: disk, file: map[string]fsys.File{}, noPunch: seed%2 == 0}
	err := s.run()
	if disk.Fired() == 0 {
		require.NoError(t, err, "seed %d", seed)
		disk.Cut()
	} else {
		require.ErrorIs(t, err, crashfs.ErrPowerLost, "seed %d, cut at %d", seed, n)
	}
	fired := disk.Fired() > 0
	for state := range 2 {
		left := disk.Restart()
		if sample != nil && s.creating == "" {
			sample(left)
		}
		if state == 1 {
			// Power goes again, while the log is replayed.
			left.Inject(crashfs.Fault{N: 1 + n%9, Match: crashfs.Mutating, Torn: true})
			again := &script{fs: left, file: map[string]fsys.File{}, noPunch: s.noPunch}
			if base, err := again.open("base", OpenOptions{}); err == nil && s.inChild != nil {
				_, _ = again.open("child", OpenOptions{Parent: func(Locator) (*Disk, error) { return base, nil }})
			}
			left = left.Restart()
		}
		if err := s.survey(left); err != nil {
			t.Fatalf("seed %d, cut at %d, state %d: %v", seed, n, state, err)
		}
	}
	return fired
}

// Wherever power goes, what was flushed is there, the rest is old or new, and a
// merge loses nothing.
func TestPowerCut(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	end := time.Now().Add(budget(4 * time.Second))
	cuts := 0
	for time.Now().Before(end) {
		seed++
		for n := 1 + rand.IntN(4); cutAt(t, seed, n, nil) && time.Now().Before(end); n += 1 + rand.IntN(4) {
			cuts++
		}
	}
	t.Log(cuts, "cuts")
}

// budget may be stretched, for a night.
func budget(d time.Duration) time.Duration {
	if long, err := time.ParseDuration(os.Getenv("VHDX_CRASH_TIME")); err == nil {
		return long
	}
	return d
}

// What a cut leaves is whole in qemu-img's eyes, as soon as the log is replayed.
func TestPowerCutQemu(t *testing.T) {
	need(t, "qemu-img", "qemu-utils")
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	images, dirty := 0, 0
	for ; images < 10; seed++ {
		cutAt(t, seed, 12+rand.IntN(60), func(left fsys.FS) {
			f, err := left.OpenFile("base", os.O_RDONLY, 0)
			require.NoError(t, err)
			size, err := f.Size()
			require.NoError(t, err)
			image := make([]byte, size)
			_, err = f.ReadAt(image, 0)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			h, _, err := readHeader(ReaderFile(bytes.NewReader(image), size))
			require.NoError(t, err)
			if le.Uint32(image[createMetadataAt+metadataTableSize+32:]) != 512 {
				return // qemu-img knows no other sectors
			}
			if h.logGUID != (GUID{}) {
				dirty++
			}
			name := filepath.Join(t.TempDir(), "image")
			require.NoError(t, os.WriteFile(name, image, 0o600))
			out, err := try(t, "qemu-img", "check", "-r", "all", "-f", "vhdx", name)
			require.NoError(t, err, "seed %d: %s", seed, out)
			require.Contains(t, run(t, "qemu-img", "check", "-f", "vhdx", name), "No errors")
			images++
		})
	}
	t.Log(images, "images,", dirty, "with a log")
}

// A BAT that grows out of its region moves, and a cut leaves the old one or the
// new one.
func TestPowerCutMovesBAT(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	const small, large = 127 << 30, 300 << 30
	rng := rand.New(rand.NewPCG(seed, 0))
	before, after := noise(rng, 5000), noise(rng, 5000)
	moved := 0
	for n := 1; ; n++ {
		disk := crashfs.New(seed + uint64(n))
		f, err := disk.OpenFile("disk", os.O_RDWR|os.O_CREATE, 0o600)
		require.NoError(t, err)
		d, err := Create(f, Options{Size: small, BlockSize: mib})
		require.NoError(t, err)
		require.NoError(t, disk.SyncDir("."))
		_, err = d.WriteAt(before, small-6000)
		require.NoError(t, err)
		require.NoError(t, d.Flush())

		disk.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Torn: true})
		grown := false
		err = d.Grow(large)
		if err == nil {
			grown = true
			if _, err = d.WriteAt(after, large-6000); err == nil {
				err = d.Flush()
			}
		}
		for range 3 {
			left := disk.Restart()
			f, err := left.OpenFile("disk", os.O_RDWR, 0)
			require.NoError(t, err)
			d, err := Open(f, OpenOptions{})
			require.NoError(t, err, "cut at %d", n)
			if grown {
				require.EqualValues(t, large, d.Size())
			}
			if d.Size() == large {
				moved++
				require.Greater(t, find(d.regions, regionBAT).off, int64(createBATAt))
			} else {
				require.EqualValues(t, small, d.Size(), "cut at %d", n)
			}
			got := make([]byte, 5000)
			_, err = d.ReadAt(got, small-6000)
			require.NoError(t, err)
			require.Equal(t, before, got, "cut at %d", n)
			require.NoError(t, d.Grow(large))
			_, err = d.WriteAt(after, large-6000)
			require.NoError(t, err)
			require.NoError(t, d.Close())
			d, err = Open(f, OpenOptions{ReadOnly: true})
			require.NoError(t, err)
			_, err = d.ReadAt(got, large-6000)
			require.NoError(t, err)
			require.Equal(t, after, got)
		}
		if disk.Fired() == 0 {
			require.NoError(t, err)
			break
		}
	}
	require.Positive(t, moved)
}

// A Flush of more pages than a log entry takes, of a disk whose blocks and their
// bitmaps stand on different pages of the BAT, is whole after each part.
func TestPowerCutLargeFlush(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	const step, writes = 512 * mib, 140 // a page of the BAT each
	sector := bytes.Repeat([]byte("x"), 512)
	places := func(yield func(int64) bool) {
		for i := range int64(writes) {
			if !yield(i*step + i%3*512) {
				return
			}
		}
	}
	var ops []crashfs.Kind // as many as were seen
	for n := 0; n <= len(ops); n++ {
		if n > 0 && ops[n-1] != crashfs.Sync && rand.IntN(30) > 0 {
			continue // one of hundreds of pages
		}
		disk := crashfs.New(seed + uint64(n))
		f, err := disk.OpenFile("disk", os.O_RDWR|os.O_CREATE, 0o600)
		require.NoError(t, err)
		base, _ := newDisk(t, Options{Size: writes * step, BlockSize: 32 * mib})
		d, err := Create(f, Options{Parent: base, BlockSize: mib})
		require.NoError(t, err)
		require.NoError(t, disk.SyncDir("."))
		for off := range places {
			_, err = d.WriteAt(sector, off)
			require.NoError(t, err)
		}
		require.Greater(t, len(d.bat.dirty)+len(d.bits.dirty), 2*entryPages)
		if len(ops) > 0 {
			disk.Inject(crashfs.Fault{N: n, Match: crashfs.Mutating, Torn: true})
		}
		k := 0
		disk.Trace(func(o crashfs.Op) {
			if crashfs.Mutating(o) {
				if k++; k > len(ops) {
					ops = append(ops, o.Kind)
				}
			}
		})
		err = d.Close()
		for range 6 {
			f, err := disk.Restart().OpenFile("disk", os.O_RDWR, 0)
			require.NoError(t, err)
			d, err := Open(f, OpenOptions{Parent: func(Locator) (*Disk, error) { return base, nil }})
			require.NoError(t, err, "cut at %d", n)
			shown := 0
			for off := range places {
				got := make([]byte, 3*512)
				_, err := d.ReadAt(got, off)
				require.NoError(t, err)
				if bytes.Equal(got[:512], sector) {
					shown++
				} else {
					require.Equal(t, make([]byte, 512), got[:512], "cut at %d", n)
				}
				require.Equal(t, make([]byte, 1024), got[512:], "cut at %d", n)
			}
			if disk.Fired() == 0 {
				require.Equal(t, writes, shown)
			}
		}
		if disk.Fired() == 0 {
			require.NoError(t, err)
		}
	}
}

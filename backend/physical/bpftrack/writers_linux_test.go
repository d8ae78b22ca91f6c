package bpftrack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Random writers of every kind write to a file system, while marks are set and
// the disk is read after each. In the end every block that differs from what
// was read after a mark is in what was written since that mark.
func TestRandomWriters(t *testing.T) {
	for _, c := range []struct {
		kind string
		size int64
		mkfs []string
	}{
		{"raw", 64 << 20, nil},
		{"ext4", 128 << 20, []string{"mkfs.ext4", "-q", "-F"}},
		{"xfs", 320 << 20, []string{"mkfs.xfs", "-q", "-f"}},
		{"btrfs", 160 << 20, []string{"mkfs.btrfs", "-q", "-f"}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			file := filepath.Join(memory(t), "disk")
			device := loopDevice(t, file, c.size)
			dir := ""
			if c.mkfs != nil {
				command(t, c.mkfs[0], append(c.mkfs[1:], device)...)
				dir = mount(t, device, c.kind)
			}
			tr := tracker(t, device, Options{})
			done := map[string]int{}
			rounds, narrow := 0, 0
			for more := long(); more(rounds, 3); rounds++ {
				if writersRound(t, tr, device, file, dir, rand.New(rand.NewPCG(seed, uint64(rounds))), done) {
					narrow++
				}
			}
			t.Logf("%d of %d rounds were told in less than everything; done: %v", narrow, rounds, done)
			require.Positive(t, narrow, "a tracker that says everything proves nothing")
		})
	}
}

// writersRound tells whether the tracker could tell some blocks as unwritten.
func writersRound(t *testing.T, tr *Tracker, device, file, dir string, rng *rand.Rand, done map[string]int) (narrow bool) {
	type moment struct {
		mark  dr.Cursor
		image []byte
	}
	var group errgroup.Group
	counts := make([]map[string]int, 2)
	moments := []moment{{mark: cut(t, tr)}}
	moments[0].image = content(t, file)
	ops := 5 + rng.IntN(40)
	for i := range counts {
		counts[i] = map[string]int{}
		w := &writer{rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), dir: dir, device: device, name: fmt.Sprint(i), did: counts[i]}
		group.Go(func() error {
			defer w.close()
			for range ops {
				if err := w.write(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for range 1 + rng.IntN(2) {
		mark := cut(t, tr)
		moments = append(moments, moment{mark, content(t, file)})
	}
	require.NoError(t, group.Wait())
	path := dir
	if dir == "" {
		path = device
	}
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	if dir == "" {
		if err := f.Sync(); !errors.Is(err, unix.EIO) { // see write
			require.NoError(t, err)
		}
		require.NoError(t, f.Sync())
	} else {
		require.NoError(t, unix.Syncfs(int(f.Fd())))
	}
	// More may be written at any time (journals, lazy tables): what was read
	// first is asked for last.
	final := content(t, file)
	for i, m := range moments {
		got := since(t, tr, m.mark)
		for _, b := range differ(m.image, final) {
			require.True(t, got[b], "block %d was written since mark %d of %d", b, i, len(moments))
		}
		narrow = narrow || len(got) < len(final)>>16
	}
	require.NoError(t, tr.Keep(t.Context(), "m", nil))
	for _, c := range counts {
		for what, n := range c {
			done[what] += n
		}
	}
	return narrow
}

// writer changes files of its own, or a raw device.
type writer struct {
	rng          *rand.Rand
	dir          string // "": the raw device
	device, name string
	did          map[string]int
	buf          []byte
	ring         *uring
	calm         bool // doesn't discard all that is free
}

func (w *writer) close() {
	if w.buf != nil {
		_ = unix.Munmap(w.buf)
	}
	if w.ring != nil {
		w.ring.close()
	}
}

// write does one thing. What a file system doesn't have is passed over.
func (w *writer) write() error {
	if w.buf == nil {
		var err error
		if w.buf, err = unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
			return err
		}
	}
	what := []string{"buffered", "direct", "mmap", "io_uring", "io_uring direct", "punch", "zero", "discard", "remove", "truncate", "sync"}[w.rng.IntN(11)]
	if w.calm && what == "discard" {
		return nil
	}
	err := w.do(what)
	switch {
	case err == nil:
		w.did[what]++
	case w.dir == "" && errors.Is(err, unix.EIO):
		// A direct write met a page that another writer has mapped: the
		// kernel tells the next sync, and has written both.
		w.did[what]++
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOTTY), errors.Is(err, os.ErrNotExist):
		w.did["not "+what]++
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (w *writer) do(what string) error {
	path, size := w.device, int64(32<<20)
	if w.dir != "" {
		path, size = filepath.Join(w.dir, fmt.Sprintf("%s.%d", w.name, w.rng.IntN(4))), 6<<20
	}
	flags := os.O_RDWR
	if w.dir != "" && what != "remove" {
		flags |= os.O_CREATE
	}
	if what == "direct" || what == "io_uring direct" {
		flags |= unix.O_DIRECT
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	off := 4096 * w.rng.Int64N(size/4096-256)
	n := int64(4096 * (1 + w.rng.IntN(w.rng.IntN(255)+1)))
	p := w.buf[:n]
	for i := 0; i < len(p); i += 64 {
		p[i] = byte(w.rng.Uint32())
	}
	switch what {
	case "buffered", "direct":
		_, err = f.WriteAt(p, off)
	case "io_uring", "io_uring direct":
		if w.ring == nil {
			if w.ring, err = newUring(); err != nil {
				return err
			}
		}
		err = w.ring.writeAt(f, p, off)
	case "mmap":
		if w.dir != "" {
			if err := f.Truncate(size); err != nil {
				return err
			}
		}
		var b []byte
		if b, err = unix.Mmap(int(f.Fd()), off, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return err
		}
		defer func() { _ = unix.Munmap(b) }()
		if w.dir == "" || reserve(f, off, n) == nil { // a full file system kills who stores
			copy(b, p)
		}
		err = unix.Msync(b, unix.MS_SYNC)
	case "punch":
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	case "zero":
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	case "discard":
		if w.dir == "" {
			return ioctlPtr(f, 0x1277, &[2]uint64{uint64(off), uint64(n)}) // BLKDISCARD
		}
		// FITRIM of the whole file system, linux/fs.h.
		r := [3]uint64{0, 1<<63 - 1, 0}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0xc0185879, uintptr(unsafe.Pointer(&r))); errno != 0 {
			err = errno
		}
	case "remove":
		if w.dir != "" {
			err = os.Remove(path)
		}
	case "truncate":
		if w.dir != "" {
			err = f.Truncate(off)
		}
	case "sync":
		err = f.Sync()
	}
	return err
}

func reserve(f *os.File, off, n int64) error { return unix.Fallocate(int(f.Fd()), 0, off, n) }

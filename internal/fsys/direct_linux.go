package fsys

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// directFile is one file through two descriptors: whole aligned blocks go past
// the page cache, the rest goes through it.
//
// The kernel keeps the two coherent: a direct read first writes back the dirty
// pages of its range, a direct write also drops the cached ones (open(2), and
// filemap.c: generic_file_direct_write). That holds for whole pages, hence a
// granularity of at least one, and only while nobody dirties a page of a range
// that is being written directly, which file systems prevent with the inode's
// lock and block devices do not: hence mu.
//
// Both descriptors are of one inode, so everything else, Sync included, is the
// embedded file's.
type directFile struct {
	osFile
	direct *os.File
	align  int
	off    atomic.Bool // direct I/O was refused, for good

	mu sync.RWMutex // direct writes share it, buffered writes exclude them
}

// openDirect adds a second, direct descriptor to a file that was opened by that
// name, or answers the file as it is where that can't be had.
func openDirect(plain osFile, name string, flag int) File {
	need, known := dioAlign(plain.File)
	if known && need == 0 {
		return plain
	}
	flag &^= os.O_CREATE | os.O_EXCL | os.O_TRUNC
	direct, err := os.OpenFile(name, flag|unix.O_DIRECT, 0)
	if err != nil {
		return plain
	}
	if !same(plain.File, direct) {
		direct.Close()
		return plain
	}
	return &directFile{osFile: plain, direct: direct, align: max(Alignment, os.Getpagesize(), need)}
}

// same guards against a file that was renamed over between the two opens.
func same(a, b *os.File) bool {
	ai, err := a.Stat()
	if err != nil {
		return false
	}
	bi, err := b.Stat()
	return err == nil && os.SameFile(ai, bi)
}

// aligned is the part [from, to) of a request that can go direct.
func (f *directFile) aligned(p []byte, off int64) (from, to int) {
	mask := f.align - 1
	if f.off.Load() || off < 0 || (int64(address(p))-off)&int64(mask) != 0 {
		return len(p), len(p)
	}
	from = -int(off) & mask
	if len(p)-from < f.align {
		return len(p), len(p)
	}
	return from, from + (len(p)-from)&^mask
}

func (f *directFile) ReadAt(p []byte, off int64) (int, error) {
	from, to := f.aligned(p, off)
	n, err := f.osFile.ReadAt(p[:from], off)
	if err != nil || from == len(p) {
		return n, err
	}
	m, err := f.direct.ReadAt(p[from:to], off+int64(from))
	n += m
	// What the direct way left, at a file's ragged end, or because it refuses,
	// the buffered one reads; after EOF or an error there is nothing to read.
	if f.fellShort(m, err) || err == nil {
		m, err = f.osFile.ReadAt(p[n:], off+int64(n))
		n += m
	}
	return n, err
}

func (f *directFile) WriteAt(p []byte, off int64) (int, error) {
	from, to := f.aligned(p, off)
	n, err := f.writeBuffered(p[:from], off)
	if err != nil || from == len(p) {
		return n, err
	}
	m, err := f.writeDirect(p[from:to], off+int64(from))
	n += m
	if f.fellShort(m, err) || err == nil {
		m, err = f.writeBuffered(p[n:], off+int64(n))
		n += m
	}
	return n, err
}

func (f *directFile) writeDirect(p []byte, off int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.direct.WriteAt(p, off)
}

func (f *directFile) writeBuffered(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.osFile.WriteAt(p, off)
}

// fellShort tells that the direct way refused (a request, or what was left of
// one after n bytes), which is no error of the file. A request that it refuses
// from its first byte is the last that it is asked.
func (f *directFile) fellShort(n int, err error) bool {
	if !errors.Is(err, unix.EINVAL) {
		return false
	}
	if n == 0 {
		f.off.Store(true)
	}
	return true
}

// Punch excludes direct writes because at its edges it dirties cached pages.
func (f *directFile) Punch(off, n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.osFile.Punch(off, n)
}

func (f *directFile) Close() error { return errors.Join(f.direct.Close(), f.osFile.Close()) }

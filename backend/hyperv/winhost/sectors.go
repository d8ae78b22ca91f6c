package winhost

import (
	"fmt"
	"io"
	"sync"
	"unsafe"

	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// device moves whole sectors: offsets, lengths and addresses of buffers are
// multiples of the sector's size, and all lies within the disk. It is safe for
// concurrent use.
type device interface {
	read(p []byte, off int64) error
	write(p []byte, off int64) error
}

// window is how much passes through a buffer of ours at once, in bytes: a
// multiple of every sector size.
const window = 1 << 20

// sectors reads and writes a device of whole sectors at any offset, of any
// length, from and into any memory. Safe for concurrent use.
type sectors struct {
	dev    device
	size   int64 // of the disk, a multiple of sector
	sector int64
	// buffers of window bytes are for requests that the device would not take.
	buffers *fsys.Pool
	// edges: a write that ends within a sector reads the rest of it and writes it
	// back, and nobody may write to that rest meanwhile. Such a write holds
	// it alone, others share it.
	edges sync.RWMutex
}

func newSectors(dev device, size, sector int64) *sectors {
	return &sectors{dev: dev, size: size, sector: sector, buffers: fsys.NewPool(window, 4)}
}

// whole tells whether a device takes the request as it is.
func (s *sectors) whole(p []byte, off int64) bool {
	return off%s.sector == 0 && int64(len(p))%s.sector == 0 && address(p)%uintptr(s.sector) == 0
}

// address may be masked: Go's heap does not move.
func address(p []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(p))) }

func (s *sectors) down(off int64) int64 { return off - off%s.sector }
func (s *sectors) up(off int64) int64   { return s.down(off + s.sector - 1) }

// ReadAt is io.ReaderAt's.
func (s *sectors) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d", off)
	}
	if off >= s.size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > s.size-off {
		p, end = p[:s.size-off], io.EOF
	}
	if s.whole(p, off) {
		if err := s.dev.read(p, off); err != nil {
			return 0, err
		}
		return len(p), end
	}
	b := s.buffers.Get()
	defer s.buffers.Put(b)
	for done := 0; done < len(p); {
		at := off + int64(done)
		from := s.down(at)
		to := min(s.up(off+int64(len(p))), from+window)
		if err := s.dev.read(b[:to-from], from); err != nil {
			return done, err
		}
		done += copy(p[done:], b[at-from:to-from])
	}
	return len(p), end
}

// WriteAt is io.WriterAt's. Past the end of the disk it writes nothing.
func (s *sectors) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > s.size || int64(len(p)) > s.size-off {
		return 0, fmt.Errorf("write of %d bytes at %d of a disk of %d", len(p), off, s.size)
	}
	if s.whole(p, off) {
		s.edges.RLock()
		defer s.edges.RUnlock()
		if err := s.dev.write(p, off); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	if off%s.sector == 0 && int64(len(p))%s.sector == 0 {
		s.edges.RLock()
		defer s.edges.RUnlock()
	} else {
		s.edges.Lock()
		defer s.edges.Unlock()
	}
	b := s.buffers.Get()
	defer s.buffers.Put(b)
	for done := 0; done < len(p); {
		at, end := off+int64(done), off+int64(len(p))
		from := s.down(at)
		to := min(s.up(end), from+window)
		// What of the first and the last sector isn't the caller's is kept.
		if from < at {
			if err := s.dev.read(b[:s.sector], from); err != nil {
				return done, err
			}
		}
		if last := to - s.sector; to > end && (last > from || from == at) {
			if err := s.dev.read(b[last-from:to-from], last); err != nil {
				return done, err
			}
		}
		n := copy(b[at-from:to-from], p[done:])
		if err := s.dev.write(b[:to-from], from); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

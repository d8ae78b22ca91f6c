package nbd

import (
	"fmt"
	"io"
	"sync"
)

// memFile is a sparse File in memory that holds up to limit bytes of blocks.
type memFile struct {
	limit int64

	mu     sync.RWMutex
	blocks map[int64]*[overlayBlock]byte
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if len(f.blocks) == 0 {
		return 0, io.EOF
	}
	for n := 0; n < len(p); {
		at := off + int64(n)
		part := p[n:][:min(int64(len(p)-n), overlayBlock-at%overlayBlock)]
		if b := f.blocks[at/overlayBlock]; b != nil {
			copy(part, b[at%overlayBlock:])
		} else {
			clear(part)
		}
		n += len(part)
	}
	return len(p), nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blocks == nil {
		f.blocks = make(map[int64]*[overlayBlock]byte)
	}
	for n := 0; n < len(p); {
		at := off + int64(n)
		part := p[n:][:min(int64(len(p)-n), overlayBlock-at%overlayBlock)]
		b := f.blocks[at/overlayBlock]
		if b == nil {
			if int64(len(f.blocks))*overlayBlock >= f.limit {
				return n, fmt.Errorf("overlay in memory is full at its limit of %d bytes: %w", f.limit, ENOSPC)
			}
			b = new([overlayBlock]byte)
			f.blocks[at/overlayBlock] = b
		}
		copy(b[at%overlayBlock:], part)
		n += len(part)
	}
	return len(p), nil
}

// PunchHole frees the whole blocks of the range. The overlay asks for no other,
// save a short last block, whose rest nobody uses.
func (f *memFile) PunchHole(off, n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for b := off / overlayBlock; b*overlayBlock < off+n; b++ {
		delete(f.blocks, b)
	}
	return nil
}

// Sync does nothing: memory is as durable as it gets.
func (f *memFile) Sync() error { return nil }

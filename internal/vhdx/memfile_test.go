package vhdx

import (
	"errors"
	"io"
	"sync"
)

// memFile is a File without holes' cost: 64 KiB pieces by number.
type memFile struct {
	mu     sync.Mutex
	pieces map[int64][]byte
	size   int64
	writes int64 // bytes
	syncs  int
}

const piece = 64 * kib

func (f *memFile) each(off, n int64, fn func(i, in int64, part [2]int64)) {
	for done := int64(0); done < n; {
		i, in := (off+done)/piece, (off+done)%piece
		m := min(n-done, piece-in)
		fn(i, in, [2]int64{done, done + m})
		done += m
	}
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	n := max(0, min(int64(len(p)), f.size-off))
	f.each(off, n, func(i, in int64, part [2]int64) {
		if data := f.pieces[i]; data != nil {
			copy(p[part[0]:part[1]], data[in:])
		} else {
			clear(p[part[0]:part[1]])
		}
	})
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if f.pieces == nil {
		f.pieces = map[int64][]byte{}
	}
	f.each(off, int64(len(p)), func(i, in int64, part [2]int64) {
		if f.pieces[i] == nil {
			f.pieces[i] = make([]byte, piece)
		}
		copy(f.pieces[i][in:], p[part[0]:part[1]])
	})
	f.size = max(f.size, off+int64(len(p)))
	f.writes += int64(len(p))
	return len(p), nil
}

func (f *memFile) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if size < f.size {
		for i, data := range f.pieces {
			if i*piece >= size {
				delete(f.pieces, i)
			} else if rest := size - i*piece; rest < piece {
				clear(data[rest:])
			}
		}
	}
	f.size = size
	return nil
}

func (f *memFile) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncs++
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size, nil
}

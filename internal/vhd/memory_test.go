package vhd

import (
	"bytes"
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// memory is a File that is sparse in chunks, so that large images cost nothing.
type memory struct {
	mu     sync.RWMutex
	chunks map[int64]*[chunk]byte
	size   int64
	syncs  int
	writes int64
}

const chunk = 64 << 10

func newMemory(b []byte) *memory {
	m := &memory{chunks: map[int64]*[chunk]byte{}}
	if len(b) > 0 {
		m.WriteAt(b, 0)
	}
	return m
}

func (m *memory) ReadAt(p []byte, off int64) (n int, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for n < len(p) && off < m.size {
		in := off % chunk
		now := int(min(int64(len(p)-n), chunk-in, m.size-off))
		if c := m.chunks[off/chunk]; c != nil {
			copy(p[n:n+now], c[in:])
		} else {
			clear(p[n : n+now])
		}
		n, off = n+now, off+int64(now)
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (m *memory) WriteAt(p []byte, off int64) (n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n < len(p) {
		c := m.chunks[off/chunk]
		if c == nil {
			c = new([chunk]byte)
			m.chunks[off/chunk] = c
		}
		now := copy(c[off%chunk:], p[n:])
		n, off = n+now, off+int64(now)
	}
	m.writes += int64(n)
	m.size = max(m.size, off)
	return n, nil
}

func (m *memory) Truncate(size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, c := range m.chunks {
		if i*chunk >= size {
			delete(m.chunks, i)
		} else if (i+1)*chunk > size {
			clear(c[size-i*chunk:])
		}
	}
	m.size = size
	return nil
}

func (m *memory) Sync() error          { m.syncs++; return nil }
func (m *memory) Size() (int64, error) { return m.size, nil }

// bytes is the whole file.
func (m *memory) bytes() []byte {
	b := make([]byte, m.size)
	m.ReadAt(b, 0)
	return b
}

// content is the whole disk.
func content(t testing.TB, d *Disk) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	_, err := d.ReadAt(b, 0)
	require.NoError(t, err)
	return b
}

func requireContent(t testing.TB, want []byte, d *Disk, what string) {
	t.Helper()
	got := content(t, d)
	if !bytes.Equal(want, got) {
		require.Equal(t, len(want), len(got))
		for i := range want {
			if want[i] != got[i] {
				require.Fail(t, what, "byte %d is %#x, want %#x", i, got[i], want[i])
			}
		}
	}
}

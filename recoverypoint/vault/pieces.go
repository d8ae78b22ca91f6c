package vault

import (
	"context"
	"sync"
	"sync/atomic"
)

// maxPieces bounds the chunks that a draft holds half written.
const maxPieces = 64

// pieces gathers writes that are smaller than a chunk, so that a chunk written
// in pieces is compressed and stored once. The zero value is ready.
type pieces struct {
	count atomic.Int64

	mu    sync.Mutex
	at    map[pieceKey]*piece
	order []pieceKey // oldest first; some may be gone
}

type pieceKey struct {
	disk  *diskMap
	chunk int64
}

// piece is a chunk in memory, its own content below what was written to it.
type piece struct {
	buf    []byte // from the store's blocks
	size   int
	lo, hi int // written without a gap; more may be
}

func (s *pieces) any() bool { return s.count.Load() > 0 }

// write puts b at in of a chunk.
func (s *pieces) write(ctx context.Context, d *draft, m *diskMap, chunk int64, in int, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := pieceKey{m, chunk}
	c, ok := s.at[key]
	if !ok {
		c = &piece{buf: d.store.blocks.Get(), size: chunkLen(m.size, chunk), lo: in, hi: in}
		if err := d.base(ctx, m, chunk, c.buf[:c.size]); err != nil {
			d.store.blocks.Put(c.buf)
			return err
		}
		if s.at == nil {
			s.at = map[pieceKey]*piece{}
		}
		s.at[key] = c
		s.order = append(s.order, key)
		s.count.Add(1)
	}
	copy(c.buf[in:], b)
	if in <= c.hi && in+len(b) >= c.lo {
		c.lo, c.hi = min(c.lo, in), max(c.hi, in+len(b))
	}
	if c.lo == 0 && c.hi == c.size {
		return s.store(ctx, d, key, c)
	}
	for len(s.at) > maxPieces {
		key := s.order[0]
		s.order = s.order[1:]
		if c, ok := s.at[key]; ok {
			if err := s.store(ctx, d, key, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// store ends a piece; s.mu is held. A piece that can't be stored stays.
func (s *pieces) store(ctx context.Context, d *draft, key pieceKey, c *piece) error {
	if err := d.put(ctx, key.disk, key.chunk, c.buf[:c.size], c.lo == 0 && c.hi == c.size); err != nil {
		return err
	}
	s.remove(d, key, c)
	return nil
}

func (s *pieces) remove(d *draft, key pieceKey, c *piece) {
	delete(s.at, key)
	s.count.Add(-1)
	d.store.blocks.Put(c.buf)
	if len(s.at) == 0 {
		s.order = nil
	}
}

// drop forgets a chunk that is written over whole.
func (s *pieces) drop(d *draft, m *diskMap, chunk int64) {
	if !s.any() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := pieceKey{m, chunk}
	if c, ok := s.at[key]; ok {
		s.remove(d, key, c)
	}
}

// flush stores all that are there.
func (s *pieces) flush(ctx context.Context, d *draft) error {
	if !s.any() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range s.order {
		if c, ok := s.at[key]; ok {
			if err := s.store(ctx, d, key, c); err != nil {
				return err
			}
		}
	}
	s.order = nil
	return nil
}

package vault

import (
	"context"
	"slices"
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
	order []*piece // all of them, oldest first, and some that are gone
}

type pieceKey struct {
	disk  *diskMap
	chunk int64
}

// piece is a chunk in memory, its own content below what was written to it.
type piece struct {
	key    pieceKey
	buf    []byte // from the store's blocks; nil: gone
	size   int
	lo, hi int // written without a gap; more may be
}

func (s *pieces) any() bool { return s.count.Load() > 0 }

// write puts b at in of a chunk. After an error it may be there or not.
func (s *pieces) write(ctx context.Context, d *draft, m *diskMap, chunk int64, in int, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.at[pieceKey{m, chunk}]
	if !ok {
		c = &piece{key: pieceKey{m, chunk}, buf: d.store.blocks.Get(), size: chunkLen(m.size, chunk), lo: in, hi: in}
		if err := d.base(ctx, m, chunk, c.buf[:c.size]); err != nil {
			d.store.blocks.Put(c.buf)
			return err
		}
		s.add(c)
	}
	copy(c.buf[in:], b)
	if in <= c.hi && in+len(b) >= c.lo {
		c.lo, c.hi = min(c.lo, in), max(c.hi, in+len(b))
	}
	if c.lo == 0 && c.hi == c.size {
		return s.store(ctx, d, c)
	}
	for len(s.at) > maxPieces {
		if err := s.store(ctx, d, s.order[0]); err != nil {
			return err
		}
		s.order = s.order[1:]
	}
	return nil
}

func (s *pieces) add(c *piece) {
	if s.at == nil {
		s.at = map[pieceKey]*piece{}
	}
	s.at[c.key] = c
	if len(s.order) > 4*maxPieces {
		s.order = slices.DeleteFunc(s.order, func(c *piece) bool { return c.buf == nil })
	}
	s.order = append(s.order, c)
	s.count.Add(1)
}

// store ends a piece, if it isn't gone; s.mu is held. One that can't be stored
// stays.
func (s *pieces) store(ctx context.Context, d *draft, c *piece) error {
	if c.buf == nil {
		return nil
	}
	if err := d.put(ctx, c.key.disk, c.key.chunk, c.buf[:c.size], c.lo == 0 && c.hi == c.size); err != nil {
		return err
	}
	s.remove(d, c)
	return nil
}

func (s *pieces) remove(d *draft, c *piece) {
	delete(s.at, c.key)
	s.count.Add(-1)
	d.store.blocks.Put(c.buf)
	c.buf = nil
}

// drop forgets a chunk that is written over whole.
func (s *pieces) drop(d *draft, m *diskMap, chunk int64) {
	if !s.any() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.at[pieceKey{m, chunk}]; ok {
		s.remove(d, c)
	}
}

// flush stores all that are there.
func (s *pieces) flush(ctx context.Context, d *draft) error {
	if !s.any() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.order) > 0 {
		if err := s.store(ctx, d, s.order[0]); err != nil {
			return err
		}
		s.order = s.order[1:]
	}
	s.order = nil
	return nil
}

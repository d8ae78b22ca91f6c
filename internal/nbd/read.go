package nbd

import (
	"bytes"
	"context"
	"fmt"
	"io"
)

// span is a part of a request that lies within one piece-aligned window.
type span struct{ off, n int64 }

// spans cuts [off, off+n) at multiples of pieceSize: a device is then read and
// written along its own boundaries, however the request lies.
func spans(off, n int64) []span {
	out := make([]span, 0, n/pieceSize+2)
	for n > 0 {
		k := min(n, pieceSize-off%pieceSize)
		out = append(out, span{off, k})
		off, n = off+k, n-k
	}
	return out
}

// startRead begins a READ: piece by piece with structured replies; otherwise as
// one, for a simple reply can't report a failure after its first byte, and DF
// asks for a single chunk.
func (s *session) startRead(ctx context.Context, req request) error {
	parts := spans(int64(req.offset), int64(req.length))
	if !s.structured || req.flags&cmdFlagDF != 0 {
		return s.startWholeRead(ctx, req)
	}
	c := &call{request: req, left: len(parts)}
	for _, p := range parts {
		err := s.operate(ctx, 1, func() {
			buf := pieces.Get().(*piece)
			defer pieces.Put(buf)
			chunks, err := s.readSparse(p, buf[:p.n])
			s.answerChunks(c, chunks, err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// startWholeRead reads everything before it answers. Pieces are cut at
// pieceSize from the start, not at the window, so that MaxPayload always fits
// the connection's memory.
func (s *session) startWholeRead(ctx context.Context, req request) error {
	n := (int64(req.length) + pieceSize - 1) / pieceSize
	return s.operate(ctx, n, func() {
		bufs := make([]*piece, 0, n)
		data := make([][]byte, 0, n)
		defer func() {
			for _, b := range bufs {
				pieces.Put(b)
			}
		}()
		off, left := int64(req.offset), int64(req.length)
		for left > 0 {
			b := pieces.Get().(*piece)
			bufs = append(bufs, b)
			p := b[:min(left, pieceSize)]
			if err := s.readFull(p, off); err != nil {
				s.answerReadFailure(req, err)
				return
			}
			data = append(data, p)
			off, left = off+int64(len(p)), left-int64(len(p))
		}
		if s.structured {
			s.answerUnfragmented(req, data)
			return
		}
		s.answerSimple(req, 0, data...)
	})
}

// answerReadFailure answers a READ that failed as a whole.
func (s *session) answerReadFailure(req request, err error) {
	if s.structured {
		s.answerChunks(&call{request: req, left: 1}, nil, err)
		return
	}
	s.answerSimple(req, errnoOf(err))
}

// answerUnfragmented sends one data chunk from several buffers.
func (s *session) answerUnfragmented(req request, data [][]byte) {
	h := chunkHeader{flags: chunkFlagDone, kind: chunkOffsetData, cookie: req.cookie, length: 8 + req.length}
	first := dataChunk(int64(req.offset), nil)
	out := append([][]byte{append(h.append(nil), first.fixed[:8]...)}, data...)
	s.send.Lock()
	defer s.send.Unlock()
	s.flushOut(out)
}

// readSparse reads one span into p. What the map knows to be zero is neither
// read nor sent, and neither is what turns out to be zero. On failure it keeps
// what it has: the error that follows tells the client not to use it.
func (s *session) readSparse(at span, p []byte) ([]chunk, error) {
	if s.target.mapper == nil {
		return s.readChunk(nil, at, at, p)
	}
	var chunks []chunk
	var run span // of one kind, not yet read or told: a map may come in crumbs
	var zero bool
	end := func() (err error) {
		switch {
		case run.n == 0:
		case zero:
			chunks = append(chunks, holeChunk(run.off, run.n))
		default:
			chunks, err = s.readChunk(chunks, at, run, p)
		}
		return err
	}
	for e, err := range s.target.extents(s.ctx, at.off, at.n) {
		// A map that fails is only a lost optimisation: the rest is read.
		z := e.Zero && err == nil
		if z != zero || run.n == 0 {
			if err := end(); err != nil {
				return chunks, err
			}
			run, zero = span{off: e.Off}, z
		}
		run.n += e.Len
	}
	err := end()
	return chunks, err
}

// readChunk reads run, a part of at, into its place in p and appends its chunk.
func (s *session) readChunk(chunks []chunk, at, run span, p []byte) ([]chunk, error) {
	p = p[run.off-at.off:][:run.n]
	if err := s.readFull(p, run.off); err != nil {
		return chunks, err
	}
	if bytes.Equal(p, zeros[:len(p)]) {
		return append(chunks, holeChunk(run.off, run.n)), nil
	}
	return append(chunks, dataChunk(run.off, p)), nil
}

func (s *session) readFull(p []byte, off int64) error {
	n, err := s.target.dev.ReadAt(s.ctx, p, off)
	if n == len(p) {
		return nil // io.EOF at the end of the device is no failure
	}
	if err == nil || err == io.EOF {
		err = fmt.Errorf("short read: %d of %d bytes: %w", n, len(p), io.ErrUnexpectedEOF)
	}
	return s.deviceError("read", off, int64(len(p)), err)
}

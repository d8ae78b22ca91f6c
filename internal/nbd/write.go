package nbd

import (
	"context"
	"io"
)

// startWrite begins a WRITE. Its payload is read piece by piece, each piece
// written beside the others: a client that announces 32 MiB and sends nothing
// costs one buffer.
func (s *session) startWrite(ctx context.Context, req request) error {
	parts := spans(int64(req.offset), int64(req.length))
	c := &call{request: req, left: len(parts)}
	for _, p := range parts {
		if err := s.reserve(ctx, 1); err != nil {
			return err
		}
		buf := pieces.Get().(*piece)
		if _, err := io.ReadFull(s.r, buf[:p.n]); err != nil {
			pieces.Put(buf)
			s.yield(1)
			return err
		}
		s.launch(1, func() {
			defer pieces.Put(buf)
			s.finishWrite(c, s.writeFull(buf[:p.n], p.off))
		})
	}
	return nil
}

// finishWrite notes that a part is written. FUA is a flush before the answer,
// by the part that finishes last.
func (s *session) finishWrite(c *call, err error) {
	s.send.Lock()
	last := c.left == 1
	if !last {
		c.left--
	}
	if err != nil && c.failed == nil {
		c.failed = err
	}
	err = c.failed
	s.send.Unlock()
	if !last {
		return
	}
	if err == nil && c.flags&cmdFlagFUA != 0 {
		err = s.flush()
	}
	s.answerResult(c.request, err)
}

func (s *session) writeFull(p []byte, off int64) error {
	n, err := s.target.write.WriteAt(s.ctx, p, off)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return s.deviceError("write", off, int64(len(p)), err)
	}
	return nil
}

func (s *session) flush() error {
	if err := s.target.flush.Flush(s.ctx); err != nil {
		return s.deviceError("flush", 0, 0, err)
	}
	return nil
}

// control carries out a request that moves no data.
func (s *session) control(req request) {
	off, n := int64(req.offset), int64(req.length)
	var err error
	switch req.cmd {
	case cmdFlush:
		err = s.flush()
	case cmdTrim:
		if e := s.target.trim.Trim(s.ctx, off, n); e != nil && !isUnsupported(e) {
			err = s.deviceError("trim", off, n, e)
		}
	case cmdWriteZeros:
		err = s.writeZeros(req)
	case cmdCache:
		// A hint: a device that doesn't take it has nothing to do.
		if s.target.fetch != nil {
			if e := s.target.fetch.Prefetch(s.ctx, off, n); e != nil && !isUnsupported(e) {
				err = s.deviceError("cache", off, n, e)
			}
		}
	case cmdBlockStatus:
		s.blockStatus(req)
		return
	}
	if err == nil && req.flags&cmdFlagFUA != 0 && (req.cmd == cmdTrim || req.cmd == cmdWriteZeros) {
		err = s.flush()
	}
	s.answerResult(req, err)
}

// writeZeros zeroes by the device's own means, unless the client wants the
// space to stay taken (NO_HOLE); else by writing, unless it wants that only if
// it is fast.
func (s *session) writeZeros(req request) error {
	off, n := int64(req.offset), int64(req.length)
	if s.target.zero != nil && req.flags&cmdFlagNoHole == 0 {
		err := s.target.zero.Zero(s.ctx, off, n)
		if err == nil {
			return nil
		}
		if !isUnsupported(err) {
			return s.deviceError("write zeroes", off, n, err)
		}
	}
	if req.flags&cmdFlagFastZero != 0 {
		return &refusal{ENOTSUP, "zeroing would not be faster than writing"}
	}
	for n > 0 {
		// Windows, not a list of them: a request may span 4 GiB.
		k := min(n, pieceSize-off%pieceSize)
		if err := s.writeFull(zeros[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

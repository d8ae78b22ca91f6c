package nbd

import (
	"encoding/binary"
	"errors"
	"net"
)

// chunk is one chunk of a structured reply, to be sent: the fixed part of its
// payload, and data that is not copied.
type chunk struct {
	kind  uint16
	fixed [12]byte
	nfix  int
	data  []byte
}

func dataChunk(off int64, data []byte) chunk {
	c := chunk{kind: chunkOffsetData, nfix: 8, data: data}
	binary.BigEndian.PutUint64(c.fixed[:], uint64(off))
	return c
}

func holeChunk(off, n int64) chunk {
	c := chunk{kind: chunkOffsetHole, nfix: 12}
	binary.BigEndian.PutUint64(c.fixed[:], uint64(off))
	binary.BigEndian.PutUint32(c.fixed[8:], uint32(n))
	return c
}

// errorChunk carries a message for a person; the number alone says little.
func errorChunk(err error) chunk {
	msg := err.Error()
	msg = msg[:min(len(msg), maxString)]
	c := chunk{kind: chunkError, nfix: 6, data: []byte(msg)}
	binary.BigEndian.PutUint32(c.fixed[:], uint32(errnoOf(err)))
	binary.BigEndian.PutUint16(c.fixed[4:], uint16(len(msg)))
	return c
}

// answerChunks sends what one operation of a structured reply produced. The
// operation that finishes last closes the reply: with its own last chunk if all
// went well, with an error chunk if any failed.
func (s *session) answerChunks(c *call, chunks []chunk, err error) {
	s.send.Lock()
	defer s.send.Unlock()
	c.left--
	if err != nil && c.failed == nil {
		c.failed = err
	}
	if c.left == 0 {
		switch {
		case c.failed != nil:
			chunks = append(chunks, errorChunk(c.failed))
		case len(chunks) == 0:
			chunks = append(chunks, chunk{kind: chunkNone})
		}
	}
	head := make([]byte, 0, len(chunks)*(chunkHeaderSize+len(chunk{}.fixed)))
	out := make(net.Buffers, 0, 2*len(chunks))
	for i := range chunks {
		k := &chunks[i]
		h := chunkHeader{kind: k.kind, cookie: c.cookie, length: uint32(k.nfix + len(k.data))}
		if c.left == 0 && i == len(chunks)-1 {
			h.flags = chunkFlagDone
		}
		from := len(head)
		head = append(h.append(head), k.fixed[:k.nfix]...)
		out = append(out, head[from:])
		if len(k.data) > 0 {
			out = append(out, k.data)
		}
	}
	s.flushOut(out)
}

// answerSimple sends a simple reply, with data if it is that of a READ.
func (s *session) answerSimple(req request, errno Errno, data ...[]byte) {
	s.send.Lock()
	defer s.send.Unlock()
	out := append(net.Buffers{simpleReply{err: errno, cookie: req.cookie}.append(nil)}, data...)
	s.flushOut(out)
}

// answerDone notes that one operation of a call without data finished; the last
// one answers.
func (s *session) answerDone(c *call, err error) {
	if s.structured && c.cmd == cmdRead {
		s.answerChunks(c, nil, err)
		return
	}
	s.send.Lock()
	c.left--
	if err != nil && c.failed == nil {
		c.failed = err
	}
	last, failed := c.left == 0, c.failed
	s.send.Unlock()
	if last {
		s.answerResult(c.request, failed)
	}
}

// answerResult answers a request that has no data, as a whole.
func (s *session) answerResult(req request, err error) {
	switch {
	case err == nil:
		s.answerSimple(req, 0)
	case s.structured:
		s.answerChunks(&call{request: req, left: 1}, nil, err)
	default:
		s.answerSimple(req, errnoOf(err))
	}
}

// answerError refuses a request.
func (s *session) answerError(req request, errno Errno, why string) {
	s.answerResult(req, &refusal{errno, why})
}

// flushOut writes a reply. After a failure the connection is of no use: part of
// the reply may be on its way.
func (s *session) flushOut(out net.Buffers) {
	if _, err := out.WriteTo(s.conn); err != nil {
		s.broken(err)
	}
}

// refusal is a request's fault, in words for the client.
type refusal struct {
	errno Errno
	why   string
}

func (r *refusal) Error() string {
	if r.why == "" {
		return r.errno.Error()
	}
	return r.why
}

func (r *refusal) Unwrap() error { return r.errno }

// isUnsupported reports that a device declined without harm.
func isUnsupported(err error) bool { return errors.Is(err, errors.ErrUnsupported) }

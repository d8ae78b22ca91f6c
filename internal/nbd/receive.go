package nbd

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// maxStatus is the protocol's limit of descriptors in one chunk.
const maxStatus = 1 << 20

// remoteError is a server's answer that a request failed.
type remoteError struct {
	errno Errno
	text  string // the server's words, for a person; foreign
}

func (e *remoteError) Error() string {
	if e.text == "" {
		return e.errno.Error()
	}
	return fmt.Sprintf("%v (the server says %.500q)", e.errno, e.text)
}

func (e *remoteError) Unwrap() error { return e.errno }

// receive takes replies in until the connection fails or breaks the protocol.
func (l *link) receive() error {
	var b [chunkHeaderSize]byte
	for {
		if _, err := io.ReadFull(l.r, b[:4]); err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
		var err error
		switch m := binary.BigEndian.Uint32(b[:]); m {
		case magicSimpleReply:
			err = l.simple((*[simpleReplySize - 4]byte)(b[4:]))
		case magicChunk:
			err = l.chunk((*[chunkHeaderSize - 4]byte)(b[4:]))
		default:
			err = fmt.Errorf("%w: reply starts with %#x", errProtocol, m)
		}
		if err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
	}
}

// simple takes a simple reply in. A structured connection allows it only where
// there is nothing to carry.
func (l *link) simple(b *[simpleReplySize - 4]byte) error {
	if _, err := io.ReadFull(l.r, b[:]); err != nil {
		return err
	}
	rep := parseSimpleReply(b)
	s, err := l.find(rep.cookie)
	if err != nil {
		return err
	}
	if rep.err != 0 {
		l.finish(s, &remoteError{errno: rep.err})
		return nil
	}
	if cmd := s.req.cmd; cmd == cmdBlockStatus || cmd == cmdRead && l.structured {
		return fmt.Errorf("%w: a simple reply to command %d", errProtocol, cmd)
	}
	if s.told {
		return fmt.Errorf("%w: a simple reply after a chunk", errProtocol)
	}
	if s.req.cmd == cmdRead {
		if err := l.fill(s, 0, int64(s.req.length)); err != nil {
			return err
		}
	}
	l.finish(s, nil)
	return nil
}

// chunk takes one chunk of a structured reply in.
func (l *link) chunk(b *[chunkHeaderSize - 4]byte) error {
	if _, err := io.ReadFull(l.r, b[:]); err != nil {
		return err
	}
	h := parseChunkHeader(b)
	if !l.structured {
		return fmt.Errorf("%w: a structured reply that was not negotiated", errProtocol)
	}
	s, err := l.find(h.cookie)
	if err != nil {
		return err
	}
	s.told = true
	switch {
	case h.kind == chunkNone:
		if h.length != 0 || h.flags&chunkFlagDone == 0 {
			err = fmt.Errorf("%w: an empty chunk of %d bytes, flags %#x", errProtocol, h.length, h.flags)
		}
	case h.kind == chunkOffsetData && s.req.cmd == cmdRead && h.length > 8:
		err = l.dataChunk(s, h)
	case h.kind == chunkOffsetHole && s.req.cmd == cmdRead && h.length == 12:
		err = l.holeChunk(s)
	case h.kind == chunkBlockStatus && s.req.cmd == cmdBlockStatus:
		err = l.statusChunk(s, h)
	case h.kind&chunkErrorBit != 0:
		err = l.errorChunk(s, h)
	default:
		err = fmt.Errorf("%w: chunk of kind %d and %d bytes in reply to command %d", errProtocol, h.kind, h.length, s.req.cmd)
	}
	if err == nil && h.flags&chunkFlagDone != 0 {
		l.finish(s, s.verdict())
	}
	return err
}

// verdict is a structured reply's outcome once it is whole.
func (s *slot) verdict() error {
	switch {
	case s.failed != nil:
		return s.failed
	case s.req.cmd == cmdRead && !s.seen.whole(s.req.length):
		// What wasn't sent may be anything in the caller's buffer.
		return fmt.Errorf("%w: the reply leaves out a part of what was to be read", errProtocol)
	case s.req.cmd == cmdBlockStatus && len(s.status) == 0:
		return fmt.Errorf("%w: the reply has no status of the context", errProtocol)
	}
	return nil
}

// place checks where a part of a READ lies and returns that, relative to the
// request.
func (s *slot) place(off, n uint64) (uint32, error) {
	at := off - s.req.offset
	if off < s.req.offset || at > uint64(s.req.length) || n > uint64(s.req.length)-at || n == 0 {
		return 0, fmt.Errorf("%w: %d bytes at %d in reply to a read of %d at %d", errProtocol, n, off, s.req.length, s.req.offset)
	}
	if !s.seen.add(uint32(at), uint32(n)) {
		return 0, fmt.Errorf("%w: bytes at %d come twice, or in crumbs", errProtocol, off)
	}
	return uint32(at), nil
}

func (l *link) dataChunk(s *slot, h chunkHeader) error {
	var b [8]byte
	if _, err := io.ReadFull(l.r, b[:]); err != nil {
		return err
	}
	n := h.length - 8
	at, err := s.place(binary.BigEndian.Uint64(b[:]), uint64(n))
	if err != nil {
		return err
	}
	return l.fill(s, int64(at), int64(n))
}

func (l *link) holeChunk(s *slot) error {
	var b [12]byte
	if _, err := io.ReadFull(l.r, b[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(b[8:])
	at, err := s.place(binary.BigEndian.Uint64(b[:]), uint64(n))
	if err != nil {
		return err
	}
	if s.hold() {
		clear(s.data[at:][:n])
		l.letGo(s)
	}
	return nil
}

// fill reads n bytes into the caller's buffer at its place, or drains them if
// the caller is gone. It lets go of the buffer between pieces, so that a slow
// reply can be left before it is whole.
func (l *link) fill(s *slot, at, n int64) error {
	for n > 0 {
		if !s.hold() {
			return l.discard(n)
		}
		k := min(n, payloadPiece)
		_, err := io.ReadFull(l.r, s.data[at:][:k])
		l.letGo(s)
		if err != nil {
			return err
		}
		at, n = at+k, n-k
	}
	return nil
}

// statusChunk collects what is said about the wanted context. Descriptors are
// kept only as they arrive, and those of other contexts not at all.
func (l *link) statusChunk(s *slot, h chunkHeader) error {
	if h.length < 12 || h.length%8 != 4 || h.length > 4+8*maxStatus {
		return fmt.Errorf("%w: block status of %d bytes", errProtocol, h.length)
	}
	var b [8]byte
	if _, err := io.ReadFull(l.r, b[:4]); err != nil {
		return err
	}
	mine := binary.BigEndian.Uint32(b[:]) == s.want
	if mine && len(s.status) > 0 {
		return fmt.Errorf("%w: the same context's status comes twice", errProtocol)
	}
	if !mine {
		return l.discard(int64(h.length) - 4)
	}
	for range (h.length - 4) / 8 {
		if _, err := io.ReadFull(l.r, b[:]); err != nil {
			return err
		}
		d := descriptor{binary.BigEndian.Uint32(b[:]), binary.BigEndian.Uint32(b[4:])}
		if d.length == 0 {
			return fmt.Errorf("%w: a status of no bytes", errProtocol)
		}
		s.status = append(s.status, d)
	}
	return nil
}

// errorChunk notes a failure; the first one of a reply is kept. The reply goes
// on, for the connection must stay in step.
func (l *link) errorChunk(s *slot, h chunkHeader) error {
	const limit = 6 + maxString + 8
	if h.length < 6 || h.length > limit {
		return fmt.Errorf("%w: an error of %d bytes", errProtocol, h.length)
	}
	var b [limit]byte
	p := b[:h.length]
	if _, err := io.ReadFull(l.r, p); err != nil {
		return err
	}
	errno, n := Errno(binary.BigEndian.Uint32(p)), int(binary.BigEndian.Uint16(p[4:]))
	if errno == 0 || n > len(p)-6 {
		return fmt.Errorf("%w: error %d with a text of %d in %d bytes", errProtocol, errno, n, len(p))
	}
	if s.failed == nil {
		s.failed = &remoteError{errno, string(p[6:][:n])}
	}
	return nil
}

// coverage is which bytes of a READ have come: sorted, merged, without overlap.
type coverage struct{ parts []covered }

type covered struct{ from, to uint32 }

// maxCrumbs bounds the work that a server can cause by sending bytes out of
// order in small parts; a sane one sends pieces of many kilobytes.
const maxCrumbs = 4096

func (c *coverage) reset() { c.parts = c.parts[:0] }

func (c *coverage) whole(n uint32) bool {
	return len(c.parts) == 1 && c.parts[0] == covered{0, n}
}

// add notes [at, at+n), which does not overflow; false if a byte of it has come
// before, or the parts are too many.
func (c *coverage) add(at, n uint32) bool {
	i, _ := slices.BinarySearchFunc(c.parts, at, func(p covered, at uint32) int {
		if p.to < at {
			return -1
		}
		return 1
	})
	// i is the first part that ends at or after at.
	to := at + n
	joins := i < len(c.parts) && c.parts[i].to == at
	next := i
	if joins {
		next++
	}
	if next < len(c.parts) && c.parts[next].from < to {
		return false
	}
	meets := next < len(c.parts) && c.parts[next].from == to
	switch {
	case joins && meets:
		c.parts[i].to = c.parts[next].to
		c.parts = slices.Delete(c.parts, next, next+1)
	case joins:
		c.parts[i].to = to
	case meets:
		c.parts[next].from = at
	default:
		if len(c.parts) == maxCrumbs {
			return false
		}
		c.parts = slices.Insert(c.parts, i, covered{at, to})
	}
	return true
}

package agentwire

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// Link is one connection as frames. One goroutine may read it, while any number
// send.
type Link struct {
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
	turn chan struct{} // whose turn it is to send
}

// NewLink takes over conn.
func NewLink(conn net.Conn) *Link { return NewLinkFrom(conn, conn) }

// NewLinkFrom takes over conn, of which r has read ahead.
func NewLinkFrom(conn net.Conn, r io.Reader) *Link {
	return &Link{
		conn: conn,
		r:    bufio.NewReaderSize(r, 64<<10),
		w:    bufio.NewWriterSize(conn, 32<<10),
		turn: make(chan struct{}, 1),
	}
}

// TLS is what the handshake of the connection came to; the zero value if it had none.
func (l *Link) TLS() tls.ConnectionState {
	if t, ok := l.conn.(*tls.Conn); ok {
		return t.ConnectionState()
	}
	return tls.ConnectionState{}
}

// Close ends the connection; who reads or sends fails.
func (l *Link) Close() error { return l.conn.Close() }

// Next reads the head of the next frame. Its payload must be read before the
// next call.
func (l *Link) Next() (Header, error) {
	b, err := l.r.Peek(HeaderSize)
	if err != nil {
		if err == io.EOF && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return Header{}, err
	}
	h, err := ParseHeader(b)
	if err != nil {
		return Header{}, err
	}
	_, err = l.r.Discard(HeaderSize)
	return h, err
}

// Fill reads len(p) bytes of a payload.
func (l *Link) Fill(p []byte) error {
	if _, err := io.ReadFull(l.r, p); err != nil {
		return unexpected(err)
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Skip reads n bytes of a payload that nobody wants.
func (l *Link) Skip(n int) error {
	_, err := l.r.Discard(n)
	return unexpected(err)
}

// Pieces hands n bytes of a payload to f as they arrive. f must not keep them,
// and must not wait.
func (l *Link) Pieces(n int, f func([]byte)) error {
	for n > 0 {
		if _, err := l.r.Peek(1); err != nil {
			return unexpected(err)
		}
		b, err := l.r.Peek(min(n, l.r.Buffered()))
		if err != nil {
			return unexpected(err)
		}
		f(b)
		if _, err := l.r.Discard(len(b)); err != nil {
			return err
		}
		n -= len(b)
	}
	return nil
}

// Payload reads n bytes. Memory grows with what arrives, not with what was
// announced.
func (l *Link) Payload(n int) ([]byte, error) {
	b := make([]byte, 0, min(n, 16<<10))
	for len(b) < n {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		to := min(n, cap(b))
		if err := l.Fill(b[len(b):to]); err != nil {
			return nil, err
		}
		b = b[:to]
	}
	return b, nil
}

// Send writes a frame whose payload is the parts. ctx counts until its turn has
// come; a frame that was begun is sent to its end. An error other than ctx's
// ends the connection.
func (l *Link) Send(ctx context.Context, h Header, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > int(h.Kind.limit()) {
		return fmt.Errorf("%w: a frame of %d bytes would be sent", ErrProtocol, n)
	}
	h.Len = uint32(n)
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-l.turn }()
	var head [HeaderSize]byte
	_, err := l.w.Write(h.Append(head[:0]))
	for _, p := range parts {
		if err == nil {
			_, err = l.w.Write(p)
		}
	}
	if err == nil {
		err = l.w.Flush()
	}
	if err != nil {
		_ = l.conn.Close()
	}
	return err
}

// AppendRequestHead puts what every request begins with behind b. left is the
// time that the caller has, in microseconds on the wire; 0 is forever.
func AppendRequestHead(b []byte, left time.Duration, handle uint64) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(max(left, 0)/time.Microsecond))
	return binary.BigEndian.AppendUint64(b, handle)
}

// ReadRequestHead reads it. More than a year is taken for a year.
func ReadRequestHead(l *Link) (left time.Duration, handle uint64, err error) {
	var b [RequestHead]byte
	if err := l.Fill(b[:]); err != nil {
		return 0, 0, err
	}
	const year = uint64(365 * 24 * time.Hour / time.Microsecond)
	us := min(binary.BigEndian.Uint64(b[:]), year)
	return time.Duration(us) * time.Microsecond, binary.BigEndian.Uint64(b[8:]), nil
}

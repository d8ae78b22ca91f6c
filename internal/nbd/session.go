package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// pieceSize is the unit of memory and of work: a longer READ or WRITE is cut at
// multiples of it, and its pieces run side by side. All data buffers have this
// one size, so a connection's memory is a count of them.
const pieceSize = 256 << 10

type piece [pieceSize]byte

var pieces = sync.Pool{New: func() any { return new(piece) }}

// zeros is what zeroing writes where nothing faster is possible. Never written.
var zeros piece

// session is the transmission on one connection. One goroutine reads requests
// and starts operations; each operation answers for itself when it is done, so
// replies leave in the order of completion.
type session struct {
	conn       net.Conn
	r          *bufio.Reader
	target     target
	flags      uint16
	structured bool
	status     bool
	log        *slog.Logger

	ops    chan struct{}       // a place for each operation under way
	memory *semaphore.Weighted // in pieces; MaxPayload in all
	work   sync.WaitGroup

	ctx    context.Context // of the operations: outlives Serve's by the drain
	cancel context.CancelCauseFunc

	send sync.Mutex // one reply at a time; also guards call.left and call.failed
}

// call is one request under way, in one or more operations.
type call struct {
	request
	left   int   // operations that have not finished
	failed error // the first failure
}

func newSession(h *handshake, maxInFlight int, log *slog.Logger) *session {
	return &session{
		conn:       h.conn,
		r:          bufio.NewReaderSize(h.conn, 16<<10),
		target:     h.target,
		flags:      h.flags,
		structured: h.structured,
		status:     h.status,
		log:        log,
		ops:        make(chan struct{}, maxInFlight),
		memory:     semaphore.NewWeighted(MaxPayload / pieceSize),
	}
}

// run serves requests until the client disconnects, breaks the protocol or
// ctx ends; then it waits for the operations under way, for at most drain.
// It closes the connection only to end those that would not finish.
func (s *session) run(ctx context.Context, drain time.Duration) error {
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	defer s.cancel(nil)
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	err := s.serve(ctx)
	stop()

	late := time.AfterFunc(drain, func() { s.abort(context.DeadlineExceeded) })
	s.work.Wait()
	late.Stop()

	if cause := context.Cause(s.ctx); cause != nil {
		return cause // why the connection had to be broken is the better story
	}
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// abort ends everything at once: operations, and whoever waits on the socket.
func (s *session) abort(cause error) {
	s.cancel(cause)
	s.conn.Close()
}

// serve reads requests; nil means that the client disconnected in order.
func (s *session) serve(ctx context.Context) error {
	var hdr [requestSize]byte
	for {
		if _, err := io.ReadFull(s.r, hdr[:]); err != nil {
			return err
		}
		req, err := parseRequest(&hdr)
		if err != nil {
			return err
		}
		if req.cmd == cmdDisc {
			return nil
		}
		if errno, why := s.refuse(req); errno != 0 {
			if req.cmd == cmdWrite {
				if _, err := io.CopyN(io.Discard, s.r, int64(req.length)); err != nil {
					return err
				}
			}
			s.answerError(req, errno, why)
			continue
		}
		if err := s.start(ctx, req); err != nil {
			return err
		}
	}
}

// refuse says what is wrong with a request before any of it is done.
func (s *session) refuse(req request) (Errno, string) {
	allowed := uint16(0)
	if s.flags&sendFUA != 0 {
		allowed = cmdFlagFUA // valid for all commands
	}
	writes, beyond := false, EINVAL
	switch req.cmd {
	case cmdRead:
		if s.structured {
			allowed |= cmdFlagDF
		}
		if req.length > MaxPayload {
			if s.structured {
				return EOVERFLOW, fmt.Sprintf("read of %d bytes; the limit is %d", req.length, MaxPayload)
			}
			return EINVAL, ""
		}
	case cmdWrite:
		writes, beyond = true, ENOSPC
		if req.length > MaxPayload {
			return EINVAL, fmt.Sprintf("write of %d bytes; the limit is %d", req.length, MaxPayload)
		}
	case cmdWriteZeros:
		writes, beyond = true, ENOSPC
		allowed |= cmdFlagNoHole | cmdFlagFastZero
	case cmdTrim:
		writes = true
		if s.target.write != nil && s.target.trim == nil {
			return EINVAL, "trim was not offered"
		}
	case cmdFlush:
		if s.flags&sendFlush == 0 {
			return EINVAL, "flush was not offered"
		}
		if req.offset != 0 || req.length != 0 {
			return EINVAL, "flush takes no range"
		}
	case cmdCache:
	case cmdBlockStatus:
		allowed |= cmdFlagReqOne
		if !s.status {
			return EINVAL, "no metadata context was negotiated"
		}
		if req.length == 0 {
			return EINVAL, "block status of no bytes"
		}
	default:
		return EINVAL, fmt.Sprintf("unknown command %d", req.cmd)
	}
	if writes && s.target.write == nil {
		return EPERM, "the export is read-only"
	}
	if f := req.flags &^ allowed; f != 0 {
		return EINVAL, fmt.Sprintf("flags %#x do not fit command %d", f, req.cmd)
	}
	size := uint64(s.target.size)
	if req.offset > size || uint64(req.length) > size-req.offset {
		return beyond, fmt.Sprintf("%d bytes at %d reach beyond the export's %d", req.length, req.offset, size)
	}
	return 0, ""
}

// start begins a request; it returns when the connection's share of work and
// memory allowed it to, and an error only if the connection must end.
func (s *session) start(ctx context.Context, req request) error {
	if req.length == 0 && req.cmd != cmdFlush {
		s.answerDone(&call{request: req, left: 1}, nil)
		return nil
	}
	switch req.cmd {
	case cmdRead:
		return s.startRead(ctx, req)
	case cmdWrite:
		return s.startWrite(ctx, req)
	}
	return s.operate(ctx, 0, func() { s.control(req) })
}

// operate runs f beside the others once there is a place for it, and memory of
// n pieces, which it gives back when f returns.
func (s *session) operate(ctx context.Context, n int64, f func()) error {
	if err := s.reserve(ctx, n); err != nil {
		return err
	}
	s.launch(n, f)
	return nil
}

// reserve waits for an operation's place and memory. Whoever holds memory waits
// for nothing but the device and the socket, so this ends if they do.
func (s *session) reserve(ctx context.Context, n int64) error {
	select {
	case s.ops <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
	if n == 0 || s.memory.TryAcquire(n) {
		return nil
	}
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	if err := s.memory.Acquire(both, n); err != nil {
		<-s.ops
		return err
	}
	return nil
}

func (s *session) launch(n int64, f func()) {
	s.work.Go(func() {
		defer s.yield(n)
		f()
	})
}

// yield gives back what reserve took.
func (s *session) yield(n int64) {
	if n > 0 {
		s.memory.Release(n)
	}
	<-s.ops
}

// deviceError logs a device's failure with all that is known, and returns it.
// The client gets the number and the place: it may be a stranger.
func (s *session) deviceError(what string, off, n int64, err error) error {
	s.log.Warn("nbd: device failed", "op", what, "offset", off, "length", n, "err", err)
	return &opError{op: what, off: off, n: n, errno: errnoOf(err)}
}

// opError is what a client is told about a failed operation.
type opError struct {
	op     string
	off, n int64
	errno  Errno
}

func (e *opError) Error() string {
	if e.n == 0 {
		return fmt.Sprintf("%s: %v", e.op, e.errno)
	}
	return fmt.Sprintf("%s of %d bytes at %d: %v", e.op, e.n, e.off, e.errno)
}

func (e *opError) Unwrap() error { return e.errno }

// broken ends the connection after a reply could not be sent whole: the stream
// can't be understood any more.
func (s *session) broken(err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("nbd: sending a reply: %w", err)
	}
	s.abort(err)
}

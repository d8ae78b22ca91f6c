package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// calls are those that came over one connection.
type calls struct {
	x    *session
	l    *agentwire.Link
	owed chan struct{} // a Pong

	mu     sync.Mutex
	flying map[uint64]*served
}

// served is a call under way at the server.
type served struct {
	*calls
	id       uint64
	op       agentwire.Op
	handle   uint64
	ctx      context.Context
	cancel   context.CancelFunc
	span     agentwire.Span // of bulk calls
	arg      argument       // of others
	weight   int            // of arg, in bytes of JSON
	body     []byte         // of a Write; lies in buf
	buf      *agentwire.Buffer
	admitted bool // it counts among the session's bulk calls
	credit   credit
}

// serve reads the connection until it ends.
func (x *session) serve(l *agentwire.Link, p *agentwire.Patient) {
	c := &calls{x: x, l: l, flying: map[uint64]*served{}, owed: make(chan struct{}, 1)}
	over := make(chan struct{})
	x.server.links.Go(func() { c.pong(p, over) })
	err := c.read()
	close(over)
	if errors.Is(err, io.EOF) {
		err = errors.New("it closed the connection")
	}
	x.leave(l, err)
}

func (c *calls) read() error {
	for {
		h, err := c.l.Next()
		if err != nil {
			return err
		}
		switch h.Kind {
		case agentwire.Request:
			err = c.request(h)
		case agentwire.Cancel:
			if s := c.find(h.ID); s != nil {
				s.cancel()
			}
		case agentwire.Window:
			var b []byte
			if b, err = c.l.Payload(int(h.Len)); err == nil {
				if s := c.find(h.ID); s != nil {
					s.credit.grant(b)
				}
			}
		case agentwire.Ping:
			wake(c.owed)
		default:
			err = fmt.Errorf("%w: a frame of kind %d from a client", agentwire.ErrProtocol, h.Kind)
		}
		if err != nil {
			return err
		}
	}
}

// pong answers pings, so that reading doesn't wait for a turn to send. While bytes
// come it says so without being asked: on a slow line a ping may stand behind
// requests for longer than a client waits.
func (c *calls) pong(p *agentwire.Patient, over <-chan struct{}) {
	t := time.NewTicker(c.x.o.KeepAlive)
	defer t.Stop()
	for {
		select {
		case <-c.owed:
		case <-t.C:
			if p.Silent() > c.x.o.KeepAlive {
				continue
			}
		case <-over:
			return
		}
		if c.l.Send(c.x.ctx, agentwire.Header{Kind: agentwire.Pong}) != nil {
			return
		}
	}
}

func (c *calls) find(id uint64) *served {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flying[id]
}

// request reads a request whole and begins the call. An error is the
// connection's; what is wrong with the call is answered.
func (c *calls) request(h agentwire.Header) error {
	left := int(h.Len) - agentwire.RequestHead
	timeout, handle, err := agentwire.ReadRequestHead(c.l)
	if err != nil {
		return err
	}
	s := &served{calls: c, id: h.ID, op: h.Op, handle: handle}
	if !h.Op.Known() {
		return s.refuse(left, fmt.Errorf("%w: this agent has no operation %d", dr.ErrUnsupported, h.Op))
	}
	if !h.Op.Bulk() {
		s.weight = left
	}
	if err := c.x.begin(s.weight); err != nil {
		return s.refuse(left, err)
	}
	if timeout > 0 {
		s.ctx, s.cancel = context.WithTimeout(c.x.ctx, timeout)
	} else {
		s.ctx, s.cancel = context.WithCancel(c.x.ctx)
	}
	if refused, err := s.receive(left); refused || err != nil {
		s.free()
		return err
	}
	c.mu.Lock()
	_, twice := c.flying[h.ID]
	c.flying[h.ID] = s
	c.mu.Unlock()
	if twice {
		s.free()
		return fmt.Errorf("%w: call %d is under way already", agentwire.ErrProtocol, h.ID)
	}
	s.credit.init()
	go func() {
		defer s.free()
		s.run()
	}()
	return nil
}

// refuse answers a call that isn't begun.
func (s *served) refuse(left int, why error) error {
	if err := s.l.Skip(left); err != nil {
		return err
	}
	return s.l.Send(s.x.ctx, agentwire.Header{Kind: agentwire.Failure, ID: s.id}, agentwire.EncodeError(why))
}

func (s *served) free() {
	s.cancel()
	s.buf.Free()
	if s.admitted {
		<-s.x.buffers
		<-s.x.bulk
	}
	s.x.done(s.weight)
}

// receive reads what is left of a request. A call that was refused is answered.
func (s *served) receive(left int) (refused bool, err error) {
	if !s.op.Bulk() {
		b, err := s.l.Payload(left)
		if err != nil {
			return false, err
		}
		return false, agentwire.Decode(b, &s.arg)
	}
	if s.span, left, err = agentwire.ReadSpan(s.l, left); err != nil {
		return false, err
	}
	most := int64(agentwire.MaxBulk)
	switch s.op {
	case agentwire.OpSums, agentwire.OpPacked:
		most /= int64(len(dr.Sum{}))
	case agentwire.OpZero:
		most = 1<<63 - 1
	}
	if s.span.N < 0 || s.span.N > most || left > 0 && s.op != agentwire.OpWrite {
		return false, fmt.Errorf("%w: %s of %d at %d with %d bytes", agentwire.ErrProtocol, s.op, s.span.N, s.span.Off, left)
	}
	if s.op != agentwire.OpWrite {
		return false, nil
	}
	// Nothing else is read from this connection meanwhile, so not for long.
	ctx, cancel := context.WithTimeoutCause(s.ctx, s.x.o.KeepAlive, fmt.Errorf("%w: the agent has no buffer free", dr.ErrBusy))
	err = s.admit(ctx)
	cancel()
	if err != nil {
		return true, s.refuse(left, err)
	}
	n := int(s.span.N)
	runs, err := agentwire.ReadRuns(s.l, left, n)
	if err != nil {
		return false, err
	}
	s.buf = agentwire.NewBuffer()
	s.body = s.buf.At(s.span.Off, n)
	at := 0
	for _, r := range runs {
		clear(s.body[at : at+r.Zeros])
		at += r.Zeros
		if err := s.l.Fill(s.body[at : at+r.Data]); err != nil {
			return false, err
		}
		at += r.Data
	}
	return false, nil
}

// admit waits until the call may have its buffer: one of the client's own number,
// and one of those that all clients share.
func (s *served) admit(ctx context.Context) error {
	select {
	case s.x.bulk <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case s.x.buffers <- struct{}{}:
		s.admitted = true
		return nil
	case <-ctx.Done():
		<-s.x.bulk
		return context.Cause(ctx)
	}
}

// run makes the call and answers it.
func (s *served) run() {
	parts, err := s.call()
	// The number is free before the client can know that the call has ended.
	s.mu.Lock()
	delete(s.flying, s.id)
	s.mu.Unlock()
	h := agentwire.Header{Kind: agentwire.Result, ID: s.id}
	if err == nil {
		size := 0
		for _, p := range parts {
			size += len(p)
		}
		if size > agentwire.MaxFrame {
			err = fmt.Errorf("%w: an answer of %d bytes, and the protocol takes %d", dr.ErrUnsupported, size, agentwire.MaxFrame)
		}
	}
	if err != nil {
		h.Kind, parts = agentwire.Failure, [][]byte{agentwire.EncodeError(err)}
	}
	_ = s.l.Send(s.x.ctx, h, parts...)
}

// call makes the call. A panic is the end of this one, as it is of an action, and
// not of what all clients have open; whoever repeats it would only end that again.
func (s *served) call() (parts [][]byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			s.x.o.Log.Error("a call panicked", "op", s.op.String(), "machine", s.arg.Machine, "panic", v, "stack", string(debug.Stack()))
			parts, err = nil, dr.Permanent(&dr.Error{Op: s.op.String(), Machine: s.arg.Machine, Err: fmt.Errorf("the agent's backend panicked: %v", v),
				Remedy: "the agent's log tells where; report it"})
		}
	}()
	if s.op.Bulk() {
		return s.bulk()
	}
	if s.ctx, err = s.arg.fenced(s.ctx); err != nil {
		return nil, err
	}
	v, err := s.plain()
	if err != nil {
		return nil, err
	}
	b, err := agentwire.Marshal(v)
	return [][]byte{b}, err
}

// credit is how many bytes of a stream may be sent.
type credit struct {
	mu   sync.Mutex
	left int64
	more chan struct{}
}

func (c *credit) init() { c.left, c.more = agentwire.StreamWindow, make(chan struct{}, 1) }

func (c *credit) grant(b []byte) {
	n := int64(b[0])<<24 | int64(b[1])<<16 | int64(b[2])<<8 | int64(b[3])
	c.mu.Lock()
	c.left = min(c.left+n, 1<<40)
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// spend waits until something may be sent, and counts n bytes.
func (c *credit) spend(ctx context.Context, n int) error {
	for {
		c.mu.Lock()
		ok := c.left > 0
		if ok {
			c.left -= int64(n)
		}
		c.mu.Unlock()
		if ok {
			return ctx.Err()
		}
		select {
		case <-c.more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flushTime is how long extents wait for more to go with them.
const flushTime = 20 * time.Millisecond

package nbd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// stallGrace is what a cancelled request waits for a piece of its payload that is
// half way between its caller's buffer and the socket. Then the connection is
// given up: half a message can't be taken back.
const stallGrace = 5 * time.Second

// errLinkLost is what a request gets whose fate is unknown; see Client.exchange.
var errLinkLost = errors.New("nbd: the connection was lost")

// link is one connection in transmission: callers queue slots, one goroutine
// sends them, one takes the replies in and wakes the callers.
type link struct {
	raw, conn  net.Conn
	r          *bufio.Reader
	structured bool
	contexts   map[string]uint32
	book       *ledger

	moved atomic.Int64 // changes whenever bytes have moved
	slots []*slot
	free  chan *slot // also what bounds the requests in flight
	queue chan *slot

	failing sync.Once
	quit    chan struct{} // closed to have the writer say goodbye
	dead    chan struct{} // closed when err is set
	err     error
	ended   chan struct{} // closed when nothing touches a caller's buffer any more
	lost    bool          // guarded by book.mu
	adrift  int           // guarded by book.mu: its part of what the ledger counts
}

// readBuffer is small, for what is behind a reply's header in it is copied; all
// else of a payload is read straight into the caller's buffer.
const readBuffer = 4096

func newLink(n *negotiation, inFlight int, book *ledger) *link {
	l := &link{
		raw: n.raw, conn: n.conn,
		structured: n.structured, contexts: n.contexts, book: book,
		free: make(chan *slot, inFlight), queue: make(chan *slot, inFlight),
		quit: make(chan struct{}), dead: make(chan struct{}), ended: make(chan struct{}),
	}
	l.r = bufio.NewReaderSize(counter{n.conn, &l.moved}, readBuffer)
	for i := range inFlight {
		s := &slot{index: uint32(i), done: make(chan error, 1)}
		l.slots = append(l.slots, s)
		l.free <- s
	}
	var both sync.WaitGroup
	both.Go(func() { l.fail(l.receive()) })
	both.Go(func() { l.fail(l.transmit()) })
	go func() {
		both.Wait()
		close(l.ended)
	}()
	return l
}

type counter struct {
	io.Reader
	n *atomic.Int64
}

func (c counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// fail ends the link, once. The raw connection is closed: TLS would wait to say
// goodbye.
func (l *link) fail(err error) {
	l.failing.Do(func() {
		l.err = err
		l.book.lose(l)
		l.raw.Close()
		close(l.dead)
	})
}

func (l *link) alive() bool {
	select {
	case <-l.dead:
		return false
	default:
		return true
	}
}

// close says goodbye, for a second at most, and waits for the end. Called once.
// Not every connection knows deadlines: closing it is what all know.
func (l *link) close() {
	late := time.AfterFunc(time.Second, func() { l.fail(net.ErrClosed) })
	defer late.Stop()
	close(l.quit)
	<-l.ended
}

// slot is a place for one request in flight. Its cookie is its index and how
// often it has been used, so that a reply finds it without a search and a
// second reply is told from the first.
type slot struct {
	index uint32
	done  chan error // the outcome, unless the request was abandoned

	// Set by the caller before the slot is queued.
	use    uint32
	req    request
	data   []byte // what is written, or where to read
	want   uint32 // which context BLOCK_STATUS is about
	before uint64 // FLUSH: what the ledger knew when it was asked for

	// The receiver's own.
	seen   coverage
	failed error
	status []descriptor
	told   bool

	mu        sync.Mutex
	sent      bool
	busy      bool // the transmitter or the receiver is at data
	abandoned bool
	adrift    bool // abandoned, and the ledger counts it
	answered  bool
	outcome   error
	idle      chan struct{} // closed when busy ends; made by who waits
}

func (s *slot) cookie() uint64 { return uint64(s.use)<<32 | uint64(s.index) }

// hold claims data for the transmitter or the receiver; false if the caller has
// taken it back.
func (s *slot) hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.abandoned {
		return false
	}
	s.busy = true
	return true
}

// letGo ends what hold began.
func (l *link) letGo(s *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	if s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
	if s.answered {
		l.deliver(s)
	}
}

// finish records a request's outcome once its reply is whole.
func (l *link) finish(s *slot, err error) {
	if !l.book.settle(l, s, err) {
		return // lost before it was counted: the caller is told by the link's end
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered, s.outcome = true, err
	if !s.busy {
		l.deliver(s)
	}
}

// deliver wakes the caller, or frees the slot if there is none. s.mu is held.
func (l *link) deliver(s *slot) {
	s.sent = false
	if s.abandoned {
		if s.adrift {
			s.adrift = false
			l.book.landed(l)
		}
		l.recycle(s)
		return
	}
	s.done <- s.outcome
}

func (l *link) recycle(s *slot) {
	s.data, s.status = nil, nil
	l.free <- s
}

// roundTrip sends one request and waits for its reply.
func (l *link) roundTrip(ctx context.Context, x *exchange) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var s *slot
	select {
	case s = <-l.free:
	case <-l.dead:
		return errLinkLost
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	s.use++
	s.req, s.data, s.want = x.req, x.data, 0
	s.req.cookie = s.cookie()
	s.seen.reset()
	s.failed, s.status, s.told = nil, nil, false
	s.sent, s.busy, s.abandoned, s.adrift, s.answered, s.outcome = false, false, false, false, false, nil
	s.mu.Unlock()
	switch x.req.cmd {
	case cmdBlockStatus:
		id, ok := l.contexts[x.context]
		if !ok {
			l.recycle(s)
			return fmt.Errorf("metadata context %q: %w", x.context, ErrNoContext)
		}
		s.want = id
	case cmdFlush:
		s.before = l.book.written()
	}
	l.queue <- s // has room for every slot

	select {
	case err := <-s.done:
		return l.take(s, x, err)
	case <-l.ended:
		select {
		case err := <-s.done:
			return l.take(s, x, err)
		default:
			return errLinkLost
		}
	case <-ctx.Done():
		return l.abandon(ctx, s, x)
	}
}

func (l *link) take(s *slot, x *exchange, err error) error {
	x.status = s.status
	l.recycle(s)
	return err
}

// abandon gives a request up: its reply will be drained whenever it comes. It
// returns when nothing touches the caller's buffer any more.
func (l *link) abandon(ctx context.Context, s *slot, x *exchange) error {
	s.mu.Lock()
	if s.answered && !s.busy {
		s.mu.Unlock()
		return l.take(s, x, <-s.done) // it just came
	}
	s.abandoned = true
	if s.sent && s.req.changes() {
		s.adrift = true
		l.book.drift(l)
	}
	if !s.busy {
		s.mu.Unlock()
		return ctx.Err()
	}
	idle := make(chan struct{})
	s.idle = idle
	s.mu.Unlock()
	late := time.NewTimer(stallGrace)
	defer late.Stop()
	select {
	case <-idle:
	case <-l.ended:
	case <-late.C:
		l.fail(fmt.Errorf("a cancelled request was half way for %v", stallGrace))
		<-l.ended
	}
	return ctx.Err()
}

// A batch is what is sent with one system call.
const (
	maxBatch      = 32
	maxBatchBytes = 1 << 20
)

// payloadPiece is how much of a payload is moved between looks at whether its caller
// still waits.
const payloadPiece = 256 << 10

// transmit sends what is queued until the link ends.
func (l *link) transmit() error {
	head := make([]byte, 0, maxBatch*requestSize)
	bufs := make([][]byte, 0, 2*maxBatch)
	var out net.Buffers
	batch := make([]*slot, 0, maxBatch)
	for {
		var s *slot
		select {
		case s = <-l.queue:
		case <-l.dead:
			return errLinkLost
		case <-l.quit:
			_, _ = l.conn.Write(request{cmd: cmdDisc}.append(nil))
			return net.ErrClosed
		}
		head, bufs, batch = head[:0], bufs[:0], batch[:0]
		from, payload := 0, 0
		var long *slot // the last of the batch, if more than a piece of it is to be sent
		for s != nil {
			if l.depart(s) {
				head = s.req.append(head)
				if s.req.cmd == cmdWrite {
					bufs = append(bufs, head[from:len(head):len(head)], s.data[:min(len(s.data), payloadPiece)])
					from, payload = len(head), payload+len(s.data)
					if len(s.data) > payloadPiece {
						long = s
					} else {
						batch = append(batch, s)
					}
				}
			}
			s = nil
			if long == nil && len(head) < cap(head) && payload < maxBatchBytes {
				select {
				case s = <-l.queue:
				default:
				}
			}
		}
		if from < len(head) {
			bufs = append(bufs, head[from:])
		}
		out = net.Buffers(bufs)
		n, err := out.WriteTo(l.conn)
		l.moved.Add(n)
		for _, s := range batch {
			l.letGo(s)
		}
		if long != nil {
			if err == nil {
				err = l.sendRest(long, long.data[payloadPiece:])
			} else {
				l.letGo(long)
			}
		}
		if err != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
}

// sendRest sends what is left of a long write and lets go of its slot. If the
// caller gives up meanwhile it goes on from a copy, for the server waits for all
// of it.
func (l *link) sendRest(s *slot, p []byte) error {
	held := true
	for len(p) > 0 {
		if held && s.unwanted() {
			p = bytes.Clone(p)
			l.letGo(s)
			held = false
		}
		n := min(len(p), payloadPiece)
		n, err := l.conn.Write(p[:n])
		l.moved.Add(int64(n))
		if err != nil {
			if held {
				l.letGo(s)
			}
			return err
		}
		p = p[n:]
	}
	if held {
		l.letGo(s)
	}
	return nil
}

func (s *slot) unwanted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.abandoned
}

// depart marks a slot as sent; one that was abandoned in the queue never is.
func (l *link) depart(s *slot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.abandoned {
		l.recycle(s)
		return false
	}
	s.sent, s.busy = true, s.req.cmd == cmdWrite
	return true
}

// find returns the slot that a reply is for.
func (l *link) find(cookie uint64) (*slot, error) {
	if i := cookie & 0xffffffff; i < uint64(len(l.slots)) {
		s := l.slots[i]
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.sent && !s.answered && s.cookie() == cookie {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%w: a reply to request %#x, which is not in flight", errProtocol, cookie)
}

// discard drains n bytes.
func (l *link) discard(n int64) error {
	_, err := io.CopyN(io.Discard, l.r, n)
	return err
}

package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// wire is a session as the client sees it. Once lost it stays lost.
type wire struct {
	terms agentwire.Terms
	runs  bool
	// fences tells whether the agent heeds them. One of an earlier version
	// doesn't, and is served all the same: so it was before there were any.
	fences bool
	links  []*lane // the first is for all that isn't bulk
	last   atomic.Uint64
	calls  chan struct{}
	bulk   chan struct{}
	away   atomic.Bool // the server said that it goes
	grace  time.Duration

	once sync.Once
	lost chan struct{}
	err  error // why; set before lost is closed
}

// lane is one connection of it.
type lane struct {
	*agentwire.Link
	w      *wire
	mu     sync.Mutex
	flying map[uint64]*pending
}

// pending is a call that waits for its answer.
type pending struct {
	l    *lane
	id   uint64
	op   agentwire.Op
	done chan struct{}

	answer []byte // set before done is closed
	want   int    // of a Read, in bytes
	got    int
	err    error

	mu    sync.Mutex
	into  []byte // of a Read, until the caller has left
	left  bool
	over  bool     // the outcome is there, for the caller if left is not set
	parts [][]byte // of a stream
	size  int
	ready chan struct{}
}

func newWire(t agentwire.Terms) *wire {
	w := &wire{
		terms: t, runs: slices.Contains(t.Features, agentwire.FeatureRuns), fences: slices.Contains(t.Features, agentwire.FeatureFences), lost: make(chan struct{}), grace: cancelGrace,
		calls: make(chan struct{}, min(t.Calls, 1<<16)), bulk: make(chan struct{}, min(t.Bulk, 1<<10)),
	}
	w.last.Store(agentwire.GreetingID)
	return w
}

// add takes a connection in.
func (w *wire) add(l *agentwire.Link) *lane {
	x := &lane{Link: l, w: w, flying: map[uint64]*pending{}}
	w.links = append(w.links, x)
	return x
}

// start begins to read, when all connections are there.
func (w *wire) start() {
	for _, l := range w.links {
		go func() { w.fail(l.read()) }()
	}
	if w.terms.KeepAlive > 0 {
		for _, l := range w.links {
			go l.ping()
		}
	}
}

// fail ends the session. Its end must not be taken for that of a disk.
func (w *wire) fail(err error) {
	if errors.Is(err, io.EOF) {
		err = errors.New("the agent closed the connection")
	}
	w.once.Do(func() {
		w.err = err
		close(w.lost)
		for _, l := range w.links {
			_ = l.Close()
		}
	})
}

func (w *wire) alive() bool {
	select {
	case <-w.lost:
		return false
	default:
		return true
	}
}

func (w *wire) lostErr() error { return fmt.Errorf("%w: %w", ErrLost, w.err) }

// read takes in what the server says on one connection.
func (l *lane) read() error {
	for {
		h, err := l.Next()
		if err != nil {
			return err
		}
		switch h.Kind {
		case agentwire.Pong:
		case agentwire.GoAway:
			l.w.away.Store(true)
		case agentwire.Data:
			err = l.part(h)
		case agentwire.Result, agentwire.Failure:
			err = l.end(h)
		default:
			err = fmt.Errorf("%w: a frame of kind %d from the server", agentwire.ErrProtocol, h.Kind)
		}
		if err != nil {
			return err
		}
	}
}

func (l *lane) find(id uint64) (*pending, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.flying[id]
	if p == nil {
		return nil, fmt.Errorf("%w: an answer to call %d, which nobody made", agentwire.ErrProtocol, id)
	}
	return p, nil
}

// part takes in one of a stream.
func (l *lane) part(h agentwire.Header) error {
	p, err := l.find(h.ID)
	if err != nil {
		return err
	}
	b, err := l.Payload(int(h.Len))
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ready == nil:
		return fmt.Errorf("%w: %s is no stream", agentwire.ErrProtocol, p.op)
	case p.left:
		return nil
	case p.size >= agentwire.StreamWindow:
		return fmt.Errorf("%w: more of %s than there is room for", agentwire.ErrProtocol, p.op)
	}
	p.parts = append(p.parts, b)
	p.size += len(b)
	wake(p.ready)
	return nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// end takes in a call's outcome.
func (l *lane) end(h agentwire.Header) error {
	p, err := l.find(h.ID)
	if err != nil {
		return err
	}
	switch {
	case h.Kind == agentwire.Failure:
		var b []byte
		if b, err = l.Payload(int(h.Len)); err == nil {
			p.err = agentwire.DecodeError(b)
		}
	case p.op == agentwire.OpRead:
		err = p.fill(int(h.Len))
	default:
		p.answer, err = l.Payload(int(h.Len))
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	delete(l.flying, p.id)
	l.mu.Unlock()
	if p.op.Bulk() {
		<-l.w.bulk
	}
	<-l.w.calls
	p.mu.Lock()
	orphan := p.left
	p.over = true
	p.mu.Unlock()
	close(p.done)
	if orphan {
		l.w.tidy(p)
	}
	return nil
}

// tidy closes what a call has opened whose caller didn't wait for it.
func (w *wire) tidy(p *pending) {
	switch p.op {
	case agentwire.OpCapture, agentwire.OpDraft, agentwire.OpQuiesce:
	default:
		return
	}
	var o opened
	if p.err != nil || agentwire.Decode(p.answer, &o) != nil {
		return
	}
	go func() { _ = closeHandle(w, o.Handle) }() // nobody is there to be told
}

// fill takes in what a Read brought, straight to where the caller wants it.
func (p *pending) fill(left int) error {
	var head [8]byte
	if left < len(head) {
		return fmt.Errorf("%w: a read's answer of %d bytes", agentwire.ErrProtocol, left)
	}
	if err := p.l.Fill(head[:]); err != nil {
		return err
	}
	left -= len(head)
	n, long := int64(binary.BigEndian.Uint32(head[:])), int64(binary.BigEndian.Uint32(head[4:]))
	if n > int64(p.want) || long > agentwire.MaxFault || long > int64(left) {
		return fmt.Errorf("%w: a read of %d bytes brought %d, and an error of %d", agentwire.ErrProtocol, p.want, n, long)
	}
	if long > 0 {
		b, err := p.l.Payload(int(long))
		if err != nil {
			return err
		}
		p.err = agentwire.DecodeError(b)
	} else if n < int64(p.want) {
		return fmt.Errorf("%w: a read of %d bytes brought %d and no error", agentwire.ErrProtocol, p.want, n)
	}
	runs, err := agentwire.ReadRuns(p.l.Link, left-int(long), int(n))
	if err != nil {
		return err
	}
	p.got = int(n)
	at := 0
	for _, r := range runs {
		p.put(func(into []byte) { clear(into[at : at+r.Zeros]) })
		at += r.Zeros
		if err := p.l.Pieces(r.Data, func(b []byte) {
			p.put(func(into []byte) { copy(into[at:], b) })
			at += len(b)
		}); err != nil {
			return err
		}
	}
	return nil
}

// put writes to the caller's buffer, unless the caller has left.
func (p *pending) put(f func(into []byte)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.left {
		f(p.into)
	}
}

// leave gives the caller's buffer up, and drops what comes. It is false if all has
// come already.
func (p *pending) leave() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.into, p.parts, p.size = !p.over, nil, nil, 0
	return p.left
}

// lane picks the connection for a call: the one with the least to do.
func (w *wire) lane(op agentwire.Op) *lane {
	if !op.Bulk() || len(w.links) == 1 {
		return w.links[0]
	}
	best, least := w.links[1], -1
	for _, l := range w.links[1:] {
		l.mu.Lock()
		n := len(l.flying)
		l.mu.Unlock()
		if least < 0 || n < least {
			best, least = l, n
		}
	}
	return best
}

// begin sends a request. An ErrLost says nothing about whether it arrived.
func (w *wire) begin(ctx context.Context, op agentwire.Op, handle uint64, into []byte, parts ...[]byte) (*pending, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := w.take(ctx, w.calls); err != nil {
		return nil, err
	}
	if op.Bulk() {
		if err := w.take(ctx, w.bulk); err != nil {
			<-w.calls
			return nil, err
		}
	}
	var left time.Duration
	if until, ok := ctx.Deadline(); ok {
		left = max(time.Until(until), time.Microsecond)
	}
	l := w.lane(op)
	p := &pending{l: l, id: w.last.Add(1), op: op, done: make(chan struct{}), into: into, want: len(into)}
	switch op {
	case agentwire.OpMachines, agentwire.OpChanges, agentwire.OpExtents, agentwire.OpDurable:
		p.ready = make(chan struct{}, 1)
	}
	l.mu.Lock()
	l.flying[p.id] = p
	l.mu.Unlock()
	var head [agentwire.RequestHead]byte
	all := append(make([][]byte, 0, 8), agentwire.AppendRequestHead(head[:0], left, handle))
	err := l.send(ctx, agentwire.Header{Kind: agentwire.Request, Op: op, ID: p.id}, append(all, parts...))
	if err == nil {
		return p, nil
	}
	if err == context.Cause(ctx) || errors.Is(err, agentwire.ErrProtocol) { // nothing was sent
		l.mu.Lock()
		delete(l.flying, p.id)
		l.mu.Unlock()
		if op.Bulk() {
			<-w.bulk
		}
		<-w.calls
		return nil, err
	}
	w.fail(err)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ctx.Err(), w.lostErr())
	}
	return nil, w.lostErr()
}

// send sends a frame. A frame that is stuck half way ends the session, some time
// after ctx has ended: the caller's buffer is in it.
func (l *lane) send(ctx context.Context, h agentwire.Header, parts [][]byte) error {
	var sent atomic.Bool
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(cancelGrace, func() {
			if !sent.Load() {
				l.w.fail(fmt.Errorf("a request is stuck: %w", ctx.Err()))
			}
		})
	})
	err := l.Send(ctx, h, parts...)
	sent.Store(true)
	stop()
	return err
}

func (w *wire) take(ctx context.Context, slot chan struct{}) error {
	select {
	case slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-w.lost:
		return w.lostErr()
	}
}

// cancelGrace is how long a call that was given up may take to end at the
// server. Until then it may still have its effect, so the caller waits.
const cancelGrace = 5 * time.Second

// wait waits for the call's end. When ctx ends the server is told, and its word
// counts if it comes soon.
func (p *pending) wait(ctx context.Context) error {
	w := p.l.w
	select {
	case <-p.done:
		return p.err
	case <-w.lost:
		p.leave()
		return w.lostErr()
	case <-ctx.Done():
	}
	go p.cancel()
	grace := time.NewTimer(w.grace)
	defer grace.Stop()
	select {
	case <-p.done:
	case <-w.lost:
		p.leave()
		return ctx.Err()
	case <-grace.C:
		if p.leave() {
			return ctx.Err()
		}
		<-p.done
	}
	if p.err != nil && !errors.Is(p.err, ctx.Err()) {
		return fmt.Errorf("%w: %w", ctx.Err(), p.err)
	}
	return p.err
}

// cancel tells the server that nobody waits. On a slow line its turn may take a
// while.
func (p *pending) cancel() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-p.done:
		case <-p.l.w.lost:
		case <-ctx.Done():
		}
	}()
	_ = p.l.Send(ctx, agentwire.Header{Kind: agentwire.Cancel, ID: p.id})
}

// next returns the next part of a stream; nil at its end.
func (p *pending) next(ctx context.Context) ([]byte, error) {
	for {
		p.mu.Lock()
		var b []byte
		if len(p.parts) > 0 {
			b, p.parts = p.parts[0], p.parts[1:]
			p.size -= len(b)
		}
		p.mu.Unlock()
		if b != nil {
			return b, p.grant(ctx, len(b))
		}
		select {
		case <-p.ready:
		case <-p.done:
			// What came before the end comes first.
			p.mu.Lock()
			more := len(p.parts) > 0
			p.mu.Unlock()
			if !more {
				return nil, p.err
			}
		case <-p.l.w.lost:
			return nil, p.l.w.lostErr()
		case <-ctx.Done():
			return nil, p.wait(ctx)
		}
	}
}

// grant lets the server send n more bytes.
func (p *pending) grant(ctx context.Context, n int) error {
	select {
	case <-p.done:
		return nil // it has sent all
	default:
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	err := p.l.Send(ctx, agentwire.Header{Kind: agentwire.Window, ID: p.id}, b[:])
	if err != nil && ctx.Err() == nil {
		p.l.w.fail(err)
		return p.l.w.lostErr()
	}
	return nil // next tells of ctx
}

// abandon ends a stream that the caller has left half way.
func (p *pending) abandon() {
	select {
	case <-p.done:
	default:
		p.leave()
		go p.cancel()
	}
}

package faultyline

import (
	"net"
	"sync"
	"time"
)

// pieceSize is how much is read at once, and so what a fault meets. It is a TLS
// record's size and less than a frame's of most protocols.
const pieceSize = 16 << 10

// piece is some bytes under way.
type piece struct {
	b   []byte
	due time.Time
	fin bool // the sender has said that no more comes
}

// conn is one connection over the line.
type conn struct {
	l         *Line
	near, far net.Conn
	dead      chan struct{} // nothing is passed on any more
	die       sync.Once
	leave     sync.Once // to close the near side, too
}

func newConn(l *Line, near, far net.Conn) *conn {
	return &conn{l: l, near: near, far: far, dead: make(chan struct{})}
}

// end ends it: on both sides, or so that the near side doesn't know.
func (c *conn) end(reset, both bool) {
	c.die.Do(func() {
		close(c.dead)
		hangUp(c.far, reset)
	})
	if both {
		c.leave.Do(func() { hangUp(c.near, reset) })
	}
}

// run passes bytes on until the connection ends. One that is half open lasts until
// its near side gives up.
func (c *conn) run() {
	var both sync.WaitGroup
	both.Go(func() { c.pass(Up, c.near, c.far) })
	both.Go(func() { c.pass(Down, c.far, c.near) })
	both.Wait()
	select {
	case <-c.dead:
		c.swallow()
	default:
	}
	c.end(false, true)
}

// swallow reads what the near side sends to nobody.
func (c *conn) swallow() {
	b := make([]byte, pieceSize)
	for {
		if _, err := c.near.Read(b); err != nil {
			return
		}
	}
}

// pass carries one direction.
func (c *conn) pass(d Direction, from, to net.Conn) {
	q := queue{more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	var out sync.WaitGroup
	out.Go(func() { c.deliver(d, &q, to) })
	defer out.Wait()
	for {
		b := make([]byte, pieceSize)
		n, err := from.Read(b)
		if n > 0 && !q.put(c, piece{b: b[:n], due: c.l.due(d, b[:n])}, c.l.limit()) {
			return
		}
		if err != nil {
			q.put(c, piece{fin: true, due: c.l.due(d, nil)}, 1<<62)
			return
		}
	}
}

// deliver hands over what has been under way for long enough.
func (c *conn) deliver(d Direction, q *queue, to net.Conn) {
	for {
		p, ok := q.take(c)
		if !ok || !c.sleep(time.Until(p.due)) || !c.open() {
			return
		}
		if p.fin {
			if t, ok := to.(*net.TCPConn); ok {
				_ = t.CloseWrite()
			}
			return
		}
		b, cut := c.l.arrive(d, p.b)
		if _, err := to.Write(b); err != nil {
			// Its peer is gone; the other side has to hear of it.
			if c.alive() {
				c.end(true, true)
			}
			return
		}
		if cut {
			c.l.Cut(true)
			return
		}
	}
}

// open waits until the line isn't stalled.
func (c *conn) open() bool {
	for {
		c.l.mu.Lock()
		stalled, moved := c.l.stalled, c.l.moved
		c.l.mu.Unlock()
		if !stalled {
			return c.alive()
		}
		select {
		case <-moved:
		case <-c.dead:
			return false
		}
	}
}

func (c *conn) alive() bool {
	select {
	case <-c.dead:
		return false
	default:
		return true
	}
}

func (c *conn) sleep(d time.Duration) bool {
	if d <= 0 {
		return c.alive()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.dead:
		return false
	}
}

func (l *Line) limit() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.weather.queue()
}

// due tells when a piece arrives that is sent now, and spoils it if need be.
func (l *Line) due(d Direction, b []byte) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	w, way, now := &l.weather, &l.way[d], time.Now()
	t := now
	if w.Rate > 0 {
		if way.free.Before(now) {
			way.free = now
		}
		way.free = way.free.Add(time.Duration(float64(len(b)) / float64(w.Rate) * float64(time.Second)))
		t = way.free
	}
	t = t.Add(w.Delay)
	if w.Jitter > 0 {
		t = t.Add(time.Duration(l.rnd.Int64N(int64(w.Jitter))))
	}
	if w.Loss > 0 && l.rnd.Float64() < w.Loss {
		again := w.Again
		if again == 0 {
			again = 200 * time.Millisecond
		}
		t = t.Add(again)
	}
	if w.Flips > 0 && len(b) > 0 && l.rnd.Float64() < w.Flips {
		b[l.rnd.IntN(len(b))] ^= 1 << l.rnd.IntN(8)
	}
	return t
}

// arrive counts a piece, and tells how much of it arrives and whether the line is
// cut behind that.
func (l *Line) arrive(d Direction, b []byte) ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	way := &l.way[d]
	cut := way.cutIn > 0 && way.cutIn <= int64(len(b))
	if cut {
		b = b[:way.cutIn]
	}
	way.cutIn = max(0, way.cutIn-int64(len(b)))
	way.bytes += int64(len(b))
	return b, cut
}

// queue is what is under way of one direction of a connection.
type queue struct {
	mu         sync.Mutex
	pieces     []piece
	size       int64
	more, room chan struct{}
}

// put waits for room. It returns false when the connection is dead.
func (q *queue) put(c *conn, p piece, limit int64) bool {
	for {
		q.mu.Lock()
		ok := q.size < limit
		if ok {
			q.pieces = append(q.pieces, p)
			q.size += int64(len(p.b))
		}
		q.mu.Unlock()
		if ok {
			wake(q.more)
			return true
		}
		select {
		case <-q.room:
		case <-c.dead:
			return false
		}
	}
}

func (q *queue) take(c *conn) (piece, bool) {
	for {
		q.mu.Lock()
		if len(q.pieces) > 0 {
			p := q.pieces[0]
			q.pieces = q.pieces[1:]
			q.size -= int64(len(p.b))
			q.mu.Unlock()
			wake(q.room)
			return p, true
		}
		q.mu.Unlock()
		select {
		case <-q.more:
		case <-c.dead:
			return piece{}, false
		}
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

package faultyline

import (
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Direction is one of the two ways that bytes take.
type Direction int

// The directions, as seen by who dials.
const (
	Up   Direction = iota // to the target
	Down                  // from the target
)

// Weather is what the line is like, in each direction by itself. The zero
// value is a good line.
type Weather struct {
	// Delay is the time that a byte takes at least, and Jitter how much longer it
	// may take. Bytes never overtake each other.
	Delay, Jitter time.Duration
	// Rate is how many bytes a second the line carries; 0: any number.
	Rate int64
	// Queue is how many bytes of a connection may be under way; more wait at
	// the sender. 0: what the line holds within Delay, and 256 KiB; with no Rate
	// 64 MiB.
	Queue int64
	// Loss is the probability that a piece of 16 KiB at most is lost and sent
	// again, which costs Again; 0: 200 ms, the least that Linux waits.
	Loss  float64
	Again time.Duration
	// Flips is the probability that one bit of a piece arrives turned over.
	Flips float64
}

func (w Weather) queue() int64 {
	switch {
	case w.Queue > 0:
		return w.Queue
	case w.Rate > 0:
		return 256<<10 + int64(float64(w.Rate)*w.Delay.Seconds())
	}
	return 64 << 20
}

// Line is a proxy on loopback. It is safe for concurrent use. Make one with New.
type Line struct {
	ln     net.Listener
	target string
	all    sync.WaitGroup

	mu      sync.Mutex
	rnd     *rand.Rand
	weather Weather
	moved   chan struct{} // closed and made anew when what follows changes
	stalled bool
	refuses bool
	closed  bool
	conns   map[*conn]struct{}
	made    int
	way     [2]way
}

// way is what is known of one direction.
type way struct {
	free  time.Time // when the line has sent all that it was given
	bytes int64     // that were given to the receiver
	cutIn int64     // so many bytes until the cut; 0: there is none
}

// New begins to listen on a free port of 127.0.0.1, and passes on to target,
// "host:port". The line ends with Close.
func New(target string, seed uint64) (*Line, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Line{
		ln: ln, target: target, rnd: rand.New(rand.NewPCG(seed, 0x6c696e65)),
		moved: make(chan struct{}), conns: map[*conn]struct{}{},
	}
	l.all.Go(l.accept)
	return l, nil
}

// Addr is where to dial instead of the target.
func (l *Line) Addr() string { return l.ln.Addr().String() }

// Close ends the line and every connection over it, and waits for its goroutines.
func (l *Line) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	err := l.ln.Close()
	l.Cut(true)
	l.all.Wait()
	return err
}

// Set changes the weather. It counts for what is sent from now on.
func (l *Line) Set(w Weather) {
	l.change(func() { l.weather = w })
}

// Stall lets nothing through any more, in neither direction, and tells nobody.
func (l *Line) Stall() { l.change(func() { l.stalled = true }) }

// Resume ends a stall. What was sent meanwhile arrives.
func (l *Line) Resume() { l.change(func() { l.stalled = false }) }

// Refuse lets connections that are made from now on fail at once, or no longer.
func (l *Line) Refuse(on bool) { l.change(func() { l.refuses = on }) }

// Cut ends every connection, by a reset or in good order as far as TCP can tell.
// What is under way is lost.
func (l *Line) Cut(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.end(reset, true)
	}
}

// CutAfter cuts as Cut does, by a reset, when n more bytes have arrived that way:
// so mostly in the middle of something. n of 0 takes an order back.
func (l *Line) CutAfter(d Direction, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.way[d].cutIn = n
}

// HalfOpen ends every connection at the target's side only: who has dialed hears
// nothing, and what it sends goes nowhere. So it is when a host is gone without a
// word, or a firewall forgets a connection. Connections that are made later are good.
func (l *Line) HalfOpen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.end(true, false)
	}
}

// Bytes tells how many bytes have arrived that way, over all connections.
func (l *Line) Bytes(d Direction) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.way[d].bytes
}

// Made tells how many connections were made.
func (l *Line) Made() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.made
}

func (l *Line) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.moved)
	l.moved = make(chan struct{})
}

func (l *Line) accept() {
	for {
		near, err := l.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(time.Millisecond) // out of files; a test that leaks them fails elsewhere
			continue
		}
		l.all.Go(func() { l.connect(near) })
	}
}

// connect makes the connection behind one that was accepted.
func (l *Line) connect(near net.Conn) {
	l.mu.Lock()
	refuses := l.refuses || l.closed
	l.mu.Unlock()
	var far net.Conn
	var err error
	if !refuses {
		far, err = net.Dial("tcp", l.target)
	}
	if refuses || err != nil {
		hangUp(near, true)
		return
	}
	c := newConn(l, near, far)
	l.mu.Lock()
	if l.closed {
		c.end(true, true)
	}
	l.conns[c] = struct{}{}
	l.made++
	l.mu.Unlock()
	c.run()
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
}

// hangUp closes a connection.
func hangUp(c net.Conn, reset bool) {
	if t, ok := c.(*net.TCPConn); ok && reset {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

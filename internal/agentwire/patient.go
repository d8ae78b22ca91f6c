package agentwire

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// stuckTimes is for how many idle times a write may wait while the peer is still
// heard: it is slow then, not dead. Linux lets a writer go on only when a third of
// the socket's buffer is free, 4 MiB by default: at 1 Mbit/s, which two connections
// share, that takes 22 s.
const stuckTimes = 8

// Patient is a connection that ends when its peer is silent for a while.
type Patient struct {
	net.Conn
	idle  atomic.Int64 // nanoseconds
	heard atomic.Int64 // when the last byte came, in nanoseconds since born
	born  time.Time
}

// NewPatient makes reads of conn fail that wait longer than idle for their next
// byte. Writes fail that wait as long and nothing was heard meanwhile, or eight
// times as long whatever is heard: so whoever lives but doesn't read is cut off,
// too. 0: conn's deadlines are left to others.
func NewPatient(conn net.Conn, idle time.Duration) *Patient {
	p := &Patient{Conn: conn, born: time.Now()}
	p.SetIdle(idle)
	return p
}

// SetIdle changes how long; it counts from the next read or write on.
func (p *Patient) SetIdle(idle time.Duration) { p.idle.Store(int64(idle)) }

// Silent tells for how long the peer has been silent.
func (p *Patient) Silent() time.Duration {
	return time.Since(p.born) - time.Duration(p.heard.Load())
}

// Read implements net.Conn.
func (p *Patient) Read(b []byte) (int, error) {
	if idle := time.Duration(p.idle.Load()); idle > 0 {
		if err := p.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return 0, err
		}
	}
	n, err := p.Conn.Read(b)
	if n > 0 {
		p.heard.Store(int64(time.Since(p.born)))
	}
	return n, err
}

// Write implements net.Conn.
func (p *Patient) Write(b []byte) (done int, err error) {
	moved := time.Now()
	for {
		idle := time.Duration(p.idle.Load())
		if idle > 0 {
			if err := p.SetWriteDeadline(time.Now().Add(idle)); err != nil {
				return done, err
			}
		}
		n, err := p.Conn.Write(b[done:])
		done += n
		if err == nil || idle == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return done, err
		}
		if n > 0 {
			moved = time.Now()
		}
		if p.Silent() > idle || time.Since(moved) > stuckTimes*idle {
			return done, err
		}
	}
}

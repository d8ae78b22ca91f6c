package agentwire

import (
	"crypto/tls"
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
	sealed bool         // conn is TLS itself, which a write that was cut off ruins
	idle   atomic.Int64 // nanoseconds
	heard  atomic.Int64 // when the last byte came, in nanoseconds since born
	until  atomic.Int64 // the deadline for writes that others have set, likewise; 0: none
	born   time.Time
}

// NewPatient makes reads of conn fail that wait longer than idle for their next
// byte. Writes fail that wait as long and nothing was heard meanwhile, or eight
// times as long whatever is heard: so whoever lives but doesn't read is cut off,
// too. Of a conn that is TLS already a write may wait eight times as long in any
// case: it can't be taken up again, and reading tells of silence. Deadlines for writes
// that others set count beside these. 0: conn's deadlines are left to others.
func NewPatient(conn net.Conn, idle time.Duration) *Patient {
	p := &Patient{Conn: conn, born: time.Now()}
	_, p.sealed = conn.(*tls.Conn)
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

// SetDeadline implements net.Conn.
func (p *Patient) SetDeadline(t time.Time) error {
	return errors.Join(p.SetReadDeadline(t), p.SetWriteDeadline(t))
}

// SetWriteDeadline implements net.Conn. TLS says good-bye under one: to a peer that doesn't
// read that must not take as long as a write may.
func (p *Patient) SetWriteDeadline(t time.Time) error {
	at := int64(0)
	if !t.IsZero() {
		at = max(int64(t.Sub(p.born)), 1)
	}
	p.until.Store(at)
	return p.Conn.SetWriteDeadline(t)
}

// Write implements net.Conn.
func (p *Patient) Write(b []byte) (done int, err error) {
	moved := time.Now()
	for {
		idle := time.Duration(p.idle.Load())
		until := time.Duration(p.until.Load())
		if idle > 0 {
			wait := idle
			if p.sealed {
				wait = stuckTimes * idle
			}
			at := time.Now().Add(wait)
			if set := p.born.Add(until); until > 0 && set.Before(at) {
				at = set
			}
			if err := p.Conn.SetWriteDeadline(at); err != nil {
				return done, err
			}
		}
		n, err := p.Conn.Write(b[done:])
		done += n
		if err == nil || idle == 0 || p.sealed || !errors.Is(err, os.ErrDeadlineExceeded) {
			return done, err
		}
		if n > 0 {
			moved = time.Now()
		}
		until = time.Duration(p.until.Load())
		if until > 0 && time.Since(p.born) >= until || p.Silent() > idle || time.Since(moved) > stuckTimes*idle {
			return done, err
		}
	}
}

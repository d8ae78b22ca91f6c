package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// serverTLS is how each connection gets its configuration. What is wrong with it
// now is told now.
func serverTLS(o ServeOptions) (func() (*tls.Config, error), error) {
	get := func() (*tls.Config, error) {
		conf := o.TLS
		if o.GetTLS != nil {
			var err error
			if conf, err = o.GetTLS(); err != nil {
				return nil, err
			}
		}
		conf, err := agentwire.ServerTLS(conf)
		if err == nil && o.Health {
			conf.ClientAuth = tls.VerifyClientCertIfGiven // the door asks again
		}
		return conf, err
	}
	conf, err := get()
	if err == nil && o.GetTLS == nil {
		return func() (*tls.Config, error) { return conf, nil }, nil
	}
	return get, err
}

// porch is where connections stand until they have shown who they are and said what
// they want: as many as there are places, and greetTime at most. It is the listener
// of an HTTP server, which gets those whose handshake is done. Half of the places may be one
// address's, so that a host that takes all it can get keeps no other out.
type porch struct {
	s      *server
	ln     net.Listener
	tls    func() (*tls.Config, error)
	places chan struct{}
	known  chan net.Conn
	closed chan struct{}
	shut   func()
	guests sync.WaitGroup

	mu   sync.Mutex
	from map[string]int // places that are taken, by address
}

const (
	porchPlaces = 64
	porchShare  = porchPlaces / 2
)

func newPorch(s *server, ln net.Listener, get func() (*tls.Config, error)) *porch {
	p := &porch{s: s, ln: ln, tls: get, places: make(chan struct{}, porchPlaces), from: map[string]int{}, known: make(chan net.Conn), closed: make(chan struct{})}
	p.shut = sync.OnceFunc(func() { close(p.closed) })
	return p
}

// server is the HTTP server behind the porch. A connection carries one request.
func (p *porch) server(h http.Handler) *http.Server {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: p.s.o.greet,
		ReadTimeout:       p.s.o.greet,
		WriteTimeout:      p.s.o.greet,
		MaxHeaderBytes:    agentwire.MaxHead,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // no HTTP/2
		ErrorLog:          slog.NewLogLogger(p.s.o.Log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, entrantKey{}, inside(c).e)
		},
	}
	srv.SetKeepAlivesEnabled(false)
	return srv
}

// Accept, Close and Addr make the porch the HTTP server's listener.
func (p *porch) Accept() (net.Conn, error) {
	select {
	case c := <-p.known:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *porch) Close() error   { p.shut(); return nil }
func (p *porch) Addr() net.Addr { return p.ln.Addr() }

// accept takes connections in until ctx ends or the listener fails.
func (p *porch) accept(ctx context.Context) error {
	wait := 5 * time.Millisecond
	for {
		select {
		case p.places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := p.ln.Accept()
		if err != nil {
			<-p.places
			// Too many open files pass, a closed listener doesn't.
			if te, ok := err.(interface{ Temporary() bool }); !ok || !te.Temporary() || ctx.Err() != nil {
				return fmt.Errorf("accept: %w", err)
			}
			p.s.o.Log.Warn("accept", "err", err)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		host := addressOf(conn)
		if !p.seats(host) {
			<-p.places
			p.s.turned.Add(1)
			p.s.o.Log.Warn("a client was turned away", "from", conn.RemoteAddr(), "err", "too many connections from its address don't say who they are")
			_ = conn.Close()
			continue
		}
		e := &entrant{Patient: agentwire.NewPatient(conn, 0), log: p.s.o.Log.With("from", conn.RemoteAddr())}
		e.free = sync.OnceFunc(func() { p.leaves(host); <-p.places })
		e.late = time.AfterFunc(p.s.o.greet, func() { _ = e.Patient.Close() })
		p.guests.Go(func() { p.handshake(e) })
	}
}

// addressOf is who is at the other end, of IPv6 as far as a host can't choose it.
func addressOf(conn net.Conn) string {
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return conn.RemoteAddr().String()
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.Is6() {
		net, _ := ip.Prefix(64)
		return net.String()
	}
	return ip.String()
}

// seats counts a connection in, if its address hasn't its share yet.
func (p *porch) seats(host string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.from[host] >= porchShare {
		return false
	}
	p.from[host]++
	return true
}

func (p *porch) leaves(host string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.from[host]--; p.from[host] == 0 {
		delete(p.from, host)
	}
}

// handshake hands a connection on that has shown who it is.
func (p *porch) handshake(e *entrant) {
	ctx, cancel := context.WithTimeout(p.s.base, p.s.o.greet)
	defer cancel()
	conf, err := p.tls()
	var t *tls.Conn
	if err == nil {
		t = tls.Server(e, conf)
		err = t.HandshakeContext(ctx)
	}
	if err != nil {
		e.mu.Lock()
		e.spoke = true
		e.mu.Unlock()
		p.s.turned.Add(1)
		e.log.Warn("a client was turned away", "err", err)
		linger(e.Patient.Conn)
		_ = e.Close()
		return
	}
	select {
	case p.known <- t:
	case <-p.closed:
		_ = t.Close()
	}
}

// linger lets the alert arrive that says why: closing a connection on which there
// is something unread would take it back.
func linger(conn net.Conn) {
	c, ok := conn.(interface{ CloseWrite() error })
	if !ok || c.CloseWrite() != nil || conn.SetReadDeadline(time.Now().Add(time.Second)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, conn, 64<<10)
}

// entrant is a connection on the porch. Who comes through is settled.
type entrant struct {
	*agentwire.Patient
	log  *slog.Logger
	free func() // its place
	late *time.Timer

	mu    sync.Mutex
	spoke bool // a request was read of it, or why there is none was told
}

type entrantKey struct{}

// Close ends the connection and gives its place to another.
func (e *entrant) Close() error {
	e.late.Stop()
	e.free()
	e.mu.Lock()
	spoke := e.spoke
	e.spoke = true
	e.mu.Unlock()
	if !spoke {
		e.log.Warn("a client was turned away", "err", errors.New("it sent no request that can be understood"))
	}
	return e.Patient.Close()
}

// heard notes that a request was read on a connection of a porch.
func heard(ctx context.Context) {
	if e, _ := ctx.Value(entrantKey{}).(*entrant); e != nil {
		e.mu.Lock()
		e.spoke = true
		e.mu.Unlock()
	}
}

// seat is what Serve knows of a connection; nothing of one that came to another
// server.
type seat struct {
	e       *entrant
	patient *agentwire.Patient
}

func inside(conn net.Conn) seat {
	if t, ok := conn.(*tls.Conn); ok {
		if e, ok := t.NetConn().(*entrant); ok {
			return seat{e, e.Patient}
		}
	}
	return seat{}
}

// settled gives up the place on the porch, and its hurry.
func (p seat) settled() {
	if p.e != nil {
		p.e.late.Stop()
		p.e.free()
	}
}

// readAhead reads what was read of conn already, and then conn.
func readAhead(conn net.Conn, early []byte) io.Reader {
	if len(early) == 0 {
		return conn
	}
	return io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn)
}

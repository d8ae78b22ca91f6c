package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// Serve serves b on ln until ctx ends, and closes ln. Any number of clients may
// use it at once; what one of them has open no other sees.
//
// When ctx ends no client comes in any more and none opens anything. What is open
// may be finished within o.Grace; then it is closed: a draft that wasn't
// committed leaves its machine torn, a quiesced machine thaws. Serve returns
// when all of that is done, with nil; it doesn't close b. Before ctx has ended it
// returns only if ln fails, or with dr.ErrInvalid for options that make no sense.
func Serve(ctx context.Context, ln net.Listener, b backend.Backend, o ServeOptions) error {
	defer ln.Close()
	conf, err := agentwire.ServerTLS(o.TLS)
	if err != nil {
		return err
	}
	s := newServer(b, o, conf)
	// Calls outlive ctx, for as long as the grace lasts.
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	err = s.accept(ctx, base, ln)
	if ctx.Err() != nil {
		err = nil
		s.drain()
	}
	end()
	s.each(func(x *session) { x.end(errors.New("the server stops")) })
	s.links.Wait()
	return err
}

// server is one Serve under way.
type server struct {
	b        backend.Backend
	o        ServeOptions
	tls      *tls.Config
	links    sync.WaitGroup
	greeting chan struct{} // connections that have not been let in yet
	buffers  chan struct{} // of all bulk calls

	mu       sync.Mutex
	sessions map[string]*session
	stopping bool
	quiet    chan struct{} // made by drain: closed when the last session has gone
}

func newServer(b backend.Backend, o ServeOptions, conf *tls.Config) *server {
	o = o.withDefaults()
	return &server{
		b: b, o: o, tls: conf, sessions: map[string]*session{},
		greeting: make(chan struct{}, 64), buffers: make(chan struct{}, o.Buffers),
	}
}

func (s *server) accept(ctx, base context.Context, ln net.Listener) error {
	wait := 5 * time.Millisecond
	for {
		select {
		case s.greeting <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := ln.Accept()
		if err != nil {
			<-s.greeting
			// Too many open files pass, a closed listener doesn't.
			if te, ok := err.(interface{ Temporary() bool }); !ok || !te.Temporary() || ctx.Err() != nil {
				return fmt.Errorf("accept: %w", err)
			}
			s.o.Log.Warn("accept", "err", err)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		s.links.Go(func() { s.connection(base, conn) })
	}
}

// drain tells clients to go, and waits for them.
func (s *server) drain() {
	s.mu.Lock()
	s.stopping = true
	quiet := make(chan struct{})
	s.quiet = quiet
	if len(s.sessions) == 0 {
		close(quiet)
		s.quiet = nil
	}
	s.mu.Unlock()
	if s.o.Grace < 0 {
		return
	}
	s.each(func(x *session) { go x.goAway() })
	select {
	case <-quiet:
	case <-time.After(s.o.Grace):
	}
}

func (s *server) each(f func(*session)) {
	s.mu.Lock()
	var all []*session
	for _, x := range s.sessions {
		all = append(all, x)
	}
	s.mu.Unlock()
	for _, x := range all {
		f(x)
	}
}

// connection is one connection from its first byte to its end.
func (s *server) connection(base context.Context, conn net.Conn) {
	greeted := sync.OnceFunc(func() { <-s.greeting })
	defer greeted()
	log := s.o.Log.With("from", conn.RemoteAddr())
	t := tls.Server(agentwire.NewPatient(conn, 3*s.o.KeepAlive), s.tls)
	defer t.Close()
	ctx, cancel := context.WithTimeout(base, greetTime)
	defer cancel()
	// Whoever says nothing after the handshake is cut off as well.
	hung := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer hung()
	if err := t.HandshakeContext(ctx); err != nil {
		log.Warn("a client was turned away", "err", err)
		linger(conn)
		return
	}
	l := agentwire.NewLink(t)
	x, err := s.greet(ctx, base, l, t.ConnectionState())
	if err != nil {
		log.Warn("a client was turned away", "err", err)
		_ = l.Send(ctx, agentwire.Header{Kind: agentwire.Failure, ID: agentwire.GreetingID}, agentwire.EncodeError(err))
		return
	}
	if !hung() {
		x.end(context.DeadlineExceeded)
		return
	}
	greeted()
	x.serve(l)
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

// greet answers the first frame: it joins the connection to a session.
func (s *server) greet(ctx, base context.Context, l *agentwire.Link, state tls.ConnectionState) (*session, error) {
	if err := agentwire.Verified(state, true); err != nil {
		return nil, err
	}
	cert := state.PeerCertificates[0]
	var scope Scope
	if s.o.Authorize != nil {
		var err error
		if scope, err = s.o.Authorize(cert); err != nil {
			s.o.Log.Warn("a client is not authorized", "subject", cert.Subject.String(), "err", err)
			return nil, dr.Permanent(fmt.Errorf("%w: the agent doesn't take this certificate", fs.ErrPermission))
		}
	}
	h, err := l.Next()
	if err != nil {
		return nil, err
	}
	if h.Kind != agentwire.Hello {
		return nil, fmt.Errorf("%w: a connection begins with a hello", agentwire.ErrProtocol)
	}
	b, err := l.Payload(int(h.Len))
	if err != nil {
		return nil, err
	}
	var g agentwire.Greeting
	if err := agentwire.Decode(b, &g); err != nil {
		return nil, err
	}
	version, common, err := agentwire.Agree(g)
	if err != nil {
		return nil, err
	}
	x, err := s.session(ctx, base, g, cert, scope, common)
	if err != nil {
		return nil, err
	}
	if err := x.join(l); err != nil {
		return nil, err
	}
	terms, err := agentwire.Marshal(agentwire.Terms{
		Version: version, Features: common, Session: x.token, Abilities: backendAbilities(s.b, scope),
		Calls: s.o.Calls, Bulk: s.o.Bulk, KeepAlive: s.o.KeepAlive, Links: maxLinks,
	})
	if err == nil {
		err = l.Send(ctx, agentwire.Header{Kind: agentwire.Welcome}, terms)
	}
	if err != nil {
		x.leave(l, err)
		return nil, err
	}
	return x, nil
}

// session finds or makes the one that a greeting is about.
func (s *server) session(ctx, base context.Context, g agentwire.Greeting, cert *x509.Certificate, scope Scope, features []string) (*session, error) {
	s.mu.Lock()
	old, found := s.sessions[g.Replaces], s.sessions[g.Session]
	s.mu.Unlock()
	same := func(x *session) bool { return x != nil && bytes.Equal(x.cert.Raw, cert.Raw) }
	if g.Session != "" {
		if !same(found) {
			return nil, fmt.Errorf("%w: no such session", dr.ErrNotFound)
		}
		return found, nil
	}
	if same(old) {
		old.end(errors.New("the client has begun another session"))
		select {
		case <-old.over:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: what this client had open isn't closed yet", dr.ErrBusy)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping:
		return nil, fmt.Errorf("%w: the agent stops", dr.ErrBusy)
	case len(s.sessions) >= s.o.Clients:
		return nil, fmt.Errorf("%w: the agent has %d clients, which is its limit", dr.ErrBusy, len(s.sessions))
	}
	x := newSession(base, s, rand.Text(), cert, scope, features)
	s.sessions[x.token] = x
	s.o.Log.Info("a client has come", "subject", cert.Subject.String())
	return x, nil
}

func (s *server) forget(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, x.token)
	if len(s.sessions) == 0 && s.quiet != nil {
		close(s.quiet)
		s.quiet = nil
	}
}

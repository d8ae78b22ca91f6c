package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
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
	get, err := serverTLS(o)
	if err = errors.Join(err, o.check()); err != nil {
		return err
	}
	h := NewHandler(b, o)
	p := newPorch(h.s, ln, get)
	srv := p.server(h)
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	inside := make(chan struct{})
	go func() { defer close(inside); _ = srv.Serve(p) }()
	err = p.accept(ctx)
	if ctx.Err() != nil {
		err = nil
		h.s.drain(nil)
	}
	p.shut()
	_ = srv.Close()
	h.s.halt()
	<-inside
	p.guests.Wait()
	return err
}

// server is one Serve or Handler under way.
type server struct {
	b       backend.Backend
	o       ServeOptions
	links   sync.WaitGroup
	buffers chan struct{} // of all bulk calls
	base    context.Context
	end     context.CancelFunc

	came, turned counter

	mu       sync.Mutex
	sessions map[string]*session
	stopping bool
	halted   bool
	quiet    chan struct{} // made by drain: closed when the last session has gone
}

func newServer(b backend.Backend, o ServeOptions) *server {
	o = o.withDefaults()
	s := &server{b: b, o: o, sessions: map[string]*session{}, buffers: make(chan struct{}, o.Buffers)}
	// Calls outlive whoever's context began them, for as long as the grace lasts.
	s.base, s.end = context.WithCancel(context.Background())
	return s
}

// enter counts a connection in, which the caller counts out with links.Done.
// It is false once the server has halted.
func (s *server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.halted {
		return false
	}
	s.links.Add(1)
	return true
}

// halt ends what is left, and waits for it.
func (s *server) halt() {
	s.mu.Lock()
	s.stopping, s.halted = true, true
	s.mu.Unlock()
	s.end()
	s.each(func(x *session) { x.end(errors.New("the server stops")) })
	s.links.Wait()
}

// drain tells clients to go, and waits for them, until the grace is over or hurry
// is closed.
func (s *server) drain(hurry <-chan struct{}) {
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
	case <-hurry:
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

// greet answers the first frame: it joins the connection to a session.
func (s *server) greet(ctx context.Context, l *agentwire.Link, peer *guest) (*session, error) {
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
	x, err := s.session(ctx, g, peer, common)
	if err != nil {
		return nil, err
	}
	if err := x.join(l); err != nil {
		return nil, err
	}
	terms, err := agentwire.Marshal(agentwire.Terms{
		Version: version, Features: common, Session: x.token, Abilities: backendAbilities(s.b, peer.scope),
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
func (s *server) session(ctx context.Context, g agentwire.Greeting, peer *guest, features []string) (*session, error) {
	s.mu.Lock()
	old, found := s.sessions[g.Replaces], s.sessions[g.Session]
	s.mu.Unlock()
	same := func(x *session) bool { return x != nil && sameClient(x.peer.cert, peer.cert) }
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
	x := newSession(s, rand.Text(), peer, features)
	s.sessions[x.token] = x
	s.o.Log.Info("a client has come", "subject", peer.cert.Subject.String())
	s.came.Add(1)
	if s.o.Recheck != nil {
		go x.recheck()
	}
	return x, nil
}

// sameClient tells whether two certificates are one client's: who renews one
// goes on under the name that it had. A session's name, which nobody else knows,
// is asked for beside it.
func sameClient(a, b *x509.Certificate) bool {
	return bytes.Equal(a.Raw, b.Raw) || a.Subject.String() != "" && bytes.Equal(a.RawSubject, b.RawSubject)
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

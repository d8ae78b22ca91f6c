package nbd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Server serves exports to NBD clients. Its fields must not change while it
// serves. It keeps nothing between calls of Serve, so one Server may serve
// several listeners at once.
type Server struct {
	// Exports are served and listed, in this order. Names must differ.
	Exports []Export
	// Lookup, if not nil, is asked for names that Exports does not have; what
	// it returns is not listed. It returns ErrNoExport for an unknown name.
	// Devices returned under one name must be views of the same bytes: several
	// connections may use them as one. The Export's Name may differ from the
	// name asked for; it is the canonical one then.
	Lookup func(ctx context.Context, name string) (Export, error)
	// TLS, if not nil, is forced: nothing but STARTTLS is answered before it.
	// Clients are authenticated if it demands certificates.
	TLS *tls.Config
	// Log receives failures of devices and connections; nil is silent.
	Log *slog.Logger
	// MaxInFlight bounds the device operations under way for one connection;
	// 0 means 64. Requests beyond it wait unread in the socket.
	MaxInFlight int
	// MaxConns bounds the connections of one Serve; 0 means 128. Connections
	// beyond it are closed at once. Memory for data is at most MaxPayload for
	// each connection.
	MaxConns int
	// HandshakeTimeout is what a client has, in all, to negotiate; 0 means 30 s.
	// There is no limit for idling afterwards: guests idle for days.
	HandshakeTimeout time.Duration
	// DrainTimeout is what requests under way have to finish once their
	// connection ends, or the server does; 0 means 10 s.
	DrainTimeout time.Duration
}

// Serve accepts connections from l until ctx ends or l fails. Then it closes l,
// lets the requests under way finish for up to DrainTimeout, closes every
// connection and returns: nil if ctx ended, else what l failed with. A second
// call with a new listener serves again.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if err := s.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()

	free := make(chan struct{}, cmp.Or(s.MaxConns, 128))
	for {
		conn, err := accept(ctx, l)
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("nbd: accept on %v: %w", l.Addr(), err)
		}
		select {
		case free <- struct{}{}:
		default:
			s.log().Warn("nbd: connection refused: too many", "client", conn.RemoteAddr(), "limit", cap(free))
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-free }()
			s.serveConn(ctx, conn)
		})
	}
}

// check refuses a configuration that could only fail later, on a client.
func (s *Server) check() error {
	names := make(map[string]bool, len(s.Exports))
	for _, e := range s.Exports {
		if err := e.check(); err != nil {
			return err
		}
		if names[e.Name] {
			return fmt.Errorf("nbd: two exports are named %q", e.Name)
		}
		names[e.Name] = true
	}
	if s.MaxInFlight < 0 || s.MaxConns < 0 || s.HandshakeTimeout < 0 || s.DrainTimeout < 0 {
		return errors.New("nbd: a limit of the server is negative")
	}
	return nil
}

// accept waits out conditions that pass, such as a lack of file descriptors: a
// server that gave up for one would take every mounted disk away.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	const longest = time.Second
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, longest) {
		conn, err := l.Accept()
		var passing interface{ Temporary() bool }
		if err == nil || !errors.As(err, &passing) || !passing.Temporary() {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}

// serveConn negotiates, transmits and closes.
func (s *Server) serveConn(ctx context.Context, raw net.Conn) {
	log := s.log().With("client", raw.RemoteAddr())
	h := handshake{server: s, conn: raw}
	defer func() { h.conn.Close() }()

	ok, err := h.within(ctx, cmp.Or(s.HandshakeTimeout, 30*time.Second))
	defer h.export.release()
	if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		log.Warn("nbd: handshake failed", "err", err)
	}
	if err != nil || !ok || ctx.Err() != nil {
		return
	}
	log = log.With("export", h.target.name)
	log.Debug("nbd: connected", "size", h.target.size, "structured", h.structured, "blockStatus", h.status)

	t := newSession(&h, cmp.Or(s.MaxInFlight, 64), log)
	if err := t.run(ctx, cmp.Or(s.DrainTimeout, 10*time.Second)); err != nil {
		log.Warn("nbd: connection ended", "err", err)
	} else {
		log.Debug("nbd: disconnected")
	}
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// find resolves the name that a client asks for.
func (s *Server) find(ctx context.Context, name string) (Export, error) {
	for _, e := range s.Exports {
		if e.Name == name {
			e.Release = nil
			return e, nil
		}
	}
	if name == "" && len(s.Exports) == 1 {
		e := s.Exports[0]
		e.Release = nil
		return e, nil
	}
	if s.Lookup == nil {
		return Export{}, ErrNoExport
	}
	e, err := s.Lookup(ctx, name)
	if err != nil {
		return Export{}, err
	}
	if err := e.check(); err != nil {
		e.release()
		return Export{}, err
	}
	return e, nil
}

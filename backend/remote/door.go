package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

type counter = atomic.Int64

// Handler serves a backend in a program's own HTTPS server, beside what else that
// serves: Serve's door without its porch. It answers
//
//	GET /v1/session   with Upgrade: lifeboat, which becomes a client's connection
//	GET /healthz      200 while clients may come in, else 503
//	GET /metrics      a few numbers as text, for clients
//
// The server must speak TLS 1.3 and HTTP/1.1 (HTTP/2 has no Upgrade), and verify the
// certificates of its clients itself: a request whose certificate it didn't verify is
// refused here, but for /healthz if ServeOptions.Health allows that. Its timeouts end
// with the upgrade. A Handler is safe for concurrent use. Make one with NewHandler.
type Handler struct{ s *server }

// NewHandler serves b under o, whose TLS and GetTLS don't count here. It panics
// for options that Serve would refuse: at once, and not when a client comes.
func NewHandler(b backend.Backend, o ServeOptions) *Handler {
	if err := o.check(); err != nil {
		panic(err)
	}
	return &Handler{newServer(b, o)}
}

// Shutdown lets nobody in any more, gives clients ServeOptions.Grace, and no longer than
// ctx lasts, to end what they have open, and closes the rest. It returns when that is done,
// nil always. The HTTP server's own Shutdown knows nothing of sessions: call this beside
// it.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.s.drain(ctx.Done())
	h.s.halt()
	return nil
}

// ServeHTTP answers one request, and for a session returns when its connection has
// ended.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var state tls.ConnectionState
	if r.TLS != nil {
		state = *r.TLS
	}
	h.s.door(w, r, state)
}

// guest is who is at the other end of a connection.
type guest struct {
	cert  *x509.Certificate
	state tls.ConnectionState
	scope Scope
}

// door answers a request that came over a connection of this state.
func (s *server) door(w http.ResponseWriter, r *http.Request, state tls.ConnectionState) {
	heard(r.Context())
	w.Header().Set("Cache-Control", "no-store")
	if r.URL.Path == "/healthz" && s.o.Health {
		s.health(w, r)
		return
	}
	peer, err := s.admit(state)
	if err != nil {
		s.refuse(w, r, http.StatusForbidden, err)
		return
	}
	version, isSession := sessionPath(r.URL.Path)
	switch {
	case r.URL.Path == "/healthz":
		s.health(w, r)
	case r.URL.Path == "/metrics" && peer.scope.Machines == nil:
		s.metrics(w, r)
	case !isSession:
		s.refuse(w, r, http.StatusNotFound, fmt.Errorf("%w: there is no such page here; an agent serves %s", dr.ErrNotFound, agentwire.Served()))
	case !slices.Contains(strings.Split(agentwire.Served(), ", "), r.URL.Path):
		s.refuse(w, r, http.StatusNotFound, fmt.Errorf("%w: version %s of the agent protocol; this agent serves %s", dr.ErrUnsupported, version, agentwire.Served()))
	case r.Method != http.MethodGet || r.ContentLength != 0:
		w.Header().Set("Allow", http.MethodGet)
		s.refuse(w, r, http.StatusMethodNotAllowed, fmt.Errorf("%w: a session begins with a GET and no body", agentwire.ErrProtocol))
	case r.ProtoMajor != 1 || r.ProtoMinor != 1 || !agentwire.Asks(r.Header):
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", agentwire.UpgradeToken)
		s.refuse(w, r, http.StatusUpgradeRequired, fmt.Errorf("%w: want HTTP/1.1 with Upgrade: %s", dr.ErrUnsupported, agentwire.UpgradeToken))
	default:
		s.upgrade(w, r, peer)
	}
}

// sessionPath tells whether a path is that of sessions, of whatever version.
func sessionPath(path string) (version string, ok bool) {
	version, ok = strings.CutSuffix(strings.TrimPrefix(path, "/v"), "/session")
	ok = ok && strings.HasPrefix(path, "/v") && version != "" && len(version) < 10 && strings.Trim(version, "0123456789") == ""
	return version, ok
}

// admit tells who is at the other end, if that may come in.
func (s *server) admit(state tls.ConnectionState) (*guest, error) {
	if err := agentwire.Verified(state, true); err != nil {
		return nil, dr.Permanent(fmt.Errorf("%w: %w", fs.ErrPermission, err))
	}
	g := &guest{cert: state.PeerCertificates[0], state: state}
	var err error
	if s.o.Recheck != nil {
		err = s.o.Recheck(state)
	}
	if err == nil && s.o.Authorize != nil {
		g.scope, err = s.o.Authorize(g.cert)
	}
	if err != nil {
		s.o.Log.Warn("a client is not authorized", "subject", g.cert.Subject.String(), "err", err)
		return nil, dr.Permanent(fmt.Errorf("%w: the agent doesn't take this certificate", fs.ErrPermission))
	}
	return g, nil
}

// refuse answers with an error, in the form that clients read.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	s.turned.Add(1)
	s.o.Log.Warn("a client was turned away", "from", r.RemoteAddr, "status", status, "err", err)
	w.Header().Set("Content-Type", agentwire.ErrorType)
	w.WriteHeader(status)
	_, _ = w.Write(append(agentwire.EncodeError(err), '\n'))
}

// health says whether clients may come in, and no more.
func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if stopping {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "stopping")
		return
	}
	fmt.Fprintln(w, "ok")
}

// metrics are in the text form that Prometheus reads.
func (s *server) metrics(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	sessions := len(s.sessions)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	for _, m := range []struct {
		name, kind string
		value      int64
	}{
		{"lifeboat_agent_sessions", "gauge", int64(sessions)},
		{"lifeboat_agent_sessions_total", "counter", s.came.Load()},
		{"lifeboat_agent_refused_total", "counter", s.turned.Load()},
	} {
		fmt.Fprintf(w, "# TYPE %s %s\n%s %d\n", m.name, m.kind, m.name, m.value)
	}
}

// upgrade makes a request's connection a client's, until that ends.
func (s *server) upgrade(w http.ResponseWriter, r *http.Request, peer *guest) {
	if !s.enter() {
		s.refuse(w, r, http.StatusServiceUnavailable, fmt.Errorf("%w: the agent stops", dr.ErrBusy))
		return
	}
	defer s.links.Done()
	hj, ok := w.(http.Hijacker)
	if !ok {
		s.refuse(w, r, http.StatusInternalServerError, errors.New("this server can't give a connection up"))
		return
	}
	conn, rw, err := hj.Hijack()
	if err != nil {
		s.o.Log.Warn("a connection couldn't be taken over", "from", r.RemoteAddr, "err", err)
		return
	}
	defer conn.Close()
	in := inside(conn)
	patient := in.patient
	if patient == nil { // not Serve's own
		patient = agentwire.NewPatient(conn, 0)
		conn = patient
	}
	ctx, cancel := context.WithTimeout(s.base, s.o.greet)
	defer cancel()
	// Whoever says nothing behind the upgrade is cut off as well.
	hung := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer hung()
	patient.SetIdle(3 * s.o.KeepAlive)
	if _, err := conn.Write([]byte(agentwire.Switching)); err != nil {
		return
	}
	// A client that doesn't wait for the answer may have spoken on.
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	l := agentwire.NewLinkFrom(conn, readAhead(conn, early))
	x, err := s.greet(ctx, l, peer)
	if err != nil {
		s.turned.Add(1)
		s.o.Log.Warn("a client was turned away", "from", r.RemoteAddr, "err", err)
		_ = l.Send(ctx, agentwire.Header{Kind: agentwire.Failure, ID: agentwire.GreetingID}, agentwire.EncodeError(err))
		return
	}
	if !hung() {
		x.end(context.DeadlineExceeded)
		return
	}
	in.settled()
	x.serve(l, patient)
}

// recheck ends the session of a client whose certificate is good no more.
func (x *session) recheck() {
	t := time.NewTicker(x.o.RecheckEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-x.ctx.Done():
			return
		}
		if err := x.o.Recheck(x.peer.state); err != nil {
			x.o.Log.Warn("a client's session is ended", "subject", x.peer.cert.Subject.String(), "err", err)
			x.end(fmt.Errorf("its certificate is good no more: %w", err))
			return
		}
	}
}

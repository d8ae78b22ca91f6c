package remote

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// journal is what was logged.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// says sends bytes over TLS and returns what comes until the agent hangs up.
func says(t *testing.T, a *agent, conf *tls.Config, text string) string {
	t.Helper()
	conf = conf.Clone()
	conf.ServerName, conf.NextProtos = "127.0.0.1", []string{"http/1.1"}
	conn, err := tls.Dial("tcp", a.addr, conf)
	require.NoError(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, text)
	b, _ := io.ReadAll(conn)
	return string(b)
}

const upgrade = "Connection: Upgrade\r\nUpgrade: lifeboat\r\n"

// Whatever doesn't become a session gets an answer of HTTP, is logged, and reaches no
// backend.
func TestTheDoor(t *testing.T) {
	var log journal
	served := &recorder{n: map[backendtest.Op]int{}}
	a := serve(t, backendtest.Wrap(memory.New(memory.Options{}), served.intercept), ServeOptions{Log: log.logger(), greet: time.Second})
	get := func(path, head string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n" + head + "\r\n" }
	for what, c := range map[string]struct{ text, want, tells string }{
		"health":                {get("/healthz", ""), "200 OK", "ok"},
		"numbers":               {get("/metrics", ""), "200 OK", "lifeboat_agent_sessions 0"},
		"another version":       {get("/v2/session", upgrade), "404 Not Found", "version 2 of the agent protocol; this agent serves /v1/session"},
		"no version":            {get("/v/session", upgrade), "404 Not Found", "/v1/session"},
		"a number of many":      {get("/v11111111111111/session", upgrade), "404 Not Found", "/v1/session"},
		"another page":          {get("/", ""), "404 Not Found", "/v1/session"},
		"without upgrade":       {get("/v1/session", ""), "426 Upgrade Required", "Upgrade: lifeboat"},
		"to something else":     {get("/v1/session", "Connection: Upgrade\r\nUpgrade: websocket\r\n"), "426 Upgrade Required", "Upgrade: lifeboat"},
		"posted":                {"POST /v1/session HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n" + upgrade + "\r\n", "405 Method Not Allowed", "GET"},
		"with a body":           {get("/v1/session", upgrade+"Content-Length: 5\r\n") + "hello", "405 Method Not Allowed", "no body"},
		"HTTP/1.0":              {"GET /v1/session HTTP/1.0\r\n" + upgrade + "\r\n", "426 Upgrade Required", ""},
		"oversized head":        {get("/v1/session", "X: "+strings.Repeat("x", 64<<10)+"\r\n"), "431 Request Header Fields Too Large", ""},
		"malformed":             {"\x00\x01\x02 not http\r\n\r\n", "400 Bad Request", ""},
		"smuggled":              {get("/v1/session", upgrade+"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n") + "0\r\n\r\n", "405", ""},
		"frames without HTTP":   {string(frame(agentwire.Header{Kind: agentwire.Hello}, []byte("{}"))), "", ""}, // until it is late
		"HTTP/2":                {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 ", ""},
		"a path that climbs":    {get("/v1/../v1/session", upgrade), "404 Not Found", ""},
		"malformed hello":       {get("/v1/session", upgrade) + string(frame(agentwire.Header{Kind: agentwire.Hello}, []byte("not JSON"))), "101 Switching", "isn't the agent protocol"},
		"a request, no hello":   {get("/v1/session", upgrade) + string(request(2, agentwire.OpMachine, 0, argument{Machine: "m"})), "101 Switching", "begins with a hello"},
		"an oversized frame":    {get("/v1/session", upgrade) + "\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "101 Switching", ""},
		"a hello of no version": {get("/v1/session", upgrade) + string(frame(agentwire.Header{Kind: agentwire.Hello}, []byte(`{"min":7,"max":9}`))), "101 Switching", "versions 7 to 9"},
	} {
		got := says(t, a, pki().client, c.text)
		require.Contains(t, got, c.want, what)
		if what != "malformed hello" {
			require.Contains(t, got, c.tells, what)
		}
	}
	for _, want := range []string{"version 2 of the agent protocol", "status=426", "status=405", "no request that can be understood", "begins with a hello", "versions 7 to 9"} {
		require.Contains(t, log.String(), want)
	}
	require.Empty(t, served.n, "no call has reached the backend")
	// Who comes rightly is served still.
	_, err := a.dial(DialOptions{}).Machine(t.Context(), "m")
	require.ErrorIs(t, err, dr.ErrNotFound)
}

// Without a certificate there is health, where that is wished, and nothing else.
func TestHealthWithoutACertificate(t *testing.T) {
	nobody := &tls.Config{RootCAs: pki().client.RootCAs}
	ask := func(a *agent, conf *tls.Config, path string) (int, string, error) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf.Clone(), DisableKeepAlives: true}}
		res, err := client.Get("https://" + a.addr + path)
		if err != nil {
			return 0, "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		require.Empty(t, res.Header.Get("Server"))
		return res.StatusCode, string(b), err
	}
	var log journal
	a := serve(t, memory.New(memory.Options{}), ServeOptions{Log: log.logger()})
	_, _, err := ask(a, nobody, "/healthz")
	require.ErrorContains(t, err, "certificate required")
	// The alert may be here before it is logged there.
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "a client was turned away") }, time.Minute, time.Millisecond)

	a = serve(t, memory.New(memory.Options{}), ServeOptions{Health: true, Log: log.logger()})
	status, text, err := ask(a, nobody, "/healthz")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok\n", text)
	for _, path := range []string{"/metrics", "/v1/session", "/", "/healthz/", "//healthz"} {
		status, text, err = ask(a, nobody, path)
		require.NoError(t, err)
		require.Equal(t, http.StatusForbidden, status, path)
		require.Contains(t, text, "no verified certificate")
	}
	wrong := nobody.Clone()
	wrong.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &pki().stranger.Certificates[0], nil
	}
	_, _, err = ask(a, wrong, "/healthz")
	require.Error(t, err, "a wrong certificate is worse than none")
	require.Contains(t, says(t, a, nobody, "GET /v1/session HTTP/1.1\r\nHost: a\r\n"+upgrade+"\r\n"), "403 Forbidden")
	_, err = a.dial(DialOptions{}).Machine(t.Context(), "m")
	require.ErrorIs(t, err, dr.ErrNotFound)
}

// Certificates that aren't good end in the handshake: told why, logged, nothing served.
func TestCertificatesThatAreNotGood(t *testing.T) {
	for what, c := range map[string]struct {
		shown *tls.Config
		days  time.Duration // that have gone by at the agent
		why   string
	}{
		"none":               {&tls.Config{}, 0, "didn't provide a certificate"},
		"a stranger's":       {pki().stranger, 0, "unknown authority"},
		"an agent's":         {pki().server, 0, "incompatible key usage"},
		"one that expired":   {pki().client, 2, "expired"},
		"one of the future":  {pki().client, -2, "not yet valid"},
		"a good one, though": {pki().client, 0, ""},
	} {
		var log journal
		served := &recorder{n: map[backendtest.Op]int{}}
		conf := pki().server.Clone()
		conf.Time = func() time.Time { return time.Now().Add(c.days * 24 * time.Hour) }
		a := serve(t, backendtest.Wrap(memory.New(memory.Options{}), served.intercept), ServeOptions{TLS: conf, Log: log.logger()})
		client := &tls.Config{RootCAs: pki().client.RootCAs, ServerName: "127.0.0.1", GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(c.shown.Certificates) == 0 {
				return &tls.Certificate{}, nil
			}
			return &c.shown.Certificates[0], nil
		}}
		x, err := Dial(t.Context(), a.addr, DialOptions{TLS: client})
		if c.why == "" {
			require.NoError(t, err, what)
			require.NoError(t, x.Close())
			continue
		}
		require.ErrorIs(t, err, fs.ErrPermission, what)
		require.True(t, dr.IsPermanent(err), what)
		require.Eventually(t, func() bool { return strings.Contains(log.String(), c.why) }, time.Minute, time.Millisecond, what)
		require.Empty(t, served.n, what)
	}
	// A client doesn't speak to a client, nor to an agent of another name.
	b := serve(t, memory.New(memory.Options{}), ServeOptions{TLS: &tls.Config{
		Certificates: pki().client.Certificates, ClientCAs: pki().server.ClientCAs, ClientAuth: tls.RequireAndVerifyClientCert}})
	_, err := Dial(t.Context(), b.addr, DialOptions{TLS: pki().client})
	require.ErrorContains(t, err, "verify the agent's certificate")
	conf := pki().client.Clone()
	conf.ServerName = "mail.example.com"
	_, err = Dial(t.Context(), serve(t, memory.New(memory.Options{}), ServeOptions{}).addr, DialOptions{TLS: conf})
	require.ErrorContains(t, err, "verify the agent's certificate")
}

// Clients that send a byte now and then are cut off all the same, and others come in
// meanwhile.
func TestSlowHeads(t *testing.T) {
	const hurry = 2 * time.Second
	a := serve(t, memory.New(memory.Options{}), ServeOptions{KeepAlive: time.Hour, greet: hurry})
	begun := time.Now()
	var wg sync.WaitGroup
	var cut atomic.Int64
	for i := range 20 {
		wg.Go(func() {
			conf := pki().client.Clone()
			conf.ServerName = "127.0.0.1"
			conn, err := tls.Dial("tcp", a.addr, conf)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if i%2 == 0 { // some stop behind the upgrade
				_, _ = io.WriteString(conn, "GET /v1/session HTTP/1.1\r\nHost: a\r\n"+upgrade+"\r\n")
			} else {
				_, _ = io.WriteString(conn, "GET /v1/session HTTP/1.1\r\n")
			}
			for time.Since(begun) < 10*hurry {
				if _, err := conn.Write([]byte("X")); err != nil {
					cut.Add(1)
					return
				}
				_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				_, err := conn.Read(make([]byte, 1<<10))
				var ne net.Error
				if err != nil && !(errors.As(err, &ne) && ne.Timeout()) {
					cut.Add(1)
					return
				}
			}
		})
	}
	wg.Go(func() { // one that dawdles a little at each step has no longer than others
		conf := pki().client.Clone()
		conf.ServerName = "127.0.0.1"
		conn, err := net.Dial("tcp", a.addr)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		time.Sleep(hurry * 7 / 10)
		c := tls.Client(conn, conf)
		_ = c.Handshake()
		time.Sleep(hurry * 7 / 10)
		_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("it was answered %q", b)
		}
	})
	_, err := a.dial(DialOptions{}).Machine(t.Context(), "m")
	require.ErrorIs(t, err, dr.ErrNotFound)
	wg.Wait()
	require.EqualValues(t, 20, cut.Load())
	require.Less(t, time.Since(begun), 5*hurry)
}

// A program that has a server of its own serves a backend beside its pages.
func TestHandler(t *testing.T) {
	b := memory.New(memory.Options{})
	require.NoError(t, b.Add(dr.Machine{ID: "m", Power: dr.Off, Disks: []dr.Disk{{ID: "a", Size: 1 << 20}}}))
	h := NewHandler(b, ServeOptions{Grace: -1})
	mux := http.NewServeMux()
	mux.Handle("/v1/session", h)
	mux.HandleFunc("/own", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "own page") })
	srv := httptest.NewUnstartedServer(mux)
	srv.TLS = pki().server.Clone()
	srv.TLS.MinVersion = tls.VersionTLS13
	srv.StartTLS()
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	c, err := Dial(t.Context(), addr, DialOptions{TLS: pki().client, Patience: -1})
	require.NoError(t, err)
	defer c.Close()
	img, err := c.Capture(t.Context(), "m", "p", dr.CrashConsistent)
	require.NoError(t, err)
	p := make([]byte, 1<<20)
	_, err = img.ReadAt(t.Context(), "a", p, 0)
	require.NoError(t, err)
	require.NoError(t, h.Shutdown(t.Context()))
	_, err = img.ReadAt(t.Context(), "a", p, 0)
	require.Error(t, err)
	_, err = Dial(t.Context(), addr, DialOptions{TLS: pki().client})
	require.ErrorIs(t, err, dr.ErrBusy)

	// Without verified certificates it lets nobody in.
	open := httptest.NewUnstartedServer(NewHandler(b, ServeOptions{}))
	open.TLS = pki().server.Clone()
	open.TLS.ClientAuth = tls.RequestClientCert
	open.StartTLS()
	defer open.Close()
	_, err = Dial(t.Context(), open.Listener.Addr().String(), DialOptions{TLS: pki().client})
	require.ErrorIs(t, err, fs.ErrPermission)
	w := httptest.NewRecorder()
	NewHandler(b, ServeOptions{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://a/v1/session", nil))
	require.Equal(t, http.StatusForbidden, w.Code)
}

// A session ends when its client's certificate is good no more, and the client can't come
// back.
func TestASessionIsRechecked(t *testing.T) {
	var revoked atomic.Bool
	var asked atomic.Int64
	var log journal
	s := newSite(t, ServeOptions{RecheckEvery: 20 * time.Millisecond, Log: log.logger(), Recheck: func(c tls.ConnectionState) error {
		asked.Add(1)
		if revoked.Load() && c.PeerCertificates[0].Subject.CommonName == "replicator" {
			return errors.New("it was revoked")
		}
		return nil
	}})
	s.content(1)
	p := s.capture("p").Point()
	r, err := s.c.Prepare(t.Context(), backend.Placement{Key: "k", Machine: p.Machine})
	require.NoError(t, err)
	d, err := s.c.Draft(t.Context(), r.ID, p)
	require.NoError(t, err)
	before := asked.Load()
	require.Eventually(t, func() bool { return asked.Load() > before+2 }, time.Minute, time.Millisecond, "it is asked again and again")
	_, err = d.WriteAt(t.Context(), "a", make([]byte, 512), 0)
	require.NoError(t, err)
	revoked.Store(true)
	require.Eventually(t, func() bool {
		_, err = d.WriteAt(t.Context(), "a", make([]byte, 512), 0)
		return err != nil
	}, time.Minute, 10*time.Millisecond)
	_, err = s.c.Machine(t.Context(), "m")
	require.ErrorIs(t, err, fs.ErrPermission)
	require.Contains(t, log.String(), "it was revoked")
	other := s.agent.dial(DialOptions{TLS: pki().other, Patience: -1, RecheckEvery: 20 * time.Millisecond, Recheck: func(c tls.ConnectionState) error {
		if len(c.VerifiedChains) == 0 || c.PeerCertificates[0].Subject.CommonName != "agent" || !revoked.Load() {
			return errors.New("it is good no more")
		}
		return nil
	}})
	for range 5 {
		time.Sleep(20 * time.Millisecond)
		_, err = other.Machine(t.Context(), "m")
		require.NoError(t, err, "others are served")
	}
	// And a client lets go of an agent that is good no more.
	w := other.w
	revoked.Store(false)
	select {
	case <-w.lost:
		require.ErrorContains(t, w.err, "good no more")
	case <-time.After(10 * time.Second):
		require.Fail(t, "it goes on")
	}
}

// Who renewed its certificate goes on as the client that it was: what it had open is closed
// before it is let in again.
func TestARenewedClientIsTheSame(t *testing.T) {
	a, b := &x509.Certificate{Raw: []byte("a"), RawSubject: []byte("x")}, &x509.Certificate{Raw: []byte("b"), RawSubject: []byte("x")}
	require.False(t, sameClient(a, b), "without a name there is nothing to know it by")
	a.Subject.CommonName, b.Subject.CommonName = "x", "x"
	require.True(t, sameClient(a, b))
	b.RawSubject = []byte("y")
	require.False(t, sameClient(a, b))
	require.True(t, sameClient(a, a))
}

// FuzzDoor says anything to the door of an agent, with a certificate: HTTP's answer or a
// session's end, nothing left behind.
func FuzzDoor(f *testing.F) {
	hello := string(frame(agentwire.Header{Kind: agentwire.Hello}, []byte(`{"min":1,"max":1}`)))
	for _, s := range []string{
		"GET /v1/session HTTP/1.1\r\nHost: a\r\n" + upgrade + "\r\n" + hello + string(request(2, agentwire.OpMachine, 0, argument{Machine: "m"})),
		"GET /v1/session HTTP/1.1\r\nHost: a\r\n" + upgrade + "\r\n", "GET /v9/session HTTP/1.1\r\nHost: a\r\n\r\n", "POST /healthz HTTP/1.0\r\n\r\n", hello, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	cert := &x509.Certificate{}
	state := tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newServer(memory.New(memory.Options{}), ServeOptions{KeepAlive: time.Second, Grace: -1})
		r := bufio.NewReader(bytes.NewReader(b))
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		early, _ := io.ReadAll(io.LimitReader(r, 1<<20))
		w := &stolen{ResponseRecorder: httptest.NewRecorder(), early: early}
		done := make(chan struct{})
		go func() { defer close(done); s.door(w, req, state) }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("it hangs")
		}
		s.halt()
		if len(s.sessions) != 0 {
			t.Fatal("a session is left")
		}
	})
}

// stolen is an answer whose connection can be taken over.
type stolen struct {
	*httptest.ResponseRecorder
	early []byte
}

func (s *stolen) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn := &ended{r: bytes.NewReader(s.early)}
	return conn, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn)), nil
}

// ended is a connection whose peer has said all.
type ended struct{ r io.Reader }

func (e *ended) Read(p []byte) (int, error)       { return e.r.Read(p) }
func (e *ended) Write(p []byte) (int, error)      { return len(p), nil }
func (e *ended) Close() error                     { return nil }
func (e *ended) LocalAddr() net.Addr              { return nil }
func (e *ended) RemoteAddr() net.Addr             { return nil }
func (e *ended) SetDeadline(time.Time) error      { return nil }
func (e *ended) SetReadDeadline(time.Time) error  { return nil }
func (e *ended) SetWriteDeadline(time.Time) error { return nil }

// FuzzKnock says anything to a client that knocks.
func FuzzKnock(f *testing.F) {
	f.Add([]byte(agentwire.Switching))
	f.Add([]byte(agentwire.Switching + "more"))
	f.Add([]byte("HTTP/1.1 403 Forbidden\r\nContent-Type: " + agentwire.ErrorType + "\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := agentwire.Knock(&ended{r: bytes.NewReader(b)}, "a:1")
		if (l == nil) == (err == nil) {
			t.Fatal(l, err)
		}
	})
}

package enrol

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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

// office is an authority with its door open.
type office struct {
	*Authority
	t   testing.TB
	url string
	pin string
	log *journal
}

func open(t testing.TB, o AuthorityOptions) *office {
	x := &office{t: t, log: &journal{}}
	o.Log = slog.New(slog.NewTextHandler(x.log, nil))
	var err error
	x.Authority, err = OpenAuthority(t.TempDir(), o)
	require.NoError(t, err)
	x.pin, err = x.Pin(t.Context())
	require.NoError(t, err)
	x.serve()
	return x
}

func (x *office) serve() {
	conf, err := x.ServerTLS("127.0.0.1")
	require.NoError(x.t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(x.t, err)
	x.url = "https://" + ln.Addr().String()
	srv := &http.Server{Handler: x.Handler(), ReadHeaderTimeout: time.Second, ErrorLog: slog.NewLogLogger(x.o.Log.Handler(), slog.LevelWarn)}
	go func() { _ = srv.Serve(tls.NewListener(ln, conf)) }()
	x.t.Cleanup(func() { _ = srv.Close() })
}

func (x *office) token(g Grant) string {
	x.t.Helper()
	token, err := x.NewToken(context.Background(), g)
	require.NoError(x.t, err)
	return token
}

var theAgent = Grant{Name: "db-host", Role: Agent, Hosts: []string{"127.0.0.1", "db.example.com"}}

func (x *office) invite(g Grant) Invitation { return Invitation{x.url, x.token(g), x.pin} }

func (x *office) identity(g Grant, o IdentityOptions) *Identity {
	x.t.Helper()
	id, err := Enrol(x.t.Context(), x.t.TempDir(), x.invite(g), o)
	require.NoError(x.t, err, "%s", x.log)
	return id
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return k
}

func csr(t testing.TB, key any, r x509.CertificateRequest) []byte {
	der, err := x509.CreateCertificateRequest(rand.Reader, &r, key)
	require.NoError(t, err)
	return der
}

func plain(t testing.TB) []byte { return csr(t, newKey(t), x509.CertificateRequest{}) }

func toPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// ask posts a body, with a certificate or none, and returns what comes.
func (x *office) ask(method, path string, body []byte, cert *tls.Certificate) (int, *Fault) {
	x.t.Helper()
	conf := &tls.Config{InsecureSkipVerify: true}
	if cert != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
	req, err := http.NewRequest(method, x.url+path, bytes.NewReader(body))
	require.NoError(x.t, err)
	res, err := client.Do(req)
	require.NoError(x.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(x.t, err)
	var f Fault
	if res.StatusCode != http.StatusOK {
		require.NoError(x.t, json.Unmarshal(b, &f), "%s", b)
		require.NotEmpty(x.t, f.Text)
	}
	return res.StatusCode, &f
}

func (x *office) post(path, token string, der []byte, cert *tls.Certificate) (int, *Fault) {
	x.t.Helper()
	b, err := json.Marshal(asked{token, toPEM(der)})
	require.NoError(x.t, err)
	return x.ask(http.MethodPost, path, b, cert)
}

// meet shakes hands: what the server and the client say.
func meet(t testing.TB, server, client *Identity) (serverErr, clientErr error) {
	t.Helper()
	sc, err := server.ServerTLS()
	require.NoError(t, err)
	cc, err := client.ClientTLS()
	require.NoError(t, err)
	cc.ServerName = "127.0.0.1"
	return shake(t, sc, cc)
}

func shake(t testing.TB, sc, cc *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	until := time.Now().Add(10 * time.Second)
	_, _ = a.SetDeadline(until), b.SetDeadline(until)
	done := make(chan error, 1)
	go func() {
		s := tls.Server(a, sc)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x"))
		}
		done <- err
		_ = a.Close()
	}()
	c := tls.Client(b, cc)
	clientErr = c.Handshake()
	if clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	}
	_ = b.Close()
	return <-done, clientErr
}

var subject = pkix.Name{CommonName: "db-host"}

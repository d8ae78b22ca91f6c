package enrol

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 32 << 10

// asked is the body of /v1/enrol and /v1/renew.
type asked struct {
	Token string `json:"token,omitempty"`
	CSR   string `json:"csr"` // PEM
}

// granted is the answer.
type granted struct {
	Certificate string `json:"certificate"` // PEM, with what is between it and the authority
	Authorities string `json:"authorities"` // PEM
}

// parseAsked reads a body: the token, and the request in DER.
func parseAsked(b []byte) (token string, der []byte, err error) {
	var q asked
	if err := json.Unmarshal(b, &q); err != nil {
		return "", nil, fault("invalid", "the body isn't the JSON that is wanted", `send {"token": ..., "csr": PEM}`)
	}
	block, _ := pem.Decode([]byte(q.CSR))
	if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return "", nil, fault("invalid", "the request for a certificate isn't PEM", "")
	}
	return q.Token, block.Bytes, nil
}

func (a *Authority) mux() http.Handler {
	m := http.NewServeMux()
	on := func(method, path string, f func(http.ResponseWriter, *http.Request) error) {
		m.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != method {
				w.Header().Set("Allow", method)
				a.refuse(w, r, fault("method", "want "+method, ""))
				return
			}
			if err := f(w, r); err != nil {
				a.refuse(w, r, err)
			}
		})
	}
	on(http.MethodPost, "/v1/enrol", a.serveEnrol)
	on(http.MethodPost, "/v1/renew", a.serveRenew)
	on(http.MethodGet, "/v1/ca", a.serveCA)
	on(http.MethodGet, "/v1/revoked", a.serveRevoked)
	on(http.MethodGet, "/v1/issuers", a.serveIssuers)
	on(http.MethodGet, "/healthz", func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.WriteString(w, "ok\n")
		return err
	})
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.refuse(w, r, fault("not_found", "there is nothing here; this authority serves version 1: /v1/enrol, /v1/renew, /v1/ca, /v1/issuers, /v1/revoked", ""))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			a.refuse(w, r, fault("invalid", "this is served over TLS only", ""))
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		m.ServeHTTP(w, r)
	})
}

// refuse answers with a Fault, and logs it: no secret is in either.
func (a *Authority) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var f *Fault
	if !errors.As(err, &f) {
		a.o.Log.Error("the authority failed", "from", r.RemoteAddr, "path", r.URL.Path, "err", err)
		f = fault("internal", "the authority failed; its log says why", "")
	} else {
		a.o.Log.Warn("refused", "from", r.RemoteAddr, "path", r.URL.Path, "code", f.Code, "why", f.Text, "err", err)
	}
	b, _ := json.Marshal(f)
	w.Header().Set("Content-Type", "application/json")
	if f.Code == "too_many" {
		w.Header().Set("Retry-After", "10")
	}
	w.WriteHeader(f.status)
	_, _ = w.Write(append(b, '\n'))
}

func readAsked(w http.ResponseWriter, r *http.Request) (token string, csr []byte, err error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return "", nil, fault("too_large", fmt.Sprintf("a body of more than %d bytes", maxBody), "")
	}
	if err != nil {
		return "", nil, fault("invalid", "the body couldn't be read", "")
	}
	return parseAsked(b)
}

func (a *Authority) serveEnrol(w http.ResponseWriter, r *http.Request) error {
	if !a.wrong.may(r.RemoteAddr) {
		return fault("too_many", "too many tokens from here weren't good", "wait a while")
	}
	token, csr, err := readAsked(w, r)
	if err != nil {
		return err
	}
	rec, id, err := a.enrol(r.Context(), token, csr)
	if errors.Is(err, ErrToken) {
		a.wrong.count(r.RemoteAddr)
	}
	if err != nil {
		return fmt.Errorf("token %s: %w", id, err)
	}
	a.o.Log.Info("enrolled", "from", r.RemoteAddr, "name", rec.Grant.Name, "role", rec.Grant.Role, "serial", rec.Serial, "token", id, "until", rec.NotAfter)
	return a.give(w, r, rec)
}

func (a *Authority) serveRenew(w http.ResponseWriter, r *http.Request) error {
	_, csr, err := readAsked(w, r)
	if err != nil {
		return err
	}
	rec, name, err := a.renew(r.Context(), r.TLS.PeerCertificates, csr)
	if err != nil {
		return fmt.Errorf("name %q: %w", name, err)
	}
	a.o.Log.Info("renewed", "from", r.RemoteAddr, "name", name, "serial", rec.Serial, "until", rec.NotAfter)
	return a.give(w, r, rec)
}

func (a *Authority) give(w http.ResponseWriter, r *http.Request, rec record) error {
	roots, err := a.signer.Roots(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(granted{rec.Chain, string(encodeCerts(roots))})
}

func (a *Authority) serveCA(w http.ResponseWriter, r *http.Request) error {
	roots, err := a.signer.Roots(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	_, err = w.Write(encodeCerts(roots))
	return err
}

func (a *Authority) serveRevoked(w http.ResponseWriter, r *http.Request) error {
	all, err := a.revoked(r.Context())
	if err != nil {
		return err
	}
	issuer := r.URL.Query().Get("issuer")
	i := slices.IndexFunc(all, func(l List) bool { return issuer == "" || keyOf(l.Issuer.RawSubjectPublicKeyInfo) == issuer })
	if i < 0 {
		return fault("not_found", "there is no list by that issuer", "")
	}
	w.Header().Set("Content-Type", "application/pkix-crl")
	_, err = w.Write(all[i].DER)
	return err
}

// serveIssuers tells whose lists there are.
func (a *Authority) serveIssuers(w http.ResponseWriter, r *http.Request) error {
	all, err := a.revoked(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	for _, l := range all {
		if err == nil {
			_, err = w.Write(encodeCerts([]*x509.Certificate{l.Issuer}))
		}
	}
	return err
}

// selfName is the name in the authority's own certificate, which nobody is granted: an
// agent's certificate may have the same host in it, and is for servers as well.
const selfName = "authority"

// served is the authority's own certificate under some names.
type served struct {
	cert  *tls.Certificate
	root  string
	renew time.Time
	again time.Time // not before this, as the signer failed
}

// ServerTLS is how Handler is served under these names and addresses: with a certificate
// that the authority gives itself, and renews, TLS 1.3, and certificates of clients looked
// at, but not asked for, as who enrols has none. Set a timeout for heads at the HTTP
// server.
func (a *Authority) ServerTLS(hosts ...string) (*tls.Config, error) {
	if err := (Grant{Name: selfName, Role: Agent, Hosts: hosts}).check(); err != nil {
		return nil, err
	}
	get := func() (*tls.Certificate, error) {
		ctx, cancel := context.WithTimeout(context.Background(), callTime) // a signer may hang
		defer cancel()
		return a.serverCertificate(ctx, hosts)
	}
	if _, err := get(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true,
		ClientAuth:     tls.RequestClientCert, // serveRenew verifies it
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return get() },
	}, nil
}

// serverCertificate is the authority's own. One that is good still is shown on where
// another can't be had: a signer that is away must not shut the door to lists.
func (a *Authority) serverCertificate(ctx context.Context, hosts []string) (*tls.Certificate, error) {
	name := strings.Join(hosts, " ")
	a.mu.Lock()
	defer a.mu.Unlock()
	// By the wall's clock, which clients go by: it may be set, or a host suspended.
	now := time.Now().Round(0)
	old := a.self[name]
	good := old != nil && now.Before(old.cert.Leaf.NotAfter) && !now.Before(old.cert.Leaf.NotBefore)
	if good && now.Before(old.again) && old.again.Before(now.Add(2*againAfter)) {
		return old.cert, nil
	}
	roots, err := a.signer.Roots(ctx)
	if err == nil && len(roots) == 0 {
		err = fmt.Errorf("%w: the signer has no authority", dr.ErrNotFound)
	}
	if err == nil && good && old.root == pinOf(roots[0]) && now.Before(old.renew) {
		return old.cert, nil
	}
	var s *served
	if err == nil {
		s, err = a.certifySelf(ctx, hosts, roots, now)
	}
	if err != nil && good {
		a.o.Log.Warn("the authority's own certificate couldn't be looked after", "until", old.cert.Leaf.NotAfter, "err", err)
		old.again = now.Add(againAfter)
		return old.cert, nil
	}
	if err != nil {
		return nil, err
	}
	a.self[name] = s
	return s.cert, nil
}

// againAfter is when a signer that failed is asked again for the authority's own
// certificate.
const againAfter = time.Minute

// certifySelf makes one, with the root in it, so that who knows its pin finds it.
func (a *Authority) certifySelf(ctx context.Context, hosts []string, roots []*x509.Certificate, now time.Time) (*served, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: selfName}, PublicKey: &key.PublicKey,
		NotBefore: now.Add(-min(5*time.Minute, a.o.Life/10)), NotAfter: now.Add(a.o.Life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	t.DNSNames, t.IPAddresses = Grant{Hosts: hosts}.names()
	chain, err := a.signer.Issue(ctx, t)
	if err == nil {
		err = asIssued(t, chain, roots)
	}
	if err != nil {
		return nil, fmt.Errorf("sign the authority's own certificate: %w", err)
	}
	c := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, x := range append(chain, roots[0]) {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	if a.own != nil {
		crosses, err := a.own.crosses()
		if err != nil {
			return nil, err
		}
		c.Certificate = append(c.Certificate, crosses...)
	}
	return &served{cert: c, root: pinOf(roots[0]), renew: now.Add(chain[0].NotAfter.Sub(now) / 2)}, nil
}

// limiter bounds how many tokens that aren't good may come from one address.
type limiter struct {
	mu   sync.Mutex
	from map[string]*rate.Limiter
}

const (
	wrongBurst = 10
	wrongEvery = 10 * time.Second
	wrongMost  = 4096 // addresses that are remembered
)

// source is an address without its port; of IPv6 what a host can't choose.
func source(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap(); ip.Is6() {
		p, _ := ip.WithZone("").Prefix(64)
		return p.String()
	}
	return ip.String()
}

func (l *limiter) may(remote string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.from[source(remote)]
	return r == nil || r.Tokens() >= 1
}

func (l *limiter) count(remote string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.from == nil || len(l.from) >= wrongMost {
		l.from = map[string]*rate.Limiter{}
	}
	r := l.from[source(remote)]
	if r == nil {
		r = rate.NewLimiter(rate.Every(wrongEvery), wrongBurst)
		l.from[source(remote)] = r
	}
	r.Allow()
}

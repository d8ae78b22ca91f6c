package enrol

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// caller asks an authority. It makes a connection for each call: they are rare, and what
// it believes changes.
type caller struct {
	base string
	tls  *tls.Config
}

const (
	callTime  = 30 * time.Second
	maxAnswer = 4 << 20 // bytes; a list of 80,000 revoked certificates
)

func (c *caller) post(ctx context.Context, path string, body []byte) ([]byte, error) {
	return c.do(ctx, http.MethodPost, path, body)
}

func (c *caller) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := &http.Client{
		Transport: &http.Transport{TLSClientConfig: c.tls, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, TLSHandshakeTimeout: callTime,
			DialContext: (&net.Dialer{Timeout: callTime}).DialContext},
		// A token goes where it was meant to go, and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("%w: an answer of more than %d bytes", dr.ErrInvalid, maxAnswer)
	}
	if res.StatusCode != http.StatusOK {
		f := &Fault{}
		if json.Unmarshal(b, f) != nil || f.Code == "" {
			return nil, fmt.Errorf("the authority answers %q", res.Status)
		}
		f.status = res.StatusCode
		return nil, f
	}
	return b, nil
}

// authority is how to ask it with the present certificate.
func (id *Identity) authority() *caller {
	s := id.now.Load()
	return &caller{s.url, &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: s.pool, VerifyConnection: isAuthority,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.cert, nil },
	}}
}

// Refresh asks the authority once who signs and what is revoked. What it has told before
// stays in force where that fails.
func (id *Identity) Refresh(ctx context.Context) error {
	id.turn.Lock()
	defer id.turn.Unlock()
	c := id.authority()
	b, err := c.do(ctx, http.MethodGet, "/v1/ca", nil)
	if err != nil {
		return fmt.Errorf("ask who signs: %w", err)
	}
	roots, err := decodeCerts(b)
	if err != nil {
		return fmt.Errorf("%w: who signs: %v", dr.ErrInvalid, err)
	}
	if b, err = c.do(ctx, http.MethodGet, "/v1/issuers", nil); err != nil {
		return fmt.Errorf("ask whose lists there are: %w", err)
	}
	issuers, err := decodeCerts(b)
	if err != nil {
		return fmt.Errorf("%w: whose lists there are: %v", dr.ErrInvalid, err)
	}
	if err := id.d.put(fileRoots, encodeCerts(roots)); err != nil {
		return err
	}
	if err := id.d.put(fileIssuers, encodeCerts(issuers)); err != nil {
		return err
	}
	var errs []error
	for _, r := range issuers {
		key := keyOf(r.RawSubjectPublicKeyInfo)
		b, err := c.do(ctx, http.MethodGet, "/v1/revoked?issuer="+key, nil)
		if err == nil {
			var l *revokedList
			l, err = readList(b, r)
			// An old list would let those in again who were revoked since. Another
			// process may have fetched a newer one.
			old := id.now.Load().lists[key]
			if was, e := id.d.get("revoked/" + key + ".crl"); e == nil {
				if there, e := readList(was, r); e == nil && (old == nil || there.number.Cmp(old.number) > 0) {
					old = there
				}
			}
			if err == nil && old != nil && l.number.Cmp(old.number) < 0 {
				err = fmt.Errorf("%w: a list of revoked certificates that is older than the one known", dr.ErrInvalid)
			}
		}
		if err == nil {
			err = id.d.put("revoked/"+key+".crl", b)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("ask what is revoked by %s: %w", r.Subject.CommonName, err))
		}
	}
	return errors.Join(append(errs, id.load())...)
}

// Renew has a new key certified under the names that the present certificate has, and
// shows that from now on. The one before stays good until it expires. ErrRevoked and
// fs.ErrPermission say that another token is needed.
func (id *Identity) Renew(ctx context.Context) error {
	id.turn.Lock()
	defer id.turn.Unlock()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := requestFor(key)
	if err != nil {
		return err
	}
	body, err := json.Marshal(asked{CSR: string(csr)})
	if err != nil {
		return err
	}
	b, err := id.authority().post(ctx, "/v1/renew", body)
	if err != nil {
		return fmt.Errorf("renew the certificate: %w", err)
	}
	chain, roots, err := readGranted(b, key)
	if err != nil {
		return fmt.Errorf("renew the certificate: %w", err)
	}
	if err := id.d.put(fileRoots, encodeCerts(roots)); err != nil {
		return err
	}
	if err := id.keep(key, chain); err != nil {
		return err
	}
	return id.load()
}

// due is when the certificate should be renewed: two thirds of its life are over, more or
// less, so that hosts that were enrolled together don't come together.
func (id *Identity) due(jitter float64) time.Time {
	c := id.Certificate()
	life := c.NotAfter.Sub(c.NotBefore)
	return c.NotBefore.Add(life*2/3 + time.Duration((jitter-0.5)*float64(life)/12))
}

// Run keeps the identity fresh until ctx ends, which it returns: it renews the
// certificate in time, fetches what is revoked, and reads the folder again, where another
// process may have done that. What fails it logs and tries again.
func (id *Identity) Run(ctx context.Context) error {
	jitter := mathrand.Float64()
	failed := 0
	for {
		err := id.Refresh(ctx)
		if err != nil && ctx.Err() == nil {
			id.o.Log.Warn("the authority couldn't be asked", "err", err)
			if err := id.load(); err != nil { // another process may have had more luck
				id.o.Log.Warn("the identity couldn't be read again", "err", err)
			}
		}
		if !time.Now().Before(id.due(jitter)) {
			err := id.Renew(ctx)
			switch {
			case err == nil:
				id.o.Log.Info("the certificate was renewed", "serial", serialText(id.Certificate().SerialNumber), "until", id.Certificate().NotAfter)
				failed, jitter = 0, mathrand.Float64()
			case ctx.Err() == nil:
				failed++
				id.o.Log.Warn("the certificate couldn't be renewed", "err", err, "until", id.Certificate().NotAfter)
			}
		}
		wait := id.o.Poll * time.Duration(80+mathrand.IntN(21)) / 100
		if failed == 0 {
			wait = min(wait, max(time.Until(id.due(jitter)), time.Millisecond))
		} else {
			// Soon at first, then with the poll.
			wait = min(wait, time.Second<<min(failed, 10))
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

package enrol

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// ServerTLS is how this identity serves now: with the newest certificate, to clients that
// its authorities certified and haven't revoked. Ask for every connection
// (remote.ServeOptions.GetTLS): authorities change.
func (id *Identity) ServerTLS() (*tls.Config, error) {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return id.now.Load().cert, nil
		},
		ClientCAs:        id.now.Load().pool,
		ClientAuth:       tls.RequireAndVerifyClientCert,
		VerifyConnection: id.present,
	}, nil
}

// ClientTLS is how this identity reaches servers now, which its authorities certified under
// the name they are called by, and haven't revoked (remote.DialOptions.GetTLS).
func (id *Identity) ClientTLS() (*tls.Config, error) {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return id.now.Load().cert, nil
		},
		RootCAs:          id.now.Load().pool,
		VerifyConnection: id.present,
	}, nil
}

// present is Recheck for a handshake. A peer without a certificate, which only servers
// that say so let in, isn't anybody whose could be revoked. What time won't heal is told
// as a certificate that can't be verified is.
func (id *Identity) present(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return nil
	}
	err := id.Recheck(s)
	if err != nil && !errors.Is(err, ErrStale) {
		err = &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
	}
	return err
}

// Recheck tells whether the peer of a connection is good still: nil, or ErrRevoked,
// ErrStale or fs.ErrPermission for one whose authority isn't believed any more. A
// certificate that has expired meanwhile is no reason for a month: who has renewed it goes
// on under the one he came with, and then has to come anew.
func (id *Identity) Recheck(s tls.ConnectionState) error {
	st := id.now.Load()
	err := fmt.Errorf("%w: the peer has no verified certificate", fs.ErrPermission)
	for _, chain := range s.VerifiedChains {
		if err = id.good(st, chain); err == nil {
			return nil
		}
	}
	return err
}

const staleRemedy = "bring the authority within reach again, or a copy of its folder under its name, or decide to set BelieveStale; and look at this host's clock"

// good checks a chain from the leaf to a root.
func (id *Identity) good(st *state, chain []*x509.Certificate) error {
	if len(chain) < 2 {
		return fmt.Errorf("%w: an authority's certificate is shown as a peer's", fs.ErrPermission)
	}
	root := chain[len(chain)-1]
	// A session may outlast the certificate that it began with, but not what the authority
	// knows of that: who is revoked then would stay.
	if end := chain[0].NotAfter.Add(kept - 24*time.Hour); time.Now().After(end) {
		return fmt.Errorf("%w: the certificate of %q has expired so long ago that nobody knows any more whether it was revoked", fs.ErrPermission, chain[0].Subject.CommonName)
	}
	known := false
	for _, c := range st.roots {
		known = known || c.Equal(root)
	}
	if !known {
		return fmt.Errorf("%w: the authority %q isn't believed any more", fs.ErrPermission, root.Subject.CommonName)
	}
	for i, c := range chain[:len(chain)-1] {
		l := st.lists[keyOf(chain[i+1].RawSubjectPublicKeyInfo)]
		switch {
		case l == nil:
			// Of a peer it must be known; what is above it may have no lists.
			if i == 0 && !id.o.BelieveStale {
				return fmt.Errorf("%w: there is none by %q yet (%s)", ErrStale, chain[i+1].Subject.CommonName, staleRemedy)
			}
			continue
		case l.serials[serialText(c.SerialNumber)]:
			return fmt.Errorf("%w: %q, serial %s", ErrRevoked, c.Subject.CommonName, serialText(c.SerialNumber))
		}
		if late := time.Since(l.next.Add(max(id.o.Grace, 0))); late > 0 && !id.o.BelieveStale {
			return fmt.Errorf("%w: by %v (%s)", ErrStale, late.Round(time.Second), staleRemedy)
		}
	}
	return nil
}

// readList verifies a list of revoked certificates, of the issuer.
func readList(der []byte, issuer *x509.Certificate) (*revokedList, error) {
	l, err := x509.ParseRevocationList(der)
	if err == nil {
		err = l.CheckSignatureFrom(issuer)
	}
	if err == nil && (l.Number == nil || l.NextUpdate.IsZero()) {
		err = errors.New("it has no number or no end")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: list of revoked certificates: %v", dr.ErrInvalid, err)
	}
	out := &revokedList{number: new(big.Int).Set(l.Number), next: l.NextUpdate, serials: map[string]bool{}}
	for _, e := range l.RevokedCertificateEntries {
		if e.ReasonCode != 8 { // removeFromCRL
			out.serials[serialText(e.SerialNumber)] = true
		}
	}
	return out, nil
}

// isAuthority tells whether a server whose certificate was verified is the authority
// itself, and not an agent on its host, or one that once had its address.
func isAuthority(s tls.ConnectionState) error {
	if name := s.PeerCertificates[0].Subject.CommonName; name != selfName {
		return fmt.Errorf("%w: the server isn't the authority: its certificate is that of %q", fs.ErrPermission, name)
	}
	return nil
}

// pinned believes the server whose authority has this key, and that shows a
// certificate for the name in base. Nothing is believed on first use.
func pinned(pin, base string) *tls.Config {
	u, err := url.Parse(base)
	host := ""
	if err == nil {
		host = u.Hostname()
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The authority isn't known yet: VerifyConnection does all that the
		// usual verification would, with the pinned one as the only root.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			var roots []*x509.Certificate
			for _, c := range s.PeerCertificates {
				if pinOf(c) == pin && c.IsCA {
					roots = append(roots, c)
				}
			}
			if len(roots) == 0 || len(s.PeerCertificates) < 2 {
				return fmt.Errorf("%w: look at the authority what it is, and whether this is the authority", ErrPin)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: pool(roots), Intermediates: pool(s.PeerCertificates[1:]), DNSName: host,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			if err == nil {
				err = isAuthority(s)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", ErrPin, err)
			}
			return nil
		},
	}
}

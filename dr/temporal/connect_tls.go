package temporal

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// TLS protects a connection. Its zero value trusts the authorities that the
// system does, and shows no certificate. Files are PEM, and are read again
// when they change: the next connection uses what they hold then. One that has
// become unreadable doesn't take away what was read before.
type TLS struct {
	CA   string // file of the authorities that sign servers; "" those of the system
	Cert string // file of the client's certificate, its own first; needs Key
	Key  string // file of its key
	// ServerName is what the server's certificate must be for; "" is the
	// host of the address.
	ServerName string
	// Config is used instead of all other fields, for keys in hardware and the
	// like. It isn't changed.
	Config *tls.Config
}

// config checks what can be checked before there is a connection.
func (t *TLS) config(address string) (*tls.Config, error) {
	if t.Config != nil {
		if t.CA != "" || t.Cert != "" || t.Key != "" || t.ServerName != "" {
			return nil, errors.New("TLS has a Config and other fields, too")
		}
		return t.Config.Clone(), nil
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, errors.New("a client's certificate needs both Cert and Key")
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		cfg.ServerName = host
	}
	if t.Cert != "" {
		pair := &reread[*tls.Certificate]{paths: []string{t.Cert, t.Key}, parse: func(p [][]byte) (*tls.Certificate, error) {
			c, err := tls.X509KeyPair(p[0], p[1])
			return &c, err
		}}
		if _, err := pair.get(); err != nil {
			return nil, err
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.get() }
	}
	if t.CA != "" {
		roots := &reread[*x509.CertPool]{paths: []string{t.CA}, parse: func(p [][]byte) (*x509.CertPool, error) {
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(p[0]) {
				return nil, errors.New("no certificate in it")
			}
			return pool, nil
		}}
		if _, err := roots.get(); err != nil {
			return nil, err
		}
		verifyAnew(cfg, roots.get)
	}
	return cfg, nil
}

// verifyAnew has cfg verify servers as crypto/tls does, but with the
// authorities that there are at that time: RootCAs can't change.
func verifyAnew(cfg *tls.Config, roots func() (*x509.CertPool, error)) {
	name := cfg.ServerName
	cfg.InsecureSkipVerify = true // VerifyConnection does it
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		pool, err := roots()
		if err != nil {
			return err
		}
		if len(s.PeerCertificates) == 0 || name == "" {
			return errors.New("the server showed no certificate, or nothing to hold it against")
		}
		o := x509.VerifyOptions{Roots: pool, DNSName: name, Intermediates: x509.NewCertPool()}
		for _, c := range s.PeerCertificates[1:] {
			o.Intermediates.AddCert(c)
		}
		if _, err := s.PeerCertificates[0].Verify(o); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
		}
		return nil
	}
}

// reread is what some files say, parsed again when one of them has changed.
type reread[T any] struct {
	paths []string
	parse func([][]byte) (T, error)

	mu   sync.Mutex
	seen []stamp
	have bool
	last T
}

// stamp tells whether a file is what it was. Programs that renew certificates
// put a new file in its place mostly, so that size and time change together.
type stamp struct {
	size int64
	time time.Time
}

// get returns what the files say, or said last if they can't be used now: a
// program that renews them may be in the middle of it.
func (r *reread[T]) get() (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, err := r.fresh()
	if err != nil && r.have {
		return r.last, nil
	}
	return v, err
}

func (r *reread[T]) fresh() (T, error) {
	var none T
	stamps := make([]stamp, len(r.paths))
	same := r.have
	for i, p := range r.paths {
		info, err := os.Stat(p)
		if err != nil {
			return none, err
		}
		stamps[i] = stamp{info.Size(), info.ModTime()}
		same = same && r.seen[i] == stamps[i]
	}
	if same {
		return r.last, nil
	}
	contents := make([][]byte, len(r.paths))
	for i, p := range r.paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return none, err
		}
		contents[i] = b
	}
	v, err := r.parse(contents)
	if err != nil {
		return none, fmt.Errorf("%s: %w", r.paths[0], err)
	}
	r.seen, r.last, r.have = stamps, v, true
	return v, nil
}

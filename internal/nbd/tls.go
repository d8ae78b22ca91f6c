package nbd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// LoadTLS reads a client's certificates from dir, in the files that qemu,
// libnbd and nbdkit use: ca-cert.pem holds the roots that the server is
// verified by, client-cert.pem and client-key.pem, which may be missing
// together, are what the client shows.
func LoadTLS(dir string) (*tls.Config, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "ca-cert.pem"))
	if err != nil {
		return nil, fmt.Errorf("nbd: TLS roots: %w", err)
	}
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	if !c.RootCAs.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("nbd: TLS roots: no certificate in %s", filepath.Join(dir, "ca-cert.pem"))
	}
	cert, key := filepath.Join(dir, "client-cert.pem"), filepath.Join(dir, "client-key.pem")
	if missing(cert) && missing(key) {
		return c, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("nbd: TLS client certificate: %w", err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// startTLS upgrades the connection. Nothing was read ahead, so nothing said in
// clear text can be taken for something said under TLS.
func (n *negotiation) startTLS(ctx context.Context, o Options) error {
	c := o.TLS.Clone()
	if c.ServerName == "" && !c.InsecureSkipVerify {
		host, _, err := net.SplitHostPort(o.Address)
		if o.Network == "unix" || err != nil {
			return fmt.Errorf("TLS: there is no host name in %s to verify: set TLS.ServerName (tls-hostname in a URI)", o.server())
		}
		c.ServerName = host
	}
	if !n.fixed {
		return errors.New("TLS: the server is too old to have it")
	}
	if err := n.simpleOption(optStartTLS); err != nil {
		return fmt.Errorf("TLS: the server has none (remedy: start it with TLS; clear text is not tried): %w", err)
	}
	conn := tls.Client(n.raw, c)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	n.conn = conn
	return nil
}

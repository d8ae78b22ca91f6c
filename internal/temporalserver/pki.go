package temporalserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Files are the certificates of a server with mutual TLS, and of a client that
// it lets in.
type Files struct {
	CA                    string // signed all of them
	Cert, Key             string // the client's
	ServerCert, ServerKey string // for localhost and 127.0.0.1

	ca    *x509.Certificate
	caKey *ecdsa.PrivateKey
}

// NewFiles makes an authority below dir, and certificates that it signed.
func NewFiles(dir string) (*Files, error) {
	f := &Files{
		CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "client.pem"), Key: filepath.Join(dir, "client.key"),
		ServerCert: filepath.Join(dir, "server.pem"), ServerKey: filepath.Join(dir, "server.key"),
	}
	var err error
	if f.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	self := template509("authority of a test", time.Hour)
	self.IsCA, self.BasicConstraintsValid, self.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, self, self, &f.caKey.PublicKey, f.caKey)
	if err != nil {
		return nil, err
	}
	if f.ca, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	if err := writePEM(f.CA, "CERTIFICATE", der); err != nil {
		return nil, err
	}
	if err := f.Sign(f.ServerCert, f.ServerKey, "localhost", time.Hour); err != nil {
		return nil, err
	}
	return f, f.Sign(f.Cert, f.Key, "client", time.Hour)
}

// Sign writes a new certificate of that name, and its key, which is good for so
// long; for a negative time it has expired.
func (f *Files) Sign(cert, key, name string, life time.Duration) error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := template509(name, life)
	c.DNSNames, c.IPAddresses = []string{name}, nil
	if name == "localhost" {
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	c.KeyUsage = x509.KeyUsageDigitalSignature
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, c, f.ca, &k.PublicKey, f.caKey)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return err
	}
	if err := writePEM(key, "EC PRIVATE KEY", secret); err != nil {
		return err
	}
	return writePEM(cert, "CERTIFICATE", der)
}

func template509(name string, life time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // never fails
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(life)}
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

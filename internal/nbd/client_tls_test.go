package nbd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// certificates writes a CA, a server's and a client's certificates to a folder,
// in the files that the tools expect.
func certificates(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, kind string, der []byte) {
		b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	make := func(name string, serial int64, tmpl, parent *x509.Certificate, signer *ecdsa.PrivateKey) *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		if signer == nil {
			signer = key
		}
		tmpl.SerialNumber, tmpl.Subject = big.NewInt(serial), pkix.Name{CommonName: name}
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
		require.NoError(t, err)
		put(name+"-cert.pem", "CERTIFICATE", der)
		k, err := x509.MarshalPKCS8PrivateKey(key)
		require.NoError(t, err)
		put(name+"-key.pem", "PRIVATE KEY", k)
		return key
	}
	ca := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	key := make("ca", 1, ca, ca, nil)
	make("server", 2, &x509.Certificate{
		DNSNames: []string{"nbd.example"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, key)
	make("client", 3, &x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca, key)
	return dir
}

// Against each server: a client that is known, one that has no certificate, one
// that knows another CA, one that expects another name, one without TLS.
func TestClientTLS(t *testing.T) {
	dir := certificates(t)
	for name, start := range map[string]func(t *testing.T, path string) string{
		"nbdkit": func(t *testing.T, path string) string {
			a := activate(t)
			a.run("nbdkit", "-f", "--tls=require", "--tls-certificates="+dir, "--tls-verify-peer", "file", path)
			return a.path
		},
		"qemu-nbd": func(t *testing.T, path string) string {
			a := activate(t)
			a.run("qemu-nbd", "-t", "-e", "8", "-f", "raw", "--object", "tls-creds-x509,id=t,endpoint=server,verify-peer=on,dir="+dir, "--tls-creds", "t", path)
			return a.path
		},
		"lifeboat": func(t *testing.T, path string) string {
			cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "server-cert.pem"), filepath.Join(dir, "server-key.pem"))
			require.NoError(t, err)
			c, err := LoadTLS(dir)
			require.NoError(t, err)
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			return serve(t, &Server{
				Exports: []Export{{Device: &memDevice{data: b}}},
				TLS:     &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: c.RootCAs, ClientAuth: tls.RequireAndVerifyClientCert},
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			path, model := sparseImage(t, 5<<20)
			sock := start(t, path)
			o, err := ParseURI("nbds+unix:///?socket=" + sock + "&tls-certificates=" + dir + "&tls-hostname=nbd.example")
			require.NoError(t, err)
			c := dialTest(t, o)
			exercise(t, c, model)
			_, err = List(t.Context(), o)
			require.NoError(t, err)

			_, err = Dial(t.Context(), unixOptions(sock, ""))
			require.ErrorIs(t, err, ErrTLSRequired)
			_, err = List(t.Context(), unixOptions(sock, ""))
			require.ErrorIs(t, err, ErrTLSRequired)
			try := func(change func(c *tls.Config)) error {
				o := o
				o.TLS = o.TLS.Clone()
				change(o.TLS)
				c, err := Dial(t.Context(), o)
				if err == nil { // TLS 1.3 tells a client late that it isn't known
					_, err = c.ReadAt(t.Context(), make([]byte, 1), 0)
					c.Close()
				}
				return err
			}
			var authority x509.UnknownAuthorityError
			var host x509.HostnameError
			require.Error(t, try(func(c *tls.Config) { c.Certificates = nil }))
			require.ErrorAs(t, try(func(c *tls.Config) { c.RootCAs = x509.NewCertPool() }), &authority)
			require.ErrorAs(t, try(func(c *tls.Config) { c.ServerName = "other.example" }), &host)
			require.ErrorContains(t, try(func(c *tls.Config) { c.ServerName = "" }), "no host name")
		})
	}
}

// A server without TLS is refused, not used in clear text.
func TestClientDoesNotFallBack(t *testing.T) {
	sock := serve(t, &Server{Exports: []Export{{Device: &memDevice{data: make([]byte, 10)}}}})
	o := unixOptions(sock, "")
	o.TLS = &tls.Config{ServerName: "nbd.example"}
	_, err := Dial(t.Context(), o)
	require.ErrorContains(t, err, "the server has none")
}

func TestLoadTLS(t *testing.T) {
	dir := certificates(t)
	c, err := LoadTLS(dir)
	require.NoError(t, err)
	require.Len(t, c.Certificates, 1)
	require.NoError(t, os.Remove(filepath.Join(dir, "client-key.pem")))
	_, err = LoadTLS(dir)
	require.ErrorIs(t, err, os.ErrNotExist, "half of a pair is a mistake")
	require.NoError(t, os.Remove(filepath.Join(dir, "client-cert.pem")))
	c, err = LoadTLS(dir)
	require.NoError(t, err)
	require.Empty(t, c.Certificates)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca-cert.pem"), []byte("no"), 0o600))
	_, err = LoadTLS(dir)
	require.ErrorContains(t, err, "no certificate")
}

package temporal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// diagnosisTime is how long finding out why a connection failed may take.
const diagnosisTime = 3 * time.Second

// diagnose dials the address by hand and tells what is wrong, and what to do.
// A proxy that gRPC would take is not taken. nil: nothing was found.
func (o *ConnectOptions) diagnose(ctx context.Context) (remedy string, why error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return dialed(err)
	}
	defer conn.Close()
	// In time for something to be said about it, if the peer says nothing.
	if limit, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(limit.Add(-diagnosisTime / 3))
	}
	if o.TLS == nil {
		probe := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // nothing is said over it
		err := probe.HandshakeContext(ctx)
		var alert tls.AlertError
		var certificate *tls.CertificateVerificationError
		if err == nil || errors.As(err, &alert) || errors.As(err, &certificate) {
			return "set TLS: &TLS{} if a public authority signed the server's certificate, else its CA; and Cert and Key if it asks for a client's", errors.New("the server speaks TLS, and this client plain text")
		}
		return "is it Temporal's frontend that listens there, and is it up?", nil
	}
	cfg, err := o.TLS.config(o.Address)
	if err != nil {
		return "", nil
	}
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = net.SplitHostPort(o.Address)
	}
	cfg.NextProtos = []string{"h2"}
	probe := tls.Client(conn, cfg)
	if err := probe.HandshakeContext(ctx); err != nil {
		return shaken(err, cfg.ServerName)
	}
	// In TLS 1.3 a server says only after the handshake that it doesn't like
	// the client's certificate.
	if _, err := probe.Read(make([]byte, 1)); err != nil {
		return shaken(err, cfg.ServerName)
	}
	return "is it Temporal's frontend that listens there, and is it up?", nil
}

// dialed explains why there is no TCP connection.
func dialed(err error) (string, error) {
	var noHost *net.DNSError
	switch {
	case errors.As(err, &noHost):
		return "the host's name isn't known here: look at Address and the name server", err
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: is Temporal up, and is it the frontend's port (7233 mostly)?", err
	}
	return "there is no way to the host: look at Address, routes and firewalls", err
}

// shaken explains why a TLS handshake failed.
func shaken(err error, name string) (string, error) {
	var (
		plain     tls.RecordHeaderError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		alert     *net.OpError
	)
	switch {
	case errors.As(err, &plain):
		return "leave TLS out, or have the server speak TLS; an API key needs TLS", errors.New("this client speaks TLS, and the server plain text")
	case errors.As(err, &authority):
		return "the server's certificate is signed by none of the authorities that are trusted here: set TLS.CA to the file of the one that did", err
	case errors.As(err, &host):
		return fmt.Sprintf("the server's certificate isn't for %q: set TLS.ServerName to what it is for, if it is the right server", name), err
	case errors.As(err, &invalid):
		return "the server's certificate can't be used, expired mostly: renew it, and look at both clocks", err
	case errors.As(err, &alert) && alert.Op == "remote error" && strings.Contains(err.Error(), "certificate"):
		return "the server refuses the client's certificate, or asks for one: look at TLS.Cert and TLS.Key, their dates, and whether the server trusts who signed them", err
	}
	return "is it Temporal's frontend that listens there, and is it up?", nil
}

func isUnauthenticated(err error) bool {
	var s interface{ Status() *status.Status }
	if errors.As(err, &s) {
		return s.Status().Code() == codes.Unauthenticated
	}
	return status.Code(err) == codes.Unauthenticated
}

package agentwire

import (
	"crypto/tls"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// ALPN is the protocol's name in the TLS handshake: a session begins as HTTP.
const ALPN = "http/1.1"

// ServerTLS is c for a server: TLS 1.3 only. It refuses with dr.ErrInvalid a
// configuration that would let in a client without a verified certificate.
func ServerTLS(c *tls.Config) (*tls.Config, error) {
	bad := func(why string) (*tls.Config, error) {
		return nil, fmt.Errorf("%w: TLS configuration of a server: %s", dr.ErrInvalid, why)
	}
	switch {
	case c == nil:
		return bad("there is none, and without TLS nothing is served")
	case c.ClientAuth != tls.RequireAndVerifyClientCert:
		return bad("want ClientAuth to be RequireAndVerifyClientCert")
	case c.ClientCAs == nil:
		return bad("want ClientCAs: else any certificate of a public authority would do")
	case c.GetConfigForClient != nil:
		return bad("GetConfigForClient could undo what is checked here")
	case len(c.Certificates) == 0 && c.GetCertificate == nil:
		return bad("it has no certificate")
	}
	c = common(c)
	c.SessionTicketsDisabled = true // every connection proves anew who it is
	return c, nil
}

// ClientTLS is c for a client: TLS 1.3 only. It refuses with dr.ErrInvalid a
// configuration that doesn't verify the server or has nothing to show to it.
func ClientTLS(c *tls.Config) (*tls.Config, error) {
	bad := func(why string) (*tls.Config, error) {
		return nil, fmt.Errorf("%w: TLS configuration of a client: %s", dr.ErrInvalid, why)
	}
	switch {
	case c == nil:
		return bad("there is none, and without TLS nothing is said")
	case c.InsecureSkipVerify:
		return bad("InsecureSkipVerify would believe any server")
	case len(c.Certificates) == 0 && c.GetClientCertificate == nil:
		return bad("it has no certificate to show")
	}
	return common(c), nil
}

func common(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion, c.MaxVersion = tls.VersionTLS13, 0
	c.NextProtos = []string{ALPN}
	c.Renegotiation = tls.RenegotiateNever
	c.KeyLogWriter = nil
	return c
}

// Verified tells whether the handshake ended as it must have. It is asked again,
// as callbacks of a configuration can't be looked into.
func Verified(s tls.ConnectionState, server bool) error {
	switch {
	case s.Version != tls.VersionTLS13:
		return fmt.Errorf("%w: not TLS 1.3", ErrProtocol)
	case len(s.PeerCertificates) == 0, server && len(s.VerifiedChains) == 0:
		return fmt.Errorf("%w: the peer has no verified certificate", ErrProtocol)
	}
	return nil
}

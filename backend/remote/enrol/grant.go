package enrol

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Role is what a certificate is for.
type Role string

// The roles.
const (
	Agent  Role = "agent"  // serves a host's disks
	Client Role = "client" // a replicator or an orchestrator
)

func (r Role) usage() x509.ExtKeyUsage {
	if r == Agent {
		return x509.ExtKeyUsageServerAuth
	}
	return x509.ExtKeyUsageClientAuth
}

// Grant is what a token is good for.
type Grant struct {
	// Name is whose it is: 1 to 64 letters, digits, points, hyphens and
	// underscores. It becomes the certificate's common name, by which
	// remote.ServeOptions.Authorize may tell clients apart and Revoke finds all
	// certificates of it.
	Name string `json:"name"`
	Role Role   `json:"role"`
	// Hosts are the names and addresses under which an agent is reached; a
	// client needs none. No wildcards.
	Hosts []string `json:"hosts,omitempty"`
	// TTL is how long the token lives; 0: 1 h, at most 30 days.
	TTL time.Duration `json:"-"`
}

var (
	validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	validHost = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?$`)
)

const (
	maxHosts = 32
	maxTTL   = 30 * 24 * time.Hour
)

func (g Grant) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: grant of %q: %s", dr.ErrInvalid, g.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case !validName.MatchString(g.Name):
		return bad("want a name of 1 to 64 letters, digits, points, hyphens and underscores")
	case g.Role != Agent && g.Role != Client:
		return bad("role %q: want %q or %q", g.Role, Agent, Client)
	case g.Role == Agent && len(g.Hosts) == 0:
		return bad("an agent needs the names or addresses under which it is reached")
	case len(g.Hosts) > maxHosts:
		return bad("%d hosts, want %d at most", len(g.Hosts), maxHosts)
	case g.TTL < 0 || g.TTL > maxTTL:
		return bad("a token can't live for %v: %v at most", g.TTL, maxTTL)
	}
	for _, h := range g.Hosts {
		if _, err := netip.ParseAddr(h); err != nil && (len(h) > 253 || !validHost.MatchString(h)) {
			return bad("%q is no name of a host and no address", h)
		}
	}
	return nil
}

// names are the hosts as certificates have them.
func (g Grant) names() (dns []string, ips []net.IP) {
	for _, h := range g.Hosts {
		if ip, err := netip.ParseAddr(h); err == nil {
			ips = append(ips, ip.Unmap().AsSlice())
		} else {
			dns = append(dns, strings.ToLower(strings.TrimSuffix(h, ".")))
		}
	}
	return dns, ips
}

// maxRequest bounds a request for a certificate, in bytes of DER.
const maxRequest = 8 << 10

// request reads a request for a certificate, which must be signed by its key. The names
// in it, if any, must be granted; the certificate has all that are.
func (g Grant) request(der []byte) (*x509.CertificateRequest, error) {
	if len(der) > maxRequest {
		return nil, fault("too_large", "the request for a certificate is too long", "")
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fault("invalid", "the request for a certificate can't be read", "")
	}
	if !goodKey(r.PublicKey) {
		return nil, fault("invalid", "the key is of no kind that is taken", "use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits")
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fault("invalid", "the request for a certificate isn't signed by its key", "")
	}
	dns, ips := g.names()
	bad := func(what string) error {
		return fault("not_granted", "the token doesn't grant the "+what+" that the certificate is asked for", "ask for no names: the certificate has those that were granted")
	}
	if cn := r.Subject.CommonName; cn != "" && cn != g.Name {
		return nil, bad("name")
	}
	for _, n := range r.DNSNames {
		if !slices.Contains(dns, strings.ToLower(strings.TrimSuffix(n, "."))) {
			return nil, bad("host")
		}
	}
	for _, ip := range r.IPAddresses {
		if !slices.ContainsFunc(ips, ip.Equal) {
			return nil, bad("address")
		}
	}
	if len(r.EmailAddresses)+len(r.URIs) > 0 {
		return nil, bad("identity")
	}
	return r, nil
}

func goodKey(key any) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256() || k.Curve == elliptic.P384()
	case ed25519.PublicKey:
		return true
	case *rsa.PublicKey:
		return k.N.BitLen() >= 2048 && k.N.BitLen() <= 8192
	}
	return false
}

// keyOf is the SHA-256 of a certificate's public key (its SubjectPublicKeyInfo), in
// hexadecimal.
func keyOf(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

package enrol

import (
	"bytes"
	"context"
	"crypto"
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
	"io/fs"
	"log/slog"
	"math/big"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// IdentityOptions are how an identity is kept fresh. The zero value is good.
type IdentityOptions struct {
	// Poll is how often Run asks the authority what was revoked and who signs;
	// 0: 1 min. A peer that is revoked can't come in at most so much later, and is out
	// when remote's RecheckEvery has passed as well.
	Poll time.Duration
	// Grace is how long a list of revoked certificates is believed beyond its
	// NextUpdate; 0: a week; below 0: not at all. After it every peer is refused
	// with ErrStale.
	Grace time.Duration
	// BelieveStale believes the newest list for ever, and only warns: who keeps
	// the authority away then keeps a revoked peer in.
	BelieveStale bool

	Log *slog.Logger // what Run does; may be nil

	files fsys.FS // nil: the system's
}

// Identity is who this process is: a key, the certificate for it, the authorities that it
// believes and what they have revoked, all in a folder that nobody else should read. It is
// safe for concurrent use, and several processes may use one folder. Make one with Enrol,
// and afterwards with OpenIdentity.
type Identity struct {
	d   folder
	o   IdentityOptions
	now atomic.Pointer[state]

	turn sync.Mutex // of who changes the files
}

// state is what holds at one moment; it never changes.
type state struct {
	url   string
	cert  *tls.Certificate
	roots []*x509.Certificate
	pool  *x509.CertPool
	lists map[string]*revokedList // by the SHA-256 of the issuer's key
}

// revokedList is one that was verified.
type revokedList struct {
	number  *big.Int
	next    time.Time
	serials map[string]bool
}

// Files of an identity.
const (
	fileSelf  = "identity.pem"    // the key, the certificate and what is between it and the authority
	fileNext  = "enrolling.pem"   // the key, before there is a certificate
	fileRoots = "authorities.pem" // whom it believes
	// Whose lists of revoked certificates it has. That they are signed by whom
	// it believes shows in the chains in which they are looked for.
	fileIssuers = "issuers.pem"
	fileURL     = "authority.json"
)

// Invitation is what the owner hands to a host.
type Invitation struct {
	URL   string // of the authority, "https://authority.example.com:8444"
	Token string
	Pin   string // Authority.Pin
}

var pinForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// authorityURL refuses addresses to which a token must not go.
func authorityURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%w: want the authority's address as https://host:port", dr.ErrInvalid)
	}
	return strings.TrimSuffix(text, "/"), nil
}

// Enrol makes a key in the folder dir and has it certified. The authority must show a
// certificate for its name by the key that the pin names, else the token isn't sent: ErrPin.
// ErrToken if the authority doesn't take the token. After an error it may be called again
// with the same token and folder, whether or not the token was taken. An identity that
// is in the folder already is replaced when there is another one.
func Enrol(ctx context.Context, dir string, i Invitation, o IdentityOptions) (*Identity, error) {
	base, err := authorityURL(i.URL)
	if err != nil {
		return nil, err
	}
	pin := strings.ToLower(strings.TrimSpace(i.Pin))
	if !pinForm.MatchString(pin) {
		return nil, fmt.Errorf(`%w: want a pin "sha256:" and 64 hexadecimal digits, as the authority tells it`, dr.ErrInvalid)
	}
	token := strings.TrimSpace(i.Token)
	if _, _, ok := splitToken(token); !ok {
		return nil, fmt.Errorf("%w: it doesn't look like one", ErrToken)
	}
	id, err := newIdentity(dir, o)
	if err != nil {
		return nil, err
	}
	key, err := id.nextKey()
	if err != nil {
		return nil, err
	}
	csr, err := requestFor(key)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(asked{token, string(csr)})
	if err != nil {
		return nil, err
	}
	b, err := (&caller{base: base, tls: pinned(pin, base)}).post(ctx, "/v1/enrol", body)
	if err != nil {
		return nil, fmt.Errorf("enrol at %s: %w", base, err)
	}
	chain, roots, err := readGranted(b, key)
	if err != nil {
		return nil, fmt.Errorf("enrol at %s: %w", base, err)
	}
	// First what it means, then that it is: a crash between leaves the key to ask again.
	where, _ := json.Marshal(map[string]string{"url": base})
	if err := id.d.put(fileURL, append(where, '\n')); err != nil {
		return nil, err
	}
	if err := id.d.put(fileRoots, encodeCerts(roots)); err != nil {
		return nil, err
	}
	if err := id.keep(key, chain); err != nil {
		return nil, err
	}
	if err := id.d.remove(fileNext); err != nil {
		return nil, err
	}
	if err := id.load(); err != nil {
		return nil, err
	}
	// Without a list nobody is believed; one that can't be had now Run will fetch.
	if err := id.Refresh(ctx); err != nil {
		id.o.Log.Warn("what is revoked isn't known yet", "err", err)
	}
	return id, nil
}

func newIdentity(dir string, o IdentityOptions) (*Identity, error) {
	if o.Poll == 0 {
		o.Poll = time.Minute
	}
	if o.Grace == 0 {
		o.Grace = 7 * 24 * time.Hour
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Poll < 0 {
		return nil, fmt.Errorf("%w: a poll each %v", dr.ErrInvalid, o.Poll)
	}
	d, err := openFolder(o.files, dir, "revoked")
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return &Identity{d: d, o: o}, nil
}

// OpenIdentity opens a folder in which Enrol was done; fs.ErrNotExist if it wasn't. Call
// Run to keep it fresh.
func OpenIdentity(dir string, o IdentityOptions) (*Identity, error) {
	id, err := newIdentity(dir, o)
	if err == nil {
		err = id.load()
	}
	if err != nil {
		return nil, err
	}
	return id, nil
}

// nextKey is the key of an enrolment that was begun, or a new one.
func (id *Identity) nextKey() (*ecdsa.PrivateKey, error) {
	b, err := id.d.get(fileNext)
	if err == nil {
		var k crypto.Signer
		if k, _, err = readPair(b); err == nil {
			if key, ok := k.(*ecdsa.PrivateKey); ok {
				return key, nil
			}
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", fileNext, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	b, err = encodePair(key, nil)
	if err == nil {
		err = id.d.put(fileNext, b)
	}
	return key, err
}

func requestFor(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{}}, key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), err
}

// readGranted reads what an authority gave, and checks that it fits.
func readGranted(b []byte, key *ecdsa.PrivateKey) (chain, roots []*x509.Certificate, err error) {
	var g granted
	if err := json.Unmarshal(b, &g); err != nil {
		return nil, nil, fmt.Errorf("%w: the authority's answer isn't JSON", dr.ErrInvalid)
	}
	if chain, err = decodeCerts([]byte(g.Certificate)); err == nil {
		roots, err = decodeCerts([]byte(g.Authorities))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the authority's answer: %v", dr.ErrInvalid, err)
	}
	if pub, ok := chain[0].PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(&key.PublicKey) {
		return nil, nil, fmt.Errorf("%w: the authority certified another key", dr.ErrInvalid)
	}
	if _, err := verify(chain, roots, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}); err != nil {
		return nil, nil, fmt.Errorf("%w: the authority's certificate: %v", dr.ErrInvalid, err)
	}
	return chain, roots, nil
}

// keep puts key and certificate in place of those before, in one step.
func (id *Identity) keep(key crypto.Signer, chain []*x509.Certificate) error {
	b, err := encodePair(key, chain)
	if err != nil {
		return err
	}
	return id.d.put(fileSelf, b)
}

func encodePair(key crypto.Signer, chain []*x509.Certificate) ([]byte, error) {
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), encodeCerts(chain)...), nil
}

// readPair reads a key and its certificates, of which there may be none.
func readPair(b []byte) (crypto.Signer, []*x509.Certificate, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, nil, errors.New("no key in PEM")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, errors.New("the key can't be read")
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return nil, nil, errors.New("the key is of no kind that signs")
	}
	if len(bytes.TrimSpace(rest)) == 0 {
		return key, nil, nil
	}
	chain, err := decodeCerts(rest)
	return key, chain, err
}

// load reads the folder.
func (id *Identity) load() error {
	s := &state{lists: map[string]*revokedList{}}
	fail := func(name string, err error) error { return fmt.Errorf("identity %s: %w", id.d.path(name), err) }
	var where struct {
		URL string `json:"url"`
	}
	if err := id.d.getJSON(fileURL, &where); err != nil {
		return fail(fileURL, err)
	}
	s.url = where.URL
	b, err := id.d.get(fileSelf)
	if err != nil {
		return fail(fileSelf, err)
	}
	key, chain, err := readPair(b)
	if err == nil && len(chain) == 0 {
		err = errors.New("no certificate")
	}
	if err == nil && !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(chain[0].PublicKey) {
		err = errors.New("the certificate is for another key")
	}
	if err != nil {
		return fail(fileSelf, err)
	}
	s.cert = &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		s.cert.Certificate = append(s.cert.Certificate, c.Raw)
	}
	if b, err = id.d.get(fileRoots); err == nil {
		s.roots, err = decodeCerts(b)
	}
	if err != nil {
		return fail(fileRoots, err)
	}
	s.pool = pool(s.roots)
	issuers := s.roots
	if b, err = id.d.get(fileIssuers); err == nil {
		issuers, err = decodeCerts(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(fileIssuers, err)
	}
	for _, c := range issuers {
		name := filepath.ToSlash(filepath.Join("revoked", keyOf(c.RawSubjectPublicKeyInfo)+".crl"))
		b, err := id.d.get(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fail(name, err)
		}
		l, err := readList(b, c)
		if err != nil {
			return fail(name, err)
		}
		s.lists[keyOf(c.RawSubjectPublicKeyInfo)] = l
	}
	id.now.Store(s)
	return nil
}

// Certificate is the one that is shown now.
func (id *Identity) Certificate() *x509.Certificate { return id.now.Load().cert.Leaf }

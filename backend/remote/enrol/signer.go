package enrol

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"time"
)

// Signer is what signs: the built-in authority, or a company's own (step-ca, Vault) behind
// a few lines. It must be safe for concurrent use.
type Signer interface {
	// Issue signs a certificate for template.PublicKey and returns it with the
	// intermediates above it, leaf first, roots not needed. It may choose another
	// serial and a shorter life, but must keep subject, names, key usages and key: what it
	// returns is checked. A second call for the same key may make another one.
	Issue(ctx context.Context, template *x509.Certificate) ([]*x509.Certificate, error)
	// Roots are the authorities that are trusted now, the one that signs first.
	Roots(ctx context.Context) ([]*x509.Certificate, error)
	// Revoked signs a list for each key, of a root or below one, by which agents'
	// and clients' certificates were signed that may still be shown, the one that signs now
	// first: with the entries that this function has for it, good until next. The numbers of
	// a key's lists must grow. Lists of keys above those are welcome.
	Revoked(ctx context.Context, entries func(issuer *x509.Certificate) []x509.RevocationListEntry, next time.Time) ([]List, error)
}

// List is a signed list of revoked certificates.
type List struct {
	Issuer *x509.Certificate // whose key signed it
	DER    []byte            // RFC 5280
}

// local is the built-in authority: its keys are files.
type local struct {
	d    folder
	name string
	life time.Duration
}

// link is one of its keys, as it is kept.
type link struct {
	Cert []byte    `json:"cert"` // DER
	Key  []byte    `json:"key"`  // PKCS #8
	From time.Time `json:"from"` // signs since
	// Retires is when nothing lives any more that keys before this one signed.
	Retires time.Time `json:"retires,omitzero"`
	// Cross is its certificate as the key before it signed it: with it the
	// authority proves who it is to those who were away.
	Cross []byte `json:"cross,omitempty"`

	n    int // which one
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// create makes the key of that number, unless somebody has.
func (l *local) create(n int, from, retires time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: l.name, SerialNumber: fmt.Sprint(n)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(l.life),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	k := link{Cert: der, Key: secret, From: from, Retires: retires}
	if n > 1 {
		all, err := l.links()
		if err != nil {
			return err
		}
		before := all[n-2]
		t.SerialNumber, t.NotAfter = newSerial(), before.cert.NotAfter
		if k.Cross, err = x509.CreateCertificate(rand.Reader, t, before.cert, &key.PublicKey, before.key); err != nil {
			return err
		}
	}
	return l.d.claimJSON(linkName(n), k)
}

func linkName(n int) string { return fmt.Sprintf("authority/%04d.json", n) }

func newSerial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	b[0] = b[0]&0x7f | 0x40 // positive, and always of one length
	return new(big.Int).SetBytes(b)
}

// links reads all keys, oldest first.
func (l *local) links() (all []*link, err error) {
	for n := 1; ; n++ {
		var k link
		err := l.d.getJSON(linkName(n), &k)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		if k.cert, err = x509.ParseCertificate(k.Cert); err != nil {
			return nil, fmt.Errorf("%s: %w", linkName(n), err)
		}
		key, err := x509.ParsePKCS8PrivateKey(k.Key)
		if err != nil {
			return nil, fmt.Errorf("%s: its key can't be read", linkName(n))
		}
		var ok bool
		if k.key, ok = key.(*ecdsa.PrivateKey); !ok {
			return nil, fmt.Errorf("%s: its key is of another kind", linkName(n))
		}
		k.n = n
		all = append(all, &k)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: there is no authority: %w", l.d.dir, fs.ErrNotExist)
	}
	return all, nil
}

// standing are the keys that are trusted now, the one that signs first.
func (l *local) standing() ([]*link, error) {
	all, err := l.links()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	signs := 0
	for i, k := range all {
		if !k.From.After(now) {
			signs = i
		}
	}
	out := []*link{all[signs]}
	for i, k := range all {
		gone := false
		for _, later := range all[i+1:] {
			gone = gone || !later.Retires.After(now)
		}
		if i != signs && !gone && now.Before(k.cert.NotAfter) {
			out = append(out, k)
		}
	}
	return out, nil
}

// crosses are what leads from an older key to the one that signs.
func (l *local) crosses() (der [][]byte, err error) {
	all, err := l.standing()
	for _, k := range all {
		if len(k.Cross) > 0 {
			der = append(der, k.Cross)
		}
	}
	return der, err
}

// Issue implements Signer.
func (l *local) Issue(_ context.Context, t *x509.Certificate) ([]*x509.Certificate, error) {
	all, err := l.standing()
	if err != nil {
		return nil, err
	}
	// Who made the next key may have reckoned with shorter lives than are given here:
	// nothing may outlive the day on which this key is forgotten.
	for _, k := range all {
		if k.From.After(time.Now()) && !k.Retires.IsZero() && t.NotAfter.After(k.Retires) {
			shorter := *t
			shorter.NotAfter = k.Retires
			t = &shorter
		}
	}
	if t.NotAfter.After(all[0].cert.NotAfter) {
		return nil, errors.New("the authority expires before the certificate would: rotate its key")
	}
	der, err := x509.CreateCertificate(rand.Reader, t, all[0].cert, t.PublicKey, all[0].key)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	return []*x509.Certificate{c}, err
}

// Roots implements Signer.
func (l *local) Roots(context.Context) (certs []*x509.Certificate, err error) {
	all, err := l.standing()
	for _, k := range all {
		certs = append(certs, k.cert)
	}
	return certs, err
}

// Revoked implements Signer.
func (l *local) Revoked(_ context.Context, entries func(*x509.Certificate) []x509.RevocationListEntry, next time.Time) (lists []List, err error) {
	all, err := l.standing()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	for _, k := range all {
		n, err := l.number(k, now)
		if err != nil {
			return nil, err
		}
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(n), ThisUpdate: now, NextUpdate: next,
			RevokedCertificateEntries: entries(k.cert),
		}, k.cert, k.key)
		if err != nil {
			return nil, err
		}
		lists = append(lists, List{k.cert, der})
	}
	return lists, nil
}

// numbersAhead is for how long lists are numbered before that must be noted again.
const numbersAhead = time.Minute

// number is the next one of a key's lists. Any number of processes may sign lists of one
// folder: later is higher. A clock that was ahead for a while would have made numbers that
// no list reaches for as long, and identities would refuse all that is revoked meanwhile:
// so a bound of the numbers is kept, and a clock that lies before it counts no more.
func (l *local) number(k *link, now time.Time) (int64, error) {
	name := fmt.Sprintf("authority/%04d.number", k.n)
	var kept struct {
		Below int64 `json:"below"` // no list has a higher number
	}
	if err := l.d.getJSON(name, &kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	n := now.UnixNano()
	switch {
	case n > kept.Below:
		kept.Below = n + int64(numbersAhead)
	case n > kept.Below-int64(numbersAhead):
		return n, nil
	default:
		kept.Below++
		n = kept.Below
	}
	return n, l.d.put(name, fmt.Appendf(nil, "{\"below\": %d}\n", kept.Below))
}

// asIssued checks what a Signer has returned for a template.
func asIssued(t *x509.Certificate, chain []*x509.Certificate, roots []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("the signer returned no certificate")
	}
	c := chain[0]
	want, err := x509.MarshalPKIXPublicKey(t.PublicKey)
	if err != nil {
		return err
	}
	switch {
	case !bytes.Equal(c.RawSubjectPublicKeyInfo, want):
		return errors.New("the signer certified another key")
	case c.Subject.CommonName != t.Subject.CommonName, fmt.Sprint(c.DNSNames, c.IPAddresses) != fmt.Sprint(t.DNSNames, t.IPAddresses):
		return errors.New("the signer certified other names")
	case c.IsCA, len(c.ExtKeyUsage) != 1, c.ExtKeyUsage[0] != t.ExtKeyUsage[0], len(c.UnknownExtKeyUsage) > 0:
		return errors.New("the signer certified other uses")
	case c.NotAfter.After(t.NotAfter.Add(time.Second)):
		return errors.New("the signer certified for a longer time")
	}
	_, err = verify(chain, roots, t.ExtKeyUsage)
	return err
}

// verify returns the chains from the first certificate to one of the roots.
func verify(chain, roots []*x509.Certificate, uses []x509.ExtKeyUsage) ([][]*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("there is no certificate")
	}
	o := x509.VerifyOptions{Roots: pool(roots), Intermediates: pool(chain[1:]), KeyUsages: uses}
	return chain[0].Verify(o)
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

func encodeCerts(certs []*x509.Certificate) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

// maxCerts bounds a chain or a bundle.
const maxCerts = 16

func decodeCerts(b []byte) (certs []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if certs = append(certs, c); len(certs) > maxCerts {
			return nil, fmt.Errorf("more than %d certificates", maxCerts)
		}
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in PEM")
	}
	return certs, nil
}

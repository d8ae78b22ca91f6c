package enrol

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"io/fs"
	"math/big"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// between does something in the middle of signing.
type between struct {
	Signer
	do func()
}

func (b *between) Issue(ctx context.Context, c *x509.Certificate) ([]*x509.Certificate, error) {
	if do := b.do; do != nil {
		b.do = nil
		do()
	}
	return b.Signer.Issue(ctx, c)
}

// Who is revoked while his certificate is being made has none that is good.
func TestRevokedInTheMiddle(t *testing.T) {
	a, err := OpenAuthority(t.TempDir(), AuthorityOptions{})
	require.NoError(t, err)
	revoke := func() {
		_, err := a.Revoke(t.Context(), theAgent.Name)
		require.NoError(t, err)
	}
	b := &between{Signer: a.signer}
	a.signer = b
	token, err := a.NewToken(t.Context(), theAgent)
	require.NoError(t, err)
	b.do = revoke
	der := plain(t)
	rec, _, err := a.enrol(t.Context(), token, der)
	require.ErrorIs(t, err, ErrRevoked)
	require.ErrorIs(t, a.unrevoked(rec), ErrRevoked)
	_, _, err = a.enrol(t.Context(), token, der)
	require.ErrorIs(t, err, ErrRevoked)

	token, err = a.NewToken(t.Context(), theAgent)
	require.NoError(t, err)
	rec, _, err = a.enrol(t.Context(), token, plain(t))
	require.NoError(t, err)
	chain, err := decodeCerts([]byte(rec.Chain))
	require.NoError(t, err)
	b.do = revoke
	rec, _, err = a.renew(t.Context(), chain, plain(t))
	require.ErrorIs(t, err, ErrRevoked)
	require.ErrorIs(t, a.unrevoked(rec), ErrRevoked)
}

// company is an authority of somebody else: an intermediate below a root signs, and
// chooses serials itself.
type company struct {
	root, mid       *x509.Certificate
	rootKey, midKey *ecdsa.PrivateKey
	spoil           func(*x509.Certificate)
}

func newCompany(t *testing.T) *company {
	c := &company{rootKey: newKey(t), midKey: newKey(t)}
	ca := func(name string, by *x509.Certificate, pub, key *ecdsa.PrivateKey) *x509.Certificate {
		x := &x509.Certificate{SerialNumber: newSerial(), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
		if by == nil {
			by = x
		}
		der, err := x509.CreateCertificate(rand.Reader, x, by, &pub.PublicKey, key)
		require.NoError(t, err)
		x, err = x509.ParseCertificate(der)
		require.NoError(t, err)
		return x
	}
	c.root = ca("root", nil, c.rootKey, c.rootKey)
	c.mid = ca("issuing", c.root, c.midKey, c.rootKey)
	return c
}

func (c *company) Issue(_ context.Context, t *x509.Certificate) ([]*x509.Certificate, error) {
	x := *t
	x.SerialNumber = newSerial()
	if c.spoil != nil {
		c.spoil(&x)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x, c.mid, x.PublicKey, c.midKey)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return []*x509.Certificate{leaf, c.mid}, err
}

func (c *company) Roots(context.Context) ([]*x509.Certificate, error) {
	return []*x509.Certificate{c.root}, nil
}

func (c *company) Revoked(_ context.Context, entries func(*x509.Certificate) []x509.RevocationListEntry, next time.Time) (lists []List, err error) {
	for _, k := range []struct {
		c *x509.Certificate
		k *ecdsa.PrivateKey
	}{{c.mid, c.midKey}} {
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now(), NextUpdate: next, RevokedCertificateEntries: entries(k.c),
		}, k.c, k.k)
		if err != nil {
			return nil, err
		}
		lists = append(lists, List{k.c, der})
	}
	return lists, nil
}

func TestACompanysOwnAuthority(t *testing.T) {
	c := newCompany(t)
	x := open(t, AuthorityOptions{Signer: c})
	agent, client := x.identity(theAgent, IdentityOptions{}), x.identity(Grant{Name: "replicator", Role: Client}, IdentityOptions{})
	s, e := meet(t, agent, client)
	require.NoError(t, s)
	require.NoError(t, e)
	require.NoError(t, client.Renew(t.Context()))
	s, e = meet(t, agent, client)
	require.NoError(t, s)
	require.NoError(t, e)
	_, err := x.Revoke(t.Context(), "replicator")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		require.NoError(t, agent.Refresh(t.Context()))
		s, _ = meet(t, agent, client)
		return s != nil
	}, time.Minute, 50*time.Millisecond)
	require.ErrorIs(t, s, ErrRevoked)
	require.Error(t, x.Rotate(t.Context(), 0))

	// What comes back from it is looked at.
	for what, spoil := range map[string]func(*x509.Certificate){
		"another name":  func(x *x509.Certificate) { x.Subject.CommonName = "root" },
		"more hosts":    func(x *x509.Certificate) { x.DNSNames = append(x.DNSNames, "mail.example.com") },
		"another key":   func(x *x509.Certificate) { x.PublicKey = &newKey(t).PublicKey },
		"another use":   func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} },
		"more uses":     func(x *x509.Certificate) { x.ExtKeyUsage = append(x.ExtKeyUsage, x509.ExtKeyUsageClientAuth) },
		"an authority":  func(x *x509.Certificate) { x.IsCA = true },
		"a longer life": func(x *x509.Certificate) { x.NotAfter = x.NotAfter.Add(time.Hour) },
	} {
		c.spoil = spoil
		_, _, err := x.enrol(t.Context(), x.token(theAgent), plain(t))
		require.ErrorContains(t, err, "the signer certified", what)
	}
}

// away is a signer that can't be reached.
type away struct{}

func (away) Issue(context.Context, *x509.Certificate) ([]*x509.Certificate, error) {
	return nil, fs.ErrNotExist
}

func (away) Roots(context.Context) ([]*x509.Certificate, error) { return nil, fs.ErrNotExist }

func (away) Revoked(context.Context, func(*x509.Certificate) []x509.RevocationListEntry, time.Time) ([]List, error) {
	return nil, fs.ErrNotExist
}

// hangs is one that doesn't answer.
type hangs struct{ *company }

func (hangs) Issue(ctx context.Context, _ *x509.Certificate) ([]*x509.Certificate, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A signer that is away doesn't shut the authority's door before its certificate expires.
func TestASignerThatIsAway(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := newCompany(t)
		a, err := OpenAuthority(dir, AuthorityOptions{Signer: c})
		require.NoError(t, err)
		conf, err := a.ServerTLS("127.0.0.1")
		require.NoError(t, err)
		first, err := conf.GetCertificate(nil)
		require.NoError(t, err)
		a.signer = away{}
		time.Sleep(20 * 24 * time.Hour) // it would have been renewed at 15
		for range 3 {
			got, err := conf.GetCertificate(nil)
			require.NoError(t, err)
			require.Same(t, first, got)
		}
		a.signer = c
		time.Sleep(2 * againAfter)
		got, err := conf.GetCertificate(nil)
		require.NoError(t, err)
		require.NotSame(t, first, got)
		a.signer = away{}
		time.Sleep(31 * 24 * time.Hour)
		_, err = conf.GetCertificate(nil)
		require.Error(t, err)
		// One that hangs doesn't hang the door.
		a.signer = hangs{c}
		begun := time.Now()
		_, err = conf.GetCertificate(nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, callTime, time.Since(begun))
	})
}

package enrol

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestAnAgentAndAClientMeet(t *testing.T) {
	x := open(t, AuthorityOptions{})
	agent := x.identity(theAgent, IdentityOptions{})
	client := x.identity(Grant{Name: "replicator", Role: Client}, IdentityOptions{})
	s, c := meet(t, agent, client)
	require.NoError(t, s)
	require.NoError(t, c)
	require.Equal(t, []string{"db.example.com"}, agent.Certificate().DNSNames)

	// Neither can be the other: who steals an agent's key reaches no agent.
	s, _ = meet(t, agent, agent)
	require.ErrorContains(t, s, "incompatible key usage")
	_, c = meet(t, client, client)
	require.Error(t, c)

	// It is as good when it is opened again, and its files are its own.
	agent, err := OpenIdentity(agent.d.dir, IdentityOptions{})
	require.NoError(t, err)
	s, c = meet(t, agent, client)
	require.NoError(t, s)
	require.NoError(t, c)
	require.NoError(t, filepath.WalkDir(agent.d.dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		if os.PathSeparator == '/' && path != agent.d.dir { // that was there before
			require.Zero(t, info.Mode().Perm()&0o077, path)
		}
		require.NotContains(t, path, "enrolling")
		return nil
	}))
	_, err = OpenIdentity(t.TempDir(), IdentityOptions{})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestATokenIsGoodOnce(t *testing.T) {
	x := open(t, AuthorityOptions{})
	token := x.token(theAgent)
	t.Run("not for names that weren't granted, and it isn't used up by them", func(t *testing.T) {
		for what, r := range map[string]x509.CertificateRequest{
			"host": {DNSNames: []string{"db.example.com", "mail.example.com"}}, "address": {IPAddresses: []net.IP{{10, 0, 0, 1}}},
			"name": {Subject: pkix.Name{CommonName: "root"}}, "identity": {URIs: []*url.URL{{Scheme: "spiffe", Host: "x"}}}, "wildcard": {DNSNames: []string{"*.example.com"}},
		} {
			status, f := x.post("/v1/enrol", token, csr(t, newKey(t), r), nil)
			require.Equal(t, http.StatusForbidden, status, what)
			require.Equal(t, "not_granted", f.Code, what)
		}
	})
	t.Run("not for a request that its key didn't sign", func(t *testing.T) {
		der := plain(t)
		der[len(der)-1] ^= 1
		_, f := x.post("/v1/enrol", token, der, nil)
		require.Equal(t, "invalid", f.Code)
		_, f = x.post("/v1/enrol", token, []byte("nonsense"), nil)
		require.Equal(t, "invalid", f.Code)
	})
	key := newKey(t)
	status, _ := x.post("/v1/enrol", token, csr(t, key, x509.CertificateRequest{Subject: subject}), nil)
	require.Equal(t, http.StatusOK, status)
	status, _ = x.post("/v1/enrol", token, csr(t, key, x509.CertificateRequest{}), nil)
	require.Equal(t, http.StatusOK, status, "an answer that was lost is given again")
	status, f := x.post("/v1/enrol", token, plain(t), nil)
	require.Equal(t, http.StatusForbidden, status)
	require.Equal(t, "token_used", f.Code)
	issued, err := x.issuedRecords()
	require.NoError(t, err)
	require.Len(t, issued, 1)

	id, _, _ := splitToken(token)
	for why, wrong := range map[string]string{
		"of another form": "x", "unknown": tokenPrefix + "aaaaaaaaaaaa." + strings.Repeat("b", 26), "half of one": tokenPrefix + id + "." + strings.Repeat("b", 26),
	} {
		_, f := x.post("/v1/enrol", wrong, plain(t), nil)
		require.Equal(t, "token_unknown", f.Code, why)
		require.ErrorIs(t, f, ErrToken)
	}
	require.Contains(t, x.log.String(), "code=token_used")
	require.NotContains(t, x.log.String(), token)
	_, secret, _ := splitToken(token)
	require.NotContains(t, x.log.String(), secret)
	require.NoError(t, filepath.WalkDir(x.d.dir, func(path string, d fs.DirEntry, err error) error {
		if !d.IsDir() {
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NotContains(t, string(b), secret, path)
		}
		return err
	}))
}

// However many come at once, in however many processes, one of them has it.
func TestATokenIsRacedFor(t *testing.T) {
	x := open(t, AuthorityOptions{})
	other, err := OpenAuthority(x.d.dir, AuthorityOptions{}) // another process, as far as files go
	require.NoError(t, err)
	for range 5 {
		token := x.token(theAgent)
		var won atomic.Int64
		var wg sync.WaitGroup
		for i := range 50 {
			der := plain(t)
			wg.Go(func() {
				a := x.Authority
				if i%2 == 0 {
					a = other
				}
				_, _, err := a.enrol(context.Background(), token, der)
				if err == nil {
					won.Add(1)
				} else if f := (&Fault{}); !asFault(err, &f) || f.Code != "token_used" {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, won.Load())
	}
	// The same key gets the same certificate, however often it asks at once.
	token, der := x.token(theAgent), plain(t)
	var serials sync.Map
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			rec, _, err := x.enrol(context.Background(), token, der)
			if err != nil {
				t.Error(err)
			}
			serials.Store(rec.Serial, rec.Chain)
		})
	}
	wg.Wait()
	n := 0
	serials.Range(func(any, any) bool { n++; return true })
	require.Equal(t, 1, n)
}

func TestTokensExpire(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a, err := OpenAuthority(dir, AuthorityOptions{})
		require.NoError(t, err)
		token, err := a.NewToken(t.Context(), theAgent)
		require.NoError(t, err)
		der := plain(t)
		time.Sleep(time.Hour - time.Second)
		_, _, err = a.enrol(t.Context(), token, der)
		require.NoError(t, err)
		time.Sleep(time.Second)
		_, _, err = a.enrol(t.Context(), token, der)
		require.ErrorIs(t, err, ErrToken, "also for the key that had it")
		require.ErrorContains(t, err, "expired")
		require.NoError(t, a.Sweep(t.Context()))
		names, err := a.d.list("tokens", ".json")
		require.NoError(t, err)
		require.Len(t, names, 1, "it is remembered for a while")
		time.Sleep(100 * 24 * time.Hour)
		require.NoError(t, a.Sweep(t.Context()))
		for _, sub := range []string{"tokens", "issued", "revoked"} {
			names, err := a.d.list(sub, "")
			require.NoError(t, err)
			require.Empty(t, names, sub)
		}
		_, _, err = a.enrol(t.Context(), token, der)
		require.ErrorIs(t, err, ErrToken)
	})
}

func TestGrantsAreChecked(t *testing.T) {
	x := open(t, AuthorityOptions{})
	for _, g := range []Grant{
		{}, {Name: "a b", Role: Client}, {Name: strings.Repeat("a", 65), Role: Client}, {Name: "../x", Role: Client}, {Name: "a", Role: "root"}, {Name: "a", Role: Agent},
		{Name: "a", Role: Agent, Hosts: []string{"*.example.com"}}, {Name: "a", Role: Agent, Hosts: []string{"a b"}}, {Name: "a", Role: Agent, Hosts: []string{""}},
		{Name: "a", Role: Client, TTL: -1}, {Name: "a", Role: Client, TTL: 365 * 24 * time.Hour}, {Name: "a", Role: Agent, Hosts: make([]string, 33)},
	} {
		_, err := x.NewToken(t.Context(), g)
		require.ErrorIs(t, err, dr.ErrInvalid, "%v", g)
	}
}

// A token goes to nobody but the authority that has the pinned key, under its name.
func TestNothingIsBelievedOnFirstUse(t *testing.T) {
	x, other := open(t, AuthorityOptions{}), open(t, AuthorityOptions{})
	i := x.invite(theAgent)
	dir := t.TempDir()
	wrong := i
	wrong.URL = other.url
	_, err := Enrol(t.Context(), dir, wrong, IdentityOptions{})
	require.ErrorIs(t, err, ErrPin)
	require.NotContains(t, other.log.String(), "enrol", "the token wasn't sent")

	// An agent of the same authority isn't the authority.
	agent := x.identity(Grant{Name: "evil", Role: Agent, Hosts: []string{"10.0.0.1"}}, IdentityOptions{})
	sc := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c := *agent.now.Load().cert
		c.Certificate = append(c.Certificate, agent.now.Load().roots[0].Raw)
		return &c, nil
	}}
	_, err = shake(t, sc, pinned(x.pin, x.url))
	require.ErrorIs(t, err, ErrPin)
	var host x509.HostnameError
	require.ErrorAs(t, err, &host)
	_, err = shake(t, sc, pinned(x.pin, "https://10.0.0.1:1"))
	require.ErrorIs(t, err, ErrPin, "nor where the name would do")
	require.ErrorContains(t, err, "isn't the authority")

	for _, bad := range []Invitation{
		{}, {"http://127.0.0.1:1", i.Token, i.Pin}, {"https://user:pw@127.0.0.1:1", i.Token, i.Pin}, {x.url, i.Token, ""}, {x.url, i.Token, "sha256:00"},
	} {
		_, err := Enrol(t.Context(), dir, bad, IdentityOptions{})
		require.ErrorIs(t, err, dr.ErrInvalid, "%v", bad)
	}
	_, err = Enrol(t.Context(), dir, Invitation{x.url, "guess", x.pin}, IdentityOptions{})
	require.ErrorIs(t, err, ErrToken)
	id, err := Enrol(t.Context(), dir, i, IdentityOptions{})
	require.NoError(t, err, "and the token is good still")
	require.Equal(t, "db-host", id.Certificate().Subject.CommonName)
}

func TestRenewal(t *testing.T) {
	x := open(t, AuthorityOptions{})
	id := x.identity(theAgent, IdentityOptions{})
	was := id.now.Load().cert
	conf, err := id.ServerTLS()
	require.NoError(t, err)
	require.NoError(t, id.Renew(t.Context()))
	shown, err := conf.GetCertificate(nil)
	require.NoError(t, err)
	require.Equal(t, id.Certificate(), shown.Leaf, "a configuration that was given out goes on with the new one")
	require.NotEqual(t, was.Leaf.RawSubjectPublicKeyInfo, shown.Leaf.RawSubjectPublicKeyInfo, "its key is new as well")
	require.Equal(t, was.Leaf.DNSNames, shown.Leaf.DNSNames)
	require.Equal(t, was.Leaf.ExtKeyUsage, shown.Leaf.ExtKeyUsage)

	_, f := x.post("/v1/renew", "", csr(t, newKey(t), x509.CertificateRequest{DNSNames: []string{"mail.example.com"}}), shown)
	require.Equal(t, "not_granted", f.Code)
	_, f = x.post("/v1/renew", "", plain(t), nil)
	require.Equal(t, "certificate", f.Code)
	stranger := open(t, AuthorityOptions{}).identity(theAgent, IdentityOptions{})
	_, f = x.post("/v1/renew", "", plain(t), stranger.now.Load().cert)
	require.Equal(t, "certificate", f.Code)
	self, err := x.serverCertificate(t.Context(), []string{"127.0.0.1"})
	require.NoError(t, err)
	_, f = x.post("/v1/renew", "", plain(t), self)
	require.Equal(t, "certificate", f.Code, "the authority's own is nobody's to renew")

	n, err := x.Revoke(t.Context(), serialText(was.Leaf.SerialNumber))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, f = x.post("/v1/renew", "", plain(t), was)
	require.Equal(t, "revoked", f.Code)
	require.NoError(t, id.Renew(t.Context()), "the one after it was not")
}

func TestAnExpiredCertificateIsNotRenewed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a, err := OpenAuthority(dir, AuthorityOptions{Life: time.Hour})
		require.NoError(t, err)
		token, err := a.NewToken(t.Context(), theAgent)
		require.NoError(t, err)
		rec, _, err := a.enrol(t.Context(), token, plain(t))
		require.NoError(t, err)
		chain, err := decodeCerts([]byte(rec.Chain))
		require.NoError(t, err)
		time.Sleep(time.Hour - time.Second)
		_, _, err = a.renew(t.Context(), chain, plain(t))
		require.NoError(t, err)
		time.Sleep(3 * time.Second)
		_, _, err = a.renew(t.Context(), chain, plain(t))
		require.ErrorIs(t, err, fs.ErrPermission)
	})
}

func TestRevocation(t *testing.T) {
	x := open(t, AuthorityOptions{})
	agent := x.identity(theAgent, IdentityOptions{})
	client := x.identity(Grant{Name: "replicator", Role: Client}, IdentityOptions{})
	good := x.identity(Grant{Name: "other", Role: Client}, IdentityOptions{})
	chains, err := verify([]*x509.Certificate{client.Certificate()}, agent.now.Load().roots, []x509.ExtKeyUsage{x509.ExtKeyUsageAny})
	require.NoError(t, err)
	session := tls.ConnectionState{VerifiedChains: chains}
	require.NoError(t, agent.Recheck(session))
	unused := x.token(Grant{Name: "replicator", Role: Client})
	require.NoError(t, client.Renew(t.Context()))
	n, err := x.Revoke(t.Context(), "replicator")
	require.NoError(t, err)
	require.Equal(t, 3, n, "both certificates and a token")
	n, err = x.Revoke(t.Context(), "replicator")
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = x.Revoke(t.Context(), "nobody")
	require.ErrorIs(t, err, dr.ErrNotFound)
	_, f := x.post("/v1/enrol", unused, plain(t), nil)
	require.Equal(t, "token_used", f.Code)

	require.Eventually(t, func() bool { // lists are a second old
		require.NoError(t, agent.Refresh(t.Context()))
		return agent.Recheck(session) != nil
	}, time.Minute, 50*time.Millisecond)
	require.ErrorIs(t, agent.Recheck(session), ErrRevoked)
	s, _ := meet(t, agent, client)
	require.ErrorIs(t, s, ErrRevoked)
	var verification *tls.CertificateVerificationError
	require.ErrorAs(t, s, &verification, "which tells a client that trying again is of no use")
	s, c := meet(t, agent, good)
	require.NoError(t, s)
	require.NoError(t, c)
	agent, err = OpenIdentity(agent.d.dir, IdentityOptions{})
	require.NoError(t, err)
	require.ErrorIs(t, agent.Recheck(session), ErrRevoked, "it is known without the authority")
	require.ErrorIs(t, client.Renew(t.Context()), ErrRevoked)

	// An older list isn't taken for a newer one.
	for _, l := range agent.now.Load().lists {
		l.number.Lsh(l.number, 1)
	}
	require.ErrorIs(t, agent.Refresh(t.Context()), dr.ErrInvalid)
	require.ErrorIs(t, agent.Recheck(session), ErrRevoked)

	// The name may come again.
	s, c = meet(t, x.identity(theAgent, IdentityOptions{}), x.identity(Grant{Name: "replicator", Role: Client}, IdentityOptions{}))
	require.NoError(t, s)
	require.NoError(t, c)
}

// What is issued while its name is revoked doesn't slip through.
func TestRevocationRacesWithRenewal(t *testing.T) {
	x := open(t, AuthorityOptions{})
	for range 20 {
		token := x.token(theAgent)
		rec, _, err := x.enrol(t.Context(), token, plain(t))
		require.NoError(t, err)
		fresh := x.token(theAgent)
		chain, err := decodeCerts([]byte(rec.Chain))
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 4 {
			der, other := plain(t), plain(t)
			wg.Go(func() { time.Sleep(rand.N(time.Millisecond)); _, _, _ = x.renew(context.Background(), chain, der) })
			wg.Go(func() { time.Sleep(rand.N(time.Millisecond)); _, _, _ = x.enrol(context.Background(), fresh, other) })
		}
		wg.Go(func() {
			time.Sleep(rand.N(time.Millisecond))
			_, err := x.Revoke(context.Background(), theAgent.Name)
			if err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		all, err := x.issuedRecords()
		require.NoError(t, err)
		for _, r := range all {
			require.ErrorIs(t, x.unrevoked(r), ErrRevoked)
		}
	}
}

// Who keeps the authority away doesn't keep a revoked peer in for ever; an authority that
// burns down stops nothing for a while.
func TestStaleLists(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a, err := OpenAuthority(dir, AuthorityOptions{})
		require.NoError(t, err)
		token, err := a.NewToken(t.Context(), theAgent)
		require.NoError(t, err)
		rec, _, err := a.enrol(t.Context(), token, plain(t))
		require.NoError(t, err)
		chain, err := decodeCerts([]byte(rec.Chain))
		require.NoError(t, err)
		roots, err := a.signer.Roots(t.Context())
		require.NoError(t, err)
		lists, err := a.revoked(t.Context())
		require.NoError(t, err)
		l, err := readList(lists[0].DER, roots[0])
		require.NoError(t, err)
		chains, err := verify(chain, roots, []x509.ExtKeyUsage{x509.ExtKeyUsageAny})
		require.NoError(t, err)
		peer := tls.ConnectionState{VerifiedChains: chains}
		with := func(o IdentityOptions, l *revokedList) *Identity {
			id, err := newIdentity(t.TempDir(), o)
			require.NoError(t, err)
			s := &state{roots: roots, lists: map[string]*revokedList{}}
			if l != nil {
				s.lists[keyOf(roots[0].RawSubjectPublicKeyInfo)] = l
			}
			id.now.Store(s)
			return id
		}
		patient, strict, believing := with(IdentityOptions{}, l), with(IdentityOptions{Grace: -1}, l), with(IdentityOptions{BelieveStale: true}, l)
		require.ErrorIs(t, with(IdentityOptions{}, nil).Recheck(peer), ErrStale, "without any list nobody is believed")
		require.NoError(t, with(IdentityOptions{BelieveStale: true}, nil).Recheck(peer))
		time.Sleep(24*time.Hour - time.Minute)
		require.NoError(t, strict.Recheck(peer))
		time.Sleep(2 * time.Minute)
		require.ErrorIs(t, strict.Recheck(peer), ErrStale)
		require.NoError(t, patient.Recheck(peer))
		time.Sleep(7 * 24 * time.Hour)
		require.ErrorIs(t, patient.Recheck(peer), ErrStale)
		require.NoError(t, believing.Recheck(peer))
		require.ErrorIs(t, believing.Recheck(tls.ConnectionState{}), fs.ErrPermission)
		believing.now.Store(&state{})
		require.ErrorIs(t, believing.Recheck(peer), fs.ErrPermission, "its authority isn't believed any more")
	})
}

func TestTheAuthoritysKeyRotates(t *testing.T) {
	x := open(t, AuthorityOptions{Life: time.Hour})
	agent, client := x.identity(theAgent, IdentityOptions{}), x.identity(Grant{Name: "replicator", Role: Client}, IdentityOptions{})
	require.NoError(t, x.Rotate(t.Context(), time.Hour))
	require.NoError(t, agent.Refresh(t.Context()))
	require.NoError(t, client.Refresh(t.Context()))
	require.Len(t, agent.now.Load().roots, 2, "both are believed before the new one signs")
	require.NoError(t, client.Renew(t.Context()))
	require.Equal(t, agent.now.Load().roots[0].Subject, client.Certificate().Issuer, "the old one signs still")
	pin, err := x.Pin(t.Context())
	require.NoError(t, err)
	require.Equal(t, x.pin, pin)

	require.NoError(t, x.Rotate(t.Context(), time.Nanosecond)) // at once
	require.NoError(t, agent.Refresh(t.Context()))
	require.NoError(t, client.Refresh(t.Context()))
	pin, err = x.Pin(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, x.pin, pin)
	require.NoError(t, client.Renew(t.Context()))
	s, c := meet(t, agent, client) // one of each
	require.NoError(t, s)
	require.NoError(t, c)
	_, err = Enrol(t.Context(), t.TempDir(), x.invite(theAgent), IdentityOptions{})
	require.ErrorIs(t, err, ErrPin, "the old pin names another key")
	x.pin = pin
	s, c = meet(t, x.identity(theAgent, IdentityOptions{}), client)
	require.NoError(t, s)
	require.NoError(t, c)

	// What the old key signed is revoked in the old key's list.
	_, err = x.Revoke(t.Context(), theAgent.Name)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		require.NoError(t, client.Refresh(t.Context()))
		_, c := meet(t, agent, client)
		return c != nil
	}, time.Minute, 50*time.Millisecond)
}

func TestOldKeysRetire(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a, err := OpenAuthority(dir, AuthorityOptions{Life: 10 * time.Hour})
		require.NoError(t, err)
		require.NoError(t, a.Rotate(t.Context(), time.Hour))
		at := func() int {
			roots, err := a.signer.Roots(t.Context())
			require.NoError(t, err)
			return len(roots)
		}
		require.Equal(t, 2, at())
		time.Sleep(10 * time.Hour)
		require.Equal(t, 2, at(), "something that the old one signed lives")
		time.Sleep(time.Hour)
		require.Equal(t, 1, at())
	})
}

func TestRunRenewsInTime(t *testing.T) {
	x := open(t, AuthorityOptions{Life: 9 * time.Second}) // a machine may stand still for three of them
	id := x.identity(theAgent, IdentityOptions{Poll: 100 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- id.Run(ctx) }()
	seen := map[string]bool{}
	require.Eventually(t, func() bool {
		require.True(t, time.Now().Before(id.Certificate().NotAfter), "it never expires")
		seen[id.Certificate().SerialNumber.String()] = true
		return len(seen) == 2
	}, time.Minute, 10*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

func TestTheDoorIsNarrow(t *testing.T) {
	x := open(t, AuthorityOptions{})
	status, f := x.ask(http.MethodPost, "/v1/enrol", make([]byte, maxBody+1), nil)
	require.Equal(t, http.StatusRequestEntityTooLarge, status)
	require.Equal(t, "too_large", f.Code)
	for _, body := range []string{"", "null", "[]", `{"token": 1}`, `{"csr": "x"}`, "{"} {
		_, f = x.ask(http.MethodPost, "/v1/enrol", []byte(body), nil)
		require.Equal(t, "invalid", f.Code, body)
	}
	_, f = x.ask(http.MethodGet, "/v1/enrol", nil, nil)
	require.Equal(t, "method", f.Code)
	_, f = x.ask(http.MethodGet, "/v2/enrol", nil, nil)
	require.Equal(t, "not_found", f.Code)
	require.Contains(t, f.Text, "version 1")
	_, f = x.ask(http.MethodGet, "/v1/revoked?issuer=../x", nil, nil)
	require.Equal(t, "not_found", f.Code)
	for _, path := range []string{"/v1/ca", "/v1/revoked", "/healthz"} {
		status, _ = x.ask(http.MethodGet, path, nil, nil)
		require.Equal(t, http.StatusOK, status, path)
	}
	// Guessing is slowed down, and then no token from there is looked at.
	der := plain(t)
	for range wrongBurst {
		_, f = x.post("/v1/enrol", "guess", der, nil)
		require.Equal(t, "token_unknown", f.Code)
	}
	status, f = x.post("/v1/enrol", x.token(theAgent), der, nil)
	require.Equal(t, http.StatusTooManyRequests, status)
	require.ErrorIs(t, f, dr.ErrBusy)
	require.Equal(t, "2001:db8::/64", source("[2001:db8::1]:5"))
	require.Equal(t, "10.0.0.1", source("[::ffff:10.0.0.1]:5"))
}

func asFault(err error, f **Fault) bool {
	for err != nil {
		if x, ok := err.(*Fault); ok {
			*f = x
			return true
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return false
		}
		err = u.Unwrap()
	}
	return false
}

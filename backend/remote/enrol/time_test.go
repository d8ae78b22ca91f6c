package enrol

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/crashfs"
)

// An authority whose clock was a year ahead for a while goes on to be believed about who
// is revoked.
func TestListsGoOnAfterAClockThatWasAhead(t *testing.T) {
	x := open(t, AuthorityOptions{})
	all, err := x.own.links()
	require.NoError(t, err)
	number := func(at time.Time) int64 {
		n, err := x.own.number(all[0], at)
		require.NoError(t, err)
		return n
	}
	now := time.Now()
	first := number(now)
	ahead := number(now.Add(365 * 24 * time.Hour))
	require.Greater(t, ahead, first)
	last := ahead
	for i := range 5 {
		n := number(now.Add(time.Duration(i) * time.Minute))
		require.Greater(t, n, last)
		last = n
	}
	require.Less(t, last, ahead+int64(2*numbersAhead), "they don't run away")
	other, err := OpenAuthority(x.d.dir, AuthorityOptions{})
	require.NoError(t, err)
	id := x.identity(theAgent, IdentityOptions{})
	before := id.now.Load().lists[keyOf(all[0].cert.RawSubjectPublicKeyInfo)].number
	lists, err := other.revoked(t.Context())
	require.NoError(t, err)
	l, err := readList(lists[0].DER, all[0].cert)
	require.NoError(t, err)
	require.Equal(t, 1, l.number.Cmp(before), "whatever process signs")
}

// The next key was made by who reckons with short lives, while the authority gives long
// ones: nothing that the old key signs outlives it.
func TestNothingOutlivesItsKey(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a, err := OpenAuthority(dir, AuthorityOptions{Life: 90 * 24 * time.Hour})
		require.NoError(t, err)
		command, err := OpenAuthority(dir, AuthorityOptions{})
		require.NoError(t, err)
		require.NoError(t, command.Rotate(t.Context(), 24*time.Hour))
		time.Sleep(23 * time.Hour)
		token, err := a.NewToken(t.Context(), theAgent)
		require.NoError(t, err)
		rec, _, err := a.enrol(t.Context(), token, plain(t))
		require.NoError(t, err)
		chain, err := decodeCerts([]byte(rec.Chain))
		require.NoError(t, err)
		time.Sleep(time.Until(rec.NotAfter) - time.Second)
		roots, err := a.signer.Roots(t.Context())
		require.NoError(t, err)
		_, err = verify(chain, roots, []x509.ExtKeyUsage{x509.ExtKeyUsageAny})
		require.NoError(t, err, "it is believed until it expires")
	})
}

// The authority's own certificate is renewed by the wall's clock.
func TestTheAuthoritysCertificateGoesByTheWall(t *testing.T) {
	x := open(t, AuthorityOptions{})
	s := x.self["127.0.0.1"]
	require.True(t, s.renew == s.renew.Round(0), "it has a monotonic reading, which a clock that is set doesn't move")
	// A clock that was ahead when it was signed.
	c := *s.cert.Leaf
	c.NotBefore = time.Now().Add(time.Hour)
	s.cert.Leaf = &c
	again, err := x.serverCertificate(t.Context(), []string{"127.0.0.1"})
	require.NoError(t, err)
	require.NotSame(t, s.cert, again)
}

// A session doesn't outlast what the authority knows of its certificate.
func TestASessionOfAForgottenCertificateEnds(t *testing.T) {
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
		chains, err := verify(chain, roots, []x509.ExtKeyUsage{x509.ExtKeyUsageAny})
		require.NoError(t, err)
		id, err := newIdentity(t.TempDir(), IdentityOptions{BelieveStale: true})
		require.NoError(t, err)
		id.now.Store(&state{roots: roots})
		peer := tls.ConnectionState{VerifiedChains: chains}
		time.Sleep(time.Until(rec.NotAfter) + kept - 25*time.Hour)
		require.NoError(t, a.Sweep(t.Context()))
		require.NoError(t, id.Recheck(peer))
		n, err := a.Revoke(t.Context(), theAgent.Name)
		require.NoError(t, err)
		require.Equal(t, 1, n, "it can be revoked still")
		time.Sleep(26 * time.Hour)
		require.NoError(t, a.Sweep(t.Context()))
		_, err = a.issued(rec.Serial)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorIs(t, id.Recheck(peer), fs.ErrPermission)
	})
}

// An agent whose certificate has the authority's host in it isn't the authority.
func TestAnAgentIsNoAuthority(t *testing.T) {
	x, theirs := open(t, AuthorityOptions{}), open(t, AuthorityOptions{})
	thief, host := x.identity(theAgent, IdentityOptions{}), x.identity(Grant{Name: "replicator", Role: Client}, IdentityOptions{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: theirs.Handler(), ReadHeaderTimeout: time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelWarn)}
	cert := *thief.now.Load().cert
	all, err := x.own.links()
	require.NoError(t, err)
	cert.Certificate = append(cert.Certificate[:1:1], all[0].cert.Raw)
	go func() { _ = srv.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}})) }()
	defer srv.Close()
	rogue := "https://" + ln.Addr().String()
	require.NoError(t, host.d.put(fileURL, []byte(`{"url": "`+rogue+`"}`)))
	require.NoError(t, host.load())
	require.ErrorIs(t, host.Refresh(t.Context()), fs.ErrPermission)
	require.Equal(t, all[0].cert.Raw, host.now.Load().roots[0].Raw, "it believes whom it believed")
	require.ErrorIs(t, host.Renew(t.Context()), fs.ErrPermission)
	_, err = Enrol(t.Context(), t.TempDir(), Invitation{rogue, theirs.token(theAgent), x.pin}, IdentityOptions{})
	require.ErrorIs(t, err, ErrPin)
	_, err = x.NewToken(t.Context(), Grant{Name: "Authority", Role: Agent, Hosts: theAgent.Hosts})
	require.ErrorIs(t, err, dr.ErrInvalid, "nor is anybody made it")
}

// Revoke that succeeds lasts over a power cut, also where one before it failed half way.
func TestARepeatedRevocationIsDurable(t *testing.T) {
	seed := mathrand.Uint64()
	t.Logf("seed %d", seed)
	for i := range uint64(40) {
		disk := crashfs.New(seed + i)
		a, err := OpenAuthority("/a", AuthorityOptions{files: disk})
		require.NoError(t, err)
		token, err := a.NewToken(t.Context(), theAgent)
		require.NoError(t, err)
		rec, _, err := a.enrol(t.Context(), token, plain(t))
		require.NoError(t, err)
		what := []string{rec.Serial, theAgent.Name}[i%2]
		disk.Inject(crashfs.Fault{N: 1, Match: func(o crashfs.Op) bool { return o.Kind == crashfs.SyncDir && o.Path == "/a/revoked" }, Err: syscall.EIO})
		_, err = a.Revoke(t.Context(), what)
		require.Error(t, err)
		_, err = a.Revoke(t.Context(), what)
		require.NoError(t, err)
		a, err = OpenAuthority("/a", AuthorityOptions{files: disk.Restart()})
		require.NoError(t, err)
		require.ErrorIs(t, a.unrevoked(rec), ErrRevoked, "%s, round %d", what, i)
	}
}

// A list that another process of this folder has fetched isn't put back by an older one.
func TestAListGoesBackForNoProcess(t *testing.T) {
	x := open(t, AuthorityOptions{})
	id := x.identity(theAgent, IdentityOptions{})
	all, err := x.own.links()
	require.NoError(t, err)
	newer, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(time.Now().Add(time.Hour).UnixNano()), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
	}, all[0].cert, all[0].key)
	require.NoError(t, err)
	name := "revoked/" + keyOf(all[0].cert.RawSubjectPublicKeyInfo) + ".crl"
	require.NoError(t, id.d.put(name, newer))
	require.ErrorIs(t, id.Refresh(t.Context()), dr.ErrInvalid)
	got, err := id.d.get(name)
	require.NoError(t, err)
	require.Equal(t, newer, got)
}

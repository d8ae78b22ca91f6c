package enrol

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
)

// AuthorityOptions are how an authority works. The zero value is good.
type AuthorityOptions struct {
	// Name is the authority's own, in its certificate; "": "Lifeboat".
	Name string
	// Life is how long certificates of agents and clients live; 0: 30 days.
	Life time.Duration
	// ListLife is until when a list of revoked certificates is good; 0: a day.
	ListLife time.Duration
	// Signer, if set, signs in place of the built-in authority.
	Signer Signer

	Log *slog.Logger // who came, and who was refused; may be nil

	files fsys.FS // nil: the system's
}

// Authority issues, renews and revokes certificates. What it knows is in its folder, in
// small files that are whole or not there: any number of processes may use one folder at
// once, and a token that one makes another accepts. It is safe for concurrent use. Make one
// with OpenAuthority.
type Authority struct {
	d      folder
	o      AuthorityOptions
	signer Signer
	own    *local // nil with a Signer
	wrong  limiter

	mu    sync.Mutex
	lists lists
	self  map[string]*served
}

// authorityLife is how long a key of the built-in authority lives.
const authorityLife = 10 * 365 * 24 * time.Hour

// OpenAuthority opens the folder, and makes it and the authority's key the first time. The
// key lies there in the open, readable by its owner alone: keep the folder where nobody
// else comes, and a copy of it at another place. Its file system must have hard links, which
// is how a token is accepted once; FAT and some network shares have none.
func OpenAuthority(dir string, o AuthorityOptions) (*Authority, error) {
	if o.Name == "" {
		o.Name = "Lifeboat"
	}
	if o.Life == 0 {
		o.Life = 30 * 24 * time.Hour
	}
	if o.ListLife == 0 {
		o.ListLife = 24 * time.Hour
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Life < 0 || o.ListLife < 0 || o.Life > authorityLife/2 {
		return nil, fmt.Errorf("%w: certificates that live %v, lists that live %v", dr.ErrInvalid, o.Life, o.ListLife)
	}
	d, err := openFolder(o.files, dir, "authority", "tokens", "issued", "revoked")
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	a := &Authority{d: d, o: o, signer: o.Signer, self: map[string]*served{}}
	if a.signer == nil {
		a.own = &local{d, o.Name, authorityLife}
		a.signer = a.own
		if _, err := a.own.links(); errors.Is(err, fs.ErrNotExist) {
			if err := a.own.create(1, time.Now(), time.Time{}); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, fmt.Errorf("authority: make its key: %w", err)
			}
		}
		if _, err := a.own.links(); err != nil {
			return nil, fmt.Errorf("authority: %w", err)
		}
	}
	return a, nil
}

// Pin is the SHA-256 of the key that signs now, "sha256:" and 64 hexadecimal digits: what
// a host that enrols must know. It is no secret.
func (a *Authority) Pin(ctx context.Context) (string, error) {
	roots, err := a.signer.Roots(ctx)
	if err != nil {
		return "", err
	}
	if len(roots) == 0 {
		return "", errors.New("the signer has no authority")
	}
	return pinOf(roots[0]), nil
}

const pinPrefix = "sha256:"

func pinOf(c *x509.Certificate) string { return pinPrefix + keyOf(c.RawSubjectPublicKeyInfo) }

// NewToken makes a token for a grant. It is returned this once and kept only as a hash:
// 130 random bits of it are secret. dr.ErrInvalid for a grant that makes no sense.
func (a *Authority) NewToken(_ context.Context, g Grant) (string, error) {
	if err := g.check(); err != nil {
		return "", err
	}
	if strings.EqualFold(g.Name, selfName) {
		return "", fmt.Errorf("%w: the name %q is the authority's own", dr.ErrInvalid, g.Name)
	}
	if g.TTL == 0 {
		g.TTL = time.Hour
	}
	text, id, secret := newToken()
	err := a.d.claimJSON("tokens/"+id+".json", invitation{hashToken(secret), g, time.Now().Add(g.TTL)})
	if err != nil {
		return "", fmt.Errorf("keep a token: %w", err)
	}
	a.o.Log.Info("a token was made", "token", id, "name", g.Name, "role", g.Role, "hosts", g.Hosts, "expires", time.Now().Add(g.TTL))
	return text, nil
}

// accept takes a token for a key, once. The same key may come again. It returns
// the serial that the certificate is to have.
func (a *Authority) accept(text string, csr []byte) (g Grant, id, serial string, r *x509.CertificateRequest, err error) {
	unknown := fault("token_unknown", "the token isn't known", "make another one at the authority")
	id, secret, ok := splitToken(text)
	if !ok {
		return g, "", "", nil, unknown
	}
	var i invitation
	err = a.d.getJSON("tokens/"+id+".json", &i)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return g, id, "", nil, unknown
	case err != nil:
		return g, id, "", nil, err
	case !i.fits(secret):
		return g, id, "", nil, unknown
	case !time.Now().Before(i.Expires):
		return g, id, "", nil, fault("token_expired", "the token has expired", "make another one at the authority")
	}
	// What can't be granted must not use the token up.
	if r, err = i.Grant.request(csr); err != nil {
		return g, id, "", nil, err
	}
	key := keyOf(r.RawSubjectPublicKeyInfo)
	use := acceptance{Key: key, Serial: serialText(newSerial()), When: time.Now()}
	name := "tokens/" + id + ".used"
	err = a.d.claimJSON(name, use)
	if errors.Is(err, fs.ErrExist) {
		// Another process may have made it a moment ago: what is answered on
		// it must outlive a power cut, as it did.
		if err = a.d.fs.SyncDir(a.d.path("tokens")); err == nil {
			use = acceptance{}
			err = a.d.getJSON(name, &use)
		}
		if err == nil && use.Key != key {
			return g, id, "", nil, fault("token_used", "the token was used already", "if that was not you, revoke the name and look who it was; then make another token")
		}
	}
	if err != nil {
		return g, id, "", nil, fmt.Errorf("accept a token: %w", err)
	}
	return i.Grant, id, use.Serial, r, nil
}

// Rotate makes the authority's next key. It signs from `after` on, and is trusted by all
// identities that have asked meanwhile: a day, say, or longer than any of them is away. 0:
// a day. The key before it is trusted until all that it signed has expired. The pin changes
// when the new key signs. dr.ErrUnsupported with a Signer.
func (a *Authority) Rotate(_ context.Context, after time.Duration) error {
	if a.own == nil {
		return fmt.Errorf("%w: the authority's key is its signer's", dr.ErrUnsupported)
	}
	if after == 0 {
		after = 24 * time.Hour
	}
	all, err := a.own.links()
	if err != nil {
		return err
	}
	from := time.Now().Add(after)
	retires := from.Add(a.o.Life)
	records, err := a.issuedRecords()
	if err != nil {
		return err
	}
	for _, r := range records { // some may have been given a longer life than is given now
		if r.NotAfter.After(retires) {
			retires = r.NotAfter
		}
	}
	if err := a.own.create(len(all)+1, from, retires); err != nil {
		return fmt.Errorf("rotate the authority's key: %w", err)
	}
	a.o.Log.Info("the authority has another key", "number", len(all)+1, "signsFrom", from)
	return nil
}

// Handler is the authority's door for hosts:
//
//	POST /v1/enrol     {"token", "csr" (PEM)} → {"certificate", "authorities"} (PEM)
//	POST /v1/renew     {"csr"}, over mutual TLS with the certificate that is to be renewed
//	GET  /v1/ca        the authorities, PEM, the one that signs first
//	GET  /v1/issuers   whose lists of revoked certificates there are, PEM
//	GET  /v1/revoked   such a list, DER; ?issuer= the SHA-256 of its key for another than
//	                   the one that signs
//	GET  /healthz
//
// Everything else is a Fault. Serve it with ServerTLS, and nowhere without TLS: a token is
// a secret. Bodies are 32 KiB at most.
func (a *Authority) Handler() http.Handler { return a.mux() }

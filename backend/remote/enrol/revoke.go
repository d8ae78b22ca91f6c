package enrol

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Revoke revokes the certificate of a serial (hexadecimal, as logs and certificates have
// it), or all certificates of a name and its tokens that weren't used. It returns how many
// of both; again: 0. A name may be enrolled anew with a token that is made later.
// dr.ErrNotFound if nothing of the kind is known. Identities learn of it when they ask next.
func (a *Authority) Revoke(_ context.Context, what string) (int, error) {
	serial := strings.TrimLeft(strings.ToLower(strings.ReplaceAll(what, ":", "")), "0")
	rec, err := a.issued(serial)
	if err == nil {
		is, err := a.d.has("revoked/" + rec.Serial + ".json")
		if err != nil {
			return 0, err
		}
		if is { // by a call that failed, perhaps, before that could outlive a power cut
			return 0, a.d.fs.SyncDir(a.d.path("revoked"))
		}
		return 1, a.revoke(rec)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	known, n := false, 0
	// Tokens first: none may be used behind the last look at what was issued.
	ids, err := a.d.list("tokens", ".json")
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		var i invitation
		if err := a.d.getJSON("tokens/"+id+".json", &i); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return n, err
		}
		if i.Grant.Name != what {
			continue
		}
		known = true
		err := a.d.claimJSON("tokens/"+id+".used", acceptance{When: time.Now()})
		switch {
		case err == nil:
			n++
		case errors.Is(err, fs.ErrExist):
			// Its certificate may be in the making: enrol looks here behind it.
			err = a.d.claimJSON("tokens/"+id+".void", acceptance{When: time.Now()})
			if err != nil && !errors.Is(err, fs.ErrExist) {
				return n, err
			}
		default:
			return n, err
		}
	}
	for {
		records, err := a.issuedRecords()
		if err != nil {
			return n, err
		}
		more := 0
		for _, rec := range records {
			if rec.Grant.Name != what {
				continue
			}
			known = true
			is, err := a.d.has("revoked/" + rec.Serial + ".json")
			if err == nil && !is {
				more++
				err = a.revoke(rec)
			}
			if err != nil {
				return n + more, err
			}
		}
		n += more
		if more == 0 {
			break
		}
	}
	if !known {
		return 0, fmt.Errorf("%w: no certificate and no token of %q", dr.ErrNotFound, what)
	}
	// What a call before this one marked, and failed, must be as durable as this one's.
	return n, errors.Join(a.d.fs.SyncDir(a.d.path("tokens")), a.d.fs.SyncDir(a.d.path("revoked")))
}

func (a *Authority) revoke(rec record) error {
	err := a.d.claimJSON("revoked/"+rec.Serial+".json", revocation{rec.Serial, rec.Grant.Name, rec.Issuer, rec.NotAfter, time.Now()})
	if errors.Is(err, fs.ErrExist) {
		return a.d.fs.SyncDir(a.d.path("revoked"))
	}
	if err == nil {
		a.o.Log.Info("a certificate was revoked", "name", rec.Grant.Name, "serial", rec.Serial)
	}
	return err
}

// lists are the signed ones of a moment ago: anybody may ask, and signing is work.
type lists struct {
	mu   sync.Mutex
	when time.Time
	by   string // whose they are
	all  []List
}

// listAge is how long a signed list is handed out again.
const listAge = time.Second

// revoked returns the lists of all keys, the one that signs first.
func (a *Authority) revoked(ctx context.Context) ([]List, error) {
	a.lists.mu.Lock()
	defer a.lists.mu.Unlock()
	roots, err := a.signer.Roots(ctx)
	if err != nil {
		return nil, err
	}
	var by strings.Builder
	for _, r := range roots {
		by.WriteString(pinOf(r))
	}
	if a.lists.all != nil && a.lists.by == by.String() && time.Since(a.lists.when) < min(listAge, a.o.ListLife/4) {
		return a.lists.all, nil
	}
	now := time.Now()
	serials, err := a.d.list("revoked", ".json")
	if err != nil {
		return nil, err
	}
	entries := map[string][]x509.RevocationListEntry{}
	for _, s := range serials {
		var r revocation
		if err := a.d.getJSON("revoked/"+s+".json", &r); err != nil {
			return nil, err // never a list that lacks one
		}
		n, ok := new(big.Int).SetString(r.Serial, 16)
		if !ok {
			return nil, fmt.Errorf("revoked/%s.json: serial %q", s, r.Serial)
		}
		entries[r.Issuer] = append(entries[r.Issuer], x509.RevocationListEntry{SerialNumber: n, RevocationTime: r.When})
	}
	all, err := a.signer.Revoked(ctx, func(issuer *x509.Certificate) []x509.RevocationListEntry {
		return entries[keyOf(issuer.RawSubjectPublicKeyInfo)]
	}, now.Add(a.o.ListLife))
	if err != nil {
		return nil, fmt.Errorf("sign the list of revoked certificates: %w", err)
	}
	a.lists.when, a.lists.by, a.lists.all = now, by.String(), all
	return all, nil
}

// kept is how long what has expired is remembered.
const kept = 30 * 24 * time.Hour

// Sweep forgets tokens and certificates that expired a month ago and more. Call it once in
// a while; nothing depends on it but the size of the folder.
func (a *Authority) Sweep(context.Context) error {
	old := time.Now().Add(-kept)
	ids, err := a.d.list("tokens", ".json")
	if err != nil {
		return err
	}
	for _, id := range ids {
		var i invitation
		if err := a.d.getJSON("tokens/"+id+".json", &i); err != nil || i.Expires.After(old) {
			continue
		}
		// The token goes first, and durably: without its mark it would be good again.
		err := a.d.remove("tokens/" + id + ".json")
		if err == nil {
			err = a.d.fs.SyncDir(a.d.path("tokens"))
		}
		if err == nil {
			err = errors.Join(a.d.remove("tokens/"+id+".used"), a.d.remove("tokens/"+id+".serial"), a.d.remove("tokens/"+id+".void"))
		}
		if err != nil {
			return err
		}
	}
	records, err := a.issuedRecords()
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.NotAfter.After(old) {
			continue
		}
		// What is issued goes last: by it the other is found, also after a crash between.
		if err := errors.Join(a.d.remove("revoked/"+r.Serial+".json"), a.d.remove("issued/"+r.Serial+".json")); err != nil {
			return err
		}
	}
	return nil
}

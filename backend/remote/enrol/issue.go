package enrol

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"time"
)

// record is a certificate that was issued.
type record struct {
	Serial   string    `json:"serial"`
	Grant    Grant     `json:"grant"`
	NotAfter time.Time `json:"notAfter"`
	Issuer   string    `json:"issuer"` // the SHA-256 of its key
	Chain    string    `json:"chain"`  // PEM, leaf first
	From     string    `json:"from"`   // "token" and its public half, or "serial" and the one before
}

// revocation is one that is good no more.
type revocation struct {
	Serial   string    `json:"serial"`
	Name     string    `json:"name"`
	Issuer   string    `json:"issuer"`
	NotAfter time.Time `json:"notAfter"`
	When     time.Time `json:"when"`
}

func serialText(n *big.Int) string { return fmt.Sprintf("%x", n) }

// issue signs a certificate for a request that was granted, and records it.
func (a *Authority) issue(ctx context.Context, g Grant, serial string, r *x509.CertificateRequest, from string) (record, error) {
	n, ok := new(big.Int).SetString(serial, 16)
	if !ok {
		return record{}, fmt.Errorf("serial %q", serial)
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: g.Name}, PublicKey: r.PublicKey,
		// Clocks differ.
		NotBefore: now.Add(-min(5*time.Minute, a.o.Life/10)), NotAfter: now.Add(a.o.Life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{g.Role.usage()},
		BasicConstraintsValid: true,
	}
	t.DNSNames, t.IPAddresses = g.names()
	roots, err := a.signer.Roots(ctx)
	if err != nil {
		return record{}, err
	}
	chain, err := a.signer.Issue(ctx, t)
	if err == nil {
		err = asIssued(t, chain, roots)
	}
	if err != nil {
		return record{}, fmt.Errorf("sign a certificate: %w", err)
	}
	chains, err := verify(chain, roots, t.ExtKeyUsage)
	if err != nil {
		return record{}, err
	}
	rec := record{
		Serial: serialText(chain[0].SerialNumber), Grant: g, NotAfter: chain[0].NotAfter,
		Issuer: keyOf(chains[0][1].RawSubjectPublicKeyInfo), Chain: string(encodeCerts(chain)), From: from,
	}
	err = a.d.claimJSON("issued/"+rec.Serial+".json", rec)
	if errors.Is(err, fs.ErrExist) { // the same key asked twice at once
		if err = a.d.fs.SyncDir(a.d.path("issued")); err == nil {
			rec, err = a.issued(rec.Serial)
		}
	}
	return rec, err
}

// issued finds a certificate by its serial.
func (a *Authority) issued(serial string) (rec record, err error) {
	if serial == "" || len(serial) > 64 || !hexDigits(serial) {
		return rec, fs.ErrNotExist
	}
	err = a.d.getJSON("issued/"+serial+".json", &rec)
	return rec, err
}

func hexDigits(s string) bool {
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func (a *Authority) issuedRecords() (all []record, err error) {
	names, err := a.d.list("issued", ".json")
	for _, n := range names {
		rec, err := a.issued(n)
		if errors.Is(err, fs.ErrNotExist) { // swept meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, rec)
	}
	return all, err
}

// enrol answers a token with a certificate.
func (a *Authority) enrol(ctx context.Context, token string, csr []byte) (rec record, id string, err error) {
	g, id, serial, r, err := a.accept(token, csr)
	if err != nil {
		return rec, id, err
	}
	from := "token " + id
	// An external signer may have chosen the serial: what a token led to is
	// found by its name, which says that, too.
	name := "tokens/" + id + ".serial"
	var was acceptance
	err = a.d.getJSON(name, &was)
	if err == nil {
		rec, err = a.issued(was.Serial)
	} else if errors.Is(err, fs.ErrNotExist) {
		rec, err = a.issue(ctx, g, serial, r, from)
		if err == nil {
			err = a.d.put(name, fmt.Appendf(nil, "{\"serial\": %q}\n", rec.Serial))
		}
	}
	if err != nil {
		return rec, id, err
	}
	if void, err := a.d.has("tokens/" + id + ".void"); err != nil {
		return rec, id, err
	} else if void {
		if err := a.revoke(rec); err != nil {
			return rec, id, err
		}
	}
	return rec, id, a.unrevoked(rec)
}

func (a *Authority) unrevoked(rec record) error {
	is, err := a.d.has("revoked/" + rec.Serial + ".json")
	if is {
		err = fault("revoked", "the certificate was revoked", "make another token at the authority, if that was a mistake")
	}
	return err
}

// renew answers a certificate that is good with another one.
func (a *Authority) renew(ctx context.Context, shown []*x509.Certificate, csr []byte) (rec record, name string, err error) {
	roots, err := a.signer.Roots(ctx)
	if err != nil {
		return rec, "", err
	}
	if len(shown) == 0 {
		return rec, "", fault("certificate", "a renewal needs the certificate that is to be renewed", "")
	}
	if len(shown) > maxCerts {
		return rec, "", fault("invalid", "too many certificates", "")
	}
	// Agents' certificates are for servers: the use isn't asked here. That the
	// key is theirs the handshake has proven.
	if _, err := verify(shown, roots, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}); err != nil {
		return rec, "", fault("certificate", "the certificate isn't good, or not any more", "enrol anew with another token")
	}
	was, err := a.issued(serialText(shown[0].SerialNumber))
	if errors.Is(err, fs.ErrNotExist) || err == nil && was.Grant.Name != shown[0].Subject.CommonName {
		return rec, "", fault("certificate", "the certificate is none that was given to a host", "")
	}
	if err == nil {
		err = a.unrevoked(was)
	}
	if err != nil {
		return rec, was.Grant.Name, err
	}
	r, err := was.Grant.request(csr)
	if err != nil {
		return rec, was.Grant.Name, err
	}
	rec, err = a.issue(ctx, was.Grant, serialText(newSerial()), r, "serial "+was.Serial)
	if err != nil {
		return rec, was.Grant.Name, err
	}
	// Who revokes a name marks what he finds and looks again. What was issued
	// before the mark he finds; what comes behind it finds the mark here.
	if err = a.unrevoked(was); err != nil {
		err = errors.Join(err, a.revoke(rec))
	}
	return rec, was.Grant.Name, err
}

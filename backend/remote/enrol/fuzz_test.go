package enrol

import (
	"crypto/x509"
	"encoding/json"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzAsked says anything to the door of an authority: a fault or a request that may be
// granted, and nothing in it that wasn't.
func FuzzAsked(f *testing.F) {
	for _, r := range []x509.CertificateRequest{{}, {DNSNames: []string{"db.example.com"}}, {DNSNames: []string{"evil"}}} {
		b, err := json.Marshal(asked{"lbt1.aaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbb", toPEM(csr(f, newKey(f), r))})
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte(`{"csr":"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		token, der, err := parseAsked(b)
		var x *Fault
		if err != nil {
			if !asFault(err, &x) {
				t.Fatal(err)
			}
			return
		}
		_, _, _ = splitToken(token)
		r, err := theAgent.request(der)
		if err != nil {
			if !asFault(err, &x) {
				t.Fatal(err)
			}
			return
		}
		for _, n := range r.DNSNames {
			if n != "db.example.com" && len(n) == len("evil") {
				t.Fatal(n)
			}
		}
	})
}

// FuzzAnswer says anything to a host: an authority that isn't one, or a disk that rots.
func FuzzAnswer(f *testing.F) {
	x := &local{name: "x", life: time.Hour}
	d, err := openFolder(nil, f.TempDir(), "authority")
	require.NoError(f, err)
	x.d = d
	require.NoError(f, x.create(1, time.Now(), time.Time{}))
	roots, err := x.Roots(f.Context())
	require.NoError(f, err)
	key := newKey(f)
	chain, err := x.Issue(f.Context(), &x509.Certificate{SerialNumber: newSerial(), PublicKey: &key.PublicKey, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Minute)})
	require.NoError(f, err)
	b, err := json.Marshal(granted{string(encodeCerts(chain)), string(encodeCerts(roots))})
	require.NoError(f, err)
	f.Add(b)
	pair, err := encodePair(key, chain)
	require.NoError(f, err)
	f.Add(pair)
	lists, err := x.Revoked(f.Context(), func(*x509.Certificate) []x509.RevocationListEntry {
		return []x509.RevocationListEntry{{SerialNumber: big.NewInt(7), RevocationTime: time.Now()}}
	}, time.Now().Add(time.Hour))
	require.NoError(f, err)
	f.Add(lists[0].DER)
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _, _ = readGranted(b, key)
		_, _, _ = readPair(b)
		_, _ = readList(b, roots[0])
		_, _ = decodeCerts(b)
	})
}

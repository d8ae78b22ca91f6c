package enrol

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"regexp"
	"strings"
	"time"
)

// tokenPrefix begins every token, so that one that lies around is recognised.
const tokenPrefix = "lbt1."

var tokenForm = regexp.MustCompile(`^lbt1\.([a-z2-7]{12})\.([a-z2-7]{26})$`)

// newToken makes one: a public half by which it is found, of 60 bits, and a secret one
// of 130.
func newToken() (text, id, secret string) {
	id, secret = strings.ToLower(rand.Text()[:12]), strings.ToLower(rand.Text())
	return tokenPrefix + id + "." + secret, id, secret
}

// splitToken reads one that somebody sent.
func splitToken(text string) (id, secret string, ok bool) {
	m := tokenForm.FindStringSubmatch(text)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

func hashToken(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// invitation is a token as the authority keeps it.
type invitation struct {
	Hash    string    `json:"hash"` // of the secret half
	Grant   Grant     `json:"grant"`
	Expires time.Time `json:"expires"`
}

// fits compares in constant time. The secret has more entropy than can be
// searched, so that its plain hash may be kept.
func (i invitation) fits(secret string) bool {
	return subtle.ConstantTimeCompare([]byte(hashToken(secret)), []byte(i.Hash)) == 1
}

// acceptance is a token that was used, or that nobody may use any more.
type acceptance struct {
	Key    string    `json:"key,omitempty"` // of who used it; "": it was withdrawn
	Serial string    `json:"serial,omitempty"`
	When   time.Time `json:"when"`
}

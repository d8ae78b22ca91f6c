package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/observe"
)

// users are who may ask, by their tokens' sums. Nil: whoever can reach the
// address, which then is this computer's own.
type users struct {
	names []string
	sums  [][sha256.Size]byte
}

// readUsers reads a file with a line NAME:TOKEN for each who may ask. "" is nil.
func readUsers(path string) (*users, error) {
	if path == "" {
		return nil, nil
	}
	raw, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	u := &users{}
	for i, line := range bytes.Split(raw, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		name, token, ok := bytes.Cut(line, []byte(":"))
		if token = bytes.TrimSpace(token); !ok || len(name) == 0 || len(token) < 16 {
			return nil, fmt.Errorf("%w: %s, line %d: want NAME:TOKEN with a token of 16 characters or more", dr.ErrInvalid, path, i+1)
		}
		u.names, u.sums = append(u.names, string(name)), append(u.sums, sha256.Sum256(token))
	}
	return u, nil
}

// who returns the name that a request's token stands for.
func (u *users) who(r *http.Request) (name string, ok bool) {
	token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !found {
		return "", false
	}
	sum := sha256.Sum256([]byte(token))
	for i := range u.sums { // all of them, whichever it is
		if subtle.ConstantTimeCompare(sum[:], u.sums[i][:]) == 1 {
			name, ok = u.names[i], true
		}
	}
	return name, ok
}

// admit lets in who may ask, and notes who that is.
//
// Without tokens the address is this computer's own. A browser on it must not
// be talked into asking: by a page's script, which sends Origin, or by a name
// that somebody had point here.
func (u *users) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u == nil {
			host, _, err := net.SplitHostPort(r.Host)
			if err != nil {
				host = r.Host
			}
			if r.Header.Get("Origin") != "" || !loopback(net.JoinHostPort(strings.Trim(host, "[]"), "0")) {
				refuse(w, http.StatusForbidden, "ask this computer itself, by a loopback address")
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		name, ok := u.who(r)
		if !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, http.StatusUnauthorized, "a token is needed: Authorization: Bearer ...")
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(observe.By(r.Context(), name), askerKey{}, name)))
	})
}

type askerKey struct{}

// asker returns who asks: the token's name, else what the request says.
func asker(ctx context.Context, said string) string {
	if name, ok := ctx.Value(askerKey{}).(string); ok {
		return name
	}
	return said
}

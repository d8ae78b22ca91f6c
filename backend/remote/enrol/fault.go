package enrol

import (
	"errors"
	"io/fs"
	"net/http"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// What callers branch on. Names that weren't granted and certificates that
// aren't known are fs.ErrPermission, too many attempts dr.ErrBusy, and what can't be read
// dr.ErrInvalid.
var (
	// ErrToken says that a token isn't known, has expired, or was used by
	// another key.
	ErrToken = errors.New("the token isn't good")
	// ErrRevoked says that a certificate was revoked.
	ErrRevoked = errors.New("the certificate is revoked")
	// ErrStale says that it isn't known any more what is revoked.
	ErrStale = errors.New("the list of revoked certificates is too old")
	// ErrPin says that the authority's key isn't the one that the pin names.
	ErrPin = errors.New("the authority's key isn't the pinned one")
)

// Fault is an answer of the authority that is none: {"code", "text", "remedy"} as JSON.
// errors.Is finds the sentinel of its code.
type Fault struct {
	Code   string `json:"code"` // one of those of this package, stable
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
	status int
}

// Error implements error.
func (f *Fault) Error() string {
	if f.Remedy == "" {
		return f.Text
	}
	return f.Text + " (" + f.Remedy + ")"
}

// Unwrap returns the sentinel that the code stands for, or nil.
func (f *Fault) Unwrap() error { return codes[f.Code].is }

// codes are what a Fault may be.
var codes = map[string]struct {
	status int
	is     error
}{
	"invalid":       {http.StatusBadRequest, dr.ErrInvalid},
	"token_unknown": {http.StatusForbidden, ErrToken},
	"token_expired": {http.StatusForbidden, ErrToken},
	"token_used":    {http.StatusForbidden, ErrToken},
	"not_granted":   {http.StatusForbidden, fs.ErrPermission},
	"certificate":   {http.StatusForbidden, fs.ErrPermission},
	"revoked":       {http.StatusForbidden, ErrRevoked},
	"too_many":      {http.StatusTooManyRequests, dr.ErrBusy},
	"too_large":     {http.StatusRequestEntityTooLarge, dr.ErrInvalid},
	"not_found":     {http.StatusNotFound, dr.ErrNotFound},
	"method":        {http.StatusMethodNotAllowed, dr.ErrInvalid},
	"internal":      {http.StatusInternalServerError, nil},
}

func fault(code, text, remedy string) *Fault {
	return &Fault{Code: code, Text: text, Remedy: remedy, status: codes[code].status}
}

package azure

import (
	"errors"
	"net/url"
	"regexp"
	"strings"
)

// query is what follows the path of an address: of disks and of operations it
// holds signatures, by which anybody could read them.
var query = regexp.MustCompile(`(://[^\s"'?]*)\?[^\s"']*`)

// hidden is an error without the queries of the addresses that its text names,
// which net/http puts into every failure of a link.
type hidden struct {
	text string
	err  error
}

func hide(err error) error {
	text := err.Error()
	if !strings.Contains(text, "://") {
		return err
	}
	if short := query.ReplaceAllString(text, "$1"); short != text {
		return &hidden{short, err}
	}
	return err
}

func (h *hidden) Error() string { return h.text }

// Is and As look into the error, which Unwrap would give away.
func (h *hidden) Is(target error) bool { return errors.Is(h.err, target) }

func (h *hidden) As(target any) bool {
	if _, ok := target.(**url.Error); ok {
		return false
	}
	return errors.As(h.err, target)
}

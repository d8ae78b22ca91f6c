package physical

import (
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// InUseError says that a file or device is not written because somebody on
// this host uses it. It is a dr.ErrBusy: once it is free, repeating helps.
type InUseError struct {
	Path string
	Why  string // "mounted on /srv", "swap", "attached to /dev/loop3"
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s is in use: %s (free it first; it was not written)", e.Path, e.Why)
}

// Unwrap returns dr.ErrBusy.
func (e *InUseError) Unwrap() error { return dr.ErrBusy }

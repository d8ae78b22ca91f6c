package transfer

import (
	"context"
	"errors"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Epochs makes all epochs that to gives from now on higher than those that from
// has given, and returns of how many resources it has seen to that. from must be
// a dr.ClaimLister, to a dr.EpochRaiser. Call it when nobody claims in from any
// more; it may be called again.
//
// A claim that is held in from is dr.ErrBusy, naming resource and holder: that
// run has to end there. So is a resource that is held in to under a lower epoch.
// The others are raised nevertheless.
func Epochs(ctx context.Context, from, to dr.Claims) (int, error) {
	l, ok := dr.As[dr.ClaimLister](from)
	if !ok {
		return 0, fmt.Errorf("%w: %T can't list its claims", dr.ErrUnsupported, from)
	}
	r, ok := dr.As[dr.EpochRaiser](to)
	if !ok {
		return 0, fmt.Errorf("%w: %T can't raise epochs", dr.ErrUnsupported, to)
	}
	n := 0
	var busy []error
	for c, err := range l.Claims(ctx) {
		if err != nil {
			return n, errors.Join(append(busy, fmt.Errorf("move epochs: %w", err))...)
		}
		if c.Owner != "" {
			busy = append(busy, fmt.Errorf("move epoch of %s: %w: held by %s", c.Resource, dr.ErrBusy, c.Owner))
		}
		if err := r.Raise(ctx, c.Resource, c.Epoch); errors.Is(err, dr.ErrBusy) {
			busy = append(busy, fmt.Errorf("move epoch of %s: %w", c.Resource, err))
			continue
		} else if err != nil {
			return n, errors.Join(append(busy, fmt.Errorf("move epoch of %s: %w", c.Resource, err))...)
		}
		n++
	}
	return n, errors.Join(busy...)
}

//go:build !linux

package fsfreeze

import (
	"context"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Hooks are dr.ErrUnsupported: only Linux has FIFREEZE.
func Hooks(Options) (freeze, thaw physical.Hook) {
	freeze = func(context.Context, physical.Event) error {
		return fmt.Errorf("%w: freezing file systems needs Linux", dr.ErrUnsupported)
	}
	return freeze, func(context.Context, physical.Event) error { return nil }
}

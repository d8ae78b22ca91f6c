package remote

import (
	"context"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// stream makes a call that yields, and hands its parts to each until that
// returns false or an error.
func (w *wire) stream(ctx context.Context, op agentwire.Op, handle uint64, a argument, each func([]byte) (bool, error)) error {
	b, err := agentwire.Marshal(a)
	if err != nil {
		return fmt.Errorf("%w: %w", dr.ErrInvalid, err)
	}
	p, err := w.begin(ctx, op, handle, nil, b)
	if err != nil {
		return err
	}
	defer p.abandon()
	for {
		b, err := p.next(ctx)
		if err != nil || b == nil {
			return err
		}
		if more, err := each(b); !more || err != nil {
			return err
		}
	}
}

// extents makes a call that yields extents. yield returns false to end it.
func (w *wire) extents(ctx context.Context, op agentwire.Op, handle uint64, a argument, yield func(dr.Extent) bool) error {
	return w.stream(ctx, op, handle, a, func(b []byte) (bool, error) {
		es, err := agentwire.Extents(b)
		if err != nil {
			return false, err
		}
		for _, e := range es {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			if !yield(e) {
				return false, nil
			}
		}
		return true, nil
	})
}

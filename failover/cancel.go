package failover

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// cancelRestart starts the machine that the failover had shut down.
func (a actions) cancelRestart(ctx context.Context, c *dr.Call, in flow) (any, error) {
	if c.Undo {
		b, err := ReadBegun(c)
		if err != nil || b.From == dr.On {
			return nil, err
		}
		return nil, wrap(in.from.Backend.Stop(ctx, in.From.Machine), "stop", dr.SourceSide, in.From)
	}
	return nil, wrap(in.from.Backend.Start(ctx, in.From.Machine), "start again", dr.SourceSide, in.From)
}

// cancelFinish puts the record back to where the failover began.
func (a actions) cancelFinish(ctx context.Context, c *dr.Call, in flow) (any, error) {
	_, err := a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		back(p)
		return nil
	})
	return nil, err
}

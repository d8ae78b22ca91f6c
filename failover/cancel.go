package failover

import (
	"context"
	"encoding/json"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// cancelRestart starts the machine that the failover had shut down.
func (a actions) cancelRestart(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	from, err := a.e.Sites.Site(in.From.Site)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		b, err := ReadBegun(c)
		if err != nil || b.From == dr.On {
			return nil, err
		}
		return nil, wrap(from.Backend.Stop(ctx, in.From.Machine), "stop", dr.SourceSide, in.From)
	}
	return nil, wrap(from.Backend.Start(ctx, in.From.Machine), "start again", dr.SourceSide, in.From)
}

// cancelFinish puts the record back to where the failover began.
func (a actions) cancelFinish(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	_, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		back(p)
		return nil
	})
	return nil, err
}

package failover

import (
	"context"
	"encoding/json"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Changing the point: the machine at To, which runs from the former point, is
// stopped, made to hold another, and started. Everything can be taken back to
// the former point; what the machine wrote since the failover can not.

func (a actions) changeStop(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	to, err := a.e.Sites.Site(in.To.Site)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		return nil, wrap(to.Backend.Start(ctx, in.To.Machine), "start again", dr.TargetSide, in.To)
	}
	return nil, wrap(to.Backend.Stop(ctx, in.To.Machine), "stop", dr.TargetSide, in.To)
}

func (a actions) changeHydrate(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	pt := in.Former.Point
	if !c.Undo {
		if pt, err = ChosenPoint(c); err != nil {
			return nil, err
		}
	}
	return result(a.fill(ctx, c, in, in.From.Machine, pt, in.Former.Point))
}

func (a actions) changeStart(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		to, err := a.e.Sites.Site(in.To.Site)
		if err != nil {
			return nil, err
		}
		return nil, wrap(to.Backend.Stop(ctx, in.To.Machine), "stop", dr.TargetSide, in.To)
	}
	pt, err := ChosenPoint(c)
	if err != nil {
		return nil, err
	}
	return result(a.powerOn(ctx, c, in, in.From.Machine, pt))
}

func (a actions) changeFinish(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	r, err := a.report(c, in)
	if err != nil {
		return nil, err
	}
	_, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		f := *p.Failover
		if f.Point.ID != r.Point.ID { // going back to the final point loses nothing again
			f.Loss = r.Loss
		}
		f.Point, f.At = r.Point, r.Started
		p.Failover, p.Common, p.Run = &f, r.Point, ""
		p.Unpin(pinOf(c.Run))
		p.Unpin(pinFailover)
		p.Pin(r.Point.ID, pinFailover)
		return nil
	})
	return result(r, err)
}

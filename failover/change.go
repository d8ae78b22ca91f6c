package failover

import (
	"context"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Changing the point: the machine at To, which runs from the former point, is
// stopped, made to hold another, and started. Everything can be taken back to
// the former point; what the machine wrote since the failover can not.

func (a actions) changeStop(ctx context.Context, c *dr.Call, in flow) (any, error) {
	if c.Undo {
		b, err := ReadBegun(c)
		if err != nil || b.To == dr.Off {
			return nil, err
		}
		if slices.Contains(c.Left, StepRestart) { // of a cancel: only one of the two may run
			if err := stopped(ctx, in.from.Backend, dr.SourceSide, in.From); err != nil {
				return nil, wrap(err, "start again", dr.TargetSide, in.To)
			}
		}
		return nil, wrap(in.to.Backend.Start(ctx, in.To.Machine), "start again", dr.TargetSide, in.To)
	}
	return nil, wrap(in.to.Backend.Stop(ctx, in.To.Machine), "stop", dr.TargetSide, in.To)
}

func (a actions) changeHydrate(ctx context.Context, c *dr.Call, in flow) (any, error) {
	if c.Undo {
		return nil, a.changeBack(ctx, c, in)
	}
	pt, err := ChosenPoint(c)
	if err != nil {
		return nil, err
	}
	return a.fill(ctx, c, in, in.From.Machine, pt, in.Former.Point)
}

// changeBack makes the machine hold the former point again. Disks that were
// not written to are left: they have what the guest wrote since the failover.
func (a actions) changeBack(ctx context.Context, c *dr.Call, in flow) error {
	pt, err := ChosenPoint(c)
	if err == nil {
		err = a.letGo(ctx, c, in, pt)
	}
	if err != nil {
		return err
	}
	if _, done := c.Results[c.Step]; !done {
		r, err := in.to.Backend.Prepare(ctx, in.Placement(in.Former.Point.Machine))
		if err != nil {
			return wrap(err, "prepare", dr.TargetSide, in.To)
		}
		// Not torn, and holding nothing for sure: no draft was begun.
		if !r.Torn && r.Holds == "" {
			return nil
		}
	}
	_, err = a.fill(ctx, c, in, in.From.Machine, in.Former.Point, in.Former.Point)
	return err
}

func (a actions) changeStart(ctx context.Context, c *dr.Call, in flow) (any, error) {
	if c.Undo {
		return nil, wrap(in.to.Backend.Stop(ctx, in.To.Machine), "stop", dr.TargetSide, in.To)
	}
	pt, err := ChosenPoint(c)
	if err != nil {
		return nil, err
	}
	return a.powerOn(ctx, c, in, in.From.Machine, pt)
}

func (a actions) changeFinish(ctx context.Context, c *dr.Call, in flow) (any, error) {
	r, err := a.report(c, in)
	if err != nil {
		return nil, err
	}
	p, err := a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		f := *p.Failover
		if r.Loss = lossAt(f, r); f.Point.ID == r.Point.ID {
			r.Loss.Unreplicated = f.Loss.Unreplicated
		}
		f.Loss = r.Loss
		f.Point, f.At = r.Point, r.Started
		p.Failover, p.Common, p.Run = &f, r.Point, ""
		p.Unpin(pinOf(c.Run))
		p.Unpin(pinFailover)
		p.Pin(r.Point.ID, pinFailover)
		return nil
	})
	if err == nil { // as recorded, also by an attempt that was cut off
		r.Loss = p.Failover.Loss
	}
	return r, err
}

// lossAt says what a failover cost once its machine runs from another point.
// Going back to the failover's own last replication, taken when the machine
// was off, loses nothing again.
func lossAt(f dr.Failover, r Report) dr.Loss {
	l := r.Loss
	final := replication.PointName(dr.StepKey(f.Run, StepSync, false))
	if r.Point.ID == final && r.Point.Machine.Power == dr.Off {
		l.None, l.Unreplicated = true, 0
	}
	return l
}

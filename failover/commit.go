package failover

import (
	"context"
	"errors"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// commitSeed keeps the disks of the machine that was failed back from, in the
// store of its own site, as the base that later points are written over: so
// that replicating there again sends only changes, though the machine and its
// disks are removed.
func (a actions) commitSeed(ctx context.Context, c *dr.Call, in flow) (any, error) {
	own := replication.PointName(dr.StepKey(c.Run, c.Step, false))
	if c.Undo {
		return nil, a.uncommitSeed(ctx, c, in, own)
	}
	// A site that is lost must not keep the machine from being home.
	m, err := look(ctx, in.from.Backend, in.From.Machine)
	if err != nil {
		return nil, wrap(err, "look up the machine", dr.SourceSide, in.From)
	}
	of, err := in.to.Backend.Machine(ctx, in.To.Machine)
	if err != nil {
		return nil, wrap(err, "look up the machine", dr.TargetSide, in.To)
	}
	if err := in.from.Backend.Stop(ctx, in.From.Machine); err != nil {
		return nil, wrap(err, "stop", dr.SourceSide, in.From)
	}
	at := Input{From: in.To, To: in.From, Key: in.From.Key}
	r, err := in.from.Backend.Prepare(ctx, at.Placement(m))
	if err != nil {
		return nil, wrap(err, "prepare", dr.SourceSide, in.From)
	}
	// Disks from which the last changes were taken hold that point, unless
	// the machine has run again since: then they are a state of their own.
	name := own
	if in.Former.Loss.None && r.Holds == in.Former.Point.ID && !r.Torn {
		name = in.Former.Point.ID
	}
	o := a.e.Copy
	o.Progress = c.Beat
	return replication.Seed(ctx, in.from, in.From.Machine, of, name, o)
}

// uncommitSeed takes the base away, and starts the machine again if it ran.
func (a actions) uncommitSeed(ctx context.Context, c *dr.Call, in flow, own dr.PointID) error {
	var err error
	for _, name := range []dr.PointID{own, in.Former.Point.ID} {
		err = errors.Join(err, replication.Unseed(ctx, in.from, in.From.Machine, in.To.Machine, name))
	}
	b, begunErr := ReadBegun(c)
	if err = errors.Join(err, begunErr); b.From != dr.On {
		return err
	}
	return errors.Join(err, wrap(in.from.Backend.Start(ctx, in.From.Machine), "start again", dr.SourceSide, in.From))
}

// commitDelete deletes all recovery points of the direction that has ended.
func (a actions) commitDelete(ctx context.Context, c *dr.Call, in flow) (any, error) {
	a.e.ReleaseLeft(ctx, in.From, in.to.Points)
	c.Beat(dr.Progress{What: "deleting recovery points"})
	return nil, replication.DeleteAll(ctx, in.to.Points, in.From.Machine)
}

// commitRemove removes the machine that was failed back from.
func (a actions) commitRemove(ctx context.Context, c *dr.Call, in flow) (any, error) {
	return nil, wrap(in.from.Backend.Remove(ctx, in.From.Machine), "remove", dr.SourceSide, in.From)
}

func (a actions) commitFinish(ctx context.Context, c *dr.Call, in flow) (any, error) {
	_, err := a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		if err := p.Move(dr.Committed); err != nil {
			return err
		}
		if p.AtHome() && p.Standby.Key != "" {
			p.Standby = dr.Place{Site: p.Standby.Site} // removed
		}
		p.Failover, p.Last, p.Pins, p.Expiring, p.Run = nil, dr.Point{}, nil, nil, ""
		return nil
	})
	return nil, err
}

package failover

import (
	"context"
	"encoding/json"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// commitSeed keeps the disks of the machine that was failed back from, in the
// store of its own site, as the base that later points are written over: so
// that replicating there again sends only changes, though the machine and its
// disks are removed.
func (a actions) commitSeed(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	from, to, err := a.sites(in)
	if err != nil {
		return nil, err
	}
	of, err := to.Backend.Machine(ctx, in.To.Machine)
	if err != nil {
		return nil, wrap(err, "look up the machine", dr.TargetSide, in.To)
	}
	// Disks from which the last changes were taken hold that point exactly;
	// any others are a state of their own.
	name := replication.PointName(c.Key)
	if in.Former.Loss.None {
		name = in.Former.Point.ID
	}
	if err := from.Backend.Stop(ctx, in.From.Machine); err != nil {
		return nil, wrap(err, "stop", dr.SourceSide, in.From)
	}
	o := a.e.Copy
	o.Progress = c.Beat
	return result(replication.Seed(ctx, from, in.From.Machine, of, name, o))
}

// commitDelete deletes all recovery points of the direction that has ended.
func (a actions) commitDelete(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	to, err := a.e.Sites.Site(in.To.Site)
	if err != nil {
		return nil, err
	}
	c.Beat(dr.Progress{What: "deleting recovery points"})
	return nil, replication.DeleteAll(ctx, to.Points, in.From.Machine)
}

// commitRemove removes the machine that was failed back from.
func (a actions) commitRemove(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	from, err := a.e.Sites.Site(in.From.Site)
	if err != nil {
		return nil, err
	}
	return nil, wrap(from.Backend.Remove(ctx, in.From.Machine), "remove", dr.SourceSide, in.From)
}

func (a actions) commitFinish(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	_, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		if err := p.Move(dr.Committed); err != nil {
			return err
		}
		if p.AtHome() {
			p.Standby = dr.Place{Site: p.Standby.Site} // removed
		}
		p.Failover, p.Last, p.Pins, p.Run = nil, dr.Point{}, nil, ""
		return nil
	})
	return nil, err
}

package replication

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// known is what the store has of a machine when a cycle begins.
type known struct {
	points    map[dr.PointID]dr.Point // committed
	newest    dr.Point                // of these; bases count
	pending   map[dr.PointID]dr.Point // begun and not committed
	stale     []dr.PointID            // of these, what no cycle will go on with
	lastMade  dr.PointID              // the last committed point that a cycle named
	lastNamed dr.PointID              // the last point at all that a cycle named
}

// processed is look, when points are made of all that the store has received:
// what an earlier cycle has sent is what this one's changes are told since.
func (c *Cycle) processed(ctx context.Context, line dr.MachineID) (*known, error) {
	if err := Process(ctx, c.Points, line); err != nil {
		return nil, err
	}
	return c.look(ctx, line)
}

func (c *Cycle) look(ctx context.Context, line dr.MachineID) (*known, error) {
	k := &known{points: map[dr.PointID]dr.Point{}, pending: map[dr.PointID]dr.Point{}}
	for p, err := range c.Points.List(ctx, line) {
		if err != nil {
			return nil, c.fail("list points", dr.StoreSide, line, "", err, "")
		}
		k.points[p.ID], k.newest = p, p
		if _, ok := cycleTime(p.ID); ok {
			k.lastMade = max(k.lastMade, p.ID)
		}
	}
	k.lastNamed = k.lastMade
	pender, ok := dr.As[recoverypoint.Pender](c.Points)
	if !ok {
		return k, nil
	}
	for p, err := range pender.Pending(ctx, line) {
		if err != nil {
			return nil, c.fail("list drafts", dr.StoreSide, line, "", err, "")
		}
		k.pending[p.ID] = p
		if _, ok := cycleTime(p.ID); ok {
			k.lastNamed = max(k.lastNamed, p.ID)
		}
	}
	return k, nil
}

// unfinished is the point that an interrupted cycle was making, if no cycle
// has finished since. Drafts under other names belong to those who gave them.
func (k *known) unfinished() dr.PointID {
	var last dr.PointID
	for id, p := range k.pending {
		if _, ok := cycleTime(id); ok && id > k.lastMade && !p.Base {
			last = max(last, id)
		}
	}
	return last
}

// dropStale finds drafts of cycles that nobody will go on with, once name is
// the cycle's point.
func (k *known) dropStale(name dr.PointID) {
	for id := range k.pending {
		if _, ok := cycleTime(id); ok && id != name {
			k.stale = append(k.stale, id)
			delete(k.pending, id)
		}
	}
}

// sweep removes what interrupted cycles left and nobody goes on with. A cycle
// doesn't fail for it: the next one sweeps again.
func (c *Cycle) sweep(ctx context.Context, id, line dr.MachineID, name dr.PointID, k *known) []dr.PointID {
	for _, old := range k.stale {
		if err := c.Points.Delete(ctx, line, old); err != nil {
			c.log().WarnContext(ctx, "discard of an old draft", "machine", line, "point", old, "error", err)
		}
	}
	sweeper, ok := dr.As[backend.Sweeper](c.Source)
	if !ok {
		// Then what is known to be left is let go of by name.
		for _, old := range k.stale {
			if err := c.release(ctx, id, old); err != nil {
				c.log().WarnContext(ctx, "release of an old capture", "machine", id, "point", old, "error", err)
			}
		}
		return nil
	}
	swept, err := sweeper.Sweep(ctx, id, func(p dr.PointID) bool {
		_, pending := k.pending[p]
		return p == name || pending || c.Keep != nil && c.Keep(id, p)
	})
	if err != nil {
		c.log().WarnContext(ctx, "sweep of old captures", "machine", id, "error", err)
	}
	return swept
}

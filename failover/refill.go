package failover

import (
	"context"
	"errors"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// copyAgain makes the machine at To hold what the stopped machine at From
// has, in flows without a store to fill the disks from: an attempt to start
// the machine was cut off, and nobody can say what its disks hold since.
func (a actions) copyAgain(ctx context.Context, c *dr.Call, in flow, r backend.Replica, pt dr.Point) (rep replication.Report, err error) {
	m, err := in.from.Backend.Machine(ctx, in.From.Machine)
	if err == nil && m.Power != dr.Off {
		err = dr.Permanent(fmt.Errorf("%w: it must stay off until it runs at %s", dr.ErrRunning, in.To.Site))
	}
	if err != nil {
		return rep, wrap(err, "copy again", dr.SourceSide, in.From)
	}
	img, err := in.from.Backend.Capture(ctx, in.From.Machine, pt.ID, dr.CrashConsistent)
	if err != nil {
		return rep, wrap(err, "capture", dr.SourceSide, in.From)
	}
	defer func() {
		err = errors.Join(err, img.Close(), in.from.Backend.Release(ctx, in.From.Machine, pt.ID))
	}()
	d, err := in.to.Backend.Draft(ctx, r.ID, pt)
	if err != nil {
		return rep, wrap(err, "open the disks for writing", dr.TargetSide, in.Place(r.ID))
	}
	o := a.e.Copy
	o.Progress = c.Beat
	rep, err = replication.Copy(ctx, d, img, o)
	return rep, errors.Join(err, d.Close())
}

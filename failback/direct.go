package failback

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Direct failback: from disk to disk, without recovery points. Until the last
// copy is committed the machine at home is torn or holds phase 1's moment; it
// is started only when it holds the last one.

// first copies the machine while it runs.
func (a actions) first(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	x, err := a.begin(c)
	if err != nil {
		return nil, err
	}
	p, err := a.e.Records.Load(ctx, x.Protection)
	if err != nil {
		return nil, err
	}
	return encode(a.copy(ctx, c, x, []dr.Point{p.Last, p.Common}, p.Common, false))
}

// last copies what has changed since phase 1, or everything if there was
// none. The machine is off: nothing is lost.
func (a actions) last(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	x, err := a.begin(c)
	if err != nil {
		return nil, err
	}
	m, err := x.from.Backend.Machine(ctx, x.From.Machine)
	if err == nil && m.Power != dr.Off {
		err = dr.Permanent(fmt.Errorf("%w: it must stay off until it runs at %s", dr.ErrRunning, x.To.Site))
	}
	if err != nil {
		return nil, fail("copy the last changes", dr.SourceSide, x.From.Site, x.From.Machine, err)
	}
	var phase1 failover.Copied
	two, err := failover.ReadResult(c, StepFirst, &phase1)
	if err != nil {
		return nil, err
	}
	if !two {
		return encode(a.copy(ctx, c, x, nil, dr.Point{}, true))
	}
	return encode(a.copy(ctx, c, x, []dr.Point{phase1.Point}, dr.Point{}, false))
}

// copy captures the machine at From and makes the one at To hold it. known
// are points that To's disks may hold; common is one from which both sides
// descend.
//
// The capture is let go of by a step of its own, once this step's result is
// journaled: after a crash the same moment must be found again. One that was
// taken anew under the same name would pass for what the disks hold already,
// and what changed between the two would never be copied. For the same reason
// disks that hold the name are not believed, but copied to again.
func (a actions) copy(ctx context.Context, c *dr.Call, x ends, known []dr.Point, common dr.Point, full bool) (_ failover.Copied, err error) {
	name := replication.PointName(c.Key)
	img, err := x.from.Backend.Capture(ctx, x.From.Machine, name, dr.CrashConsistent)
	if err != nil {
		return failover.Copied{}, fail("capture", dr.SourceSide, x.From.Site, x.From.Machine, err)
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	r, err := x.to.Backend.Prepare(ctx, x.Placement(img.Point().Machine))
	if err != nil {
		return failover.Copied{}, fail("prepare", dr.TargetSide, x.To.Site, x.replica.ID, err)
	}
	if r.ID != x.replica.ID {
		return failover.Copied{}, dr.Permanent(fail("prepare", dr.TargetSide, x.To.Site, x.replica.ID, fmt.Errorf("%w: now it is machine %s; somebody deleted the one before", dr.ErrConflict, r.ID)))
	}
	o := a.e.Copy
	o.Progress = c.Beat
	switch {
	case r.New:
		o.Have.Blank = true
	case full:
		o.Full = true
	case r.Torn: // nobody can say: compared by sums
	default:
		o.Have = exactly(r.Holds, known)
		if o.Have.Common.ID == "" && common.ID != "" {
			img, done, failed := capture(ctx, x.to, r.ID, theirsName(c))
			if failed != nil {
				return failover.Copied{}, fail("capture the former machine", dr.TargetSide, x.To.Site, r.ID, failed)
			}
			defer func() { err = errors.Join(err, done()) }()
			o.Have.Common, o.Have.Theirs = common, img
		}
	}
	draft, err := x.to.Backend.Draft(ctx, r.ID, img.Point())
	if err != nil {
		return failover.Copied{}, fail("open the disks for writing", dr.TargetSide, x.To.Site, r.ID, err)
	}
	rep, err := replication.Copy(ctx, draft, img, o)
	err = errors.Join(err, draft.Close())
	return failover.Copied{Point: rep.Point, Report: rep}, fail("copy home", dr.TargetSide, x.To.Site, r.ID, err)
}

// exactly is the history of disks that hold one of the points known.
func exactly(holds dr.PointID, known []dr.Point) replication.History {
	for _, p := range known {
		if holds != "" && p.ID == holds {
			return replication.History{Common: p}
		}
	}
	return replication.History{}
}

// release lets go of what a copy had frozen: as the undo of the copy's step, or
// as the step behind it.
func (a actions) release(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	x, err := a.begin(c)
	if err != nil {
		return nil, err
	}
	of := c.Step
	if !c.Undo {
		of = releases[c.Step]
	}
	key := dr.StepKey(c.Run, of, false)
	err = x.from.Backend.Release(ctx, x.From.Machine, replication.PointName(key))
	return nil, errors.Join(
		fail("release", dr.SourceSide, x.From.Site, x.From.Machine, err),
		fail("release", dr.TargetSide, x.To.Site, x.replica.ID, x.to.Backend.Release(ctx, x.replica.ID, replication.PointName(key+theirs))))
}

// releases tells which step's capture a step lets go of.
var releases = map[string]string{StepReleaseFirst: StepFirst, StepReleaseLast: failover.StepCopy}

package failback

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// seeded is the result of the seed step.
type seeded struct {
	// Base is what the new points are written over; "" for disks that an
	// earlier copy has left torn.
	Base dr.PointID `json:"base,omitempty"`
	// Kept says that the store had the last common point already, and
	// nothing was copied.
	Kept   bool               `json:"kept,omitempty"`
	Report replication.Report `json:"report"`
}

// seed copies the stopped machine's disks into the store of its own site, so
// that the first point of the new direction differs from something. These
// bytes don't travel between the sites.
func (a actions) seed(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	x, err := a.begin(c)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		return nil, replication.Unseed(ctx, x.to, x.replica.ID, x.From.Machine, replication.PointName(dr.StepKey(c.Run, c.Step, false)))
	}
	p, err := a.e.Records.Load(ctx, x.Protection)
	if err != nil {
		return nil, err
	}
	if has, err := holds(ctx, x.to.Points, x.From.Machine, p.Common.ID); err != nil || has {
		return encode(seeded{Base: p.Common.ID, Kept: true}, err)
	}
	as, err := x.from.Backend.Machine(ctx, x.From.Machine)
	if err != nil {
		return nil, fail("look up the machine", dr.SourceSide, x.From.Site, x.From.Machine, err)
	}
	like := p.Common.Machine
	if p.Common.ID == "" { // another place than it came from
		like = as
	}
	// Asked anew: a copy may have been begun since.
	r, err := x.to.Backend.Prepare(ctx, x.Placement(like))
	if err != nil {
		return nil, fail("prepare", dr.TargetSide, x.To.Site, x.To.Machine, err)
	}
	if r.Torn {
		return encode(seeded{}, nil) // half written disks are no base: all blocks are compared, or copied
	}
	o := a.e.Copy
	o.Progress = c.Beat
	rep, err := replication.Seed(ctx, x.to, x.replica.ID, as, replication.PointName(c.Key), o)
	if err == nil { // only a processed point can be a parent, or be found again
		err = replication.Process(ctx, x.to.Points, x.From.Machine)
	}
	return encode(seeded{Base: rep.Point.ID, Report: rep}, err)
}

// holds reports whether the store has the point.
func holds(ctx context.Context, s recoverypoint.PointStore, m dr.MachineID, id dr.PointID) (bool, error) {
	if id == "" {
		return false, nil
	}
	if err := replication.Process(ctx, s, m); err != nil {
		return false, err
	}
	img, err := s.Open(ctx, m, id)
	if errors.Is(err, dr.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fail("look for the common point", dr.StoreSide, "", m, err)
	}
	return true, img.Close()
}

// replicate makes the first point of the new direction. What can differ from
// the base is what either side wrote since the common point.
func (a actions) replicate(ctx context.Context, c *dr.Call) (_ json.RawMessage, err error) {
	x, err := a.begin(c)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		return nil, a.unreplicate(ctx, c, x)
	}
	p, err := a.e.Records.Load(ctx, x.Protection)
	if err != nil {
		return nil, err
	}
	var s seeded
	if _, err := failover.ReadResult(c, failover.StepSeed, &s); err != nil {
		return nil, err
	}
	var have replication.History
	if s.Base == "" { // no machine here to seed from; perhaps a base of an earlier failback
		has, err := holds(ctx, x.to.Points, x.From.Machine, p.Common.ID)
		if err != nil {
			return nil, err
		}
		if has {
			s.Base, s.Kept = p.Common.ID, true
		}
	}
	switch {
	case s.Kept:
		have.Common = p.Common
	case s.Base != "" && p.Common.ID != "":
		// The deferred release must reach the named err: nothing here shadows it.
		name, failed := x.nameOfTheirs(ctx, c, p, s)
		if failed != nil {
			return nil, failed
		}
		img, done, failed := capture(ctx, x.to, x.replica.ID, name)
		if failed != nil {
			return nil, fail("capture the former machine", dr.TargetSide, x.To.Site, x.replica.ID, failed)
		}
		defer func() { err = errors.Join(err, done()) }()
		have.Common, have.Theirs = p.Common, img
	}
	rep, err := a.e.ReplicateOver(ctx, p, replication.PointName(c.Key), dr.CrashConsistent, s.Base, have, c.Beat)
	return encode(rep, err)
}

// unreplicate removes the first point, whole or not, with all that were
// written over it, and what was frozen to make it.
func (a actions) unreplicate(ctx context.Context, c *dr.Call, x ends) error {
	key := dr.StepKey(c.Run, c.Step, false)
	var s seeded
	if _, err := failover.ReadResult(c, failover.StepSeed, &s); err != nil {
		return err
	}
	err := a.e.Abandon(ctx, x.From, x.To.Site, replication.PointName(key))
	for _, name := range []dr.PointID{s.Base, replication.PointName(key + theirs)} {
		if name != "" {
			err = errors.Join(err, fail("release", dr.TargetSide, x.To.Site, x.replica.ID, x.to.Backend.Release(ctx, x.replica.ID, name)))
		}
	}
	return errors.Join(err, replication.DeleteSince(ctx, x.to.Points, x.From.Machine, replication.PointName(key)))
}

// nameOfTheirs is under which name to ask the former machine: the base's, as
// long as its disks hold that, because a stopped machine holds what was last
// captured of it, and filling disks that hold something the store doesn't have
// compares all of them. Disks that have changed since the base was made must
// never be taken for it.
func (x ends) nameOfTheirs(ctx context.Context, c *dr.Call, p dr.Protection, s seeded) (dr.PointID, error) {
	r, err := x.to.Backend.Prepare(ctx, x.Placement(p.Common.Machine))
	if err != nil {
		return "", fail("prepare", dr.TargetSide, x.To.Site, x.To.Machine, err)
	}
	if r.Holds == s.Base && !r.Torn {
		return s.Base, nil
	}
	return theirsName(c), nil
}

// theirs is behind the key of a step in the name of what it froze of the
// machine that it writes for.
const theirs = "/theirs"

func theirsName(c *dr.Call) dr.PointID { return replication.PointName(c.Key + theirs) }

// releaseGrace is how long letting go of a capture may take when a step was
// stopped.
const releaseGrace = 30 * time.Second

// capture freezes a stopped machine to ask its tracker; done lets go of it.
// What an attempt that was cut off had frozen must not pass for the present.
func capture(ctx context.Context, at replication.Site, m dr.MachineID, name dr.PointID) (_ dr.Image, done func() error, err error) {
	release := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseGrace)
		defer cancel()
		return at.Backend.Release(ctx, m, name)
	}
	if err := release(); err != nil {
		return nil, nil, err
	}
	img, err := at.Backend.Capture(ctx, m, name, dr.CrashConsistent)
	if err != nil {
		return nil, nil, errors.Join(err, release()) // the answer may have been lost
	}
	return img, func() error { return errors.Join(img.Close(), release()) }, nil
}

// hydrate brings the standby machine's disks to the first point, so that what
// remains for the failover is little.
func (a actions) hydrate(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	x, err := a.begin(c)
	if err != nil {
		return nil, err
	}
	var rep replication.Report
	if _, err := failover.ReadResult(c, StepReplicate, &rep); err != nil {
		return nil, err
	}
	p, err := a.e.Records.Load(ctx, x.Protection)
	if err != nil {
		return nil, err
	}
	if rep.Point.ID == "" {
		return nil, nil // undone before there was anything to write
	}
	if err := replication.Process(ctx, x.to.Points, x.From.Machine); err != nil {
		return nil, err
	}
	r, err := x.to.Backend.Prepare(ctx, x.Placement(rep.Point.Machine))
	if err != nil {
		return nil, fail("prepare", dr.TargetSide, x.To.Site, x.To.Machine, err)
	}
	o := a.e.Copy
	o.Progress = c.Beat
	if c.Undo {
		return nil, dehydrate(ctx, c, x, r, rep.Point.ID, o)
	}
	return encode(replication.Hydrate(ctx, x.to, r, x.From.Machine, rep.Point.ID, p.Common, o))
}

// dehydrate gives the former machine's disks back what they had, which was
// kept as the base; a machine that the flow made is removed instead. Disks that
// were not written to are left.
func dehydrate(ctx context.Context, c *dr.Call, x ends, r backend.Replica, point dr.PointID, o replication.CopyOptions) error {
	var s seeded
	if _, err := failover.ReadResult(c, failover.StepSeed, &s); err != nil {
		return err
	}
	if err := replication.LetGo(ctx, x.to, r.ID, point); err != nil {
		return err
	}
	if s.Base == "" || s.Kept || !r.Torn && r.Holds != point {
		return nil
	}
	_, err := replication.Hydrate(ctx, x.to, r, x.From.Machine, s.Base, dr.Point{}, o)
	return err
}

// finish records that the machine is protected in the new direction.
func (a actions) finish(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	x, err := a.begin(c)
	if err != nil {
		return nil, err
	}
	var rep replication.Report
	if _, err := failover.ReadResult(c, StepReplicate, &rep); err != nil {
		return nil, err
	}
	var s seeded
	if _, err := failover.ReadResult(c, failover.StepSeed, &s); err != nil {
		return nil, err
	}
	var filled replication.Report
	warm, err := failover.ReadResult(c, failover.StepHydrate, &filled)
	if err != nil {
		return nil, err
	}
	_, err = a.e.Update(ctx, c, x.Protection, func(p *dr.Protection) error {
		p.Last, p.Run, p.Replication, p.Resync = rep.Point, "", dr.ReplicationIdle, false
		p.Standby = x.Place(x.replica.ID)
		// What the standby's disks hold must stay, for the next copy into
		// them to be a delta.
		p.Unpin(failover.PinStandby)
		switch {
		case warm:
			p.Pin(filled.Point.ID, failover.PinStandby)
			p.Common = filled.Point
		case x.replica.ID != x.To.Machine: // a new machine, and nothing on its disks
			p.Common = dr.Point{}
		case s.Base != "":
			p.Pin(s.Base, failover.PinStandby)
		}
		return p.Move(dr.Protected)
	})
	return encode(Reprotected{First: rep, Seed: s.Report, Warm: warm}, err)
}

// Reprotected is the result of a reprotection's finish step.
type Reprotected struct {
	First replication.Report `json:"first"` // what travelled between the sites
	Seed  replication.Report `json:"seed"`  // what was copied within the recovery site before
	Warm  bool               `json:"warm"`  // the standby machine's disks hold the first point
}

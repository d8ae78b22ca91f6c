package failover

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// DefaultVerifyTimeout is how long a started machine is given to show that it
// lives.
const DefaultVerifyTimeout = 5 * time.Minute

// chosen is the result of choose.
type chosen struct {
	Point dr.Point `json:"point"`
}

// ChosenPoint returns the point that the flow starts its machine from, for
// callers' own steps behind the one that settles it.
func ChosenPoint(c *dr.Call) (dr.Point, error) {
	var direct Copied
	if ok, err := ReadResult(c, StepCopy, &direct); ok || err != nil {
		return direct.Point, err
	}
	var ch chosen
	err := needResult(c, StepChoose, &ch)
	return ch.Point, err
}

// choose settles the recovery point and pins it, so that retention leaves it.
func (a actions) choose(ctx context.Context, c *dr.Call, in flow) (any, error) {
	if c.Undo {
		_, err := a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
			p.Unpin(pinOf(c.Run))
			return nil
		})
		return nil, err
	}
	choice, err := a.choice(ctx, c, in)
	if err != nil {
		return nil, err
	}
	if choice.NeedsProcessing() || choice.Point != "" && choice != in.Point {
		if err := replication.Process(ctx, in.to.Points, in.From.Machine); err != nil {
			return nil, fmt.Errorf("%w (the latest processed point can be had without)", err)
		}
	}
	rec, err := a.e.Records.Load(ctx, in.Protection)
	if err != nil {
		return nil, err
	}
	var points []dr.Point
	for p, err := range in.to.Points.List(ctx, in.From.Machine) {
		if err != nil {
			return nil, wrap(err, "list recovery points", dr.StoreSide, in.From)
		}
		if !slices.Contains(rec.Expiring, p.ID) {
			points = append(points, p)
		}
	}
	pt, err := recoverypoint.Candidate{Machine: in.From.Machine, Points: points, Accepted: rec.Accepted}.Choose(choice)
	if err != nil {
		return nil, wrap(err, "choose a recovery point", dr.StoreSide, in.From)
	}
	_, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		if slices.Contains(p.Expiring, pt.ID) {
			return &dr.Error{Op: "choose a recovery point", Side: dr.StoreSide, Site: in.To.Site, Machine: in.From.Machine, Point: pt.ID,
				Err: fmt.Errorf("%w: retention has just begun to delete it", dr.ErrConflict)}
		}
		p.Pin(pt.ID, pinOf(c.Run))
		return nil
	})
	if err != nil {
		return nil, err
	}
	// Somebody may delete points without asking the record.
	img, err := in.to.Points.Open(ctx, in.From.Machine, pt.ID)
	if err != nil {
		return nil, wrap(err, "open recovery point "+string(pt.ID), dr.StoreSide, in.From)
	}
	return chosen{pt}, img.Close()
}

// choice is what was asked for; the flow's own last replication, where the
// machine was shut down for it; or what an attempt that was cut off has pinned
// already, because newer points may have come since.
func (a actions) choice(ctx context.Context, c *dr.Call, in flow) (recoverypoint.Choice, error) {
	custom := func(id dr.PointID) recoverypoint.Choice {
		return recoverypoint.Choice{Option: recoverypoint.Custom, Point: id}
	}
	if in.Operation == dr.OpPlannedFailover || in.Operation == dr.OpFailback && in.Point.Option == "" {
		var s Copied
		err := needResult(c, StepSync, &s)
		return custom(s.Point.ID), err
	}
	p, err := a.e.Records.Load(ctx, in.Protection)
	if err != nil {
		return recoverypoint.Choice{}, err
	}
	if id, ok := p.Pinned(pinOf(c.Run)); ok {
		return custom(id), nil
	}
	return in.Point, nil
}

// pinOf escapes what separates pins from each other.
func pinOf(run dr.RunID) string { return "run/" + url.PathEscape(string(run)) }

// Placement describes the machine that the flow brings up.
func (in Input) Placement(m dr.Machine) backend.Placement {
	p := backend.Placement{
		Key: in.Key, Machine: m, Name: in.Where.Name,
		Isolated: in.Test, Networks: in.Where.Networks, Cards: in.Where.Cards, Options: in.Where.Options,
	}
	if in.To.Key == "" {
		p.Original = in.To.Machine
	}
	return p
}

// Place is where the machine is that Prepare found or made.
func (in Input) Place(id dr.MachineID) dr.Place {
	at := dr.Place{Site: in.To.Site, Machine: id, Key: in.Key}
	if in.To.Key == "" && in.To.Machine != "" {
		at.Key = ""
	}
	return at
}

// prepare finds or makes the machine. Taking it back removes only what this
// flow made.
func (a actions) prepare(ctx context.Context, c *dr.Call, in flow) (any, error) {
	if c.Undo {
		return nil, a.unprepare(ctx, c, in, in.to.Backend)
	}
	m, err := a.model(ctx, c, in)
	if err != nil {
		return nil, err
	}
	if err := a.noteDrill(ctx, c, in, dr.Place{Site: in.To.Site, Key: in.Key}); err != nil {
		return nil, err
	}
	r, err := in.to.Backend.Prepare(ctx, in.Placement(m))
	if err != nil {
		return r, wrap(err, "prepare", dr.TargetSide, in.To)
	}
	return r, a.noteDrill(ctx, c, in, in.Place(r.ID))
}

// unprepare removes the machine, unless it was there before. Then it must be
// off, also if taking back its start has failed.
func (a actions) unprepare(ctx context.Context, c *dr.Call, in flow, b backend.Backend) error {
	var r backend.Replica
	made, err := ReadResult(c, c.Step, &r)
	if err != nil {
		return err
	}
	switch {
	case in.To.Machine != "" && in.To.Key == "", made && r.ID == in.To.Machine:
		if slices.Contains(c.Left, StepStart) {
			return stopped(ctx, b, dr.TargetSide, in.To)
		}
		return nil // it was there
	case made:
		err = wrap(b.Remove(ctx, r.ID), "remove", dr.TargetSide, dr.Place{Site: in.To.Site, Machine: r.ID})
	default:
		var m dr.Machine
		if m, err = a.model(ctx, c, in); err == nil {
			err = remove(ctx, b, in.Input, m)
		}
	}
	if err != nil {
		return err
	}
	return a.noteDrill(ctx, c, in, dr.Place{Site: in.To.Site})
}

// model is what the machine should be like: as the chosen point recorded it,
// or, in flows without one, as the machine is now.
func (a actions) model(ctx context.Context, c *dr.Call, in flow) (dr.Machine, error) {
	var ch chosen
	if ok, err := ReadResult(c, StepChoose, &ch); ok || err != nil {
		return ch.Point.Machine, err
	}
	m, err := in.from.Backend.Machine(ctx, in.From.Machine)
	return m, wrap(err, "look up the machine", dr.SourceSide, in.From)
}

// remove deletes the machine that carries the flow's key, unless it is the
// one that was there before. Finding it may mean making it first: there is no
// other way to ask.
func remove(ctx context.Context, b backend.Backend, in Input, m dr.Machine) error {
	r, err := b.Prepare(ctx, in.Placement(m))
	if err != nil {
		return wrap(err, "find what to remove", dr.TargetSide, in.To)
	}
	if r.ID == in.To.Machine {
		return nil
	}
	return wrap(b.Remove(ctx, r.ID), "remove", dr.TargetSide, dr.Place{Site: in.To.Site, Machine: r.ID})
}

// hydrate makes the stopped machine hold the point.
func (a actions) hydrate(ctx context.Context, c *dr.Call, in flow) (any, error) {
	pt, err := ChosenPoint(c)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		// What the disks hold is the matter of prepare's undo, or of nobody:
		// they are a standby's.
		return nil, a.letGo(ctx, c, in, pt)
	}
	p, err := a.e.Records.Load(ctx, in.Protection)
	if err != nil {
		return nil, err
	}
	common := p.Common
	if in.Test {
		common = dr.Point{} // the drill's machine has nothing to do with the replica
	}
	return a.fill(ctx, c, in, in.From.Machine, pt, common)
}

// letGo releases what filling the machine with a point may have left frozen.
func (a actions) letGo(ctx context.Context, c *dr.Call, in flow, pt dr.Point) error {
	id := in.To.Machine
	var r backend.Replica
	if ok, err := ReadResult(c, StepPrepare, &r); err != nil {
		return err
	} else if ok {
		id = r.ID
	}
	return replication.LetGo(ctx, in.to, id, pt.ID)
}

// fill makes the flow's machine at To hold a point of machine of.
func (a actions) fill(ctx context.Context, c *dr.Call, in flow, of dr.MachineID, pt, common dr.Point) (replication.Report, error) {
	// Asked anew: a crash may have changed what the disks hold. A replica that
	// somebody has deleted is made again, but for one that ran already.
	r, err := in.to.Backend.Prepare(ctx, in.Placement(pt.Machine))
	if err != nil {
		return replication.Report{}, wrap(err, "prepare", dr.TargetSide, in.To)
	}
	if in.Former != nil && r.ID != in.To.Machine {
		return replication.Report{}, dr.Permanent(wrap(fmt.Errorf("%w: the platform prepared machine %s instead", dr.ErrConflict, r.ID), "prepare", dr.TargetSide, in.To))
	}
	if r.Holds == pt.ID && !r.Torn {
		return replication.Report{Point: pt, Existed: true}, replication.LetGo(ctx, in.to, r.ID, pt.ID)
	}
	if _, direct := c.Results[StepCopy]; direct {
		return a.copyAgain(ctx, c, in, r, pt)
	}
	o := a.e.Copy
	o.Progress = c.Beat
	return replication.Hydrate(ctx, in.to, r, of, pt.ID, common, o)
}

// start powers the machine on. It never starts what does not hold the point.
func (a actions) start(ctx context.Context, c *dr.Call, in flow) (any, error) {
	var r backend.Replica
	if err := needResult(c, StepPrepare, &r); err != nil {
		return nil, err
	}
	at := dr.Place{Site: in.To.Site, Machine: r.ID}
	if c.Undo {
		return nil, wrap(in.to.Backend.Stop(ctx, r.ID), "stop", dr.TargetSide, at)
	}
	if in.shutsDown() && in.Operation != dr.OpUnplannedFailover && !in.Test {
		// The last moment at which two machines running can be prevented.
		if err := isOff(ctx, in.from.Backend, in.From.Machine); err != nil {
			return nil, wrap(err, "make sure that only one machine runs", dr.SourceSide, in.From)
		}
	}
	pt, err := ChosenPoint(c)
	if err != nil {
		return nil, err
	}
	in.To = in.Place(r.ID)
	return a.powerOn(ctx, c, in, in.From.Machine, pt)
}

// started is the result of a start.
type started struct {
	At time.Time `json:"at"`
}

// powerOn starts a machine from a point of machine of, or finds it running.
func (a actions) powerOn(ctx context.Context, c *dr.Call, in flow, of dr.MachineID, pt dr.Point) (started, error) {
	b := in.to.Backend
	m, err := b.Machine(ctx, in.To.Machine)
	if err != nil {
		return started{}, wrap(err, "look up the machine", dr.TargetSide, in.To)
	}
	if m.Power != dr.On {
		if m.Power != dr.Off {
			// An attempt to start it was cut off: nobody knows how far it came.
			if err := b.Stop(ctx, in.To.Machine); err != nil {
				return started{}, wrap(err, "stop", dr.TargetSide, in.To)
			}
		}
		// The disks hold the point, unless the machine was started by an
		// attempt that was cut off and has gone down since: fill them again.
		if _, err := a.fill(ctx, c, in, of, pt, pt); err != nil {
			return started{}, err
		}
		if err := b.Start(ctx, in.To.Machine); err != nil {
			return started{}, wrap(err, "start", dr.TargetSide, in.To)
		}
	}
	return started{At: a.e.Time()}, nil
}

// evidenceNone is the kind of evidence of a backend that can't probe.
const evidenceNone = "none"

// verify looks for evidence that the machine lives; without an ability to
// probe there is none, and that is what the report says.
func (a actions) verify(ctx context.Context, c *dr.Call, in flow) (any, error) {
	id := in.To.Machine
	var r backend.Replica
	if ok, err := ReadResult(c, StepPrepare, &r); err != nil {
		return nil, err
	} else if ok {
		id = r.ID
	}
	none := backend.Evidence{Kind: evidenceNone, What: "the backend has no way to tell"}
	p, ok := dr.As[backend.Prober](in.to.Backend)
	if !ok {
		return none, nil
	}
	timeout := in.VerifyTimeout
	if timeout <= 0 {
		timeout = DefaultVerifyTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c.Beat(dr.Progress{What: "waiting for a sign of life"})
	ev, err := p.Probe(ctx, id)
	if errors.Is(err, dr.ErrUnsupported) {
		return none, nil
	}
	return ev, wrap(err, "probe", dr.TargetSide, dr.Place{Site: in.To.Site, Machine: id})
}

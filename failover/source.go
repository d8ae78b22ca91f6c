package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// DefaultShutdownTimeout is how long a guest is given to shut down.
const DefaultShutdownTimeout = 10 * time.Minute

// canShutDown refuses with dr.ErrUnsupported a flow that must shut the
// machine down on a backend that can't.
func canShutDown(b backend.Backend, in Input) error {
	if _, ok := dr.As[backend.Shutdowner](b); ok || in.PowerOff {
		return nil
	}
	return &dr.Error{Op: "shut down", Side: dr.SourceSide, Site: in.From.Site, Machine: in.From.Machine, Err: dr.ErrUnsupported,
		Remedy: "the backend can't ask guests to shut down: allow power off"}
}

// shutdown returns only when the machine is off. Taking it back starts the
// machine again, unless it was off when the flow began, and sees to it that one
// whose guest is just going down runs in the end.
func (a actions) shutdown(ctx context.Context, c *dr.Call, in flow) (any, error) {
	if c.Undo {
		return nil, a.unshutdown(ctx, c, in)
	}
	// A site that is lost is found out now, not when the guest's time is over.
	if _, err := in.lookFrom(ctx, in.from.Backend); err != nil {
		return nil, wrap(err, "look up the machine", dr.SourceSide, in.From)
	}
	c.Beat(dr.Progress{What: "waiting for the guest to shut down"})
	if err := shutDown(ctx, in.from.Backend, in.Input); err != nil {
		return nil, err
	}
	return off{At: a.e.Time()}, nil
}

// unshutdown starts the machine again, unless the one at To may be running: two
// that run from the same disks are worse than none, and which of them it is to
// be a person has to say.
func (a actions) unshutdown(ctx context.Context, c *dr.Call, in flow) error {
	b, err := ReadBegun(c)
	if err != nil || b.From == dr.Off {
		return err
	}
	if err := a.onlyOne(ctx, c, in); err != nil {
		return wrap(err, "start again", dr.SourceSide, in.From)
	}
	if _, done := c.Results[c.Step]; !done {
		in.awaitGuest(ctx, c, in.from.Backend)
	}
	return wrap(in.from.Backend.Start(ctx, in.From.Machine), "start again", dr.SourceSide, in.From)
}

// awaitGuest waits whether the guest, which may have been asked to shut down,
// still does so, for as long as it was given: what it was asked can't be taken
// back, and a machine that is started while it goes down ends up off, and
// nobody would start it again.
func (in Input) awaitGuest(ctx context.Context, c *dr.Call, b backend.Backend) {
	most := in.shutdownTimeout()
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(min(2*time.Second, most/20+1))
	defer tick.Stop()
	for {
		m, err := look(ctx, b, in.From.Machine)
		if err != nil || m.Power == dr.Off {
			return
		}
		c.Beat(dr.Progress{What: "waiting whether the guest, which was asked to shut down, does"})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// onlyOne makes sure, where the start at To could not be taken back, that the
// machine there is off all the same.
func (a actions) onlyOne(ctx context.Context, c *dr.Call, in flow) error {
	if !slices.Contains(c.Left, StepStart) {
		return nil
	}
	var r backend.Replica
	prepared, err := ReadResult(c, StepPrepare, &r)
	if err != nil {
		return err
	}
	if prepared { // before the shutdown, as in flows without points
		err := stopped(ctx, in.to.Backend, dr.TargetSide, dr.Place{Site: in.To.Site, Machine: r.ID})
		if err != nil && in.To.Machine == "" && in.to.Backend.Remove(ctx, r.ID) == nil {
			return nil // as taking back prepare does next
		}
		return err
	}
	if slices.Contains(c.Left, StepPrepare) {
		return &dr.Error{Op: "stop", Side: dr.TargetSide, Site: in.To.Site, Machine: in.To.Machine, Err: fmt.Errorf("%w, or may", dr.ErrRunning),
			Remedy: "see that the machine that the flow started there is off, then start this one by hand"}
	}
	return nil // removed, or seen to be off
}

// stopped switches a machine off, hard, and returns nil only if it is, or is
// gone.
func stopped(ctx context.Context, b backend.Backend, side dr.Side, at dr.Place) error {
	err := b.Stop(ctx, at.Machine)
	if err == nil {
		err = isOff(ctx, b, at.Machine)
	}
	if errors.Is(err, dr.ErrNotFound) && !dr.IsPermanent(err) { // which a site that this process doesn't know is
		return nil
	}
	return wrap(err, "stop", side, at)
}

// off is the result of a shutdown.
type off struct {
	At time.Time `json:"at"`
}

// shutDown shuts the flow's machine down at From and makes sure that it is
// off. It powers off hard only where the options allow it. A guest that did
// not shut down in its time is not asked again: that is for a person to see.
func shutDown(ctx context.Context, b backend.Backend, in Input) error {
	err := canShutDown(b, in)
	if err != nil {
		return err
	}
	err = dr.ErrUnsupported
	if s, ok := dr.As[backend.Shutdowner](b); ok {
		wait, cancel := context.WithTimeout(ctx, in.shutdownTimeout())
		err = s.Shutdown(wait, in.From.Machine)
		if err != nil && wait.Err() != nil && ctx.Err() == nil {
			err = dr.Permanent(fmt.Errorf("the guest did not shut down within %s: %w", in.shutdownTimeout(), err))
		}
		cancel()
	}
	if err != nil && in.PowerOff && ctx.Err() == nil {
		if stop := b.Stop(ctx, in.From.Machine); stop != nil {
			err = errors.Join(err, stop)
		} else {
			err = nil
		}
	}
	if err == nil {
		err = isOff(ctx, b, in.From.Machine)
	}
	if err == nil {
		return nil
	}
	return &dr.Error{Op: "shut down", Side: dr.SourceSide, Site: in.From.Site, Machine: in.From.Machine, Err: err,
		Remedy: "shut the guest down by hand and try again, or allow power off"}
}

func (o Options) shutdownTimeout() time.Duration {
	if o.ShutdownTimeout > 0 {
		return o.ShutdownTimeout
	}
	return DefaultShutdownTimeout
}

// isOff returns dr.ErrRunning for a machine that isn't known to be off.
func isOff(ctx context.Context, b backend.Backend, id dr.MachineID) error {
	m, err := look(ctx, b, id)
	if err == nil && m.Power != dr.Off {
		err = fmt.Errorf("%w: power is %q", dr.ErrRunning, m.Power)
	}
	return err
}

// Copied is the result of a step that took the machine's last changes.
type Copied struct {
	Point  dr.Point           `json:"point"`
	Report replication.Report `json:"report"`
}

// sync replicates the last changes. The point stays if the flow is taken
// back: it is a recovery point like others. What of it is not whole goes.
func (a actions) sync(ctx context.Context, c *dr.Call, in flow) (any, error) {
	p, err := a.e.Records.Load(ctx, in.Protection)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		return nil, a.e.Abandon(ctx, in.From, in.To.Site, replication.PointName(dr.StepKey(c.Run, c.Step, false)))
	}
	if _, err := in.lookFrom(ctx, in.from.Backend); err != nil {
		return nil, wrap(err, "look up the machine", dr.SourceSide, in.From)
	}
	rep, err := a.e.ReplicateAs(ctx, p, replication.PointName(c.Key), dr.CrashConsistent, c.Beat)
	if err != nil {
		return nil, err
	}
	if in.Operation != dr.OpUnplannedFailover && rep.Point.Machine.Power != dr.Off {
		return nil, dr.Permanent(&dr.Error{Op: "replicate the last changes", Side: dr.SourceSide, Site: in.From.Site, Machine: in.From.Machine, Err: dr.ErrRunning,
			Remedy: "somebody started the machine again after the shutdown; keep it off during the failover"})
	}
	_, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		p.Last = rep.Point
		return nil
	})
	return Copied{rep.Point, rep}, err
}

// measure looks at what was left behind: whether the machine is off after all,
// and how many bytes it wrote since the point, where its side can still be
// asked and keeps track.
func (a actions) measure(ctx context.Context, c *dr.Call, in flow) (any, error) {
	var ch chosen
	if err := needResult(c, StepChoose, &ch); err != nil {
		return nil, err
	}
	m, err := in.lookFrom(ctx, in.from.Backend)
	if err != nil {
		return nil, wrap(err, "look up the machine", dr.SourceSide, in.From)
	}
	out := measured{Power: m.Power, Unreplicated: -1}
	var s Copied
	if ok, err := ReadResult(c, StepSync, &s); err != nil {
		return nil, err
	} else if ok && s.Point.ID == ch.Point.ID && s.Point.Machine.Power == dr.Off && m.Power == dr.Off {
		return out, nil // the point is the machine's end
	}
	name := replication.PointName(c.Key)
	n, err := changedSince(ctx, in.from.Backend, in.From.Machine, name, ch.Point)
	if err == nil {
		out.Unreplicated = n
	} else {
		a.e.Logger().InfoContext(ctx, "unreplicated bytes can't be told", "machine", in.From.Machine, "error", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), LookTimeout)
	defer cancel()
	return out, wrap(in.from.Backend.Release(ctx, in.From.Machine, name), "release", dr.SourceSide, in.From)
}

// changedSince counts the bytes that the machine's tracker says changed. What
// it freezes for that, also if the answer was lost, the caller releases.
func changedSince(ctx context.Context, b backend.Backend, id dr.MachineID, name dr.PointID, since dr.Point) (n int64, err error) {
	img, err := b.Capture(ctx, id, name, dr.CrashConsistent)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	t, ok := dr.As[dr.ChangeTracker](img)
	if !ok {
		return 0, dr.ErrChangesLost
	}
	for _, d := range img.Point().Machine.Disks {
		for e, err := range t.Changes(ctx, d.ID, since) {
			if err != nil {
				return 0, err
			}
			n += e.Len
		}
	}
	return n, nil
}

// measured is the result of measure.
type measured struct {
	Power        dr.Power `json:"power,omitempty"`
	Unreplicated int64    `json:"unreplicated"` // -1: can't be told
}

// wrap says where an operation on a machine failed.
func wrap(err error, op string, side dr.Side, at dr.Place) error {
	if err == nil {
		return nil
	}
	return &dr.Error{Op: op, Side: side, Site: at.Site, Machine: at.Machine, Err: err}
}

package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// LookTimeout bounds each question to a site that may be lost. A lost site
// often doesn't refuse: it says nothing.
const LookTimeout = 30 * time.Second

// Begun is the result of the first step: what the flow found, and what taking
// it back returns to.
type Begun struct {
	// From and To are whether the machines ran; "" where there was none or
	// it could not be told.
	From dr.Power `json:"from,omitempty"`
	To   dr.Power `json:"to,omitempty"`
	// Record is the protection as it was.
	Record dr.Protection `json:"record"`
}

// ReadBegun decodes the result of the first step; zero if there is none.
func ReadBegun(c *dr.Call) (Begun, error) {
	var b Begun
	_, err := ReadResult(c, StepBegin, &b)
	return b, err
}

// begin refuses what is not allowed, before anything has happened, and then
// holds replication for the run.
func (a actions) begin(ctx context.Context, c *dr.Call, in flow) (any, error) {
	if c.Undo {
		return nil, a.let(ctx, c, in)
	}
	// Asked before the platforms are: a refusal should cost nothing.
	p, err := a.e.Records.Load(ctx, in.Protection)
	if err != nil {
		return nil, err
	}
	if p.Run != c.Run {
		if err := in.matches(p, c.Run); err != nil {
			return nil, err
		}
	}
	if in.Former == nil {
		if err := in.unused(ctx, c.Run); err != nil {
			return nil, err
		}
	}
	var b Begun
	if b, err = a.preconditions(ctx, in); err != nil {
		return nil, err
	}
	p, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		if err := in.matches(*p, c.Run); err != nil {
			return err
		}
		p.Run = c.Run
		if in.During != "" {
			return p.Move(in.During)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	b.Record = p
	b.Record.Run = ""
	if in.During != "" {
		b.Record.State = in.Before
	}
	return b, a.e.Hold(ctx, in.Protection)
}

// let takes the hold back.
func (a actions) let(ctx context.Context, c *dr.Call, in flow) error {
	p, err := a.e.Records.Load(ctx, in.Protection)
	if err != nil || p.Run != c.Run {
		return err // refused: nothing happened
	}
	_, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		if p.Run != c.Run {
			return nil
		}
		p.Run = ""
		if in.During != "" {
			return p.Move(in.Before)
		}
		return nil
	})
	return err
}

// matches refuses a plan that was made of a record which has changed since.
func (in Input) matches(p dr.Protection, run dr.RunID) error {
	if p.Run != "" && p.Run != run {
		return fmt.Errorf("protection %s: held by run %s: %w", p.ID, p.Run, dr.ErrBusy)
	}
	if err := p.Allow(in.Operation); err != nil {
		return err
	}
	active, standby := in.From, in.To
	if in.Former != nil {
		active, standby = in.To, in.From
		if p.Failover == nil || p.Failover.Run != in.Former.Run || p.Failover.Point.ID != in.Former.Point.ID {
			return dr.Permanent(fmt.Errorf("protection %s: %w: the plan is about another failover", p.ID, dr.ErrConflict))
		}
	}
	// A plan without a standby machine makes one, or finds it by its key.
	if p.Active != active || p.Standby.Site != standby.Site || standby.Machine != "" && p.Standby != standby {
		return dr.Permanent(fmt.Errorf("protection %s: %w: it runs as machine %s at %s beside %q at %s, the plan says %s at %s beside %q at %s; plan again",
			p.ID, dr.ErrConflict, p.Active.Machine, p.Active.Site, p.Standby.Machine, p.Standby.Site,
			active.Machine, active.Site, standby.Machine, standby.Site))
	}
	return nil
}

// preconditions checks what can be known before the first effect, and looks
// whether the machines run.
func (a actions) preconditions(ctx context.Context, in flow) (Begun, error) {
	var b Begun
	m, err := look(ctx, in.from.Backend, in.From.Machine)
	b.From = m.Power
	must := in.Former == nil && in.Operation != dr.OpUnplannedFailover
	if err != nil && in.Operation == dr.OpCancelFailover && in.Former.Ran {
		return b, &dr.Error{Op: "look up the machine", Side: dr.SourceSide, Site: in.From.Site, Machine: in.From.Machine, Err: err,
			Remedy: "cancelling stops the other machine and starts this one: it must be there"}
	}
	if must && err != nil {
		remedy := "a failover without loss needs both sites; use an unplanned failover if this one is lost"
		if in.Operation == dr.OpReprotect {
			remedy = "the machine must be there, where it runs, to be replicated"
		}
		return b, &dr.Error{Op: "look up the machine", Side: dr.SourceSide, Site: in.From.Site, Machine: in.From.Machine, Err: err, Remedy: remedy}
	}
	if in.To.Machine != "" {
		m, err := look(ctx, in.to.Backend, in.To.Machine)
		// One that is gone is the matter of the step that needs it. A site that
		// gives no answer is found out before production is shut down for it.
		if must && err != nil && !errors.Is(err, dr.ErrNotFound) {
			return b, &dr.Error{Op: "look up the standby machine", Side: dr.TargetSide, Site: in.To.Site, Machine: in.To.Machine, Err: err,
				Remedy: "the site that the machine is to be brought up at must be there"}
		}
		b.To = m.Power
	}
	if in.Former == nil && !in.StopTo && b.To == dr.On {
		return b, dr.Permanent(&dr.Error{Op: "check the standby machine", Side: dr.TargetSide, Site: in.To.Site, Machine: in.To.Machine, Err: dr.ErrRunning,
			Remedy: "somebody started it: switch it off; what it wrote is given up"})
	}
	if in.Operation == dr.OpPlannedFailover || in.Operation == dr.OpFailback {
		return b, canShutDown(in.from.Backend, in.Input)
	}
	return b, nil
}

// unused refuses a run whose ID was used before, in a journal that is lost
// perhaps: the last replication of that time would be found, and pass for the
// present. A store that can't be asked is the matter of the steps that need it.
func (in flow) unused(ctx context.Context, run dr.RunID) error {
	ctx, cancel := context.WithTimeout(ctx, LookTimeout)
	defer cancel()
	name := replication.PointName(dr.StepKey(run, StepSync, false))
	img, err := in.to.Points.Open(ctx, in.From.Machine, name)
	if err != nil {
		return nil
	}
	return errors.Join(img.Close(), dr.Permanent(&dr.Error{Op: "begin", Side: dr.StoreSide, Site: in.To.Site, Machine: in.From.Machine, Point: name, Err: dr.ErrConflict,
		Remedy: "a run of this name has been here before: start it under another"}))
}

// look describes a machine, in bounded time.
func look(ctx context.Context, b backend.Backend, id dr.MachineID) (dr.Machine, error) {
	ctx, cancel := context.WithTimeout(ctx, LookTimeout)
	defer cancel()
	return b.Machine(ctx, id)
}

// lookFrom describes the machine at From. While the company is down, a site
// that didn't answer is not asked by the same step again.
func (in Input) lookFrom(ctx context.Context, b backend.Backend) (dr.Machine, error) {
	m, err := look(ctx, b, in.From.Machine)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("no answer within %s: %w", LookTimeout, err)
		if in.Operation == dr.OpUnplannedFailover {
			err = dr.Permanent(err)
		}
	}
	return m, err
}

// Restore puts the record back to where the flow began, and holds it for the
// run again. It is the undo of steps that record a new state; before these
// have happened it changes nothing. Recovery points made meanwhile stay, and so
// does Last.
func Restore(ctx context.Context, e *replication.Env, c *dr.Call) error {
	var b Begun
	if err := needResult(c, StepBegin, &b); err != nil {
		return err
	}
	_, err := e.Update(ctx, c, b.Record.ID, func(p *dr.Protection) error {
		if p.Run == c.Run {
			return nil // the new state was not recorded
		}
		was := b.Record
		p.State, p.Active, p.Standby, p.Failover = was.State, was.Active, was.Standby, was.Failover
		p.Common, p.Pins, p.Run = was.Common, was.Pins, c.Run
		if was.State == dr.Committed {
			p.Last = was.Last // there was no direction to have points of
		}
		return nil
	})
	if err != nil {
		return err
	}
	return e.Hold(ctx, b.Record.ID)
}

// restore is the undo of finish steps.
func (a actions) restore(ctx context.Context, c *dr.Call, in flow) (any, error) {
	return nil, Restore(ctx, a.e, c)
}

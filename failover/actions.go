package failover

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Actions are the steps of all flows planned here. Register them with the
// orchestrator, together with those of packages replication and failback.
func Actions(e *replication.Env) dr.Actions {
	a := actions{e}
	return dr.Actions{
		"failover.begin@1":    a.begin,
		"failover.shutdown@1": a.shutdown,
		"failover.sync@1":     a.sync,
		"failover.choose@1":   a.choose,
		"failover.prepare@1":  a.prepare,
		"failover.hydrate@1":  a.hydrate,
		"failover.start@1":    a.start,
		"failover.verify@1":   a.verify,
		"failover.measure@1":  a.measure,
		"failover.finish@1":   a.finish,

		"test.begin@1":    a.testBegin,
		"test.finish@1":   a.testFinish,
		"test.cleaning@1": a.testCleaning,
		"test.remove@1":   a.testRemove,
		"test.cleaned@1":  a.testCleaned,

		"change.stop@1":    a.changeStop,
		"change.hydrate@1": a.changeHydrate,
		"change.start@1":   a.changeStart,
		"change.finish@1":  a.changeFinish,

		"commit.seed@1":   a.commitSeed,
		"commit.delete@1": a.commitDelete,
		"commit.remove@1": a.commitRemove,
		"commit.finish@1": a.commitFinish,

		"cancel.restart@1": a.cancelRestart,
		"cancel.finish@1":  a.cancelFinish,
	}
}

type actions struct{ e *replication.Env }

// ReadInput decodes a step's input; callers' own actions may use it.
func ReadInput(c *dr.Call) (Input, error) {
	var in Input
	if err := json.Unmarshal(c.Input, &in); err != nil {
		return in, dr.Permanent(fmt.Errorf("input of step %s: %w", c.Step, err))
	}
	return in, nil
}

// ReadResult decodes the result of an earlier step into v; false if the step
// has none, because the flow lacks it or it was optional and failed.
func ReadResult(c *dr.Call, step string, v any) (bool, error) {
	raw, ok := c.Results[step]
	if !ok || len(raw) == 0 {
		return false, nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return false, dr.Permanent(fmt.Errorf("result of step %s: %w", step, err))
	}
	return true, nil
}

// needResult is ReadResult for steps that can't be missing.
func needResult(c *dr.Call, step string, v any) error {
	ok, err := ReadResult(c, step, v)
	if err == nil && !ok {
		err = dr.Permanent(fmt.Errorf("%w: step %s needs the result of step %s", dr.ErrInvalid, c.Step, step))
	}
	return err
}

// result encodes what a step returns.
func result(v any, err error) (json.RawMessage, error) {
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// sites resolves both ends of a flow.
func (a actions) sites(in Input) (from, to replication.Site, err error) {
	if from, err = a.e.Sites.Site(in.From.Site); err == nil {
		to, err = a.e.Sites.Site(in.To.Site)
	}
	return from, to, err
}

// begun is the result of the first step.
type begun struct {
	// Power is whether the machine ran at From when the flow began: undoing
	// a shutdown starts only what ran.
	Power dr.Power `json:"power,omitempty"`
}

// begin refuses what is not allowed, before anything has happened, and then
// holds replication for the run.
func (a actions) begin(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := ReadInput(c)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		_, err := a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
			if p.Run != c.Run {
				return nil
			}
			p.Run = ""
			if in.During != "" {
				return p.Move(in.Before)
			}
			return nil
		})
		return nil, err
	}
	var b begun
	if b.Power, err = a.preconditions(ctx, in); err != nil {
		return nil, err
	}
	_, err = a.e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
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
	return result(b, a.e.Hold(ctx, in.Protection))
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
	if p.Active != active || p.Standby.Site != standby.Site {
		return dr.Permanent(fmt.Errorf("protection %s: %w: the machine runs as %s at %s, the plan says %s at %s; plan again",
			p.ID, dr.ErrConflict, p.Active.Machine, p.Active.Site, active.Machine, active.Site))
	}
	return nil
}

// preconditions checks what can be known before the first effect, and tells
// whether the machine runs at From ("" where that can't be told).
func (a actions) preconditions(ctx context.Context, in Input) (dr.Power, error) {
	from, _, err := a.sites(in)
	if err != nil {
		return "", err
	}
	if in.Former != nil {
		return "", nil
	}
	m, err := from.Backend.Machine(ctx, in.From.Machine)
	if in.Operation == dr.OpUnplannedFailover {
		return m.Power, nil // whatever the answer: the site may be gone
	}
	if err != nil {
		return "", &dr.Error{Op: "look up the machine", Side: dr.SourceSide, Site: in.From.Site, Machine: in.From.Machine, Err: err,
			Remedy: "a failover without loss needs both sites; use an unplanned failover if this one is lost"}
	}
	if in.Operation == dr.OpPlannedFailover || in.Operation == dr.OpFailback {
		if err := canShutDown(from.Backend, in); err != nil {
			return "", err
		}
	}
	return m.Power, nil
}

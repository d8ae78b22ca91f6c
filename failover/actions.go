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
		"failover.begin@1":    a.step(a.begin),
		"failover.shutdown@1": a.step(a.shutdown),
		"failover.sync@1":     a.step(a.sync),
		"failover.choose@1":   a.step(a.choose),
		"failover.prepare@1":  a.step(a.prepare),
		"failover.hydrate@1":  a.step(a.hydrate),
		"failover.start@1":    a.step(a.start),
		"failover.verify@1":   a.step(a.verify),
		"failover.measure@1":  a.step(a.measure),
		"failover.finish@1":   a.step(a.finish),

		"test.begin@1":    a.step(a.testBegin),
		"test.finish@1":   a.step(a.testFinish),
		"test.cleaning@1": a.step(a.testCleaning),
		"test.remove@1":   a.step(a.testRemove),
		"test.cleaned@1":  a.step(a.testCleaned),

		"change.stop@1":    a.step(a.changeStop),
		"change.hydrate@1": a.step(a.changeHydrate),
		"change.start@1":   a.step(a.changeStart),
		"change.finish@1":  a.step(a.changeFinish),

		"commit.seed@1":   a.step(a.commitSeed),
		"commit.delete@1": a.step(a.commitDelete),
		"commit.remove@1": a.step(a.commitRemove),
		"commit.finish@1": a.step(a.commitFinish),

		"cancel.restart@1": a.step(a.cancelRestart),
		"cancel.finish@1":  a.step(a.cancelFinish),

		"record.restore@1": a.step(a.restore),
	}
}

type actions struct{ e *replication.Env }

// flow is what every step works on: its input, and both ends.
type flow struct {
	Input
	from, to replication.Site
}

// step makes an action of a step's work: what that returns becomes the step's
// result.
func (a actions) step(work func(context.Context, *dr.Call, flow) (any, error)) dr.Action {
	return func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
		in, err := ReadInput(c)
		if err != nil {
			return nil, err
		}
		v, err := work(ctx, c, flow{in, a.site(in.From), a.site(in.To)})
		if err != nil || v == nil {
			return nil, err
		}
		return json.Marshal(v)
	}
}

func (a actions) site(at dr.Place) replication.Site {
	s, err := a.e.Sites.Site(at.Site)
	if err != nil {
		return absentSite(dr.Permanent(err)) // trying again won't make it known
	}
	return s
}

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

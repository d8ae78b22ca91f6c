package failover

import (
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

		"record.restore@1": a.restore,
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

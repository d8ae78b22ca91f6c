package recoveryplan

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// finishInput is that of a run's last step.
type finishInput struct {
	Plan      string          `json:"plan"`
	Flow      string          `json:"flow"`
	Direction Direction       `json:"direction"`
	Objective Objective       `json:"objective,omitzero"`
	Options   Options         `json:"options"`
	Machines  []finishMachine `json:"machines"`
	Checks    []string        `json:"checks,omitempty"`
}

type finishMachine struct {
	Protection dr.ProtectionID `json:"protection"`
	Group      string          `json:"group"`
	Steps      []string        `json:"steps"`
}

// Report is the result of a run's last step, [StepFinish]: what became of each
// machine, in the plan's order. Times are in the run's dr.Status.
type Report struct {
	Plan      string    `json:"plan"`
	Flow      string    `json:"flow"`
	Direction Direction `json:"direction"`
	Objective Objective `json:"objective,omitzero"`
	Notes     string    `json:"notes,omitempty"`
	Machines  []Outcome `json:"machines"`
	// Failed are the scripts, callbacks and health checks, by step, that failed
	// and did not stop the run; NotRun those it was stopped before.
	Failed []string `json:"failed,omitempty"`
	NotRun []string `json:"notRun,omitempty"`
	// Stopped is why the run started nothing more; "": it went to its end.
	Stopped string `json:"stopped,omitempty"`
	// Left are the machines of a drill, by protection, that could not be
	// cleaned up: each still has its test failover.
	Left []dr.ProtectionID `json:"left,omitempty"`
}

// Whole reports whether everything went as it should.
func (r Report) Whole() bool {
	return r.Count(Failed) == 0 && r.Count(NotRun) == 0 && len(r.Failed) == 0 && len(r.NotRun) == 0 && len(r.Left) == 0 && r.Stopped == ""
}

// Count counts the machines that ended so.
func (r Report) Count(s OutcomeState) (n int) {
	for _, m := range r.Machines {
		if m.State == s {
			n++
		}
	}
	return n
}

// ReportOf returns the report of a plan's run that has ended; false if it has
// none, because it failed or was cancelled, or is no plan's.
func ReportOf(s dr.Status) (Report, bool) {
	x, ok := s.Step(StepFinish)
	var r Report
	if !ok || len(x.Result) == 0 || !strings.HasPrefix(s.Flow, Flow("")) || json.Unmarshal(x.Result, &r) != nil {
		return Report{}, false
	}
	return r, true
}

// finish gathers what became of the machines. A run of which nothing succeeded
// has failed.
func (e *Env) finish(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	var in finishInput
	if err := read(c, &in); err != nil {
		return nil, err
	}
	r := Report{Plan: in.Plan, Flow: in.Flow, Direction: in.Direction, Objective: in.Objective, Notes: in.Options.Notes, Stopped: stopped(c)}
	var ids []dr.ProtectionID
	for _, m := range in.Machines {
		o, err := e.outcome(ctx, c, m)
		if err != nil {
			return nil, err
		}
		r.Machines = append(r.Machines, o)
		ids = append(ids, m.Protection)
		if _, cleaned := c.Results[stageClean+"/"+string(m.Protection)]; in.Flow == FlowDrill && !cleaned {
			r.Left = append(r.Left, m.Protection)
		}
	}
	for _, s := range in.Checks {
		var a ActionResult
		ok, err := failover.ReadResult(c, s, &a)
		switch {
		case err != nil:
			return nil, err
		case !ok:
			r.Failed = append(r.Failed, s)
		case a.NotRun != "":
			r.NotRun = append(r.NotRun, s)
		}
	}
	if err := e.unpin(ctx, c.Run, ids); err != nil {
		return nil, err
	}
	if r.Count(Failed) > 0 && r.Count(Done) == 0 && in.Flow != FlowDrill && in.Flow != FlowTest {
		var why []string
		for _, m := range r.Machines {
			if m.State == Failed {
				why = append(why, fmt.Sprintf("%s: %s", m.Protection, m.Why))
			}
		}
		return nil, dr.Permanent(fmt.Errorf("no machine came through: %s", strings.Join(why, "; ")))
	}
	return json.Marshal(r)
}

// outcome is what the last step about a machine came to. Why it failed its own
// run tells.
func (e *Env) outcome(ctx context.Context, c *dr.Call, m finishMachine) (Outcome, error) {
	o := Outcome{Protection: m.Protection, Group: m.Group, State: Failed}
	last := m.Steps[len(m.Steps)-1]
	ok, err := failover.ReadResult(c, last, &o)
	if err != nil || ok && o.State != Failed {
		return o, err
	}
	run := ChildRun(c.Run, m.Protection)
	st, err := e.Runs.Status(ctx, run)
	if err == nil {
		o.Run = run
		if st.Err() != nil {
			o.Why = st.Reason
		}
		return o, nil
	}
	o.Run, o.Why = "", "its run could not be started"
	if own, err := e.Runs.Status(ctx, c.Run); err == nil {
		if s, ok := own.Step(m.Steps[0]); ok && s.Err != "" {
			o.Why = s.Err
		}
	}
	return o, nil
}

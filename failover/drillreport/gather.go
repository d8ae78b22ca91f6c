package drillreport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

// Options of Gather. The zero value works.
type Options struct {
	// Objective replaces that of the plan; zero: the plan's, if the run came to
	// its end and so can tell it.
	Objective recoveryplan.Objective
	// Findings of a dry run before it are kept in the report.
	Findings []recoveryplan.Finding
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Gather reads the report of a plan's run that has ended, or stands as it does,
// from its journal and those of its machines. dr.ErrNotFound: there is no such
// run; dr.ErrInvalid: it is not a plan's.
func Gather(ctx context.Context, runs dr.Orchestrator, run dr.RunID, o Options) (Report, error) {
	st, err := runs.Status(ctx, run)
	if err != nil {
		return Report{}, err
	}
	flow, ok := strings.CutPrefix(st.Flow, recoveryplan.Flow(""))
	if !ok {
		return Report{}, fmt.Errorf("run %s: %w: flow %s is not that of a recovery plan", run, dr.ErrInvalid, st.Flow)
	}
	now := o.Now
	if now == nil {
		now = time.Now
	}
	r := Report{Flow: flow, Run: run, State: st.State, Reason: st.Reason, Started: st.Started, Ended: st.Ended, Written: now(), Findings: o.Findings}
	own, whole := recoveryplan.ReportOf(st)
	outcomes := map[dr.ProtectionID]recoveryplan.Outcome{}
	if whole {
		r.Plan, r.Direction, r.Notes = own.Plan, own.Direction, own.Notes
		if own.Stopped != "" {
			r.Reason = own.Stopped
		}
		for _, m := range own.Machines {
			outcomes[m.Protection] = m
		}
		if o.Objective == (recoveryplan.Objective{}) {
			o.Objective = own.Objective
		}
	}
	for _, id := range recoveryplan.MachinesOf(st) {
		m, err := machine(ctx, runs, st, id, outcomes[id])
		if err != nil {
			return r, err
		}
		r.Machines = append(r.Machines, m)
	}
	r.plan(st)
	r.measure(st, o.Objective)
	r.judge()
	return r, nil
}

// machine is what the machine's run, and the plan's steps about it, tell.
func machine(ctx context.Context, runs dr.Orchestrator, plan dr.Status, id dr.ProtectionID, o recoveryplan.Outcome) (Machine, error) {
	m := Machine{Protection: id, Group: o.Group, State: o.State, Why: o.Why, Run: recoveryplan.ChildRun(plan.Run, id)}
	if c, ok := plan.Step("clean-up/" + string(id)); ok {
		cleaned := c.State == dr.StepDone
		m.Cleaned = &cleaned
	}
	st, err := runs.Status(ctx, m.Run)
	if errors.Is(err, dr.ErrNotFound) {
		m.Run = ""
		if m.State == "" {
			m.State, m.Why = recoveryplan.Failed, "it was not begun"
			if s, ok := plan.Step("open/" + string(id)); ok && s.Err != "" {
				m.Why = s.Err
			}
		}
		return m, nil
	}
	if err != nil {
		return m, err
	}
	if m.State == "" {
		m.State, m.Why = recoveryplan.Failed, st.Reason
		if st.State == dr.RunDone {
			m.Why = "it came up, and was taken back"
		}
	}
	for _, s := range st.Steps {
		m.Steps = append(m.Steps, Step{ID: s.ID, State: s.State, Started: s.Started, Ended: s.Ended, Attempt: s.Attempt, Err: s.Err})
	}
	if s, ok := st.Step(failover.StepVerify); ok {
		m.Up = s.Ended
	}
	var rep failover.Report
	if s, ok := st.Step(failover.StepFinish); ok && len(s.Result) > 0 && json.Unmarshal(s.Result, &rep) == nil && rep.Flow != "" {
		m.took(rep, plan.Started)
	}
	var ev backend.Evidence
	if s, ok := st.Step(failover.StepVerify); ok && json.Unmarshal(s.Result, &ev) == nil && ev.What != "" {
		m.Evidence = &Evidence{Kind: ev.Kind, What: ev.What}
		if isPNG(ev.Data) {
			m.Evidence.PNG = ev.Data
		}
	}
	return m, nil
}

// took takes in the report of the machine's flow.
func (m *Machine) took(rep failover.Report, began time.Time) {
	m.From, m.To, m.Started = rep.From, rep.To, rep.Started
	m.Name = rep.Point.Machine.Name
	m.Point, m.PointTime, m.Consistency, m.Moment = rep.Point.ID, rep.Point.Time, rep.Point.Consistency, rep.Point.Group.ID
	m.Age = max(0, began.Sub(rep.Point.Time))
	if rep.Loss.None {
		m.Age = 0
	}
	if rep.Flow != failover.FlowTest {
		l := rep.Loss
		m.Loss = &l
	}
	m.Copied = rep.Copied.Written
}

// plan takes in what the plan's own steps tell: checks and decisions.
func (r *Report) plan(st dr.Status) {
	for _, s := range st.Steps {
		kind, isCheck := map[string]string{"plan.script@1": "script", "plan.callback@1": "callback", "plan.health@1": "health"}[s.Action]
		switch {
		case isCheck:
			r.Checks = append(r.Checks, check(s, kind))
		case s.Gate != "":
			d := Decision{Step: s.ID, Question: s.Gate, Asked: s.Started}
			var said dr.Decision
			if json.Unmarshal(s.Result, &said) == nil && said.Verdict != "" {
				d.Verdict, d.By, d.Note, d.At = said.Verdict, said.By, said.Note, said.At
			} else {
				d.Note = s.Err
			}
			r.Decisions = append(r.Decisions, d)
		}
	}
}

func check(s dr.StepStatus, kind string) Check {
	c := Check{Step: s.ID, Kind: kind, Err: s.Err}
	var a recoveryplan.ActionResult
	if len(s.Result) > 0 && json.Unmarshal(s.Result, &a) == nil {
		c.NotRun, c.Took, c.Seen = a.NotRun, a.Took, strings.TrimSpace(a.Seen+a.Output)
		if c.Seen == "" && len(a.Value) > 0 {
			c.Seen = string(a.Value)
		}
	}
	c.Passed = s.State == dr.StepDone && c.NotRun == ""
	if c.Passed {
		c.Err = ""
	} else if c.Err == "" && c.NotRun == "" {
		c.NotRun = "the run ended before its turn"
	}
	return c
}

// isPNG looks at the signature: what a platform calls a screenshot is put into
// a page that people open.
func isPNG(b []byte) bool { return strings.HasPrefix(string(b), "\x89PNG\r\n\x1a\n") }

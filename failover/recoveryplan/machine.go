package recoveryplan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// OutcomeState is what became of one machine.
type OutcomeState string

// Outcomes. Waiting is that of a stage behind which others follow.
const (
	Waiting OutcomeState = "waiting" // it came to the next gate
	Done    OutcomeState = "done"
	Failed  OutcomeState = "failed"
	Skipped OutcomeState = "skipped" // it needed not take part
	NotRun  OutcomeState = "not-run" // the run was to stop before its turn
)

// Outcome is what became of one machine: the result of the steps about it.
type Outcome struct {
	Protection dr.ProtectionID `json:"protection"`
	Group      string          `json:"group,omitempty"`
	State      OutcomeState    `json:"state"`
	// Run moved the machine: its status tells every step. "" if there was none.
	Run dr.RunID `json:"run,omitempty"`
	Why string   `json:"why,omitempty"` // of Failed, Skipped and NotRun
	// Report is that of the machine's flow, of Done in flows that bring machines
	// up. What evidence shows (a screen) is left to the machine's run.
	Report *failover.Report `json:"report,omitempty"`
}

// machine takes one machine from one gate to the next. It may be repeated: its
// run is found by name, an answer that was given is given.
func (e *Env) machine(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	var in machineInput
	if err := read(c, &in); err != nil {
		return nil, err
	}
	id := in.Machine.Protection
	run := ChildRun(c.Run, id)
	if c.Undo {
		return nil, e.takeAllBack(ctx, c, in, run)
	}
	o := Outcome{Protection: id, Group: in.Group, Run: run}
	before, err := earlier(c, in)
	if err != nil {
		return nil, err
	}
	if before.State != Waiting {
		return json.Marshal(before) // it has come to its end
	}
	if why := stopped(c); why != "" {
		o.State, o.Why = NotRun, why
		if in.Approve == "" {
			o.Run = ""
			return json.Marshal(o)
		}
		if err := e.takeBack(ctx, c, in, run); err != nil {
			return nil, err
		}
		return json.Marshal(o)
	}
	if in.Approve == "" {
		skip, err := e.open(ctx, c, in, run)
		if err != nil {
			return nil, err
		}
		if skip != "" {
			o.State, o.Why, o.Run = Skipped, skip, ""
			return json.Marshal(o)
		}
	} else if err := e.approve(ctx, c, run, in.Approve); err != nil {
		return nil, err
	}
	st, err := e.await(ctx, c, run, in.Until)
	if err != nil {
		return nil, err
	}
	if !st.State.Ended() {
		o.State = Waiting
		return json.Marshal(o)
	}
	if err := st.Err(); err != nil {
		return nil, dr.Permanent(fmt.Errorf("machine %s: %w", id, err))
	}
	o.State, o.Report = Done, reportOf(st)
	return json.Marshal(o)
}

// earlier is what the stage before came to: Waiting, too, if this is the first.
func earlier(c *dr.Call, in machineInput) (Outcome, error) {
	o := Outcome{Protection: in.Machine.Protection, Group: in.Group, State: Waiting}
	if len(in.Before) == 0 {
		return o, nil
	}
	last := in.Before[len(in.Before)-1]
	ok, err := failover.ReadResult(c, last, &o)
	if err == nil && !ok {
		// It failed, and that was said there.
		o.State, o.Run, o.Why = Failed, ChildRun(c.Run, in.Machine.Protection), "see step "+last
	}
	return o, err
}

// open starts the machine's run, or says why the machine takes no part.
func (e *Env) open(ctx context.Context, c *dr.Call, in machineInput, run dr.RunID) (skip string, err error) {
	_, err = e.Runs.Status(ctx, run)
	if !errors.Is(err, dr.ErrNotFound) {
		return "", err // it was started before
	}
	id := in.Machine.Protection
	r, err := e.Replication.Records.Load(ctx, id)
	if err != nil {
		return "", fmt.Errorf("record of protection %s: %w", id, err)
	}
	if v := judge(r, in); v.skip != "" || v.err != nil {
		return v.skip, v.err
	}
	var b begun
	if _, err := failover.ReadResult(c, StepBegin, &b); err != nil {
		return "", err
	}
	if why, none := b.None[id]; none {
		return "", dr.Permanent(errors.New(why))
	}
	var point *dr.PointID
	if p, ok := b.Points[id]; ok {
		point = &p.ID
	}
	p, err := child(r, in, run, point)
	if err != nil {
		return "", err
	}
	if err := e.Runs.Start(ctx, run, p); err != nil && !errors.Is(err, dr.ErrRunExists) {
		return "", fmt.Errorf("start run %s: %w", run, err)
	}
	return "", nil
}

// approve opens the machine's gate, if it isn't open.
func (e *Env) approve(ctx context.Context, c *dr.Call, run dr.RunID, gate string) error {
	err := e.Runs.Decide(ctx, run, gate, dr.Decision{Verdict: dr.Approve, By: "recovery plan", Note: "run " + string(c.Run)})
	if errors.Is(err, dr.ErrNotFound) || errors.Is(err, dr.ErrConflict) {
		return nil // its run has begun to end, or a person was faster: what waits for it sees how
	}
	return err
}

// await waits until the machine's run waits at the gate or has ended, and tells
// its progress as its own.
func (e *Env) await(ctx context.Context, c *dr.Call, run dr.RunID, gate string) (dr.Status, error) {
	st, err := dr.WaitUntil(ctx, e.Runs, run, func(s dr.Status) bool {
		tell(c, s)
		g, ok := s.Step(gate)
		return gate != "" && ok && g.State == dr.StepWaiting
	})
	if err != nil {
		return st, fmt.Errorf("wait for run %s: %w", run, err)
	}
	return st, nil
}

// tell passes on how far a machine's run is.
func tell(c *dr.Call, s dr.Status) {
	if s.State == dr.RunStuck || s.State == dr.RunWaiting {
		c.Beat(dr.Progress{What: "run " + string(s.Run) + ": " + s.Reason})
		return
	}
	for _, x := range s.Steps {
		if x.State != dr.StepRunning && x.State != dr.StepUndoing {
			continue
		}
		if len(x.Progress) == 0 {
			c.Beat(dr.Progress{What: x.ID})
		}
		for _, p := range x.Progress {
			p.What = strings.TrimSuffix(x.ID+": "+p.What, ": ")
			c.Beat(p)
		}
	}
}

// reportOf is the report that the machine's flow ended with, if it is one that
// brings machines up.
func reportOf(st dr.Status) *failover.Report {
	s, ok := st.Step(failover.StepFinish)
	if _, brings := st.Step(failover.StepStart); !ok || !brings || len(s.Result) == 0 {
		return nil
	}
	var r failover.Report
	if json.Unmarshal(s.Result, &r) != nil || r.Flow == "" {
		return nil
	}
	if r.Evidence != nil {
		seen := *r.Evidence
		seen.Data = nil
		r.Evidence = &seen
	}
	r.Point.Cursors, r.Point.Machine.Config = nil, nil
	r.Copied.Point = dr.Point{ID: r.Copied.Point.ID}
	return &r
}

package drillreport

import (
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

// Report is the evidence of one run of a recovery plan. Its JSON form is
// stable: fields may be added, never changed.
type Report struct {
	Plan      string                 `json:"plan"`
	Flow      string                 `json:"flow"` // as in package recoveryplan: "drill", "planned", ...
	Direction recoveryplan.Direction `json:"direction,omitempty"`
	Run       dr.RunID               `json:"run"`
	State     dr.RunState            `json:"state"`
	Reason    string                 `json:"reason,omitempty"` // why it failed, was cancelled or stopped
	Notes     string                 `json:"notes,omitempty"`
	Started   time.Time              `json:"started,omitzero"`
	Ended     time.Time              `json:"ended,omitzero"`
	Written   time.Time              `json:"written"` // when this report was gathered

	// Passed: everything went as it should, and within the objectives. Failures
	// say why not, a line each.
	Passed   bool     `json:"passed"`
	Failures []string `json:"failures,omitempty"`

	RPO Measure `json:"rpo"` // the oldest point that a machine came up from
	RTO Measure `json:"rto"` // from the run's beginning until the last group was up

	Machines  []Machine  `json:"machines"`
	Checks    []Check    `json:"checks,omitempty"`
	Decisions []Decision `json:"decisions,omitempty"`
	// Findings are those of a dry run before it, if one was given.
	Findings []recoveryplan.Finding `json:"findings,omitempty"`
}

// Measure is a time beside what was promised.
type Measure struct {
	Objective time.Duration `json:"objective,omitempty"` // 0: nothing was promised
	// Got is negative if it could not be measured: then an objective is missed.
	Got     time.Duration   `json:"got"`
	Machine dr.ProtectionID `json:"machine,omitempty"` // whose it is
	Missed  bool            `json:"missed,omitempty"`
}

// Machine is what became of one machine.
type Machine struct {
	Protection dr.ProtectionID           `json:"protection"`
	Name       string                    `json:"name,omitempty"`
	Group      string                    `json:"group,omitempty"`
	State      recoveryplan.OutcomeState `json:"state"`
	Why        string                    `json:"why,omitempty"`
	Run        dr.RunID                  `json:"run,omitempty"`
	From       dr.Place                  `json:"from,omitzero"`
	To         dr.Place                  `json:"to,omitzero"`

	Point       dr.PointID     `json:"point,omitempty"`
	PointTime   time.Time      `json:"pointTime,omitzero"`
	Consistency dr.Consistency `json:"consistency,omitempty"`
	Moment      string         `json:"moment,omitempty"` // the common moment of its replication group
	// Age of the point when the run began. Of a flow that shuts machines down
	// and loses nothing it is 0.
	Age  time.Duration `json:"age"`
	Loss *dr.Loss      `json:"loss,omitempty"`

	Copied   int64     `json:"copied"` // bytes that travelled to its disks
	Started  time.Time `json:"started,omitzero"`
	Up       time.Time `json:"up,omitzero"` // when it had shown that it lives, or had been given the time for it
	Evidence *Evidence `json:"evidence,omitempty"`
	// Cleaned says that what a drill made was removed; nil: it was not to be.
	Cleaned *bool  `json:"cleaned,omitempty"`
	Steps   []Step `json:"steps,omitempty"`
}

// Evidence is what was seen of a machine that lives.
type Evidence struct {
	Kind string `json:"kind"`
	What string `json:"what"`
	PNG  []byte `json:"png,omitempty"` // of a screenshot
}

// Step is one step of a machine's run.
type Step struct {
	ID      string       `json:"id"`
	State   dr.StepState `json:"state"`
	Started time.Time    `json:"started,omitzero"`
	Ended   time.Time    `json:"ended,omitzero"`
	Attempt int          `json:"attempt,omitempty"`
	Err     string       `json:"err,omitempty"`
}

// Check is a script, callback or health check of the plan.
type Check struct {
	Step   string        `json:"step"`
	Kind   string        `json:"kind"` // "script", "callback", "health"
	Passed bool          `json:"passed"`
	NotRun string        `json:"notRun,omitempty"` // the run was stopped before
	Took   time.Duration `json:"took,omitempty"`
	Seen   string        `json:"seen,omitempty"` // what it saw, said or returned
	Err    string        `json:"err,omitempty"`
}

// Decision is what a person said.
type Decision struct {
	Step     string     `json:"step"`
	Question string     `json:"question"`
	Verdict  dr.Verdict `json:"verdict,omitempty"` // "": nobody has answered
	By       string     `json:"by,omitempty"`
	Note     string     `json:"note,omitempty"`
	At       time.Time  `json:"at,omitzero"`
	Asked    time.Time  `json:"asked,omitzero"`
}

// Err is nil for a report that passed, else an error that says why it did not:
// for programs that run drills unattended.
func (r Report) Err() error {
	if r.Passed {
		return nil
	}
	return fmt.Errorf("%s of recovery plan %s, run %s, did not pass: %s", r.Flow, r.Plan, r.Run, joined(r.Failures))
}

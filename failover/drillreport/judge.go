package drillreport

import (
	"fmt"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

// measure finds the oldest point and the time until the last group was up.
func (r *Report) measure(st dr.Status, o recoveryplan.Objective) {
	if !r.brings() {
		o = recoveryplan.Objective{}
	}
	r.RPO = Measure{Objective: time.Duration(o.RPO), Got: -1}
	r.RTO = Measure{Objective: time.Duration(o.RTO), Got: -1}
	up := true
	for _, m := range r.Machines {
		switch m.State {
		case recoveryplan.Skipped:
			continue
		case recoveryplan.Done:
		default:
			up = false
			continue
		}
		if m.Age > r.RPO.Got {
			r.RPO.Got, r.RPO.Machine = m.Age, m.Protection
		}
		if at := m.Up.Sub(r.Started); at > r.RTO.Got {
			r.RTO.Got, r.RTO.Machine = at, m.Protection
		}
	}
	// A group that must be waited for is up when it serves.
	for _, s := range st.Steps {
		if s.Action == "plan.health@1" && s.State == dr.StepDone {
			if at := s.Ended.Sub(r.Started); at > r.RTO.Got && r.RTO.Got >= 0 {
				r.RTO.Got, r.RTO.Machine = at, ""
			}
		}
	}
	if !up {
		r.RTO.Got, r.RTO.Machine = -1, ""
	}
	for _, m := range []*Measure{&r.RPO, &r.RTO} {
		m.Missed = m.Objective > 0 && (m.Got < 0 || m.Got > m.Objective)
	}
}

// judge says whether the run has proved what it was to prove.
func (r *Report) judge() {
	bad := func(format string, args ...any) { r.Failures = append(r.Failures, fmt.Sprintf(format, args...)) }
	switch {
	case !r.State.Ended():
		bad("the run has not ended: it is %s", r.State)
	case r.State != dr.RunDone:
		bad("the run %s: %s", r.State, r.Reason)
	case r.Reason != "":
		bad("the run was stopped: %s", r.Reason)
	}
	for _, m := range r.Machines {
		switch {
		case m.State != recoveryplan.Done && m.State != recoveryplan.Skipped:
			bad("machine %s: %s: %s", m.Protection, m.State, m.Why)
		case m.State == recoveryplan.Done && r.brings() && failedVerify(m):
			bad("machine %s: it gave no sign of life in time", m.Protection)
		}
		if m.Cleaned != nil && !*m.Cleaned {
			bad("machine %s: the drill's machine could not be removed", m.Protection)
		}
	}
	for _, c := range r.Checks {
		switch {
		case c.NotRun != "":
			bad("%s: not run: %s", c.Step, c.NotRun)
		case !c.Passed:
			bad("%s: %s", c.Step, c.Err)
		}
	}
	r.missed("RPO", r.RPO)
	r.missed("RTO", r.RTO)
	r.Passed = len(r.Failures) == 0
}

func (r *Report) missed(name string, m Measure) {
	switch {
	case !m.Missed:
	case m.Got < 0:
		r.Failures = append(r.Failures, fmt.Sprintf("%s: objective %s, and it could not be measured", name, m.Objective))
	default:
		r.Failures = append(r.Failures, fmt.Sprintf("%s: objective %s, got %s%s", name, m.Objective, m.Got.Round(time.Millisecond), whose(m)))
	}
}

func whose(m Measure) string {
	if m.Machine == "" {
		return ""
	}
	return " (" + string(m.Machine) + ")"
}

// brings reports whether the flow brings machines up.
func (r *Report) brings() bool {
	switch r.Flow {
	case recoveryplan.FlowReprotect, recoveryplan.FlowCommit, recoveryplan.FlowCancel, recoveryplan.FlowCleanUp:
		return false
	}
	return true
}

func failedVerify(m Machine) bool {
	for _, s := range m.Steps {
		if s.ID == "verify" {
			return s.State != dr.StepDone
		}
	}
	return false
}

func joined(lines []string) string { return strings.Join(lines, "; ") }

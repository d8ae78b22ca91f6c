package readiness

import "github.com/lifeboat-dr/lifeboat/backend"

// Check is one question and its answer.
type Check struct {
	Code     string   `json:"code"` // stable, for programs: "windows-san-policy"
	Title    string   `json:"title"`
	Severity Severity `json:"severity"`
	Phase    Phase    `json:"phase"`
	Result   Result   `json:"result"`
	Detail   string   `json:"detail,omitempty"` // what was found, or why it can't be told
	Causes   []string `json:"causes,omitempty"` // possible ones, of a check that hasn't passed
	Remedy   string   `json:"remedy,omitempty"`
	Source   string   `json:"source"`         // the section of the article, or what else demands it
	From     string   `json:"from,omitempty"` // how the fact was learnt
}

// Severity is what a check that fails means.
type Severity string

// Severities.
const (
	Blocker Severity = "blocker" // nobody gets in, or the flow fails
	Warning Severity = "warning" // it costs time, or works only in part
	Info    Severity = "info"
)

// Phase is when a check is asked.
type Phase string

// Phases.
const (
	BeforeFailover Phase = "before failover"
	AfterFailover  Phase = "after failover"
	Infrastructure Phase = "failback infrastructure"
)

// Result is a check's answer.
type Result string

// Results. Only Passed is good news.
const (
	Passed        Result = "passed"
	Failed        Result = "failed"
	Unknown       Result = "unknown"
	NotApplicable Result = "not applicable"
)

// Ready tells whether every blocker has passed or doesn't apply. No checks are
// no promise.
func Ready(checks []Check) bool {
	for _, c := range checks {
		if c.Severity == Blocker && c.Result != Passed && c.Result != NotApplicable {
			return false
		}
	}
	return len(checks) > 0
}

// good answers a check for which Yes is good.
func (c Check) good(f backend.Fact, from string) Check {
	c.Detail, c.From = f.Detail, from
	switch f.Answer {
	case backend.Yes:
		c.Result, c.Remedy, c.Causes = Passed, "", nil
	case backend.No:
		c.Result = Failed
	default:
		c.Result = Unknown
		if c.Detail == "" {
			c.Detail = "it could not be told"
		}
	}
	return c
}

// bad answers a check for which Yes is bad.
func (c Check) bad(f backend.Fact, from string) Check {
	switch f.Answer {
	case backend.Yes:
		f.Answer = backend.No
	case backend.No:
		f.Answer = backend.Yes
	}
	return c.good(f, from)
}

func (c Check) none(why string) Check {
	c.Result, c.Detail, c.Remedy, c.Causes = NotApplicable, why, "", nil
	return c
}

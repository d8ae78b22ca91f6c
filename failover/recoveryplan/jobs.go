package recoveryplan

import (
	"net/url"
	"regexp"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/jobs"
	"github.com/lifeboat-dr/lifeboat/failback"
)

// Jobs adds to o what is known of plans' runs and of those of their machines,
// so that a console shows a plan as one tree of jobs: which runs belong below
// which step, what a gate waits for, and that a plan that is done may have
// succeeded in part. What o says itself stays; where it says nothing of a run,
// this does.
func Jobs(o jobs.Options) jobs.Options {
	children, waits, partial, parent := o.Children, o.Waits, o.Partial, o.Parent
	o.Children = func(s dr.Status, x dr.StepStatus) []dr.RunID {
		if isPlan(s) {
			return Children(s, x)
		}
		if children == nil {
			return nil
		}
		return children(s, x)
	}
	o.Waits = func(s dr.Status, x dr.StepStatus) jobs.Wait {
		switch {
		case x.ID == gateDown, x.ID == gateStart, x.ID == failback.StepComplete && parentOf(s) != "":
			return jobs.OtherRuns
		case x.ID == failback.StepComplete:
			return jobs.Completion
		case waits == nil:
			return ""
		}
		return waits(s, x)
	}
	o.Partial = func(s dr.Status) bool {
		if r, ok := ReportOf(s); ok {
			return !r.Whole()
		}
		return partial != nil && partial(s)
	}
	o.Parent = func(s dr.Status) dr.RunID {
		if p := parentOf(s); p != "" || parent == nil {
			return p
		}
		return parent(s)
	}
	return o
}

func isPlan(s dr.Status) bool { return strings.HasPrefix(s.Flow, Flow("")) }

var backRun = regexp.MustCompile(`/back-[0-9]+$`)

// parentOf is the plan's run that drives the machine's, by its name and by what
// it locks.
func parentOf(s dr.Status) dr.RunID {
	if isPlan(s) {
		return ""
	}
	id := backRun.ReplaceAllString(string(s.Run), "")
	for _, lock := range s.Locks {
		m, ok := strings.CutPrefix(lock, dr.ProtectionID("").Lock())
		if !ok {
			continue
		}
		if p, ok := strings.CutSuffix(id, "/"+url.PathEscape(m)); ok {
			return dr.RunID(p)
		}
	}
	return ""
}

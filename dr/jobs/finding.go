package jobs

import (
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/health"
)

// Codes of the health errors of jobs and tasks. A journal keeps errors as
// text: what kind each was is no longer known, and not guessed.
const (
	CodeStepFailed  = "step-failed"  // it is not tried again
	CodeStepRetried = "step-retried" // an attempt failed, another follows
	CodeStepStuck   = "step-stuck"   // it failed past the point of no return
	CodeUndoFailed  = "undo-failed"  // what the step did is still there
	CodeRunFailed   = "run-failed"
	CodeMachineLost = "child-failed" // a run that it drives failed
)

const source = "run"

func stepErrors(s dr.Status, st dr.StepStatus) []health.Error {
	if st.Err == "" {
		return nil
	}
	e := health.Error{
		Source: source, Type: health.Failure, Level: health.Warning, Category: health.Failover, Code: CodeStepFailed,
		Summary: "A step failed", Message: st.Err, Time: st.Ended,
		Entity: health.Entity{Kind: health.KindStep, ID: dr.StepKey(s.Run, st.ID, false), Name: st.ID},
	}
	switch st.State {
	case dr.StepPending, dr.StepRunning, dr.StepUndoing, dr.StepWaiting:
		e.Code, e.Summary = CodeStepRetried, "An attempt failed, and the step is tried again"
		e.RecommendedAction = "Nothing yet: what may pass is tried for minutes."
	case dr.StepStuck:
		e.Code, e.Level, e.Summary = CodeStepStuck, health.Critical, "A step failed past the point of no return"
		e.RecommendedAction = "Remove the cause that the message names, then resume the job: the step is tried again. Or skip the step, if it has been done by hand."
	case dr.StepUndoFailed:
		e.Code, e.Level, e.Summary = CodeUndoFailed, health.Critical, "What a step did could not be taken back"
		e.RecommendedAction = "See what is left of the step, and remove it by hand."
	default:
		e.RecommendedAction = "See the message for the cause; restart the job once it is gone."
	}
	if e.Time.IsZero() {
		e.Time = st.Started
	}
	e.ID = health.ID(e.Code, e.Entity)
	return []health.Error{e}
}

// runErrors says why a job is not well, with its tasks' errors inside.
func runErrors(s dr.Status, j Job) []health.Error {
	e := health.Error{
		Source: source, Type: health.Failure, Level: health.Critical, Category: health.Failover, Time: s.Ended,
		Entity: health.Entity{Kind: health.KindRun, ID: string(s.Run), Name: s.Flow},
	}
	switch {
	case s.State == dr.RunFailed || j.State == Failed:
		e.Code, e.Summary, e.Message = CodeRunFailed, "The job failed", s.Reason
		e.RecommendedAction = "Remove the cause, then restart the job: what it did was taken back as far as the tasks say."
	case s.State == dr.RunStuck:
		e.Code, e.Summary, e.Message = CodeStepStuck, "The job waits for a decision on a step that failed", s.Reason
		e.RecommendedAction = "Remove the cause, then resume the job."
	case j.State == PartiallySucceeded:
		e.Code, e.Level, e.Summary, e.Message = CodeMachineLost, health.Warning, "Some of the machines failed", s.Reason
		e.RecommendedAction = "See the jobs below for those that failed, and restart these."
	default:
		return nil
	}
	failed := 0
	for _, t := range j.Tasks {
		e.Inner = append(e.Inner, t.Errors...)
		for _, c := range t.Jobs {
			if c.Repeated {
				continue
			}
			if c.State == Failed || c.State == Cancelled || c.State == PartiallySucceeded {
				failed++
				e.Inner = append(e.Inner, c.Errors...)
			}
		}
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("%d runs that it drives did not succeed", failed)
	}
	e.ID = health.ID(e.Code, e.Entity)
	return []health.Error{e}
}

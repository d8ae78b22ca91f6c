package jobs

import "github.com/lifeboat-dr/lifeboat/dr"

// State is where a job or a task is.
type State string

// States, as those of Azure Site Recovery's jobs.
const (
	NotStarted State = "NotStarted"
	InProgress State = "InProgress"
	Waiting    State = "Waiting" // for a person; see Wait
	Completed  State = "Completed"
	// CompletedWithInformation: done, but something optional failed or was
	// left out, which a person should know.
	CompletedWithInformation State = "CompletedWithInformation"
	// PartiallySucceeded: done for some of the machines that it was about.
	PartiallySucceeded State = "PartiallySucceeded"
	Failed             State = "Failed" // and taken back as far as it could be
	Cancelling         State = "Cancelling"
	Cancelled          State = "Cancelled" // and taken back as far as it could be
)

// Ended reports whether nothing more will happen by itself or by an answer.
func (s State) Ended() bool {
	switch s {
	case Completed, CompletedWithInformation, PartiallySucceeded, Failed, Cancelled:
		return true
	}
	return false
}

// Wait is what a job or task in state Waiting waits for.
type Wait string

// What is waited for.
const (
	ManualAction Wait = "manual action" // a gate's answer, or a decision on a step that is stuck
	CleanUp      Wait = "clean-up"      // of the test failover that it brought up
	// OtherRuns: a gate that no person is meant to answer, but the run which
	// drives this one, as where the machines of a recovery plan wait for each
	// other. It is InProgress.
	OtherRuns  Wait = "other runs"
	Completion Wait = "completion" // of what a person completes: a failover's commit, a failback's second phase
)

// stepStates is what a task's state is. A step that is being undone or was
// undone is cancelled, whatever made the run go back.
var stepStates = map[dr.StepState]State{
	dr.StepPending:    NotStarted,
	dr.StepRunning:    InProgress,
	dr.StepWaiting:    Waiting,
	dr.StepDone:       Completed,
	dr.StepFailed:     Failed,
	dr.StepSkipped:    CompletedWithInformation,
	dr.StepStuck:      Waiting,
	dr.StepUndoing:    Cancelling,
	dr.StepUndone:     Cancelled,
	dr.StepUndoFailed: Failed,
}

// runState is what a job's state is, by its run alone.
func runState(s dr.Status) State {
	switch s.State {
	case dr.RunRunning:
		for _, st := range s.Steps {
			if st.State != dr.StepPending {
				return InProgress
			}
		}
		return NotStarted
	case dr.RunWaiting, dr.RunStuck:
		return Waiting
	case dr.RunUndoing:
		if s.Ending == dr.RunCancelled {
			return Cancelling
		}
		return InProgress // going back because a step failed
	case dr.RunDone:
		for _, st := range s.Steps {
			if st.State == dr.StepFailed || st.State == dr.StepSkipped {
				return CompletedWithInformation
			}
		}
		return Completed
	case dr.RunFailed:
		return Failed
	case dr.RunCancelled:
		return Cancelled
	}
	return InProgress
}

// overChildren is what becomes of a job that has ended well by its run alone,
// when what its children came to is known.
func overChildren(own State, children []Job) (State, Wait) {
	var failed, partly, told, open int
	var wait Wait
	n := 0
	for _, c := range children {
		if c.Repeated {
			continue
		}
		n++
		switch c.State {
		case Failed, Cancelled:
			failed++
		case PartiallySucceeded:
			partly++
		case CompletedWithInformation:
			told++
		case Waiting:
			wait = c.Waits
		case NotStarted, InProgress, Cancelling:
			open++
		}
	}
	switch {
	case n > 0 && failed == n:
		return Failed, ""
	case open > 0: // started, and not waited for
		return InProgress, ""
	case wait != "":
		return Waiting, wait
	case failed > 0, partly > 0:
		return PartiallySucceeded, ""
	case told > 0:
		return CompletedWithInformation, ""
	}
	return own, ""
}

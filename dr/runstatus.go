package dr

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Status tells where the run is, without the progress of its steps, which is
// in no journal.
func (r *Run) Status() Status {
	s := Status{Run: r.id, Flow: r.plan.Flow, Started: r.started, Ended: r.ended, Reason: r.reason,
		Ending: r.ending, Locks: slices.Clone(r.plan.Locks), Steps: make([]StepStatus, len(r.steps))}
	undo := r.toUndo()
	var waiting, stuck []string
	busy := false
	for i := range r.steps {
		x, st := &r.steps[i], r.plan.Steps[i]
		y := StepStatus{ID: st.ID, Action: st.Action, Gate: st.Gate, Queue: st.Queue, State: x.state, Attempt: x.do.begun,
			Started: x.started, Ended: x.ended, Err: x.err, Result: x.result}
		if x.undo.begun > 0 {
			y.Attempt = x.undo.begun
		}
		switch {
		case i == undo && x.undo.begun > 0:
			y.State = StepUndoing
		case x.state == StepRunning && r.ending != "" && !x.do.open:
			y.State = StepFailed // it was between two attempts when the run began to end
		case x.state == StepStuck && r.ending != "":
			y.State = StepFailed // another step was given up
		case x.state == StepWaiting && r.ending != "":
			y.State = StepPending // it can't be answered any more
		case x.state == StepWaiting:
			waiting = append(waiting, st.Gate)
		case x.state == StepStuck:
			stuck = append(stuck, "step "+st.ID+": "+x.err)
		}
		busy = busy || r.ending == "" && r.wantsDo(i)
		if x.undoErr != "" && y.State != StepUndone {
			y.Err = x.undoErr
		}
		s.Steps[i] = y
	}
	switch {
	case r.released:
		s.State = r.ending
	case r.ending != "":
		s.State = RunUndoing
	case len(stuck) > 0:
		s.State, s.Reason = RunStuck, strings.Join(stuck, "; ")
	case len(waiting) > 0 && !busy:
		s.State, s.Reason = RunWaiting, "waiting for a decision: "+strings.Join(waiting, "; ")
	default:
		s.State = RunRunning
	}
	return s
}

// Decide returns the event that records the answer d to the gate or stuck
// step, or nil if the same verdict was given before and nothing is to be
// recorded. d.At is set to at. Errors are those of [Orchestrator.Decide];
// beyond them, ErrInvalid for an answer without By or with a verdict that
// doesn't fit, and ErrNotAllowed for a Reject past the point of no return.
func (r *Run) Decide(step string, d Decision, at time.Time) (*Event, error) {
	i, ok := r.index[step]
	if !ok {
		return nil, fmt.Errorf("run %s has no step %q: %w", r.id, step, ErrNotFound)
	}
	if d.By == "" {
		return nil, fmt.Errorf("run %s: decision on %s: %w: it must say by whom", r.id, step, ErrInvalid)
	}
	d.At = at
	err := r.allowed(i, d)
	if old := r.steps[i].answer; err != nil && old != nil && !r.waits(i) {
		if old.Verdict == d.Verdict {
			return nil, nil
		}
		return nil, fmt.Errorf("run %s: %s: %w: %s by %s at %s", r.id, step, ErrConflict, old.Verdict, old.By, old.At.Format(time.RFC3339))
	}
	if err != nil {
		return nil, fmt.Errorf("run %s: %s: %w", r.id, step, err)
	}
	return &Event{Kind: EventDecided, At: at, Step: step, Decision: &d}, nil
}

// waits reports whether somebody's decision on the step is awaited.
func (r *Run) waits(i int) bool {
	s := r.steps[i].state
	return r.ending == "" && !r.released && (s == StepWaiting || s == StepStuck)
}

func (r *Run) allowed(i int, d Decision) error {
	if !r.waits(i) {
		return fmt.Errorf("no decision on it is awaited: %w", ErrNotFound)
	}
	fits := d.Verdict == Approve || d.Verdict == Reject
	if r.steps[i].state == StepStuck {
		fits = d.Verdict == Retry || d.Verdict == Skip || d.Verdict == GiveUp
	}
	switch {
	case !fits:
		return fmt.Errorf("%w: verdict %q doesn't answer a step that is %s", ErrInvalid, d.Verdict, r.steps[i].state)
	case d.Verdict == Reject && r.forward:
		return fmt.Errorf("%w: the point of no return is past, so the run can't be cancelled", ErrNotAllowed)
	}
	return nil
}

// Cancel returns the event that cancels the run, or nil if that would change
// nothing. Asked of a run that is ending already it stops what is still being
// waited for: a step, or an attempt to undo one, which is tried again.
// ErrNotAllowed as in [Orchestrator.Cancel].
func (r *Run) Cancel(why string, at time.Time) (*Event, error) {
	switch {
	case r.released:
		return nil, fmt.Errorf("run %s: cancel: %w: it has ended: %s", r.id, ErrNotAllowed, r.ending)
	case r.forward:
		return nil, fmt.Errorf("run %s: cancel: %w: the point of no return is past", r.id, ErrNotAllowed)
	case r.ending != "":
		running := false
		for i := range r.steps {
			for _, t := range []tries{r.steps[i].do, r.steps[i].undo} {
				running = running || t.open && !t.stop
			}
		}
		if !running {
			return nil, nil
		}
	}
	return &Event{Kind: EventCancelled, At: at, Err: clip(why)}, nil
}

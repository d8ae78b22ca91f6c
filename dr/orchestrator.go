package dr

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"
)

// RunID names one run of a plan. Choose it so that asking again for the same
// thing asks for the same run: Start is then safe to repeat. Never use one for
// another thing, in another journal either: what the steps of a run make is
// known by names that are derived from it ([StepKey]).
type RunID string

// Orchestrator makes runs durable. What it promises, whatever the engine:
//
//   - A step's end is journaled before anything that comes after it starts.
//   - Steps happen at least once; effects once, because actions are
//     idempotent under Call.Key.
//   - A run that was open when its process died goes on when a process
//     serves again; it is never marked failed for that.
//   - A failed step is undone together with all steps before it, last first,
//     unless a NoReturn step has started: then the run is Stuck until a
//     person decides ([Retry], [Skip], [GiveUp] on the step's ID).
//   - One resource, one run: claims are held from before the first step to
//     behind the last.
//
// All methods are safe for concurrent use.
type Orchestrator interface {
	// Start records the run and claims its locks, then returns; the steps
	// are run by whoever serves. ErrRunExists: there is such a run already.
	// ErrBusy: a lock is held by another run, which the error names.
	Start(ctx context.Context, run RunID, p Plan) error

	// Decide answers a gate, or a stuck step; both are named by their step's
	// ID. ErrNotFound: nothing of that name waits. The first answer counts:
	// ErrConflict for a later, different one.
	Decide(ctx context.Context, run RunID, step string, d Decision) error

	// Cancel stops the run: what runs is stopped and settled, then undone.
	// Asked again it stops what the run still waits for: an undo that hangs is
	// stopped, and tried again, which doesn't count as a failure.
	// ErrNotAllowed after a NoReturn step has started or the run has ended.
	Cancel(ctx context.Context, run RunID, why string) error

	// Status tells where the run is. ErrNotFound: no such run.
	Status(ctx context.Context, run RunID) (Status, error)

	// Serve runs the steps of open and new runs until ctx ends, and returns
	// ctx's error then; any other error means that it cannot go on. It
	// refuses to begin while an open run needs an action that a does not
	// have. With queues, only steps of these and of queue "" are run.
	Serve(ctx context.Context, a Actions, queues ...string) error
}

// Watcher is an ability of orchestrators.
type Watcher interface {
	// Watch yields the run's status now and whenever it has changed, ends
	// after one in which the run has ended. Changes that come faster than
	// the caller takes them are left out, the last never is.
	Watch(ctx context.Context, run RunID) iter.Seq2[Status, error]
}

// RunLister is an ability of orchestrators.
type RunLister interface {
	// Runs yields all runs that the journal knows, oldest first.
	Runs(ctx context.Context) iter.Seq2[Status, error]
}

// OpenRunLister is an ability of orchestrators that find the runs which haven't
// ended without reading those that have. Status tells how each is.
type OpenRunLister interface {
	// OpenRuns yields the runs that haven't ended, oldest first. One that has
	// ended a moment ago may still be among them.
	OpenRuns(ctx context.Context) iter.Seq2[RunID, error]
}

// Wait watches a run until it has ended, calling each (which may be nil) with
// every status seen, and returns the last. With an engine that can't Watch it
// asks four times a second.
func Wait(ctx context.Context, o Orchestrator, run RunID, each func(Status)) (Status, error) {
	return WaitUntil(ctx, o, run, func(s Status) bool {
		if each != nil {
			each(s)
		}
		return false
	})
}

// WaitUntil is Wait that also returns when enough says so of a status.
func WaitUntil(ctx context.Context, o Orchestrator, run RunID, enough func(Status) bool) (Status, error) {
	var last Status
	see := func(s Status) bool {
		last = s
		return enough(s) || s.State.Ended()
	}
	if w, ok := As[Watcher](o); ok {
		for s, err := range w.Watch(ctx, run) {
			if err != nil {
				return last, err
			}
			if see(s) {
				return last, nil
			}
		}
		return last, fmt.Errorf("watch of run %s ended before the run", run)
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := o.Status(ctx, run)
		if err != nil {
			return last, err
		}
		if see(s) {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-tick.C:
		}
	}
}

// Decision is a person's answer.
type Decision struct {
	Verdict Verdict   `json:"verdict"`
	By      string    `json:"by"` // who decided; required
	Note    string    `json:"note,omitempty"`
	At      time.Time `json:"at,omitzero"` // set by the engine
}

// Verdict is what was decided.
type Verdict string

// Verdicts. Approve and Reject answer gates; the others answer stuck steps.
const (
	Approve Verdict = "approve"
	Reject  Verdict = "reject" // cancels the run, which is undone
	Retry   Verdict = "retry"
	Skip    Verdict = "skip"    // take the step as done, without a result
	GiveUp  Verdict = "give-up" // end the run as failed, as it stands
)

// RunState is where a run is.
type RunState string

// Run states.
const (
	RunRunning   RunState = "running"
	RunWaiting   RunState = "waiting" // for a decision; nothing else can go on
	RunUndoing   RunState = "undoing"
	RunStuck     RunState = "stuck" // failed after the point of no return: needs an operator
	RunDone      RunState = "done"
	RunFailed    RunState = "failed"    // and undone as far as it could be
	RunCancelled RunState = "cancelled" // and undone as far as it could be
)

// Ended reports whether nothing more will happen.
func (s RunState) Ended() bool { return s == RunDone || s == RunFailed || s == RunCancelled }

// StepState is where a step is.
type StepState string

// Step states.
const (
	StepPending StepState = "pending"
	StepRunning StepState = "running"
	StepWaiting StepState = "waiting" // a gate that can be answered
	StepDone    StepState = "done"
	StepFailed  StepState = "failed"
	StepSkipped StepState = "skipped"
	StepStuck   StepState = "stuck"
	StepUndoing StepState = "undoing"
	StepUndone  StepState = "undone"
	// StepUndoFailed: undoing failed; what the step did is still there.
	StepUndoFailed StepState = "undo-failed"
)

// Status is a run as it stands, as a value for consoles.
type Status struct {
	Run     RunID        `json:"run"`
	Flow    string       `json:"flow"`
	State   RunState     `json:"state"`
	Reason  string       `json:"reason,omitempty"` // why it failed, was cancelled, or waits
	Ending  RunState     `json:"ending,omitempty"` // what it has ended as, or will have once it is undone
	Locks   []string     `json:"locks,omitempty"`  // the plan's: what the run is about
	Started time.Time    `json:"started,omitzero"`
	Ended   time.Time    `json:"ended,omitzero"`
	Steps   []StepStatus `json:"steps"` // in the plan's order
}

// Step looks up a step's status by ID.
func (s Status) Step(id string) (StepStatus, bool) {
	for _, st := range s.Steps {
		if st.ID == id {
			return st, true
		}
	}
	return StepStatus{}, false
}

// Err returns nil for a run that is done or still open, else an error that
// says how it ended.
func (s Status) Err() error {
	if s.State != RunFailed && s.State != RunCancelled {
		return nil
	}
	return fmt.Errorf("run %s (%s) %s: %s", s.Run, s.Flow, s.State, s.Reason)
}

// StepStatus is one step as it stands.
type StepStatus struct {
	ID       string          `json:"id"`
	Action   string          `json:"action,omitempty"`
	Gate     string          `json:"gate,omitempty"`
	State    StepState       `json:"state"`
	Attempt  int             `json:"attempt,omitempty"`
	Started  time.Time       `json:"started,omitzero"`
	Ended    time.Time       `json:"ended,omitzero"`
	Err      string          `json:"err,omitempty"` // the last attempt's failure
	Result   json.RawMessage `json:"result,omitempty"`
	Progress []Progress      `json:"progress,omitempty"` // the latest of each disk
	Queue    string          `json:"queue,omitempty"`    // which site's workers run it; "" any
	// Awaits is since when its next attempt waits for one of those workers to
	// take it up: all are busy, or none is there. Zero: it doesn't, or its
	// engine can't tell.
	Awaits time.Time `json:"awaits,omitzero"`
}

// Claims keeps two runs, whatever their engines, off one resource. It belongs
// beside the recovery site, where it can be reached when it is needed.
type Claims interface {
	// Acquire claims the resource for the owner and returns a fencing epoch,
	// higher than any given for this resource before, and as [NextEpoch] says,
	// so that it is also higher than those of claims that were lost. An owner
	// that holds it gets the same epoch again. ErrBusy, naming the holder, if
	// another does.
	Acquire(ctx context.Context, resource, owner string) (epoch uint64, err error)
	// Release gives the claim back; one not held by the owner stays as it is.
	Release(ctx context.Context, resource, owner string) error
}

// Records keeps protections.
type Records interface {
	// Load returns the record. ErrNotFound if there is none.
	Load(ctx context.Context, id ProtectionID) (Protection, error)
	// Save stores p if the stored Version is still p.Version (0: there is
	// none yet) and returns it with the new Version; else ErrConflict. An
	// Epoch below the stored one is ErrFenced.
	Save(ctx context.Context, p Protection) (Protection, error)
}

// RecordLister is an ability of Records.
type RecordLister interface {
	// Protections yields all records, ordered by ID.
	Protections(ctx context.Context) iter.Seq2[Protection, error]
}

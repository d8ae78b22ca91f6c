package jobs

import (
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/health"
)

// Job is a run as a console shows it.
type Job struct {
	ID          dr.RunID          `json:"id"`
	Parent      dr.RunID          `json:"parent,omitempty"` // the run that drives it
	Flow        string            `json:"flow,omitempty"`
	Protections []dr.ProtectionID `json:"protections,omitempty"` // that its own run holds, in order
	State       State             `json:"state"`
	Waits       Wait              `json:"waits,omitempty"`  // of state Waiting
	Reason      string            `json:"reason,omitempty"` // why it failed, was cancelled, or waits
	Started     time.Time         `json:"started,omitzero"`
	Ended       time.Time         `json:"ended,omitzero"`
	Took        time.Duration     `json:"took,omitempty"` // till its end, or till now
	Progress    Progress          `json:"progress"`
	// Controls are what may be asked of it now. Whether its run is past the
	// point of no return is told only by asking: Cancel is then refused.
	Controls []Control      `json:"controls,omitempty"`
	Tasks    []Task         `json:"tasks,omitempty"` // in the plan's order
	Errors   []health.Error `json:"errors,omitempty"`
	// Missing says that there is no such run: it has not been started yet, or
	// was purged. The state is then that of the task which drives it.
	Missing bool `json:"missing,omitempty"`
	// Repeated says that an earlier task drives the run too, and shows its
	// job whole: here are only its ID and state.
	Repeated bool `json:"repeated,omitempty"`
}

// Task is one step of a job.
type Task struct {
	ID       string         `json:"id"`
	Name     string         `json:"name"` // its action, or the question that its gate asks
	State    State          `json:"state"`
	Waits    Wait           `json:"waits,omitempty"`
	Started  time.Time      `json:"started,omitzero"`
	Ended    time.Time      `json:"ended,omitzero"`
	Took     time.Duration  `json:"took,omitempty"`
	Attempts int            `json:"attempts,omitempty"`
	Disks    []dr.Progress  `json:"disks,omitempty"` // the latest of each disk, while it runs
	Errors   []health.Error `json:"errors,omitempty"`
	Jobs     []Job          `json:"jobs,omitempty"` // of the runs that it drives
}

// Control is something that can be asked of a job.
type Control string

// Controls.
const (
	MayCancel  Control = "cancel"
	MayResume  Control = "resume"
	MayRestart Control = "restart"
)

// Options say what else is known of runs. The zero value is of use. Functions
// must be safe for the use that callers make of them, and pure where Of is to be.
type Options struct {
	// Now is the present, for what has not ended. Zero: durations of what is
	// open are 0 in Of; Load and List take the time of day.
	Now time.Time
	// Children names the runs that a step drives, in order, whether they have
	// been started or not. Several steps may drive one run. Nil: none.
	Children func(dr.Status, dr.StepStatus) []dr.RunID
	// Child looks up the status of a run that Children named. Load and List
	// ask the orchestrator.
	Child func(dr.RunID) (dr.Status, bool)
	// Parent names the run that drives this one, "" if none does.
	Parent func(dr.Status) dr.RunID
	// Partial says that a run which is done did what it should for some of
	// its machines only. What children tell by themselves needs no Partial.
	Partial func(dr.Status) bool
	// Record looks up a protection's record: a test failover waits for
	// clean-up, and a failover for completion, while the record says so.
	Record func(dr.ProtectionID) (dr.Protection, bool)
	// Waits says what a gate waits for; nil, or "": a manual action.
	// OtherRuns for one that the run answers which drives this one.
	Waits func(dr.Status, dr.StepStatus) Wait
	// Name gives a task a name for people; nil, or "": action or gate.
	Name func(dr.Status, dr.StepStatus) string
}

// maxDepth of jobs below jobs. Plans of machines need two.
const maxDepth = 8

// Of makes a job of a run's status. It is pure if o's functions are.
func Of(s dr.Status, o Options) Job {
	return tree{o, map[dr.RunID]Job{}}.job(s, nil)
}

// tree is being made: seen are the jobs in it, without their tasks.
type tree struct {
	Options
	seen map[dr.RunID]Job
}

// job makes a job below those of the path.
func (o tree) job(s dr.Status, path []dr.RunID) Job {
	path = append(path[:len(path):len(path)], s.Run)
	j := Job{ID: s.Run, Flow: s.Flow, State: runState(s), Reason: s.Reason, Started: s.Started, Ended: s.Ended,
		Took: o.took(s.Started, s.Ended), Tasks: make([]Task, len(s.Steps))}
	if o.Parent != nil {
		j.Parent = o.Parent(s)
	}
	if len(path) > 1 {
		j.Parent = path[len(path)-2]
	}
	for _, lock := range s.Locks {
		if id, ok := strings.CutPrefix(lock, dr.ProtectionID("").Lock()); ok {
			j.Protections = append(j.Protections, dr.ProtectionID(id))
		}
	}
	slices.Sort(j.Protections)
	var children []Job
	for i, st := range s.Steps {
		j.Tasks[i] = o.task(s, st, path)
		children = append(children, j.Tasks[i].Jobs...)
	}
	j.state(s, children, o.Options)
	j.Progress = progressOf(j.Tasks)
	j.Errors = runErrors(s, j)
	j.controls(s)
	o.seen[j.ID] = Job{ID: j.ID, Parent: j.Parent, Flow: j.Flow, State: j.State, Waits: j.Waits, Started: j.Started, Ended: j.Ended, Took: j.Took, Repeated: true}
	return j
}

// state settles what the run alone can't tell.
func (j *Job) state(s dr.Status, children []Job, o Options) {
	switch j.State {
	case Waiting:
		j.Waits = ManualAction
		for _, t := range j.Tasks {
			if t.State == Waiting {
				j.Waits = t.Waits
				return
			}
			if t.Waits == OtherRuns {
				j.Waits = OtherRuns
			}
		}
		if j.Waits == OtherRuns {
			j.State = InProgress
		}
	case Completed, CompletedWithInformation:
		if w := o.awaits(s, j.Protections); w != "" {
			j.State, j.Waits = Waiting, w
			return
		}
		j.State, j.Waits = overChildren(j.State, children)
		if j.State.Ended() && j.State != Failed && o.Partial != nil && o.Partial(s) {
			j.State = PartiallySucceeded
		}
	}
}

// awaits tells what a run that is done still asks of a person.
func (o Options) awaits(s dr.Status, about []dr.ProtectionID) Wait {
	if o.Record == nil {
		return ""
	}
	for _, id := range about {
		p, ok := o.Record(id)
		switch {
		case !ok:
		case p.Test != nil && p.Test.Run == s.Run:
			return CleanUp
		case p.State == dr.FailedOver && p.Failover != nil && p.Failover.Run == s.Run:
			return Completion
		}
	}
	return ""
}

func (o tree) task(s dr.Status, st dr.StepStatus, path []dr.RunID) Task {
	t := Task{ID: st.ID, Name: st.Action, State: stepStates[st.State], Started: st.Started, Ended: st.Ended,
		Took: o.took(st.Started, st.Ended), Attempts: st.Attempt, Disks: st.Progress, Errors: stepErrors(s, st)}
	if t.State == "" {
		t.State = InProgress // a state of a later revision
	}
	if st.Gate != "" {
		t.Name = st.Gate
	}
	if o.Name != nil {
		if n := o.Name(s, st); n != "" {
			t.Name = n
		}
	}
	if t.State == Waiting {
		t.Waits = ManualAction
		if o.Waits != nil && st.State == dr.StepWaiting {
			if w := o.Waits(s, st); w != "" {
				t.Waits = w
			}
			if t.Waits == OtherRuns {
				t.State = InProgress
			}
		}
	}
	if o.Children == nil {
		return t
	}
	for _, id := range o.Children(s, st) {
		t.Jobs = append(t.Jobs, o.child(id, t, path))
	}
	return t
}

// child follows a run that a task drives. One that is above itself is not
// followed: no run waits for itself, so what named it is wrong.
func (o tree) child(id dr.RunID, t Task, path []dr.RunID) Job {
	if j, again := o.seen[id]; again {
		return j
	}
	if o.Child != nil && len(path) < maxDepth && !slices.Contains(path, id) {
		if s, ok := o.Child(id); ok {
			return o.job(s, path)
		}
	}
	return Job{ID: id, Parent: path[len(path)-1], State: t.State, Waits: t.Waits, Missing: true}
}

func (j *Job) controls(s dr.Status) {
	switch s.State {
	case dr.RunRunning:
		j.Controls = []Control{MayCancel}
	case dr.RunWaiting:
		j.Controls = []Control{MayCancel}
		if j.State == Waiting { // else it goes on by itself
			j.Controls = append(j.Controls, MayResume)
		}
	case dr.RunStuck:
		j.Controls = []Control{MayResume}
	case dr.RunFailed, dr.RunCancelled:
		j.Controls = []Control{MayRestart}
	}
}

func (o Options) took(from, to time.Time) time.Duration {
	if to.IsZero() {
		to = o.Now
	}
	if from.IsZero() || to.Before(from) {
		return 0
	}
	return to.Sub(from)
}

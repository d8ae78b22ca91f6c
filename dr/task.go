package dr

import (
	"fmt"
	"time"
)

// Task is something that should be in hand: being waited for, or being done.
type Task struct {
	Kind TaskKind
	Step Step // of TaskDo, TaskUndo and TaskGate
	// Attempt is the number of the attempt that is under way or, if none is,
	// that is to be begun; Open tells which. An open one that the engine
	// doesn't have in hand was lost in a crash: it is begun again, under the
	// next number.
	Attempt int
	Open    bool
	// Failed counts the failures before this attempt: the longer it is the
	// longer an engine should wait before it begins it.
	Failed int
	// Stop: the attempt's context is to be cancelled, and its end awaited. It
	// says nothing to an engine that doesn't have it in hand.
	Stop bool
	// Opened and Deadline are of gates: zero before it was opened, and where
	// there is no deadline.
	Opened, Deadline time.Time

	dying int
}

// TaskKind says what is to be done.
type TaskKind string

// Kinds of tasks.
const (
	TaskClaim   TaskKind = "claim"   // claim the plan's locks: EventClaimed or EventRefused
	TaskDo      TaskKind = "do"      // call the step's action: Task.Begin, then Task.End
	TaskUndo    TaskKind = "undo"    // call the step's undo: likewise
	TaskGate    TaskKind = "gate"    // EventOpened, if Opened is zero; then wait for a decision until Deadline: EventExpired
	TaskRelease TaskKind = "release" // give all claims back: EventReleased
)

// Next tells what should be in hand now, in the plan's order: what is there
// already, and what is to be begun. It changes nothing, and yields nothing
// when the run has ended or only a decision on a stuck step is awaited.
func (r *Run) Next() []Task {
	if r.released {
		return nil
	}
	if r.ending != "" {
		return r.nextEnding()
	}
	if !r.claimed {
		return []Task{{Kind: TaskClaim}}
	}
	var tasks []Task
	left := false
	for i := range r.steps {
		left = left || !r.passed(i)
		switch st := r.plan.Steps[i]; {
		case r.wantsDo(i):
			tasks = append(tasks, r.task(TaskDo, i))
		case st.Gate == "":
		case r.steps[i].state == StepWaiting, r.steps[i].state == StepPending && r.ready(i):
			tasks = append(tasks, r.gate(i))
		}
	}
	if !left {
		tasks = append(tasks, Task{Kind: TaskRelease})
	}
	return tasks
}

// nextEnding waits for what runs, then undoes one step after the other.
func (r *Run) nextEnding() []Task {
	var tasks []Task
	for i := range r.steps {
		if r.wantsDo(i) {
			tasks = append(tasks, r.task(TaskDo, i))
		}
	}
	if len(tasks) > 0 {
		return tasks
	}
	if i := r.toUndo(); i >= 0 {
		return []Task{r.task(TaskUndo, i)}
	}
	return []Task{{Kind: TaskRelease}}
}

func (r *Run) task(k TaskKind, i int) Task {
	t := r.steps[i].do
	if k == TaskUndo {
		t = r.steps[i].undo
	}
	n := t.begun
	if !t.open {
		n++
	}
	return Task{Kind: k, Step: r.plan.Steps[i], Attempt: n, Open: t.open, Failed: t.failed, Stop: t.stop, dying: t.dying()}
}

func (r *Run) gate(i int) Task {
	t := Task{Kind: TaskGate, Step: r.plan.Steps[i]}
	if s := &r.steps[i]; s.state == StepWaiting {
		t.Opened = s.opened
		if t.Step.Timeout > 0 {
			t.Deadline = s.opened.Add(t.Step.Timeout)
		}
	}
	return t
}

// Suspect reports whether the task's action was under way in so many deaths of
// the process, one after the other, that it may be what kills it, or may be
// taken for that only because it ran beside what does. An engine lets suspects
// run one after the other, in no fixed order, at least for their first while:
// so the innocent come to an end, and the guilty reach the limit alone.
func (t Task) Suspect() bool { return t.dying >= maxLost/2 }

// Begin returns the event to journal before the action of a TaskDo or
// TaskUndo is called: EventBegun, with the number of the attempt to run, or
// EventFailed if the action must not be called again because it took the
// process with it too often.
func (t Task) Begin(at time.Time) Event {
	e := Event{Kind: EventBegun, At: at, Step: t.Step.ID, Undo: t.Kind == TaskUndo, Attempt: t.Attempt}
	switch {
	case !t.Open:
	case t.dying >= maxLost:
		e.Kind, e.Final = EventFailed, true
		e.Err = fmt.Sprintf("the process died in each of the last %d attempts; the action may be what kills it", t.dying)
	default:
		e.Attempt++
	}
	return e
}

// Workers is what is known of a site's workers when none has taken an attempt up.
type Workers int

const (
	NoWorkers     Workers = iota // nobody answers
	BusyWorkers                  // they are there, and have no place for it
	UnableWorkers                // they are there, and lack its action
)

// Lapse returns the events to journal, all at once, when no worker has taken an
// attempt up within the step's Patience, or, where there are some, within what
// was waited for them: it counts as begun and failed for good.
func (t Task) Lapse(at time.Time, w Workers, waited time.Duration) []Event {
	begun := t.Begin(at)
	if begun.Kind != EventBegun {
		return []Event{begun}
	}
	failed := begun
	failed.Kind, failed.Final = EventFailed, true
	waited = waited.Round(time.Second)
	switch w {
	case BusyWorkers:
		failed.Err = fmt.Sprintf("the workers of site %q are there, but had no place for it within %s", t.Step.Queue, waited)
	case UnableWorkers:
		action := t.Step.Action
		if t.Kind == TaskUndo {
			action = t.Step.Undo
		}
		failed.Err = fmt.Sprintf("the workers of site %q are there, but those asked within %s lack action %q: they may be of an older version", t.Step.Queue, waited, action)
	default:
		failed.Err = fmt.Sprintf("no worker of site %q took it up within %s", t.Step.Queue, t.Step.Patience)
	}
	return []Event{begun, failed}
}

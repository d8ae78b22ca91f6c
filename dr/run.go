package dr

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// maxLost is how many attempts of a step in a row may end with no record, the
// process dying in each, before the step counts as what kills it. It is apart
// from Step.Attempts, because a run must not fail for crashes that it did not
// cause: only failures that an action reported are counted there. From half of
// it on the step is a suspect ([Task.Suspect]).
const maxLost = 20

// Run is one run of a plan as it follows from its journal: a pure fold, with
// no clock, no I/O and no map order in it, so that every engine that feeds it
// the same events comes to the same decisions.
//
// An engine applies each event when it is durable, or together with others
// that become durable at once, asks [Run.Next] for what should be in hand now,
// begins what is not in hand yet, and stops what is no longer asked for. After
// a crash it applies the journal and has nothing in hand: so attempts that
// were in doubt are asked for, and begun, again. A Run is not safe for
// concurrent use.
type Run struct {
	id    RunID
	plan  Plan
	index map[string]int
	after [][]int
	steps []stepRun

	claimed  bool
	epochs   map[string]uint64
	forward  bool     // a NoReturn step has started
	ending   RunState // what the run will have ended as; "" while it goes on
	released bool
	reason   string
	started  time.Time
	ended    time.Time
}

// stepRun is one step. Its state is never StepUndoing, which Status infers.
type stepRun struct {
	state    StepState
	do, undo tries
	started  time.Time
	ended    time.Time
	opened   time.Time // of a gate
	err      string
	undoErr  string
	result   json.RawMessage
	answer   *Decision // the last one given
}

// tries counts the attempts of an action.
type tries struct {
	begun  int
	failed int // of them, since the last decision to retry
	lost   int // of them, in a row, ended with no record
	open   bool
	stop   bool // the open one is to be stopped
	halted bool // the open one was stopped by its engine's end: it has to be begun again
}

func (t *tries) begin() {
	t.lost = t.dying()
	t.begun++
	t.open, t.stop, t.halted = true, false, false
}

// dying counts the attempts lost if the open one is begun again.
func (t *tries) dying() int {
	if !t.open || t.halted {
		return 0
	}
	return t.lost + 1
}

func (t *tries) end() { t.open, t.stop, t.halted, t.lost = false, false, false, 0 }

// NewRun returns the run before its first event. The plan must be valid
// ([Plan.Validate]) and must not be changed any more.
func NewRun(id RunID, p Plan) *Run {
	r := &Run{id: id, plan: p, index: make(map[string]int, len(p.Steps)),
		after: make([][]int, len(p.Steps)), steps: make([]stepRun, len(p.Steps))}
	for i, s := range p.Steps {
		r.index[s.ID] = i
		r.steps[i].state = StepPending
		for _, a := range s.After {
			r.after[i] = append(r.after[i], r.index[a])
		}
	}
	return r
}

// ID is the run's name.
func (r *Run) ID() RunID { return r.id }

// Plan is what the run was made of; it must not be changed.
func (r *Run) Plan() Plan { return r.plan }

// Ended reports whether nothing more will happen.
func (r *Run) Ended() bool { return r.released }

// Apply takes in the next event. One that can't follow what was applied
// before is refused with ErrCorrupt and changes nothing: the journal is
// damaged, or the engine that wrote it is wrong.
func (r *Run) Apply(e Event) error {
	if why := r.apply(e); why != "" {
		at := ""
		if e.Step != "" {
			at = fmt.Sprintf(" step %q", e.Step)
		}
		return fmt.Errorf("run %s:%s event %q can't follow: %s: %w", r.id, at, e.Kind, why, ErrCorrupt)
	}
	return nil
}

func (r *Run) apply(e Event) (why string) {
	if r.released {
		return "the run has ended"
	}
	switch e.Kind {
	case EventClaimed, EventRefused, EventCancelled, EventReleased:
		return r.applyRun(e)
	}
	i, ok := r.index[e.Step]
	if !ok {
		return "there is no such step"
	}
	switch e.Kind {
	case EventBegun:
		return r.begun(i, e)
	case EventDone, EventFailed, EventStopped:
		return r.over(i, e)
	case EventOpened:
		return r.opened(i, e)
	case EventDecided:
		return r.decided(i, e)
	case EventExpired:
		return r.expired(i, e)
	}
	return "its kind is unknown"
}

func (r *Run) applyRun(e Event) (why string) {
	switch e.Kind {
	case EventClaimed, EventRefused:
		if r.claimed || r.ending != "" {
			return "the claims are settled already"
		}
		r.started = e.At
		if e.Kind == EventRefused {
			r.end(RunFailed, e.Err)
			return ""
		}
		r.claimed, r.epochs = true, e.Epochs
	case EventCancelled:
		if r.forward {
			return "the point of no return is past"
		}
		r.cancel(e.Err)
	case EventReleased:
		if t := r.Next(); len(t) != 1 || t[0].Kind != TaskRelease {
			return "there is more to do before"
		}
		if r.ending == "" {
			r.ending = RunDone
		}
		r.released, r.ended = true, e.At
	}
	return ""
}

// end makes the run end as s; the first cause counts.
func (r *Run) end(s RunState, why string) {
	if r.ending == "" {
		r.ending, r.reason = s, why
	}
}

// cancel also hurries a run that is ending already: what it still waits for
// is stopped. A step is settled so; an undo is tried again.
func (r *Run) cancel(why string) {
	r.end(RunCancelled, why)
	r.stopOpen()
}

func (r *Run) stopOpen() {
	for i := range r.steps {
		for _, t := range []*tries{&r.steps[i].do, &r.steps[i].undo} {
			t.stop = t.stop || t.open
		}
	}
}

func (r *Run) begun(i int, e Event) (why string) {
	s := &r.steps[i]
	t := &s.do
	if e.Undo {
		t = &s.undo
		if r.toUndo() != i {
			return "it is not the one to be undone now"
		}
	} else if !r.wantsDo(i) {
		return "it must not run now"
	}
	if e.Attempt != t.begun+1 {
		return fmt.Sprintf("attempt %d after %d", e.Attempt, t.begun)
	}
	t.begin()
	if e.Undo {
		return ""
	}
	if s.started.IsZero() {
		s.started = e.At
	}
	s.state = StepRunning
	r.forward = r.forward || r.plan.Steps[i].NoReturn
	return ""
}

// over ends an attempt. One that only its engine's end stopped stays open: the
// step has to be settled, also if the run is ending.
func (r *Run) over(i int, e Event) (why string) {
	s := &r.steps[i]
	t := &s.do
	if e.Undo {
		t = &s.undo
	}
	if !t.open || t.halted || e.Attempt != t.begun {
		return fmt.Sprintf("attempt %d is not under way", e.Attempt)
	}
	if e.Kind == EventStopped {
		t.halted, t.stop = true, false
		return ""
	}
	hurried := e.Undo && t.stop && !e.Final
	t.end()
	switch {
	case e.Kind == EventFailed && hurried:
		// What hung gets another chance. It is no failure: a person who asks
		// twice must not use up the attempts that are to bring a machine back.
		s.undoErr = e.Err
	case e.Kind == EventDone && e.Undo:
		s.state, s.ended = StepUndone, e.At
	case e.Kind == EventDone:
		s.state, s.ended, s.err, s.result = StepDone, e.At, "", e.Data
	default:
		t.failed++
		if e.Undo {
			s.undoErr = e.Err
		} else {
			s.err = e.Err
		}
		if !e.Final && t.failed < attempts(r.plan.Steps[i]) && (e.Undo || r.ending == "") {
			return ""
		}
		s.ended = e.At
		if e.Undo {
			s.state = StepUndoFailed
			r.reason += fmt.Sprintf("; undoing step %s failed: %s", e.Step, e.Err)
			return ""
		}
		r.fail(i)
	}
	return ""
}

// fail settles a step that won't be tried again.
func (r *Run) fail(i int) {
	s, st := &r.steps[i], r.plan.Steps[i]
	s.state = StepFailed
	switch {
	case r.ending != "" || st.Optional:
	case r.forward:
		s.state = StepStuck
	default:
		r.end(RunFailed, fmt.Sprintf("step %s: %s", st.ID, s.err))
	}
}

func (r *Run) opened(i int, e Event) (why string) {
	s := &r.steps[i]
	if r.plan.Steps[i].Gate == "" || s.state != StepPending || !r.claimed || r.ending != "" || !r.ready(i) {
		return "it is no gate to be opened now"
	}
	s.state, s.opened = StepWaiting, e.At
	if s.started.IsZero() {
		s.started = e.At
	}
	return ""
}

func (r *Run) decided(i int, e Event) (why string) {
	if e.Decision == nil {
		return "it holds no decision"
	}
	if err := r.allowed(i, *e.Decision); err != nil {
		return err.Error()
	}
	s, d := &r.steps[i], *e.Decision
	s.answer = &d
	switch d.Verdict {
	case Approve:
		s.state, s.ended, s.err = StepDone, e.At, ""
		s.result, _ = json.Marshal(d) // strings and a time: it can't fail
	case Reject:
		s.state, s.ended, s.err = StepFailed, e.At, "refused by "+said(d)
		r.cancel("refused at " + e.Step + " by " + said(d))
	case Retry:
		s.state, s.err = StepPending, ""
		s.do.failed, s.do.lost = 0, 0
	case Skip:
		s.state, s.ended = StepSkipped, e.At
	case GiveUp:
		s.state = StepFailed
		r.end(RunFailed, fmt.Sprintf("step %s: %s; given up by %s", e.Step, s.err, said(d)))
		r.stopOpen()
	}
	return ""
}

func said(d Decision) string {
	if d.Note == "" {
		return d.By
	}
	return d.By + ": " + d.Note
}

// expired refuses a gate by the clock. A person's Reject always cancels, the
// clock's only where the gate is needed: an optional gate lets the run go on
// unless somebody objects in time.
func (r *Run) expired(i int, e Event) (why string) {
	s, st := &r.steps[i], r.plan.Steps[i]
	if s.state != StepWaiting || st.Timeout == 0 || r.ending != "" {
		return "it is no gate whose time can run out"
	}
	s.ended, s.err = e.At, fmt.Sprintf("not answered within %s", st.Timeout)
	s.answer = &Decision{Verdict: Reject, By: "clock", Note: s.err, At: e.At}
	s.state = StepFailed
	switch {
	case st.Optional:
	case r.forward:
		s.state = StepStuck
	default:
		r.cancel("gate " + st.ID + " was " + s.err)
	}
	return ""
}

// ready reports whether everything that the step comes after is settled in a
// way that lets it run.
func (r *Run) ready(i int) bool {
	return !slices.ContainsFunc(r.after[i], func(a int) bool { return !r.passed(a) })
}

// passed reports whether the run has gone past the step.
func (r *Run) passed(i int) bool {
	switch r.steps[i].state {
	case StepDone, StepSkipped:
		return true
	case StepFailed:
		return r.plan.Steps[i].Optional
	}
	return false
}

// wantsDo reports whether the step's action should be in hand.
func (r *Run) wantsDo(i int) bool {
	s := &r.steps[i]
	switch {
	case r.plan.Steps[i].Gate != "" || !r.claimed:
		return false
	case r.ending != "":
		return s.do.open
	case s.state == StepRunning:
		return true
	}
	return s.state == StepPending && r.ready(i)
}

// toUndo is the step whose undoing should be in hand, or -1: the last that
// has started and is not settled, once nothing runs any more.
func (r *Run) toUndo() int {
	if r.ending == "" || r.forward {
		return -1
	}
	last := -1
	for i := range r.steps {
		s := &r.steps[i]
		if s.do.open {
			return -1
		}
		if s.do.begun > 0 && r.plan.Steps[i].Undo != "" && s.state != StepUndone && s.state != StepUndoFailed {
			last = i
		}
	}
	return last
}

func attempts(s Step) int {
	if s.Attempts == 0 {
		return DefaultAttempts
	}
	return s.Attempts
}

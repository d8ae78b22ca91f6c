package dr

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Plan is a flow as data. It is frozen when its run starts: an upgrade of the
// program never changes a run under way.
type Plan struct {
	Flow  string   `json:"flow"`            // what kind of flow, for people and reports
	Rev   int      `json:"rev"`             // revision of the planner that made it
	Locks []string `json:"locks,omitempty"` // resources claimed from before the first step to behind the last
	Steps []Step   `json:"steps"`
}

// Step is one action, or one decision that a person makes.
//
// Steps run as soon as all steps named in After are done, side by side where
// After allows. A step runs at least once: its action must be idempotent
// under [Call.Key].
type Step struct {
	ID     string          `json:"id"`               // unique in the plan
	Action string          `json:"action,omitempty"` // registered name and revision: "vm.start@1"
	Gate   string          `json:"gate,omitempty"`   // instead of Action: the decision awaited, as a question for people
	Input  json.RawMessage `json:"input,omitempty"`
	After  []string        `json:"after,omitempty"` // IDs of earlier steps
	Queue  string          `json:"queue,omitempty"` // which site's workers run it; "" any

	Undo     string `json:"undo,omitempty"`     // action that takes the step back, run with Call.Undo set
	NoReturn bool   `json:"noReturn,omitempty"` // once it has started, cancelling and undoing are over: the run goes forward
	Optional bool   `json:"optional,omitempty"` // its failure is recorded and reported, and the run goes on
	// Waits says that the action only waits, for another run mostly: it takes
	// none of the places by which an engine bounds how much is done at once.
	// Else runs that wait for each other could fill them all.
	Waits bool `json:"waits,omitempty"`

	Attempts int           `json:"attempts,omitempty"` // tries before it counts as failed; 0: DefaultAttempts
	Timeout  time.Duration `json:"timeout,omitempty"`  // of one attempt; of a gate: refused when it runs out; 0: none
	Silence  time.Duration `json:"silence,omitempty"`  // an attempt that doesn't Beat for so long is stopped and tried again; 0: never
	// Patience is how long an attempt of an Optional step waits for a worker of
	// its Queue; then the step counts as failed, and is not tried again. It is
	// for what is asked of a site that may be lost together with its workers. For
	// those that are there and too busy, or lack its action, it waits [BusyPatience]
	// times as long at least: an engine that is its own only worker waits for its
	// turn. 0: for ever.
	Patience time.Duration `json:"patience,omitempty"`
}

// BusyPatience is how many times its Patience a step waits for workers that are
// there, but have no place for it, or lack its action: their site lives, so what
// is asked of it matters, and whoever waits for the run waits for no dead site.
const BusyPatience = 10

// DefaultAttempts is how often a step is tried that doesn't say. With the
// waits that engines put between them (see embedded.Options) the last is made
// five to ten minutes after the first failure: a platform's hiccup at night,
// such as a management server that restarts, passes without waking anybody. A
// step that may fail, or whose failure people should hear of at once, says less.
const DefaultAttempts = 18

// Frozen returns the plan as a journal keeps it: valid, sharing nothing with
// p, and with the defaults written out, so that a program with others doesn't
// change a run under way. ErrInvalid as from Validate, and for an input that
// is not JSON.
func (p Plan) Frozen() (Plan, error) {
	var f Plan
	raw, err := json.Marshal(p)
	if err == nil {
		err = json.Unmarshal(raw, &f)
	}
	if err != nil {
		return Plan{}, fmt.Errorf("%w: plan %s: %v", ErrInvalid, p.Flow, err)
	}
	for i := range f.Steps {
		if s := &f.Steps[i]; s.Gate == "" && s.Attempts == 0 {
			s.Attempts = DefaultAttempts
		}
	}
	return f, f.Validate()
}

// Validate refuses plans that no engine could run: unnamed or doubled steps,
// a step that is neither action nor gate or both, a Patience of what is needed, an After that names no
// earlier step (so there are no cycles), a lock without a name.
func (p Plan) Validate() error {
	if p.Flow == "" {
		return fmt.Errorf("%w: plan without a flow name", ErrInvalid)
	}
	if slices.Contains(p.Locks, "") {
		return fmt.Errorf("%w: plan %s: a lock without a name", ErrInvalid, p.Flow)
	}
	seen := make(map[string]bool, len(p.Steps))
	for _, s := range p.Steps {
		switch {
		case s.ID == "":
			return fmt.Errorf("%w: plan %s: step without an ID", ErrInvalid, p.Flow)
		case seen[s.ID]:
			return fmt.Errorf("%w: plan %s: two steps %q", ErrInvalid, p.Flow, s.ID)
		case (s.Action == "") == (s.Gate == ""):
			return fmt.Errorf("%w: plan %s: step %q must have either an action or a gate", ErrInvalid, p.Flow, s.ID)
		case s.Gate != "" && (s.Undo != "" || s.NoReturn):
			return fmt.Errorf("%w: plan %s: gate %q can't be undone or be a point of no return", ErrInvalid, p.Flow, s.ID)
		case s.Attempts < 0 || s.Timeout < 0 || s.Silence < 0 || s.Patience < 0:
			return fmt.Errorf("%w: plan %s: step %q has a negative limit", ErrInvalid, p.Flow, s.ID)
		case s.Patience > 0 && (s.Gate != "" || !s.Optional):
			return fmt.Errorf("%w: plan %s: step %q: only an optional action can go without a worker", ErrInvalid, p.Flow, s.ID)
		}
		for _, a := range s.After {
			if !seen[a] {
				return fmt.Errorf("%w: plan %s: step %q comes after %q, which is no earlier step", ErrInvalid, p.Flow, s.ID, a)
			}
		}
		seen[s.ID] = true
	}
	return nil
}

// Step looks up a step by ID.
func (p Plan) Step(id string) (Step, bool) {
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.ID == id })
	if i < 0 {
		return Step{}, false
	}
	return p.Steps[i], true
}

// InsertAfter returns a plan with s added so that it runs when the step id is
// done, and everything that waited for id waits for s. Use it to put own
// steps (a DNS change, an approval) into a flow.
func (p Plan) InsertAfter(id string, s Step) (Plan, error) {
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.ID == id })
	if i < 0 {
		return p, fmt.Errorf("%w: plan %s has no step %q", ErrNotFound, p.Flow, id)
	}
	s.After = append(slices.Clone(s.After), id)
	steps := slices.Concat(p.Steps[:i+1], []Step{s}, p.Steps[i+1:])
	for j := i + 2; j < len(steps); j++ {
		if slices.Contains(steps[j].After, id) {
			steps[j].After = append(slices.Clone(steps[j].After), s.ID)
		}
	}
	p.Steps = steps
	return p, p.Validate()
}

// InsertBefore returns a plan with s added so that the step id waits for it,
// and it waits for everything that id waited for.
func (p Plan) InsertBefore(id string, s Step) (Plan, error) {
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.ID == id })
	if i < 0 {
		return p, fmt.Errorf("%w: plan %s has no step %q", ErrNotFound, p.Flow, id)
	}
	s.After = append(slices.Clone(s.After), p.Steps[i].After...)
	steps := slices.Concat(p.Steps[:i], []Step{s}, p.Steps[i:])
	steps[i+1].After = append(slices.Clone(steps[i+1].After), s.ID)
	p.Steps = steps
	return p, p.Validate()
}

// Call is what an action is given.
type Call struct {
	Run  RunID
	Step string
	// Key names the effect: an action called again with the same Key must
	// find what it already did, and finish it, rather than do it twice.
	Key string
	// Undo says that the action is called to take the step back. The step
	// may have happened, not at all, or in part.
	Undo    bool
	Attempt int // from 1, counted across restarts
	// Epochs are the fencing tokens of the plan's locks.
	Epochs map[string]uint64
	Input  json.RawMessage
	// Results are those of the steps named in After, and of what these came
	// after; of an optional step that failed there is none. An undo also
	// gets its own step's result, if there is one.
	Results map[string]json.RawMessage
	// Left are, in an undo, the later steps that could not be taken back, in
	// the plan's order: what they did may still be there. What would be wrong
	// beside that, such as a second machine of the same disks, must not be
	// done: fail, which leaves it to a person.
	Left []string
	// Beat reports progress and that the action is alive. Never nil.
	Beat func(Progress)
}

// Action does the work of a step. It must be idempotent under Call.Key, and
// stop when ctx ends. The result is kept in the journal: keep it small, and
// without secrets. Errors for which IsPermanent holds are not tried again.
type Action func(ctx context.Context, c *Call) (json.RawMessage, error)

// Actions are registered under the names that plans use.
type Actions map[string]Action

// Merge joins several sets; a name in two of them is ErrExists.
func Merge(sets ...Actions) (Actions, error) {
	all := Actions{}
	for _, s := range sets {
		for name, a := range s {
			if _, dup := all[name]; dup {
				return nil, fmt.Errorf("%w: action %q", ErrExists, name)
			}
			all[name] = a
		}
	}
	return all, nil
}

// Progress is how far a step has come, as a value that any console can show.
// Done and Total are bytes; a Total of 0 means unknown.
type Progress struct {
	What  string  `json:"what,omitempty"` // "copying", "waiting for the guest to shut down"
	Disk  DiskID  `json:"disk,omitempty"`
	Done  int64   `json:"done,omitempty"`
	Total int64   `json:"total,omitempty"`
	Rate  float64 `json:"rate,omitempty"` // bytes a second, lately
}

package dr

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxResult is how many bytes a step's result may have.
const MaxResult = 1 << 20

// maxErr is how much of an error's text a journal keeps, in bytes.
const maxErr = 4 << 10

// StepKey is the Call.Key of a step's action, or of its undo. Different steps
// of different runs never share one: the parts are escaped and joined by
// slashes. An undo finds what its step made under StepKey(run, step, false).
func StepKey(run RunID, step string, undo bool) string {
	k := url.PathEscape(string(run)) + "/" + url.PathEscape(step)
	if undo {
		k += "/undo"
	}
	return k
}

// Call returns what the action of a TaskDo or TaskUndo is called with in the
// given attempt: that of the EventBegun which was journaled for it. Beat does
// nothing until the engine sets it. The call shares no map with the run.
func (r *Run) Call(t Task, attempt int) *Call {
	undo := t.Kind == TaskUndo
	c := &Call{
		Run: r.id, Step: t.Step.ID, Key: StepKey(r.id, t.Step.ID, undo), Undo: undo, Attempt: attempt,
		Epochs: make(map[string]uint64, len(r.epochs)), Input: t.Step.Input,
		Results: r.results(r.index[t.Step.ID]), Beat: func(Progress) {},
	}
	for lock, epoch := range r.epochs {
		c.Epochs[lock] = epoch
	}
	if undo {
		for i, s := range r.steps {
			if s.state == StepUndoFailed {
				c.Left = append(c.Left, r.plan.Steps[i].ID)
			}
		}
	}
	return c
}

// results collects those of all steps that step i came after, however far
// back, and its own, which only an undo can have.
func (r *Run) results(i int) map[string]json.RawMessage {
	all := map[string]json.RawMessage{}
	need := make([]bool, i+1)
	need[i] = true
	for j := i; j >= 0; j-- { // After names earlier steps only
		if !need[j] {
			continue
		}
		if res := r.steps[j].result; res != nil {
			all[r.plan.Steps[j].ID] = res
		}
		for _, a := range r.after[j] {
			need[a] = true
		}
	}
	return all
}

// PanicError is what an action's panic is turned into. It is permanent:
// IsPermanent holds for it. Stack is for logs.
type PanicError struct {
	Value any
	Stack []byte
}

// Error tells the panic's value without the stack.
func (p *PanicError) Error() string { return fmt.Sprintf("action panicked: %v", p.Value) }

// Exec calls the action of a TaskDo or TaskUndo, under the fences of the run's
// locks ([WithFences]). A panic, an action that is
// not registered, and a result that is no JSON or larger than MaxResult come
// back as permanent errors.
func (a Actions) Exec(ctx context.Context, t Task, c *Call) (result json.RawMessage, err error) {
	name := t.Step.Action
	if t.Kind == TaskUndo {
		name = t.Step.Undo
	}
	do := a[name]
	if do == nil {
		return nil, Permanent(fmt.Errorf("action %q is not registered: %w", name, ErrUnsupported))
	}
	defer func() {
		if v := recover(); v != nil {
			result, err = nil, Permanent(&PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	result, err = do(WithFences(ctx, c.Epochs), c)
	switch {
	case err != nil:
		return nil, err
	case len(result) > MaxResult:
		return nil, Permanent(fmt.Errorf("action %q: result has %d bytes, %d are allowed: %w", name, len(result), MaxResult, ErrInvalid))
	case result != nil && !json.Valid(result):
		return nil, Permanent(fmt.Errorf("action %q: result is not JSON: %w", name, ErrInvalid))
	}
	return result, nil
}

// End returns the event that records how an attempt ended. begun is the
// EventBegun that was journaled for it.
func (begun Event) End(at time.Time, result json.RawMessage, err error) Event {
	e := Event{Kind: EventDone, At: at, Step: begun.Step, Undo: begun.Undo, Attempt: begun.Attempt, Data: result}
	if err != nil {
		e.Kind, e.Data, e.Err, e.Final = EventFailed, nil, clip(err.Error()), IsPermanent(err)
	}
	return e
}

// clip bounds what a journal has to keep of foreign errors.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= maxErr {
		return s
	}
	n := maxErr
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// Needs lists the names of all actions that the run may still call for steps
// of these queues and of queue "", or of all queues if none is given; in the
// plan's order, each once.
func (r *Run) Needs(queues ...string) []string {
	var names []string
	seen := map[string]bool{"": true}
	need := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	if r.released {
		return nil
	}
	for i := range r.steps {
		s, st := &r.steps[i], r.plan.Steps[i]
		if !Serves(st.Queue, queues) {
			continue
		}
		if open := r.ending == "" && !r.passed(i); open || s.do.open {
			need(st.Action)
		}
		mayUndo := s.state != StepUndone && s.state != StepUndoFailed && (r.ending == "" || s.do.begun > 0)
		if mayUndo && !r.forward {
			need(st.Undo)
		}
	}
	return names
}

// Serves reports whether who serves these queues runs steps of queue q.
func Serves(q string, queues []string) bool {
	if q == "" || len(queues) == 0 {
		return true
	}
	for _, s := range queues {
		if s == q {
			return true
		}
	}
	return false
}

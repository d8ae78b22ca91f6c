package dr

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestAnyHistory drives the fold as an engine would, over random plans, with
// ends of attempts, decisions, cancellations, shutdowns and deaths in any
// order, and holds what it asks for against what every run promises.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &history{T: t, plan: randomPlan(t), hand: map[string]Event{}, done: map[string]bool{}}
		require.NoError(t, h.plan.Validate())
		h.run = NewRun("r", h.plan)
		for i := 0; !h.run.Ended(); i++ {
			if i > 400 {
				// The history has been wild enough: let it come to an end.
				h.calm = true
			}
			if i > 4000 {
				t.Fatalf("it doesn't end: %+v", h.run.Status())
			}
			h.move()
		}
		h.ended()
	})
}

// history is an engine without clock and disk.
type history struct {
	*rapid.T
	plan    Plan
	run     *Run
	journal []Event
	hand    map[string]Event // attempts under way, by name
	done    map[string]bool
	calm    bool
	at      int

	forward  bool
	undoing  []string
	released int
}

func randomPlan(t *rapid.T) Plan {
	p := Plan{Flow: "random", Locks: []string{"m"}}
	for i := range rapid.IntRange(0, 7).Draw(t, "steps") {
		s := Step{ID: fmt.Sprint("s", i), Optional: rapid.IntRange(0, 4).Draw(t, "optional") == 0}
		for j := range i {
			if rapid.IntRange(0, 2).Draw(t, "after") == 0 {
				s.After = append(s.After, fmt.Sprint("s", j))
			}
		}
		if rapid.IntRange(0, 4).Draw(t, "kind") == 0 {
			s.Gate = "?"
			s.Timeout = time.Duration(rapid.IntRange(0, 1).Draw(t, "timeout"))
		} else {
			s.Action = "do"
			s.Attempts = rapid.IntRange(0, 2).Draw(t, "attempts")
			s.NoReturn = rapid.IntRange(0, 9).Draw(t, "noReturn") == 0
			if rapid.Bool().Draw(t, "undo") {
				s.Undo = "undo"
			}
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}

func name(t Task) string { return string(t.Kind) + " " + t.Step.ID }

// move does one thing that can happen now.
func (h *history) move() {
	type choice struct {
		what string
		do   func()
	}
	var can []choice
	add := func(what string, do func()) { can = append(can, choice{what, do}) }
	for _, task := range h.run.Next() {
		h.check(task)
		if _, ok := h.hand[name(task)]; ok {
			continue
		}
		switch task.Kind {
		case TaskClaim:
			add("claim", func() { h.apply(Event{Kind: EventClaimed, Epochs: map[string]uint64{"m": 1}}) })
			if !h.calm {
				add("refuse", func() { h.apply(Event{Kind: EventRefused, Err: "busy"}) })
			}
		case TaskDo, TaskUndo:
			add("begin", func() { h.begin(task) })
		case TaskGate:
			if task.Opened.IsZero() {
				add("open", func() { h.apply(Event{Kind: EventOpened, Step: task.Step.ID}) })
			} else if !task.Deadline.IsZero() {
				add("expire", func() { h.apply(Event{Kind: EventExpired, Step: task.Step.ID}) })
			}
		case TaskRelease:
			add("release", func() {
				require.Empty(h, h.hand, "released while something was running")
				h.released++
				h.apply(Event{Kind: EventReleased})
			})
		}
	}
	for _, n := range sortedKeys(h.hand) {
		begun := h.hand[n]
		add("done", func() { h.end(n, begun.End(h.now(), json.RawMessage(`"`+begun.Step+`"`), nil)) })
		if !h.calm {
			add("fail", func() { h.end(n, begun.End(h.now(), nil, fmt.Errorf("no"))) })
			add("fail for good", func() { h.end(n, begun.End(h.now(), nil, Permanent(fmt.Errorf("no")))) })
		}
	}
	for _, st := range h.run.Status().Steps {
		verdicts := []Verdict{Approve, Reject, Retry, Skip, GiveUp}
		if h.calm {
			verdicts = []Verdict{Approve, Skip}
		}
		for _, v := range verdicts {
			if e, err := h.run.Decide(st.ID, Decision{Verdict: v, By: "me"}, h.now()); err == nil && e != nil {
				add("decide", func() { h.apply(*e) })
			}
		}
	}
	if !h.calm {
		add("death", h.death)
		add("shutdown", h.shutdown)
		if e, err := h.run.Cancel("why", h.now()); err == nil && e != nil {
			require.False(h, h.forward, "cancelled behind the point of no return")
			add("cancel", func() { h.apply(*e) })
		} else if err != nil {
			require.ErrorIs(h, err, ErrNotAllowed)
			require.True(h, h.forward)
		}
	}
	require.NotEmpty(h, can, "nothing can go on: %+v", h.run.Status())
	c := can[rapid.IntRange(0, len(can)-1).Draw(h.T, "move")]
	if h.calm {
		c = can[0]
	}
	c.do()
}

func (h *history) now() time.Time {
	h.at++
	return time.Unix(int64(h.at), 0).UTC()
}

func (h *history) apply(e Event) {
	if e.At.IsZero() {
		e.At = h.now()
	}
	require.NoError(h, h.run.Apply(e))
	h.journal = append(h.journal, e)
}

func (h *history) begin(task Task) {
	e := task.Begin(h.now())
	if e.Kind != EventBegun {
		require.True(h, e.Final)
		h.apply(e)
		return
	}
	if task.Step.NoReturn && task.Kind == TaskDo {
		h.forward = true
	}
	h.apply(e)
	h.hand[name(task)] = e
	c := h.run.Call(task, e.Attempt)
	require.Equal(h, StepKey("r", task.Step.ID, task.Kind == TaskUndo), c.Key)
	if task.Kind == TaskUndo && !slices.Contains(h.undoing, task.Step.ID) {
		h.undoing = append(h.undoing, task.Step.ID)
	}
}

func (h *history) end(n string, e Event) {
	delete(h.hand, n)
	if e.Kind == EventDone && !e.Undo {
		h.done[e.Step] = true
	}
	h.apply(e)
}

// death forgets what is in hand, and replays the journal as it was written.
func (h *history) death() {
	clear(h.hand)
	was := h.run.Status()
	tasks := h.run.Next()
	h.run = NewRun("r", h.plan)
	for _, e := range h.journal {
		b, err := json.Marshal(e)
		require.NoError(h, err)
		var again Event
		require.NoError(h, json.Unmarshal(b, &again))
		require.NoError(h, h.run.Apply(again))
	}
	require.Equal(h, was, h.run.Status(), "the journal tells everything")
	require.Equal(h, tasks, h.run.Next())
}

func (h *history) shutdown() {
	for _, n := range sortedKeys(h.hand) {
		e := h.hand[n].End(h.now(), nil, fmt.Errorf("stopped"))
		e.Kind, e.Final = EventStopped, false
		h.end(n, e)
	}
	h.death()
}

// check holds a task against what was promised.
func (h *history) check(task Task) {
	s := h.run.Status()
	switch task.Kind {
	case TaskDo, TaskGate:
		require.Empty(h, h.undoing, "%s after undoing has begun", name(task))
		for _, a := range task.Step.After {
			before, _ := s.Step(a)
			st, _ := h.plan.Step(a)
			require.True(h, before.State == StepDone || before.State == StepSkipped || before.State == StepFailed && st.Optional,
				"%s before %s is done: %s", task.Step.ID, a, before.State)
		}
		if s.State == RunUndoing {
			require.True(h, task.Open, "%s is begun while the run ends", task.Step.ID)
		}
	case TaskUndo:
		require.False(h, h.forward, "undone behind the point of no return")
		for n := range h.hand {
			require.Equal(h, name(task), n, "%s runs while %s is undone", n, task.Step.ID)
		}
		i := slices.IndexFunc(h.plan.Steps, func(s Step) bool { return s.ID == task.Step.ID })
		for _, later := range h.plan.Steps[i+1:] {
			l, _ := s.Step(later.ID)
			if later.Undo != "" && l.State != StepUndone && l.State != StepUndoFailed {
				require.True(h, l.Started.IsZero(), "%s is undone before %s, which has started and is %s", task.Step.ID, later.ID, l.State)
			}
		}
		this, _ := s.Step(task.Step.ID)
		require.False(h, this.Started.IsZero(), "%s is undone and never started", task.Step.ID)
	}
}

func (h *history) ended() {
	s := h.run.Status()
	require.Equal(h, 1, h.released)
	require.True(h, s.State.Ended())
	require.Empty(h, h.run.Next())
	require.Empty(h, h.run.Needs())
	for _, st := range s.Steps {
		plan, _ := h.plan.Step(st.ID)
		switch s.State {
		case RunDone:
			require.True(h, st.State == StepDone || st.State == StepSkipped || st.State == StepFailed && plan.Optional, "%s is %s in a run that is done", st.ID, st.State)
		default:
			if plan.Undo != "" && !h.forward && !st.Started.IsZero() {
				require.True(h, st.State == StepUndone || st.State == StepUndoFailed, "%s has started and is %s", st.ID, st.State)
			}
		}
		if st.State == StepDone && plan.Action != "" {
			require.True(h, h.done[st.ID])
		}
	}
	require.ErrorIs(h, h.run.Apply(Event{Kind: EventCancelled}), ErrCorrupt)
	_, err := h.run.Cancel("late", h.now())
	require.ErrorIs(h, err, ErrNotAllowed)
}

func sortedKeys(m map[string]Event) []string {
	var ks []string
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}

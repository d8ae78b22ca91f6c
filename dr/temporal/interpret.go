package temporal

import (
	"fmt"
	"time"

	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// interp interprets one run: it feeds what happens to the fold, and has done
// what the fold asks for. All of it runs in workflow code: it has to come to
// the same commands from the same history, for ever. So it reads no clock but
// the workflow's, and ranges over no map.
//
// One coroutine, that of interpret, changes the fold; the others hand it what
// happened, through the inbox.
type interp struct {
	ctx   workflow.Context // not ended by Temporal's own cancellation
	in    runInput
	fold  *dr.Run
	plan  dr.Plan
	steps map[string]dr.Step

	events []dr.Event // all so far: those of a run that is continued as new
	inbox  []func()
	hands  []*hand // in the order in which they began
	byKey  map[key]*hand
	// ready are tasks that have waited for their turn, misses the offers of a
	// task, one after the other, that came to nothing.
	ready  map[key]bool
	misses map[key]int
	busy   map[key]busy
	offers int

	refused string // who holds the locks: it is no run
	shown   dr.RunState
	tooMuch bool // has happened to be continued as new
	asked   bool // it would be, but for who has asked something and has no answer yet
}

// interpret is the workflow.
func interpret(ctx workflow.Context, in runInput) (seen, error) {
	x := &interp{in: in, steps: map[string]dr.Step{}, byKey: map[key]*hand{}, ready: map[key]bool{}, misses: map[key]int{}, busy: map[key]busy{}, offers: in.Offers, shown: dr.RunRunning}
	x.ctx, _ = workflow.NewDisconnectedContext(ctx)
	if err := x.restore(); err != nil {
		panic(err) // as in apply: a workflow that failed would leave its machines, and its claims, to nobody
	}
	if err := x.answer(); err != nil {
		return seen{}, err
	}
	x.listen(ctx)
	for {
		for len(x.inbox) > 0 {
			next := x.inbox[0]
			x.inbox = x.inbox[1:]
			next()
		}
		if x.over() {
			break
		}
		x.next()
		if len(x.inbox) > 0 {
			continue
		}
		x.show()
		if x.over() {
			break
		}
		if x.long() {
			return seen{}, x.again(ctx)
		}
		// Where nothing is in hand, and nothing is begun any more, nobody else wakes it.
		if err := workflow.Await(x.ctx, func() bool { return len(x.inbox) > 0 || x.asked && workflow.AllHandlersFinished(x.ctx) }); err != nil {
			return seen{}, err
		}
	}
	// Who has asked something gets an answer.
	for !workflow.AllHandlersFinished(x.ctx) {
		if err := workflow.Await(x.ctx, func() bool { return len(x.inbox) > 0 || workflow.AllHandlersFinished(x.ctx) }); err != nil {
			return seen{}, err
		}
		for len(x.inbox) > 0 {
			next := x.inbox[0]
			x.inbox = x.inbox[1:]
			next()
		}
	}
	if x.refused != "" {
		return seen{}, sdk.NewNonRetryableApplicationError(x.refused, refusedType, nil)
	}
	return see(x.fold.Status())
}

func (x *interp) over() bool { return x.refused != "" || x.fold.Ended() }

// restore makes the fold of what the workflow was started with.
func (x *interp) restore() error {
	if err := x.in.Plan.open(&x.plan); err != nil {
		return fmt.Errorf("run %s: plan: %w", x.in.Run, err)
	}
	if err := x.plan.Validate(); err != nil {
		return fmt.Errorf("run %s: %w", x.in.Run, err)
	}
	if err := x.in.Events.open(&x.events); err != nil {
		return fmt.Errorf("run %s: events: %w", x.in.Run, err)
	}
	for _, s := range x.plan.Steps {
		x.steps[s.ID] = s
	}
	x.fold = dr.NewRun(x.in.Run, x.plan)
	for _, e := range x.events {
		if err := x.fold.Apply(e); err != nil {
			return err
		}
	}
	if len(x.events) > 0 {
		x.shown = x.fold.Status().State
	}
	return nil
}

func (x *interp) now() time.Time { return workflow.Now(x.ctx).UTC() }

// post hands something that happened to the coroutine that may change the fold.
func (x *interp) post(f func()) { x.inbox = append(x.inbox, f) }

// apply takes in an event. The fold's refusal means that this package is
// wrong: the workflow stands still then, where it is, until a version that
// isn't drives it, and Temporal shows why.
func (x *interp) apply(e dr.Event) {
	if err := x.fold.Apply(e); err != nil {
		panic(err)
	}
	x.events = append(x.events, e)
}

// listen hears what others want of the run.
func (x *interp) listen(outer workflow.Context) {
	workflow.Go(x.ctx, func(ctx workflow.Context) {
		for ch := workflow.GetSignalChannel(ctx, begunSignal); ; {
			var b begun
			ch.Receive(ctx, &b)
			if h := x.offered(b.Seq); h != nil {
				h.signalled = true
				x.post(func() { x.begun(h) })
			}
		}
	})
	workflow.Go(x.ctx, func(ctx workflow.Context) { // `temporal workflow cancel`, and the button of its console
		outer.Done().Receive(ctx, nil)
		x.post(func() {
			_ = x.change(func() (*dr.Event, error) { return x.fold.Cancel("cancel requested of Temporal", x.now()) })
		})
	})
}

// change records the event that make returns, if any.
func (x *interp) change(make func() (*dr.Event, error)) error {
	e, err := make()
	if err != nil || e == nil {
		return err
	}
	if x.mayEnd(*e) && x.settle() {
		if e, err = make(); err != nil || e == nil {
			return err
		}
	}
	x.apply(*e)
	return nil
}

// mayEnd reports whether the run may begin to end with this event.
func (x *interp) mayEnd(e dr.Event) bool {
	st := x.steps[e.Step]
	switch e.Kind {
	case dr.EventCancelled:
		return true
	case dr.EventDecided:
		return e.Decision.Verdict == dr.Reject || e.Decision.Verdict == dr.GiveUp
	case dr.EventExpired:
		return !st.Optional
	case dr.EventFailed:
		return !e.Undo && !st.Optional && (e.Final || x.lastAttempt(e.Step))
	}
	return false
}

// lastAttempt reports whether the step's attempt is the last that the plan allows.
func (x *interp) lastAttempt(step string) bool {
	for _, t := range x.fold.Next() {
		if t.Kind == dr.TaskDo && t.Step.ID == step {
			return t.Failed+1 >= t.Step.Attempts
		}
	}
	return true
}

// ending reports whether nothing new is begun any more.
func (x *interp) ending() bool { return x.fold.Status().Ending != "" }

// settle makes sure of every offer that it was taken up, or never will be.
// The fold, once it is ending, takes in no beginning that it doesn't know of,
// and undoes what it knows. False: there was nothing to settle.
func (x *interp) settle() bool {
	if x.ending() {
		return false
	}
	var open []*hand
	ask := false
	for _, h := range x.hands {
		if h.offer > 0 && !h.begun {
			open = append(open, h)
			if !h.signalled && !h.done {
				h.withdrawn = true
				h.cancel()
				ask = ask || h.quiet
			}
		}
	}
	if len(open) == 0 {
		return false
	}
	told := false
	if ask {
		x.ask(open, &told)
	}
	_ = workflow.Await(x.ctx, func() bool { // its context doesn't end
		for _, h := range open {
			if !h.signalled && !h.done && !(h.quiet && told) {
				return false
			}
		}
		return true
	})
	for _, h := range open {
		if h.signalled {
			x.begun(h)
		}
	}
	return true
}

// show tells Temporal's console the run's state, if it has changed.
func (x *interp) show() {
	s := x.fold.Status().State
	if s == x.shown || x.refused != "" {
		return
	}
	x.shown = s
	_ = workflow.UpsertMemo(x.ctx, map[string]any{stateMemo: string(s)}) // the server's refusal would show as a failed workflow task
	if x.in.Settings.Attributes {
		_ = workflow.UpsertTypedSearchAttributes(x.ctx, stateAttribute.ValueSet(string(s)))
	}
}

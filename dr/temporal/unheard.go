package temporal

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/api/enums/v1"
	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// An offer that nobody takes up may be to a site that is lost, or to one whose
// workers are busy: the server says the same of both. So before a step fails
// for want of a worker its site is asked, on the queue of what only waits, whose
// places hardly run out. Who is there answers at once, and the step is offered
// again.
//
// A driver asks, once for all runs that want to know at a time. If each run
// asked by itself, the questions of some hundreds would wait for each other, and
// a site that lives would be taken for lost because it could not answer all of
// them in time.

// Who declines a step because it lacks the action, as a worker that is not yet
// upgraded does, is there, too: other workers of the site may have it, so it is
// offered to them for as long.

// busy is what is known of a step whose site has answered, but not begun it.
type busy struct {
	rounds int // of Patience that have passed
	since  time.Time
}

// present is the activity that says that a site has a worker.
func present(context.Context) error { return nil }

// answersFor is how long a worker may take to answer at least, however short
// the step's Patience is.
const answersFor = 5 * time.Second

// unheard asks whether anybody is at the site of an offer that nobody has taken
// up. Only an answer counts: for what it costs to get one there is no limit.
func (x *interp) unheard(h *hand) {
	set, step := x.in.Settings, h.task.Step
	limit := min(set.Heartbeat, max(step.Patience, answersFor))
	ctx, cancel := workflow.WithCancel(workflow.WithActivityOptions(x.ctx, workflow.ActivityOptions{
		TaskQueue:           set.Queue,
		StartToCloseTimeout: 2*limit + time.Minute,
		RetryPolicy:         &sdk.RetryPolicy{InitialInterval: set.BackoffFirst, BackoffCoefficient: 2, MaximumInterval: set.BackoffMost},
		Summary:             step.ID + ": is anybody there?",
	}))
	asks := &hand{k: h.k, cancel: cancel, since: h.since}
	x.take(asks)
	f := workflow.ExecuteActivity(ctx, askName, askInput{taskQueue(set.Queue, step.Queue, true), limit})
	workflow.Go(x.ctx, func(g workflow.Context) {
		var there bool
		err := f.Get(g, &there)
		x.post(func() {
			x.drop(asks)
			if err == nil { // else nobody wants the step any more
				x.heard(h, there)
			}
		})
	})
}

// heard takes in whether the site has answered.
func (x *interp) heard(h *hand, there bool) {
	rounds := x.busy[h.k].rounds + 1
	if there && rounds < dr.BusyPatience {
		x.busy[h.k] = busy{rounds, h.since}
		return
	}
	delete(x.busy, h.k)
	if there {
		x.lapse(h, dr.BusyWorkers, x.now().Sub(h.since))
	} else {
		x.lapse(h, dr.NoWorkers, 0)
	}
}

// unable has a step fail that was declined for too long, and reports whether it
// did.
func (x *interp) unable(h *hand) bool {
	patience := h.task.Step.Patience
	if !x.in.Settings.Unable || patience == 0 {
		return false
	}
	if waited := x.now().Sub(h.since); waited >= dr.BusyPatience*patience {
		delete(x.busy, h.k)
		x.lapse(h, dr.UnableWorkers, waited)
		return true
	}
	x.busy[h.k] = busy{x.busy[h.k].rounds, h.since}
	return false
}

// untaken reports whether no worker has taken an offer up in time.
func untaken(err error) bool {
	var t *sdk.TimeoutError
	return errors.As(err, &t) && t.TimeoutType() == enums.TIMEOUT_TYPE_SCHEDULE_TO_START
}

// lapse has an offer count as failed for good, for want of workers that can.
func (x *interp) lapse(h *hand, w dr.Workers, waited time.Duration) {
	for _, t := range x.fold.Next() { // the run may have begun to end meanwhile
		if t.Kind != h.k.kind || t.Step.ID != h.k.step || t.Attempt != h.task.Attempt || t.Open != h.task.Open {
			continue
		}
		for _, e := range t.Lapse(x.now(), w, waited) {
			x.apply(e)
		}
		return
	}
}

package temporal

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"
	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// A signal costs the server a workflow task, as much as all the rest of a step.
// It is needed so that the fold knows of a beginning when it decides something
// else meanwhile. Where a step runs alone there is nothing to decide until it
// ends, but for a cancellation. So its worker tells of the beginning with the
// heartbeat that it sends anyway, which Temporal keeps as durably, and the
// workflow hears of it when the attempt ends: from its outcome, or from its last
// heartbeat if the worker was lost. When the run is cancelled it asks.

// alone reports whether nothing else will happen in the run while the task is
// under way, or the run is cancelled. A point of no return is no such step:
// stopping it, only to hear that it can't be cancelled any more, would be wrong.
func (x *interp) alone(t dr.Task) bool {
	return x.in.Settings.Quiet && t.Kind == dr.TaskDo && !t.Step.NoReturn && !x.ending() &&
		len(x.hands) == 0 && len(x.fold.Next()) == 1 && x.fold.Status().State != dr.RunStuck // what is stuck may go on beside it
}

// takenUp reports whether an offer that has ended was begun, when it was to be
// told by heartbeats. In doubt it was: what has begun is settled and undone.
func takenUp(offer int, out outcome, err error) bool {
	var late *sdk.TimeoutError
	var said *sdk.ApplicationError
	switch {
	case err == nil:
		return out.Begun
	case sdk.IsCanceledError(err), untaken(err): // before any worker had it
		return false
	case errors.As(err, &late):
		var b beat
		if !late.HasLastHeartbeatDetails() {
			return false
		}
		return late.LastHeartbeatDetails(&b) != nil || b.Begun && b.Offer == offer
	}
	// A worker that lacks the codec's key.
	return !errors.As(err, &said) || !strings.Contains(said.Message(), unread)
}

// unread is how the SDK says that it didn't call an activity because it can't
// read what it is to be called with.
const unread = "unable to decode the activity function input payload"

// ask finds out which of the withdrawn offers have begun, and then sets told.
// Temporal puts the withdrawal before the question: a worker that comes later
// hears of it before it calls the action.
func (x *interp) ask(open []*hand, told *bool) {
	set := x.in.Settings
	ctx := workflow.WithActivityOptions(x.ctx, workflow.ActivityOptions{
		TaskQueue:           set.Queue,
		StartToCloseTimeout: max(set.Heartbeat, 5*time.Second),
		RetryPolicy:         &sdk.RetryPolicy{InitialInterval: set.BackoffFirst, BackoffCoefficient: 2, MaximumInterval: 5 * time.Second},
		Summary:             "which steps have begun?",
	})
	f := workflow.ExecuteActivity(ctx, underwayName)
	workflow.Go(x.ctx, func(g workflow.Context) {
		var begun []int
		if f.Get(g, &begun) != nil {
			return // then the offers' ends are waited for
		}
		for _, h := range open {
			for _, n := range begun {
				h.signalled = h.signalled || h.quiet && h.offer == n
			}
		}
		*told = true
	})
}

// underway is the activity that tells which offers of its run have begun.
func (e *Engine) underway(ctx context.Context) ([]int, error) {
	w := activity.GetInfo(ctx).WorkflowExecution
	d, err := e.c.DescribeWorkflowExecution(ctx, w.ID, w.RunID)
	if err != nil {
		return nil, explain(ctx, "ask which steps have begun", err)
	}
	var begun []int
	for _, a := range d.GetPendingActivities() {
		if a.GetActivityType().GetName() != stepName || len(a.GetHeartbeatDetails().GetPayloads()) == 0 {
			continue
		}
		var b beat
		if err := e.decode(a.GetHeartbeatDetails(), &b); err != nil {
			return nil, err
		}
		if b.Begun {
			begun = append(begun, b.Offer)
		}
	}
	return begun, nil
}

package temporal

import (
	"time"

	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// claim has the plan's locks claimed by who drives, until they are held or
// refused. A run whose locks are refused never was: its workflow fails, so that
// the same ID can be started again.
func (x *interp) claim(k key) bool {
	if len(x.plan.Locks) == 0 {
		x.apply(dr.Event{Kind: dr.EventClaimed, At: x.now()})
		return true
	}
	var out claimOutcome
	x.outside(k, claimName, func(f workflow.Future, g workflow.Context) error { return f.Get(g, &out) }, func(err error) {
		switch {
		case err != nil || !x.wants(dr.TaskClaim): // cancelled meanwhile
		case out.Busy != "" && out.Held:
			x.refuse(k, out.Busy)
		case out.Busy != "":
			x.refused = out.Busy
		default:
			x.apply(dr.Event{Kind: dr.EventClaimed, At: x.now(), Epochs: out.Epochs})
		}
	})
	return false
}

// refuse gives back what has been claimed, and then has the run never have been.
func (x *interp) refuse(k key, busy string) {
	x.outside(k, releaseName, func(f workflow.Future, g workflow.Context) error { return f.Get(g, nil) }, func(err error) {
		if err == nil && x.wants(dr.TaskClaim) { // else it was cancelled meanwhile, and ends as such
			x.refused = busy
		}
	})
}

func (x *interp) release(k key) bool {
	if len(x.plan.Locks) == 0 {
		x.apply(dr.Event{Kind: dr.EventReleased, At: x.now()})
		return true
	}
	x.outside(k, releaseName, func(f workflow.Future, g workflow.Context) error { return f.Get(g, nil) }, func(err error) {
		if err == nil && x.wants(dr.TaskRelease) {
			x.apply(dr.Event{Kind: dr.EventReleased, At: x.now()})
		}
	})
	return false
}

// outside runs an activity on the driver's own queue. Temporal tries it again
// for as long as it fails: claims that can't be reached are asked again.
func (x *interp) outside(k key, name string, get func(workflow.Future, workflow.Context) error, then func(error)) {
	set := x.in.Settings
	ctx, cancel := workflow.WithCancel(workflow.WithActivityOptions(x.ctx, workflow.ActivityOptions{
		TaskQueue: set.Queue,
		// They are claimed one after the other, at a store that may be far away.
		StartToCloseTimeout: max(set.Heartbeat, 5*time.Second) + time.Duration(len(x.plan.Locks))*time.Second/2,
		WaitForCancellation: true,
		RetryPolicy:         &sdk.RetryPolicy{InitialInterval: set.BackoffFirst, BackoffCoefficient: 2, MaximumInterval: set.BackoffMost},
	}))
	h := &hand{k: k, cancel: cancel}
	x.take(h)
	f := workflow.ExecuteActivity(ctx, name, claimInput{Run: x.in.Run, Queue: set.Queue, Start: x.in.Start, Locks: x.plan.Locks})
	workflow.Go(x.ctx, func(g workflow.Context) {
		err := get(f, g)
		x.post(func() {
			x.drop(h)
			then(err)
		})
	})
}

// wants reports whether the fold still asks for a claim or a release.
func (x *interp) wants(kind dr.TaskKind) bool {
	for _, t := range x.fold.Next() {
		if t.Kind == kind {
			return true
		}
	}
	return false
}

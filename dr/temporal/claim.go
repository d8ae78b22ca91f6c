package temporal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// claimant claims for the runs that are driven here.
type claimant struct {
	claims dr.Claims
	c      client.Client

	mu sync.Mutex
	id string // the namespace's
}

// owner is the run's name among the owners of claims. The namespace's ID tells
// apart namespaces of one name on two servers, and what Start says the starts
// of one ID: what an attempt of an earlier one does late mustn't touch the
// claims of this.
func (c *claimant) owner(ctx context.Context, in claimInput) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id == "" {
		name := activity.GetInfo(ctx).Namespace
		d, err := c.c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: name})
		if err != nil {
			return "", explain(ctx, "describe namespace "+name, err)
		}
		c.id = d.GetNamespaceInfo().GetId()
	}
	owner := string(in.Run) + "@temporal:" + c.id + "/" + in.Queue
	if in.Start != "" {
		owner += "#" + in.Start
	}
	return owner, nil
}

// claim claims all locks, until one is held by another owner. Any other error is
// tried again by Temporal, for as long as the run waits for it. What it has
// claimed then is given back by the workflow, once that knows that nobody claims
// for it any more: an attempt that is slow to give back could do so when another
// has claimed in the same name, and the run would hold nothing.
func (c *claimant) claim(ctx context.Context, in claimInput) (claimOutcome, error) {
	if len(in.Locks) == 0 {
		return claimOutcome{}, nil
	}
	owner, err := c.owner(ctx, in)
	if err != nil {
		return claimOutcome{}, err
	}
	out := claimOutcome{Epochs: make(map[string]uint64, len(in.Locks))}
	// In one order everywhere, so that two runs can't each hold what the other
	// wants.
	for _, l := range slices.Sorted(slices.Values(in.Locks)) {
		epoch, err := c.claims.Acquire(ctx, l, owner)
		if errors.Is(err, dr.ErrBusy) {
			out.Busy = err.Error()
			break
		}
		if err != nil && ctx.Err() == nil {
			return claimOutcome{}, err
		}
		if ctx.Err() != nil {
			break
		}
		out.Epochs[l] = epoch
	}
	if ctx.Err() != nil || isOver(c.c.RecordActivityHeartbeat(ctx, activity.GetInfo(ctx).TaskToken)) {
		return claimOutcome{}, c.late(ctx, in, owner)
	}
	if out.Busy != "" {
		return claimOutcome{Busy: out.Busy, Held: len(out.Epochs) > 0}, nil
	}
	return out, nil
}

// How long an attempt to claim that came too late looks what became of its run,
// and how often.
const (
	lateFor   = 2 * time.Minute
	lateEvery = time.Second
)

var errLate = errors.New("it took too long to claim")

// late cleans up after an attempt that was given up while it claimed: the run
// may have ended meanwhile, and released what it knew of; nobody else would
// ever release what has been claimed since. While the run is open the claims
// are its own, whichever attempt made them. What late returns goes to nobody.
func (c *claimant) late(ctx context.Context, in claimInput, owner string) error {
	workflow, stop := activity.GetInfo(ctx).WorkflowExecution, activity.GetWorkerStopChannel(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lateFor)
	defer cancel()
	for id := workflow.RunID; ; {
		d, err := c.c.DescribeWorkflowExecution(ctx, workflow.ID, id)
		st := d.GetWorkflowExecutionInfo().GetStatus()
		switch {
		case gone(err), st == enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, st == enums.WORKFLOW_EXECUTION_STATUS_FAILED:
			return errors.Join(errLate, c.releaseAll(ctx, owner, in.Locks))
		case st == enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW:
			id = "" // the newest
		case st != enums.WORKFLOW_EXECUTION_STATUS_RUNNING && err == nil:
			return errLate // a person has ended it, and sees that it still has claims
		}
		select {
		case <-stop:
			return errLate
		case <-time.After(lateEvery):
		}
		if ctx.Err() != nil {
			return errLate
		}
	}
}

// release gives all locks back, until it has succeeded.
func (c *claimant) release(ctx context.Context, in claimInput) error {
	if len(in.Locks) == 0 {
		return nil
	}
	owner, err := c.owner(ctx, in)
	if err != nil {
		return err
	}
	return c.releaseAll(ctx, owner, in.Locks)
}

func (c *claimant) releaseAll(ctx context.Context, owner string, locks []string) error {
	var errs []error
	for _, l := range locks {
		if err := c.claims.Release(ctx, l, owner); err != nil {
			errs = append(errs, fmt.Errorf("release %s: %w", l, err))
		}
	}
	return errors.Join(errs...)
}

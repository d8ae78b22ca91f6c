package temporal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

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
// apart namespaces of one name on two servers.
func (c *claimant) owner(ctx context.Context, in claimInput) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id == "" {
		name := activity.GetInfo(ctx).Namespace
		d, err := c.c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: name})
		if err != nil {
			return "", explain("describe namespace "+name, err)
		}
		c.id = d.GetNamespaceInfo().GetId()
	}
	return string(in.Run) + "@temporal:" + c.id + "/" + in.Queue, nil
}

// claim claims all locks or, if one is held by another owner, none. Any other
// error is tried again by Temporal, for as long as the run waits for it.
func (c *claimant) claim(ctx context.Context, in claimInput) (claimOutcome, error) {
	if len(in.Locks) == 0 {
		return claimOutcome{}, nil
	}
	owner, err := c.owner(ctx, in)
	if err != nil {
		return claimOutcome{}, err
	}
	epochs := make(map[string]uint64, len(in.Locks))
	// In one order everywhere, so that two runs can't each hold what the other
	// wants.
	for _, l := range slices.Sorted(slices.Values(in.Locks)) {
		epoch, err := c.claims.Acquire(ctx, l, owner)
		if errors.Is(err, dr.ErrBusy) {
			if err := c.releaseAll(ctx, owner, in.Locks); err != nil {
				return claimOutcome{}, err
			}
			return claimOutcome{Busy: err.Error()}, nil
		}
		if err != nil {
			return claimOutcome{}, err
		}
		epochs[l] = epoch
	}
	return claimOutcome{Epochs: epochs}, nil
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

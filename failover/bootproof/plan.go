package bootproof

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

// Reports are those of several machines.
type Reports []Report

// String is a line each.
func (r Reports) String() string {
	lines := make([]string, len(r))
	for i, one := range r {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// PlanCheck is Prove as a callback of recovery plans, for an action or a health
// check: of each machine that the callback is called for, the point that open
// opens boots. Machines are proved one after the other. The journal gets the
// reports without their pictures; Options.Report gets them whole.
//
// It changes nothing, so it needs no undoing, and may be repeated.
func PlanCheck(open func(ctx context.Context, m recoveryplan.ContextMachine) (dr.Image, error), o Options) recoveryplan.Callback {
	return func(ctx context.Context, c recoveryplan.Context) (any, error) {
		if c.Undo {
			return nil, nil
		}
		if len(c.Machines) == 0 {
			return nil, dr.Permanent(fmt.Errorf("%w: step %s is called for no machine", dr.ErrInvalid, c.Step))
		}
		var all Reports
		for _, m := range c.Machines {
			r, err := prove(ctx, m, open, o)
			if errors.Is(err, ErrNoBootDevice) {
				err = dr.Permanent(err) // of a frozen point
			}
			if err != nil {
				return nil, fmt.Errorf("machine %s: %w", m.Protection, err)
			}
			r.Screenshot = nil
			all = append(all, r)
		}
		return all, nil
	}
}

func prove(ctx context.Context, m recoveryplan.ContextMachine, open func(context.Context, recoveryplan.ContextMachine) (dr.Image, error), o Options) (r Report, err error) {
	img, err := open(ctx, m)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	return Prove(ctx, img, o)
}

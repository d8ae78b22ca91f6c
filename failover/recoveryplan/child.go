package recoveryplan

import (
	"fmt"
	"net/url"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/networks"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Gates that are put into the machines' flows, at which they wait for each
// other. The plan's run answers them; so may a person, for one machine.
const (
	gateDown  = "plan-all-down" // everything of the plan is shut down
	gateStart = "plan-start"    // the machine's group has its turn
)

// ChildRun is the run by which a plan's run moves one machine.
func ChildRun(plan dr.RunID, m dr.ProtectionID) dr.RunID {
	return plan + "/" + dr.RunID(url.PathEscape(string(m)))
}

// takeBack is the n-th run, from 1, that takes back what a machine's run did.
func takeBack(child dr.RunID, n int) dr.RunID { return dr.RunID(fmt.Sprintf("%s/back-%d", child, n)) }

// machineInput is what the steps about one machine are given.
type machineInput struct {
	Plan    string  `json:"plan"`
	Flow    string  `json:"flow"`
	Home    bool    `json:"home,omitempty"`
	Group   string  `json:"group"`
	Machine Machine `json:"machine"`
	// Networks are those of the plan, for the step that starts the run.
	Networks []networks.Mapping `json:"networks,omitempty"`
	Options  Options            `json:"options"`
	// Approve is the machine's gate that the step opens; "": it starts the
	// machine's run. Until is the gate up to which it waits; "": to the end.
	Approve string `json:"approve,omitempty"`
	Until   string `json:"until,omitempty"`
	// Before are the earlier steps about this machine.
	Before []string `json:"before,omitempty"`
}

// child plans the flow of one machine, by its record as it stands. point, if
// there is one, was chosen for it already.
func child(r dr.Protection, in machineInput, run dr.RunID, point *dr.PointID) (dr.Plan, error) {
	w, err := in.where(r)
	if err != nil {
		return dr.Plan{}, err
	}
	o := failover.Options{
		Shutdown: in.Options.Shutdown, ShutdownTimeout: time.Duration(in.Machine.ShutdownTimeout), PowerOff: in.Machine.PowerOff,
		VerifyTimeout: time.Duration(in.Machine.VerifyTimeout), Where: w,
		Point: recoverypoint.Choice{Option: in.Options.Point},
	}
	if point != nil {
		o.Point = recoverypoint.Choice{Option: recoverypoint.Custom, Point: *point}
	} else if forPlans(o.Point.Option) {
		// Chosen for all machines together, when the run has begun.
		o.Point.Option = recoverypoint.LatestProcessed
	}
	switch in.Flow {
	case FlowTest, FlowDrill:
		return gated(failover.Test(r, run, o))
	case FlowPlanned:
		return gated(failover.Planned(r, o))
	case FlowUnplanned:
		return gated(failover.Unplanned(r, o))
	case FlowFailback:
		if in.Options.Sync != failback.FromPoints {
			o.Point = recoverypoint.Choice{}
		}
		return gated(failback.Failback(r, failback.Options{Sync: in.Options.Sync, Alternate: in.Machine.Alternate && in.Options.Sync != failback.FromPoints, Options: o}))
	case FlowReprotect:
		return failback.Reprotect(r, failback.ReprotectOptions{Alternate: in.Machine.Alternate, Cold: in.Options.Cold, Where: w})
	case FlowCommit:
		return failover.Commit(r, failover.CommitOptions{Discard: in.Options.Discard})
	case FlowCancel:
		return failover.Cancel(r)
	case FlowCleanUp:
		return failover.CleanUp(r, in.Options.Notes)
	}
	return dr.Plan{}, fmt.Errorf("%w: flow %q", dr.ErrInvalid, in.Flow)
}

// gated puts in the gates at which the machine waits for the others.
func gated(p dr.Plan, err error) (dr.Plan, error) {
	if err != nil {
		return p, err
	}
	if _, shuts := p.Step(failover.StepShutdown); shuts {
		p, err = p.InsertAfter(failover.StepShutdown, dr.Step{ID: gateDown, Gate: "The recovery plan goes on when all its machines are shut down. Go on with this one now?"})
		if err != nil {
			return p, err
		}
	}
	return p.InsertBefore(failover.StepStart, dr.Step{ID: gateStart, Gate: "The recovery plan starts this machine when its group has its turn. Start it now?"})
}

// gates lists the gates of a flow in which the plan's run has its machines
// wait, in their order.
func gates(flow string, o Options) []string {
	switch flow {
	case FlowTest, FlowDrill:
		return []string{gateStart}
	case FlowUnplanned:
		if !o.Shutdown {
			return []string{gateStart}
		}
		return []string{gateDown, gateStart}
	case FlowPlanned:
		return []string{gateDown, gateStart}
	case FlowFailback:
		if o.Sync == failback.Before {
			return []string{failback.StepComplete, gateDown, gateStart}
		}
		return []string{gateDown, gateStart}
	}
	return nil
}

// forPlans reports whether points are chosen for all machines of a plan
// together.
func forPlans(o recoverypoint.Option) bool {
	return o == recoverypoint.LatestMultiVMProcessed || o == recoverypoint.LatestMultiVMApplicationConsistent || o == recoverypoint.LatestBeforeSuspicion
}

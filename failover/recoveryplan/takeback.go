package recoveryplan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// end cancels a run and waits until it has ended.
func (e *Env) end(ctx context.Context, c *dr.Call, run dr.RunID, why string) error {
	err := e.Runs.Cancel(ctx, run, why)
	if err != nil && !errors.Is(err, dr.ErrNotAllowed) && !errors.Is(err, dr.ErrNotFound) {
		return fmt.Errorf("cancel run %s: %w", run, err)
	}
	_, err = e.await(ctx, c, run, "")
	return err
}

// takeAllBack is takeBack that sets the same off for all other machines first.
// Steps are undone one after the other, and a hundred machines that wait for
// each other to go back would keep a company down for hours.
func (e *Env) takeAllBack(ctx context.Context, c *dr.Call, in machineInput, run dr.RunID) error {
	var b begun
	if _, err := failover.ReadResult(c, StepBegin, &b); err != nil {
		return err
	}
	for _, id := range b.Machines {
		if id == in.Machine.Protection {
			continue
		}
		other := in
		other.Machine = Machine{Protection: id}
		// Its own turn comes, and tells what is in its way.
		_ = e.setOff(ctx, c, other, ChildRun(c.Run, id))
	}
	return e.takeBack(ctx, c, in, run)
}

// setOff begins what takeBack waits for.
func (e *Env) setOff(ctx context.Context, c *dr.Call, in machineInput, run dr.RunID) error {
	st, err := e.Runs.Status(ctx, run)
	switch {
	case err != nil:
		return err
	case !st.State.Ended():
		return e.Runs.Cancel(ctx, run, takenBack(c))
	case st.State != dr.RunDone:
		return nil
	}
	if _, err := e.Runs.Status(ctx, takeBack(run, 1)); !errors.Is(err, dr.ErrNotFound) {
		return err
	}
	_, err = e.startReverse(ctx, in, run, takeBack(run, 1))
	return err
}

func takenBack(c *dr.Call) string {
	return "the recovery plan's run " + string(c.Run) + " is taken back"
}

// takeBack is the undo of a machine's first stage: a run that is under way is
// cancelled, which takes its steps back; what one that has succeeded did is
// taken back by another run.
func (e *Env) takeBack(ctx context.Context, c *dr.Call, in machineInput, run dr.RunID) error {
	st, err := e.Runs.Status(ctx, run)
	if errors.Is(err, dr.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if !st.State.Ended() {
		if err := e.end(ctx, c, run, takenBack(c)); err != nil {
			return err
		}
		if st, err = e.Runs.Status(ctx, run); err != nil {
			return err
		}
	}
	if in.Flow == FlowTest || in.Flow == FlowDrill {
		return e.reverse(ctx, c, in, run) // also what a drill that failed has left
	}
	for _, s := range st.Steps {
		if s.State == dr.StepUndoFailed {
			return dr.Permanent(fmt.Errorf("machine %s: run %s could not be taken back: step %s: %s", in.Machine.Protection, run, s.ID, s.Err))
		}
	}
	if st.State != dr.RunDone {
		return nil
	}
	return e.reverse(ctx, c, in, run)
}

// reverse takes back what a run that succeeded did.
func (e *Env) reverse(ctx context.Context, c *dr.Call, in machineInput, run dr.RunID) error {
	for n := 1; ; n++ {
		back := takeBack(run, n)
		st, err := e.Runs.Status(ctx, back)
		switch {
		case errors.Is(err, dr.ErrNotFound):
			started, err := e.startReverse(ctx, in, run, back)
			if err != nil || !started {
				return err
			}
		case err != nil:
			return err
		case st.State.Ended() && st.State != dr.RunDone:
			continue // somebody mended what kept it, and asks again
		}
		return e.finishReverse(ctx, c, back)
	}
}

// startReverse returns false if there is nothing to be taken back.
func (e *Env) startReverse(ctx context.Context, in machineInput, run, back dr.RunID) (bool, error) {
	r, err := e.Replication.Records.Load(ctx, in.Machine.Protection)
	if err != nil {
		return false, fmt.Errorf("record of protection %s: %w", in.Machine.Protection, err)
	}
	var p dr.Plan
	switch {
	case in.Flow == FlowTest || in.Flow == FlowDrill:
		if r.Test == nil || r.Test.Run != run {
			return false, nil // it is cleaned up
		}
		p, err = failover.CleanUp(r, in.Options.Notes)
	case in.Flow == FlowPlanned || in.Flow == FlowUnplanned || in.Flow == FlowFailback:
		if r.Failover == nil || r.Failover.Run != run {
			return false, nil
		}
		p, err = failover.Cancel(r)
	default:
		// A machine that is protected again is in no danger; nor is one whose
		// failover was taken back already.
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := e.Runs.Start(ctx, back, p); err != nil && !errors.Is(err, dr.ErrRunExists) {
		return false, fmt.Errorf("start run %s: %w", back, err)
	}
	return true, nil
}

// finishReverse waits for the end, or until only a person can help: a drill that
// runs unattended, and a run that is being taken back, must come to their ends
// and say what is left.
func (e *Env) finishReverse(ctx context.Context, c *dr.Call, back dr.RunID) error {
	st, err := dr.WaitUntil(ctx, e.Runs, back, func(s dr.Status) bool {
		tell(c, s)
		return s.State == dr.RunStuck
	})
	switch {
	case err != nil:
		return fmt.Errorf("wait for run %s: %w", back, err)
	case st.State == dr.RunStuck:
		return dr.Permanent(fmt.Errorf("run %s is stuck, and goes on when a person decides: %s", back, st.Reason))
	}
	return dr.Permanent(st.Err())
}

// clean removes what a drill has made of one machine, whatever became of it.
func (e *Env) clean(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	var in machineInput
	if err := read(c, &in); err != nil {
		return nil, err
	}
	run := ChildRun(c.Run, in.Machine.Protection)
	if _, err := e.Runs.Status(ctx, run); errors.Is(err, dr.ErrNotFound) {
		return json.Marshal(Outcome{Protection: in.Machine.Protection, Group: in.Group, State: Skipped, Why: "there was no drill of it"})
	}
	in.Flow = FlowDrill
	if err := e.takeBack(ctx, c, in, run); err != nil {
		return nil, err
	}
	return json.Marshal(Outcome{Protection: in.Machine.Protection, Group: in.Group, State: Done, Run: takeBack(run, 1)})
}

// Children names the runs that a step of a plan's run drives, for consoles that
// show runs as a tree: those that may be, also if they were never needed.
func Children(s dr.Status, step dr.StepStatus) []dr.RunID {
	for _, stage := range []string{stageOpen, stageClean} {
		id, ok := stepMachine(step.ID, stage)
		if !ok {
			continue
		}
		run := ChildRun(s.Run, id)
		switch {
		case stage == stageClean:
			return []dr.RunID{takeBack(run, 1)}
		case step.State == dr.StepUndoing || step.State == dr.StepUndone || step.State == dr.StepUndoFailed:
			return []dr.RunID{run, takeBack(run, 1)}
		}
		return []dr.RunID{run}
	}
	return nil
}

// MachinesOf lists the machines that a plan's run is about, in the plan's order.
func MachinesOf(s dr.Status) (ids []dr.ProtectionID) {
	for _, x := range s.Steps {
		if id, ok := stepMachine(x.ID, stageOpen); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

package main

import (
	"encoding/json"

	"github.com/lifeboat-dr/lifeboat/backend/vmware"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// stage is a flow of one machine, or of both at the same time.
type stage struct {
	name     string
	machines []dr.ProtectionID
	plan     planner
}

// planner makes the flow's plan of a protection as it stands.
type planner func(w *world, run dr.RunID, p dr.Protection) (dr.Plan, error)

// story is the whole cycle.
func story() []stage {
	both := []dr.ProtectionID{web, app}
	return []stage{
		{"protect", both, protect},
		{"replicate", both, replicate},
		// Stage 1: fail over. A drill first, while replication goes on.
		{"test-failover", both, drill},
		{"replicate", both, replicate},
		{"clean-up-test", both, cleanUp},
		{"planned-failover", []dr.ProtectionID{web}, planned},
		{"unplanned-failover", []dr.ProtectionID{app}, unplanned},
		{"change-point", []dr.ProtectionID{app}, changePoint},
		{"commit", both, commit},
		// Stage 2: reprotect, from Azure to the vCenter.
		{"reprotect-original", []dr.ProtectionID{web}, toOriginal},
		{"reprotect-alternate", []dr.ProtectionID{app}, toAlternate},
		{"replicate", both, replicate},
		// Stage 3: fail back.
		{"failback", both, goHome},
		{"commit", both, commit},
		// Stage 4: reprotect, from the vCenter to Azure again.
		{"reprotect", both, toAzure},
		{"replicate", both, replicate},
		{"unprotect", both, unprotect},
	}
}

func protect(w *world, _ dr.RunID, p dr.Protection) (dr.Plan, error) {
	plan, err := replication.Protect(p)
	return w.thenVerifyPoint(p, plan, err)
}

func drill(w *world, run dr.RunID, p dr.Protection) (dr.Plan, error) {
	plan, err := failover.Test(p, run, failover.Options{Where: atAzure()})
	return thenVerifyMachine(plan, err)
}

func cleanUp(_ *world, _ dr.RunID, p dr.Protection) (dr.Plan, error) {
	return failover.CleanUp(p, "the drill's machine came up and found its data")
}

// planned loses nothing: the guest is shut down, and its last changes are
// replicated. Then people are let in.
func planned(_ *world, _ dr.RunID, p dr.Protection) (dr.Plan, error) {
	plan, err := failover.Planned(p, failover.Options{Where: atAzure()})
	plan, err = thenVerifyMachine(plan, err)
	if err != nil {
		return plan, err
	}
	return thenLetIn(plan)
}

// unplanned begins with the disaster: the machine's host loses power.
func unplanned(_ *world, _ dr.RunID, p dr.Protection) (dr.Plan, error) {
	plan, err := failover.Unplanned(p, failover.Options{Where: atAzure()})
	if err != nil {
		return plan, err
	}
	plan, err = plan.InsertBefore(failover.StepChoose, dr.Step{ID: "power-loss", Action: "demo.power-loss@1", Input: machineAt(p.Active)})
	return thenVerifyMachine(plan, err)
}

// changePoint goes back to the point before the last.
func changePoint(w *world, _ dr.RunID, p dr.Protection) (dr.Plan, error) {
	earlier, err := w.pointBefore(p)
	if err != nil {
		return dr.Plan{}, err
	}
	plan, err := failover.ChangePoint(p, recoverypoint.Choice{Option: recoverypoint.Custom, Point: earlier}, failover.Options{Where: atAzure()})
	return thenVerifyMachine(plan, err)
}

func commit(_ *world, _ dr.RunID, p dr.Protection) (dr.Plan, error) {
	return failover.Commit(p, failover.CommitOptions{})
}

// toOriginal writes to the machine that was left, which is still there: only
// what either side has changed travels.
func toOriginal(w *world, _ dr.RunID, p dr.Protection) (dr.Plan, error) {
	plan, err := failback.Reprotect(p, failback.ReprotectOptions{})
	return w.thenVerifyPoint(p, plan, err)
}

// toAlternate builds a new machine: the former one is gone, with its disks.
func toAlternate(w *world, _ dr.RunID, p dr.Protection) (dr.Plan, error) {
	plan, err := failback.Reprotect(p, failback.ReprotectOptions{Alternate: true, Where: atHome(p)})
	plan, err = w.thenVerifyPoint(p, plan, err)
	if err != nil {
		return plan, err
	}
	return plan.InsertBefore(failover.StepBegin, dr.Step{ID: "destroy", Action: "demo.destroy@1", Input: machineAt(p.Standby)})
}

// atHome says where and how a machine is made there, if one has to be.
func atHome(p dr.Protection) failover.Where {
	if p.ID != app {
		return failover.Where{}
	}
	o, _ := json.Marshal(vmware.PlaceOptions{Cluster: "C0", Folder: "recovered", Datastore: "vmfs-1"})
	return failover.Where{Networks: map[string]string{subnet: production}, Options: o}
}

func goHome(_ *world, _ dr.RunID, p dr.Protection) (dr.Plan, error) {
	plan, err := failback.Failback(p, failback.Options{Options: failover.Options{Where: atHome(p)}})
	return thenVerifyMachine(plan, err)
}

func toAzure(w *world, _ dr.RunID, p dr.Protection) (dr.Plan, error) {
	plan, err := failback.Reprotect(p, failback.ReprotectOptions{Where: atAzure()})
	return w.thenVerifyPoint(p, plan, err)
}

// unprotect ends it, so that this program can say whether anything is left.
func unprotect(_ *world, _ dr.RunID, p dr.Protection) (dr.Plan, error) {
	return replication.Unprotect(p)
}

package main

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// ownActions are steps of our own, put into Lifeboat's plans by name. An
// operator's would change DNS records, or wait for an approval.
func (w *world) ownActions() dr.Actions {
	return dr.Actions{
		"demo.replicate@1":      w.replicateStep,
		"demo.verify-point@1":   w.verifyPoint,
		"demo.verify-machine@1": w.verifyMachine,
		"demo.power-loss@1":     w.powerLoss,
		"demo.destroy@1":        w.destroy,
	}
}

// replicate is an ordinary replication cycle as a flow of our own; a scheduler
// would call Env.Replicate every few minutes instead.
func replicate(w *world, _ dr.RunID, p dr.Protection) (dr.Plan, error) {
	if err := p.Allow(dr.OpReplicate); err != nil {
		return dr.Plan{}, err
	}
	in, err := json.Marshal(p.ID)
	plan := dr.Plan{Flow: "replicate", Rev: 1, Locks: []string{p.ID.Lock()}, Steps: []dr.Step{
		{ID: failback.StepReplicate, Action: "demo.replicate@1", Input: in},
	}}
	return w.thenVerifyPoint(p, plan, err)
}

func (w *world) replicateStep(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	var id dr.ProtectionID
	if err := json.Unmarshal(c.Input, &id); err != nil {
		return nil, err
	}
	p, err := w.env.Records.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	rep, err := w.env.ReplicateAs(ctx, p, replication.PointName(c.Key), dr.CrashConsistent, c.Beat)
	if err != nil {
		return nil, err
	}
	_, err = w.env.Update(ctx, c, id, func(p *dr.Protection) error {
		p.Last = rep.Point
		return nil
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(rep)
}

// machineAt is the input of the disasters.
func machineAt(at dr.Place) json.RawMessage {
	b, _ := json.Marshal(at.Machine)
	return b
}

// powerLoss takes the power from a machine's host.
func (w *world) powerLoss(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	var id dr.MachineID
	if err := json.Unmarshal(c.Input, &id); err != nil {
		return nil, err
	}
	vm, err := w.vcenter.find(ctx, id)
	if err != nil {
		return nil, err
	}
	return nil, vm.PowerLoss()
}

// destroy deletes a machine from the vCenter, with its disks.
func (w *world) destroy(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	var id dr.MachineID
	if err := json.Unmarshal(c.Input, &id); err != nil {
		return nil, err
	}
	err := w.vcenter.destroy(ctx, id)
	if errors.Is(err, dr.ErrNotFound) {
		return nil, nil // an attempt that was cut off
	}
	return nil, err
}

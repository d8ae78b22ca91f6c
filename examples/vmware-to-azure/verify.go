package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// known is what the witness said of recovery points, oldest first.
type known struct {
	mu  sync.Mutex
	all []knownPoint
}

type knownPoint struct {
	of dr.ProtectionID
	id dr.PointID
	at position
}

func (k *known) add(p knownPoint) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = append(k.all, p)
}

func (k *known) find(id dr.PointID) (position, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.all {
		if p.id == id {
			return p.at, true
		}
	}
	return position{}, false
}

// pointBefore returns the last point but one.
func (w *world) pointBefore(p dr.Protection) (dr.PointID, error) {
	w.points.mu.Lock()
	defer w.points.mu.Unlock()
	var earlier, last dr.PointID
	for _, k := range w.points.all {
		if k.of == p.ID {
			earlier, last = last, k.id
		}
	}
	if earlier == "" {
		return "", fmt.Errorf("%w: before %q", dr.ErrNoPoint, last)
	}
	return earlier, nil
}

// pointInput says which point the verification is about, and what it must hold
// at the least: what was written before the flow began.
type pointInput struct {
	Protection dr.Protection `json:"protection"`
	Least      position      `json:"least"`
}

// thenVerifyPoint puts our own check behind the step that makes a point.
func (w *world) thenVerifyPoint(p dr.Protection, plan dr.Plan, err error) (dr.Plan, error) {
	if err != nil {
		return plan, err
	}
	in, err := json.Marshal(pointInput{p, w.witness.present(string(p.ID))})
	if err != nil {
		return plan, err
	}
	return plan.InsertAfter(failback.StepReplicate, dr.Step{ID: "verify-point", Action: "demo.verify-point@1", Input: in})
}

// verifyPoint reads a new point back from its store, every byte of it.
func (w *world) verifyPoint(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	var in pointInput
	if err := json.Unmarshal(c.Input, &in); err != nil {
		return nil, err
	}
	var rep replication.Report
	if err := json.Unmarshal(c.Results[failback.StepReplicate], &rep); err != nil {
		return nil, err
	}
	site, err := w.env.Sites.Site(in.Protection.Standby.Site)
	if err != nil {
		return nil, err
	}
	// A store may have received a point, and not yet made it.
	if err := replication.Process(ctx, site.Points, rep.Point.Machine.ID); err != nil {
		return nil, err
	}
	img, err := site.Points.Open(ctx, rep.Point.Machine.ID, rep.Point.ID)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	disks := rep.Point.Machine.Disks
	at, _, err := w.witness.locate(string(in.Protection.ID), func(disk int, p []byte, off int64) error {
		n, err := img.ReadAt(ctx, disks[disk].ID, p, off)
		if n == len(p) {
			return nil
		}
		return errors.Join(err, io.ErrUnexpectedEOF)
	})
	if err == nil && (at.Life != in.Least.Life || at.Writes < in.Least.Writes) {
		err = fmt.Errorf("it is of %v, and the flow began at %v", at, in.Least)
	}
	if err != nil {
		return nil, dr.Permanent(fmt.Errorf("point %s: %w", rep.Point.ID, err))
	}
	w.points.add(knownPoint{in.Protection.ID, rep.Point.ID, at})
	return json.Marshal(at)
}

// thenVerifyMachine puts our own check behind the step that starts a machine.
func thenVerifyMachine(plan dr.Plan, err error) (dr.Plan, error) {
	if err != nil {
		return plan, err
	}
	s, _ := plan.Step(failover.StepStart)
	return plan.InsertAfter(failover.StepStart, dr.Step{ID: "verify-machine", Action: "demo.verify-machine@1", Input: s.Input})
}

// verifyMachine asks what the guest found on its disks when it started, all of
// which it has read: it must be the chosen point, or where nothing was to be
// lost the guest's very last write.
func (w *world) verifyMachine(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := failover.ReadInput(c)
	if err != nil {
		return nil, err
	}
	pt, err := failover.ChosenPoint(c)
	if err != nil {
		return nil, err
	}
	if err := w.cloud.guests(); err != nil {
		return nil, dr.Permanent(err)
	}
	last := w.witness.present(string(in.Protection))
	at, err := w.witness.booted(string(in.Protection), in.Test)
	if err != nil {
		return nil, dr.Permanent(err)
	}
	want, ok := w.points.find(pt.ID)
	if !ok { // the flow has made it of a machine that was off
		want = last
	}
	if at != want {
		return nil, dr.Permanent(fmt.Errorf("machine %s started from %v, and point %s is %v", in.Protection, at, pt.ID, want))
	}
	if in.Test {
		err = w.verifyIsolation(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(at)
}

// verifyIsolation looks where the cards of a drill's machine are.
func (w *world) verifyIsolation(ctx context.Context, c *dr.Call) error {
	var r backend.Replica
	if _, err := failover.ReadResult(c, failover.StepPrepare, &r); err != nil {
		return err
	}
	m, err := w.cloud.azure.Machine(ctx, r.ID)
	if err != nil {
		return err
	}
	for _, nic := range m.NICs {
		if !strings.HasPrefix(nic.Network, isolated+"/") {
			return dr.Permanent(fmt.Errorf("card %s of the drill's machine is in network %s", nic.ID, nic.Network))
		}
	}
	return nil
}

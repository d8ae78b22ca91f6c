package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// stage is one step round the cycle. Its name is its run's: so a stage that
// was begun before a crash is found again, and not begun anew.
type stage struct {
	run  dr.RunID
	plan func(dr.Protection) (dr.Plan, error)
}

func (w *world) stages() []stage {
	return []stage{
		{"01-protect", func(p dr.Protection) (dr.Plan, error) {
			return verifyAfter("replicate")(replication.Protect(p))
		}},
		{"02-replicate", w.replicate},
		{"03-replicate", w.replicate},
		{"04-test-failover", func(p dr.Protection) (dr.Plan, error) {
			return verifyBeforeStart(failover.Test(p, "04-test-failover", failover.Options{}))
		}},
		{"05-clean-up-test", func(p dr.Protection) (dr.Plan, error) {
			return failover.CleanUp(p, "the drill's machine came up and found its data")
		}},
		{"06-planned-failover", func(p dr.Protection) (dr.Plan, error) {
			return verifyBeforeStart(failover.Planned(p, failover.Options{}))
		}},
		{"07-change-point", func(p dr.Protection) (dr.Plan, error) {
			earlier, err := w.pointOf("02-replicate")
			if err != nil {
				return dr.Plan{}, err
			}
			to := recoverypoint.Choice{Option: recoverypoint.Custom, Point: earlier}
			return verifyBeforeStart(failover.ChangePoint(p, to, failover.Options{}))
		}},
		{"08-commit", func(p dr.Protection) (dr.Plan, error) {
			return failover.Commit(p, failover.CommitOptions{})
		}},
		{"09-reprotect", func(p dr.Protection) (dr.Plan, error) {
			return verifyAfter(failback.StepReplicate)(failback.Reprotect(p, failback.ReprotectOptions{}))
		}},
		{"10-replicate", w.replicate},
		{"11-failback", func(p dr.Protection) (dr.Plan, error) {
			return verifyBeforeStart(failback.Failback(p, failback.Options{}))
		}},
		{"12-commit", func(p dr.Protection) (dr.Plan, error) {
			return failover.Commit(p, failover.CommitOptions{})
		}},
		{"13-reprotect", func(p dr.Protection) (dr.Plan, error) {
			return verifyAfter(failback.StepReplicate)(failback.Reprotect(p, failback.ReprotectOptions{Cold: true}))
		}},
		{"14-unplanned-failover", func(p dr.Protection) (dr.Plan, error) {
			p1, err := failover.Unplanned(p, failover.Options{})
			if err != nil {
				return p1, err
			}
			// The disaster: the site's machines lose power.
			p1, err = p1.InsertBefore(failover.StepChoose, dr.Step{ID: "disaster", Action: "demo.disaster@1"})
			return verifyBeforeStart(p1, err)
		}},
	}
}

// verifyAfter puts our own check behind the step that makes a point.
func verifyAfter(step string) func(dr.Plan, error) (dr.Plan, error) {
	return func(p dr.Plan, err error) (dr.Plan, error) {
		if err != nil {
			return p, err
		}
		return p.InsertAfter(step, dr.Step{ID: "verify-point", Action: "demo.verify-point@1", Input: []byte(`"` + step + `"`)})
	}
}

// verifyBeforeStart puts our own check between the disks and the power.
func verifyBeforeStart(p dr.Plan, err error) (dr.Plan, error) {
	if err != nil {
		return p, err
	}
	s, _ := p.Step(failover.StepHydrate)
	return p.InsertAfter(failover.StepHydrate, dr.Step{ID: "verify-disks", Action: "demo.verify-disks@1", Input: s.Input})
}

// replicate is an ordinary replication cycle as a flow of our own.
func (w *world) replicate(p dr.Protection) (dr.Plan, error) {
	if err := p.Allow(dr.OpReplicate); err != nil {
		return dr.Plan{}, err
	}
	plan := dr.Plan{Flow: "replicate", Rev: 1, Locks: []string{p.ID.Lock()}, Steps: []dr.Step{
		{ID: failback.StepReplicate, Action: "demo.replicate@1"},
	}}
	return verifyAfter(failback.StepReplicate)(plan, plan.Validate())
}

// cycle runs all stages that have not ended, and returns a row for each.
func (w *world) cycle(ctx context.Context) ([]row, error) {
	if _, err := w.engine.Load(ctx, protection); errors.Is(err, dr.ErrNotFound) {
		p := replication.New(protection, dr.Place{Site: hq, Machine: app}, refuge)
		if _, err := w.engine.Save(ctx, p); err != nil {
			return nil, err
		}
	}
	var rows []row
	for _, s := range w.stages() {
		st, err := w.stage(ctx, s)
		if err != nil {
			return rows, err
		}
		r, err := rowOf(st)
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// stage starts a stage, unless that was done before, and waits for its end.
func (w *world) stage(ctx context.Context, s stage) (dr.Status, error) {
	_, err := w.engine.Status(ctx, s.run)
	if errors.Is(err, dr.ErrNotFound) {
		var p dr.Protection
		if p, err = w.engine.Load(ctx, protection); err != nil {
			return dr.Status{}, err
		}
		var plan dr.Plan
		if plan, err = s.plan(p); err != nil {
			return dr.Status{}, err
		}
		err = w.engine.Start(ctx, s.run, plan)
	}
	if err != nil {
		return dr.Status{}, err
	}
	watch, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // an engine that can't go on ends the wait
		select {
		case err := <-w.served:
			w.served <- err
			cancel(fmt.Errorf("the engine has stopped: %w", err))
		case <-watch.Done():
		}
	}()
	st, err := dr.Wait(watch, w.engine, s.run, w.screen.show)
	if err != nil {
		return st, err
	}
	return st, st.Err()
}

// pointOf returns the point that an earlier stage made.
func (w *world) pointOf(run dr.RunID) (dr.PointID, error) {
	st, err := w.engine.Status(context.Background(), run)
	if err != nil {
		return "", err
	}
	s, _ := st.Step(failback.StepReplicate)
	var r replication.Report
	err = json.Unmarshal(s.Result, &r)
	return r.Point.ID, err
}

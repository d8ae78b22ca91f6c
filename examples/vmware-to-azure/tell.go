package main

import (
	"context"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// tell runs one stage after the other, and returns a row for each.
func (w *world) tell(ctx context.Context, stages []stage) ([]row, error) {
	var rows []row
	for i, s := range stages {
		r := row{stage: s.name, machines: s.machines}
		calls, began := w.cloud.sim.Calls(), time.Now()
		statuses, err := w.stage(ctx, fmt.Sprintf("%02d-%s", i+1, s.name), s)
		if err != nil {
			return rows, err
		}
		r.took, r.calls = time.Since(began), w.cloud.sim.Calls()-calls
		for _, st := range statuses {
			if err := r.add(st); err != nil {
				return rows, err
			}
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// stage starts the flows of its machines and waits for them.
func (w *world) stage(ctx context.Context, name string, s stage) ([]dr.Status, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // an engine that can't go on ends the wait
		select {
		case err := <-w.served:
			w.served <- err
			cancel(fmt.Errorf("the engine has stopped: %w", err))
		case <-ctx.Done():
		}
	}()
	var runs []dr.RunID
	for _, id := range s.machines {
		p, err := w.engine.Load(ctx, id)
		if err != nil {
			return nil, err
		}
		run := dr.RunID(fmt.Sprintf("%s-%s", name, id))
		plan, err := s.plan(w, run, p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", run, err)
		}
		if err := w.engine.Start(ctx, run, plan); err != nil {
			return nil, err
		}
		runs = append(runs, run)
	}
	var all []dr.Status
	for _, run := range runs {
		st, err := dr.Wait(ctx, w.engine, run, w.screen.show)
		if err == nil {
			err = st.Err()
		}
		if err != nil {
			return nil, err
		}
		all = append(all, st)
	}
	return all, nil
}

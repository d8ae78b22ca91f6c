package main

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log/slog"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// lookEvery is how often open runs are looked at, for /metrics and the log: a
// scrape costs nothing by itself, however many runs there have been.
const lookEvery = 30 * time.Second

// maxAsked is how many runs are asked at a look where each costs a query, as on
// Temporal: those that were asked longest ago.
const maxAsked = 100

// held is the state that metrics give to a machine's run that waits for its turn in
// a recovery plan: the plan answers it, and no person is needed.
const held = dr.RunState("held")

// attention is what may need a person: open runs, as they were when they were
// asked last. It is safe for concurrent use.
type attention struct {
	log *slog.Logger

	mu   sync.Mutex
	at   time.Time // of the last look that succeeded
	open map[dr.RunID]seenRun
}

type seenRun struct {
	at     time.Time // zero: never yet
	status dr.Status
}

// awaiting is how many steps wait for a worker of a site to take them up, and how
// long the one that has waited longest.
type awaiting struct {
	steps  int
	oldest time.Time
}

// look finds the open runs and asks how they are. One that has come to wait for a
// person, or is stuck, is told to the log.
func (a *attention) look(ctx context.Context, o dr.Orchestrator, cheap bool) error {
	l, ok := dr.As[dr.OpenRunLister](o)
	if !ok {
		return nil
	}
	now := map[dr.RunID]seenRun{}
	var order []dr.RunID
	a.mu.Lock()
	before := a.open
	a.mu.Unlock()
	for id, err := range l.OpenRuns(ctx) {
		if err != nil {
			return err
		}
		now[id] = before[id]
		order = append(order, id)
	}
	if !cheap && len(order) > maxAsked {
		slices.SortStableFunc(order, func(x, y dr.RunID) int { return now[x].at.Compare(now[y].at) })
		order = order[:maxAsked]
	}
	for _, id := range order {
		s, err := o.Status(ctx, id)
		switch {
		case errors.Is(err, dr.ErrNotFound) || err == nil && s.State.Ended():
			delete(now, id)
			continue
		case err != nil:
			return err
		}
		s.Steps = holdUps(s.Steps)
		now[id] = seenRun{time.Now(), s}
	}
	for _, id := range order {
		a.tell(now, before, id)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at, a.open = time.Now(), now
	return nil
}

// tell has the log say what a person may have to do something about.
func (a *attention) tell(now, before map[dr.RunID]seenRun, id dr.RunID) {
	s, ok := now[id]
	if !ok || s.status.State == before[id].status.State {
		return
	}
	switch stateIn(now, s.status) {
	case dr.RunStuck:
		a.log.Warn("a run is stuck: POST /runs/ID/decide with retry, skip or give-up", "run", id, "flow", s.status.Flow, "why", s.status.Reason)
	case dr.RunWaiting:
		a.log.Info("a run waits for a person: POST /runs/ID/decide", "run", id, "flow", s.status.Flow, "why", s.status.Reason)
	}
}

// stateIn is a run's state, or held.
func stateIn(open map[dr.RunID]seenRun, s dr.Status) dr.RunState {
	if _, planned := open[dr.RunID(path.Dir(string(s.Run)))]; planned && s.State == dr.RunWaiting {
		return held
	}
	return s.State
}

// runs yields the open runs, with what metrics call their state; those that were
// never asked yet are left out.
func (a *attention) runs(context.Context) iter.Seq2[dr.Status, error] {
	a.mu.Lock()
	open := a.open // is never changed, but replaced
	a.mu.Unlock()
	return func(yield func(dr.Status, error) bool) {
		for _, r := range open {
			if s := r.status; !r.at.IsZero() {
				if s.State = stateIn(open, s); !yield(s, nil) {
					return
				}
			}
		}
	}
}

// waits tells of each site whose workers don't take up what waits for them; looked
// is when that was found out.
func (a *attention) waits() (sites map[string]awaiting, looked time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	sites = map[string]awaiting{}
	for _, r := range a.open {
		for _, s := range r.status.Steps {
			if s.Awaits.IsZero() {
				continue
			}
			at := sites[s.Queue]
			at.steps++
			if at.oldest = cmp.Or(at.oldest, s.Awaits); s.Awaits.Before(at.oldest) {
				at.oldest = s.Awaits
			}
			sites[s.Queue] = at
		}
	}
	return sites, a.at
}

// attend looks until ctx ends. What fails is told, and tried again.
func (w *worker) attend(ctx context.Context, p *plant) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		looking, cancel := context.WithTimeout(ctx, lookEvery)
		if err := w.watch.attention.look(looking, p.engine.Orchestrator, p.engine.cheap); err != nil && ctx.Err() == nil {
			w.log.Warn("open runs are not looked at: metrics tell of them as they were", "err", err)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

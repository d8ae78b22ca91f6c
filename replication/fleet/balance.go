package fleet

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// balance gives what is too much, and takes what is free and this worker's. It
// reports false if others were faster to take some of that.
func (w *Worker) balance(ctx context.Context, ends *sync.WaitGroup, v View) bool {
	w.mu.Lock()
	why := ""
	switch {
	case w.draining:
		why = "the worker drains"
	case w.outdated:
		why = "the fleet has a newer layout"
	}
	w.mu.Unlock()
	if why != "" {
		for s, h := range w.heldBy() {
			w.end(ctx, ends, s, h, why)
		}
		return true
	}
	var members []Member
	for _, m := range v.Members {
		if !m.Draining && m.Generation == v.Generation {
			members = append(members, m)
		}
	}
	holds := make(map[Shard]string, len(v.Leases))
	older := false
	for _, l := range v.Leases {
		holds[l.Shard] = l.Member
		older = older || l.Generation != v.Generation
	}
	quota := share(w.areas, members, holds)
	var want []Shard
	for i, a := range w.areas {
		w.give(ctx, ends, a, quota[i][w.id])
		want = append(want, w.free(a, quota[i][w.id], holds)...)
	}
	return len(want) == 0 || older || w.take(ctx, want)
}

// give begins to give back what is more than the quota.
func (w *Worker) give(ctx context.Context, ends *sync.WaitGroup, a Area, quota int) {
	w.mu.Lock()
	moving := len(w.ending)
	var mine []*Hold
	for n := range a.Shards {
		s := a.shard(n)
		if h := w.holds[s]; h != nil {
			if _, out := w.ending[s]; !out {
				mine = append(mine, h)
			}
		}
	}
	w.mu.Unlock()
	more := min(len(mine)-quota, w.o.Moves-moving)
	if more <= 0 {
		return
	}
	// Those with least under way are given soonest.
	busy := map[*Hold]int{}
	for _, h := range mine {
		busy[h] = h.busy()
	}
	slices.SortStableFunc(mine, func(a, b *Hold) int { return busy[a] - busy[b] })
	for _, h := range mine[:more] {
		w.end(ctx, ends, h.shard, h, "another worker has fewer")
	}
}

// free returns shards that nobody holds, as many as the quota leaves room for,
// each worker in an order of its own.
func (w *Worker) free(a Area, quota int, holds map[Shard]string) []Shard {
	w.mu.Lock()
	defer w.mu.Unlock()
	var free []Shard
	for n := range a.Shards {
		s := a.shard(n)
		if w.holds[s] != nil {
			quota--
		} else if holds[s] == "" {
			free = append(free, s)
		}
	}
	order := map[Shard]uint64{}
	for _, s := range free {
		order[s] = sum(w.id + "/" + string(s))
	}
	slices.SortFunc(free, func(a, b Shard) int {
		if order[a] < order[b] {
			return -1
		}
		return 1
	})
	return free[:max(0, min(quota, len(free)))]
}

// taking notes whether shards can be taken: a worker that can't renews for ever, and
// looks well.
func (w *Worker) taking(err error) {
	w.mu.Lock()
	first := w.takeErr == nil
	w.takeErr = err
	w.mu.Unlock()
	if err != nil && first {
		w.keeper.env.Logger().Warn("no shard can be taken", "worker", w.o.Name, "error", err)
	}
}

// take leases shards and begins to keep them. It reports false if some of them
// were given to others meanwhile.
func (w *Worker) take(ctx context.Context, shards []Shard) bool {
	began := time.Now()
	call, cancel := context.WithTimeout(ctx, w.o.Beat)
	defer cancel()
	given, err := w.o.Leases.Take(call, w.id, shards)
	if w.taking(err); err != nil {
		return true // the next beat tells what is so
	}
	for _, l := range given {
		h, err := w.keeper.keep(l.Shard, l.Epoch, true, began.Add(w.o.TTL-w.o.Margin))
		if err != nil {
			w.release(ctx, l.Shard) // it is held here already
			continue
		}
		w.mu.Lock()
		w.holds[l.Shard] = h
		w.mu.Unlock()
		w.tell(Event{Kind: Taken, Shard: l.Shard, Epoch: l.Epoch})
		context.AfterFunc(h.ctx, func() {
			if cause := h.Cause(); !errors.Is(cause, errGiven) {
				w.tell(Event{Kind: Lost, Shard: l.Shard, Epoch: l.Epoch, Err: cause})
			}
			w.again()
		})
	}
	return len(given) == len(shards)
}

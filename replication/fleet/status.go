package fleet

import (
	"time"
)

// Status is a snapshot for consoles.
type Status struct {
	Time   time.Time `json:"time"`
	Worker string    `json:"worker"` // its ID
	Name   string    `json:"name,omitempty"`
	// Renewed is when the leases were last heard of, and Err why not since, or why
	// no shard can be taken. Soon after Renewed this worker keeps nothing any more:
	// if that is so of all, no machine is replicated.
	Renewed  time.Time `json:"renewed,omitzero"`
	Err      string    `json:"err,omitempty"`
	Draining bool      `json:"draining,omitempty"`
	// Outdated: the fleet has a newer layout than this worker.
	Outdated bool `json:"outdated,omitempty"`
	// Holds are the shards that this worker keeps.
	Holds []Keeping `json:"holds,omitempty"`
	// Shards are all of the fleet as they were at Renewed.
	Shards []ShardStatus `json:"shards,omitempty"`
}

// Keeping is a shard that is kept in this process.
type Keeping struct {
	Shard Shard     `json:"shard"`
	Epoch uint64    `json:"epoch"`
	Since time.Time `json:"since"`
	// Giving is why no cycle begins any more: it is given back.
	Giving string `json:"giving,omitempty"`
	Summary
}

// ShardStatus is a shard as the fleet sees it.
type ShardStatus struct {
	Shard Shard `json:"shard"`
	// Member holds it; "": nobody. Name is its worker's.
	Member string    `json:"member,omitempty"`
	Name   string    `json:"name,omitempty"`
	Epoch  uint64    `json:"epoch,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	// Silent: its holder is not heard of any more; it is free soon.
	Silent bool `json:"silent,omitempty"`
	// Unreached: no member reaches the sites of its area.
	Unreached bool `json:"unreached,omitempty"`
	// Told is what its holder told last.
	Told Summary `json:"told,omitzero"`
}

// Table tells of every shard of a layout what a view knows, in the layout's
// order: for a console that takes no part, by Leases.View.
func Table(l Layout, v View) []ShardStatus {
	members := map[string]Member{}
	for _, m := range v.Members {
		members[m.ID] = m
	}
	leases := map[Shard]Lease{}
	for _, x := range v.Leases {
		leases[x.Shard] = x
	}
	var all []ShardStatus
	for _, a := range l.areas() {
		reached := false
		for _, m := range v.Members {
			reached = reached || !m.Draining && a.reachedBy(m)
		}
		for n := range a.Shards {
			st := ShardStatus{Shard: a.shard(n), Unreached: !reached}
			if x, ok := leases[st.Shard]; ok {
				m, lives := members[x.Member]
				st.Member, st.Name, st.Epoch, st.Since, st.Silent = x.Member, m.Name, x.Epoch, x.Since, !lives
				st.Told = m.Shards[st.Shard]
			}
			all = append(all, st)
		}
	}
	return all
}

// Status returns where everything is now.
func (w *Worker) Status() Status {
	sums := w.keeper.Summaries()
	w.mu.Lock()
	defer w.mu.Unlock()
	st := Status{Time: w.keeper.env.Time(), Worker: w.id, Name: w.o.Name, Renewed: w.renewed, Draining: w.draining, Outdated: w.outdated, Shards: Table(w.o.Layout, w.view)}
	switch {
	case w.err != nil:
		st.Err = w.err.Error()
	case w.takeErr != nil:
		st.Err = "no shard can be taken: " + w.takeErr.Error()
	}
	for _, a := range w.areas {
		for n := range a.Shards {
			if h := w.holds[a.shard(n)]; h != nil {
				st.Holds = append(st.Holds, Keeping{Shard: h.shard, Epoch: h.epoch, Since: h.since, Giving: w.ending[h.shard], Summary: sums[h.shard]})
			}
		}
	}
	return st
}

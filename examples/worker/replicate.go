package main

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/health"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// replicator runs this worker's part of the replication cycles.
type replicator interface {
	Run(ctx context.Context) error
	Status() scheduler.Status
	// Poke has records looked at now, those named or all.
	Poke(ids ...dr.ProtectionID)
}

// newReplicator returns what runs the cycles of the protections whose sites
// this worker reaches: all of them, or its share of a fleet's.
func (w *worker) newReplicator(p *plant) (replicator, error) {
	o := scheduler.Options{
		Policies: w.sites.Policies,
		Limits:   scheduler.Limits{Total: w.o.cycles},
		List:     w.o.list,
		Observe:  w.watch.observe(w.log),
	}
	if w.o.fleet > 0 {
		return w.share(p, o)
	}
	o.Only = func(d dr.Protection) bool { return reaches(p.env.Sites, d) }
	return scheduler.New(p.env, o)
}

func reaches(sites replication.Sites, d dr.Protection) bool {
	_, active := sites[d.Active.Site]
	_, standby := sites[d.Standby.Site]
	return active && standby
}

// health is a protection's health, as GET /protections/ID tells it.
func (w *worker) health(p *plant, d dr.Protection) health.Report {
	policy, _, err := w.sites.Policies.Of(d)
	return health.Of(health.Facts{Protection: d, Policy: policy, Cycle: err, Now: p.env.Time()})
}

package main

import (
	"context"
	"time"

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
// this worker reaches.
func (w *worker) newReplicator(p *plant) (replicator, error) {
	return scheduler.New(p.env, scheduler.Options{
		Policies: w.sites.Policies,
		Limits:   scheduler.Limits{Total: w.o.cycles},
		Observe:  w.watch.observe(w.log),
		Only: func(d dr.Protection) bool {
			if !reaches(p.env.Sites, d) {
				return false
			}
			w.objectives.Store(d.ID, w.objectiveOf(d)) // it sees every record at each listing
			return true
		},
	})
}

func reaches(sites replication.Sites, d dr.Protection) bool {
	_, active := sites[d.Active.Site]
	_, standby := sites[d.Standby.Site]
	return active && standby
}

// objectiveOf is the RPO that a protection's policy wants; 0: none.
func (w *worker) objectiveOf(d dr.Protection) time.Duration {
	policy, _, err := w.sites.Policies.Of(d)
	if err != nil {
		return 0
	}
	return policy.RPO
}

func (w *worker) objective(id dr.ProtectionID) time.Duration {
	v, _ := w.objectives.Load(id)
	d, _ := v.(time.Duration)
	return d
}

// health is a protection's health, as GET /protections/ID tells it.
func (w *worker) health(p *plant, d dr.Protection) health.Report {
	policy, _, err := w.sites.Policies.Of(d)
	return health.Of(health.Facts{Protection: d, Policy: policy, Cycle: err, Now: p.env.Time()})
}

package main

import (
	"context"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// readEvery is how often the records are read for what metrics, /status and /readyz
// tell of protections, whoever keeps them.
const readEvery = time.Minute

// census is what the records said when they were read last. It is never changed.
type census struct {
	at         time.Time // zero: not yet
	objectives map[dr.ProtectionID]time.Duration
	states     map[dr.State]int
	// late are those of each direction whose newest point was older than their
	// policy's RPO: also of machines that no worker keeps, of which no other metric
	// tells. Each direction that has protections is there.
	late map[direction]int
	// unkept have sites that no area of the fleet has, and lost a policy that this
	// worker doesn't know: nothing replicates the first, and the second only fails.
	unkept, lost []dr.ProtectionID
	// unreached are those that this worker may be given to keep, and can't: it
	// doesn't reach their sites.
	unreached []dr.ProtectionID
}

// direction is where machines run, and where their points go.
type direction struct{ from, to string }

// count reads the records.
func (w *worker) count(ctx context.Context, p *plant) (*census, error) {
	now := p.env.Time()
	c := &census{at: now, objectives: map[dr.ProtectionID]time.Duration{}, states: map[dr.State]int{}, late: map[direction]int{}}
	for d, err := range p.engine.records.Protections(ctx) {
		if err != nil {
			return nil, err
		}
		policy, _, err := w.sites.Policies.Of(d)
		if err != nil {
			c.lost = append(c.lost, d.ID)
		}
		c.objectives[d.ID] = policy.RPO
		c.states[d.State]++
		if d.State == dr.Protected || d.State == dr.Synchronizing {
			at := direction{d.Active.Site, d.Standby.Site}
			c.late[at] += 0
			if age := now.Sub(d.Last.Time); policy.RPO > 0 && !d.Last.Time.IsZero() && age > policy.RPO {
				c.late[at]++
			}
		}
		if w.o.fleet == 0 {
			continue
		}
		if _, ok := w.layout().Of(d); !ok {
			c.unkept = append(c.unkept, d.ID)
		} else if len(w.sites.Areas) == 0 && !reaches(p.env.Sites, d) {
			c.unreached = append(c.unreached, d.ID)
		}
	}
	return c, nil
}

// counted is the last census.
func (w *worker) counted() *census {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.census == nil {
		return &census{}
	}
	return w.census
}

// recount reads the records if it is time to. While they can't be read those that are
// known count, or nothing would be late any more.
func (w *worker) recount(ctx context.Context, p *plant) {
	if p.env.Time().Sub(w.counted().at) < readEvery {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeEvery/2)
	defer cancel()
	c, err := w.count(ctx, p)
	if err != nil {
		w.log.Warn("records are not read: metrics tell of them as they were", "err", err)
		return
	}
	before := w.counted()
	w.mu.Lock()
	w.census = c
	w.mu.Unlock()
	for _, x := range []struct {
		is, was []dr.ProtectionID
		why     string
	}{
		{c.unkept, before.unkept, "protections that no worker replicates: no area of the sites file has both of their sites"},
		{c.unreached, before.unreached, "protections that this worker may be given, and whose sites it doesn't reach: name all sites in -sites, or part them into areas"},
		{c.lost, before.lost, "protections whose policy isn't among the sites file's policies, nor a preset"},
	} {
		if len(x.is) > 0 && len(x.is) != len(x.was) {
			w.log.Warn(x.why, "protections", len(x.is), "first", x.is[0])
		}
	}
}

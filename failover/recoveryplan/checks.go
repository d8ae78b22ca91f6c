package recoveryplan

import (
	"context"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/networks"
	"github.com/lifeboat-dr/lifeboat/failover/readiness"
)

// networks finds conflicts of the plan's network mappings, of all machines
// that would be made with one of them together.
func (l looking) networks(ctx context.Context, mine map[dr.ProtectionID]dr.Protection) (found []Finding) {
	type way struct {
		m        networks.Mapping
		machines []dr.Machine
		own      []dr.MachineID
	}
	var ways []*way
	of := map[[2]string]*way{}
	ids := map[dr.MachineID]dr.ProtectionID{}
	for _, id := range l.p.Machines() {
		r, ok := mine[id]
		if !ok || len(r.Last.Machine.NICs) == 0 {
			continue
		}
		in := l.p.input(id, l.flow, l.to, l.o)
		if v := judge(r, in); v.skip != "" || v.err != nil {
			continue // said already
		}
		m, ok, err := mapping(l.p.Networks, r, in.Machine.Alternate)
		if err != nil || !ok {
			continue
		}
		w := of[[2]string{m.From, m.To}]
		if w == nil {
			w = &way{m: m}
			of[[2]string{m.From, m.To}] = w
			ways = append(ways, w)
		}
		w.machines = append(w.machines, r.Last.Machine)
		if r.Standby.Machine != "" {
			w.own = append(w.own, r.Standby.Machine)
		}
		ids[r.Last.Machine.ID] = id
	}
	for _, w := range ways {
		site, err := l.e.Replication.Sites.Site(w.m.To)
		if err != nil {
			continue // said already
		}
		asked, cancel := context.WithTimeout(ctx, failover.LookTimeout)
		all := networks.Check(w.m, w.machines, l.flow == FlowTest || l.flow == FlowDrill, networks.Look(asked, site.Backend, w.own...))
		cancel()
		for _, f := range all {
			x := Finding{Code: f.Code, Machine: ids[f.Machine], Text: f.Text, Remedy: f.Remedy, Blocker: f.Blocker}
			if f.Card != "" {
				x.Text = fmt.Sprintf("card %s: %s", f.Card, f.Text)
			}
			found = append(found, x)
		}
	}
	return found
}

// Readiness is a Check of what keeps people from a machine after its failover,
// and what makes one slow: package readiness, asked of flows that bring
// machines up. Ways home are asked whether the infrastructure is there, what
// plant knows of it included. What can't be told is a finding, whose text
// begins with "unknown:"; it blocks nothing, and is never to be taken for fine.
func Readiness(e *Env, o readiness.Options, plant readiness.Plant) Check {
	return func(ctx context.Context, p dr.Protection, flow string, to Direction) (found []Finding, err error) {
		var checks []readiness.Check
		switch {
		case flow == FlowReprotect && !p.AtHome(), flow == FlowFailback:
			checks, err = readiness.Failback(ctx, e.Replication, p, plant, readinessTime)
		case flow == FlowTest, flow == FlowDrill, flow == FlowPlanned, flow == FlowUnplanned:
			checks, err = readiness.Before(ctx, e.Replication, p, o)
		}
		for _, c := range checks {
			f := Finding{Code: c.Code, Machine: p.ID, Text: c.Title + ": " + c.Detail, Remedy: c.Remedy}
			switch c.Result {
			case readiness.Failed:
				f.Text = "failed: " + f.Text
				// An unplanned failover is not the time to refuse.
				f.Blocker = c.Severity == readiness.Blocker && flow != FlowUnplanned
			case readiness.Unknown:
				f.Text = "unknown: " + f.Text
			default:
				continue
			}
			found = append(found, f)
		}
		return found, err
	}
}

const readinessTime = time.Minute

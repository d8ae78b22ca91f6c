package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/health"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// Observe records what a scheduler tells: give it as scheduler.Options.Observe,
// or call it there. Cycles are recorded when they have ended; that of a machine
// which the others of its group have served is none. Call [Telemetry.Follow]
// beside it, or no RPO is told.
func (t *Telemetry) Observe(e scheduler.Event) {
	ctx := context.Background()
	pair := Pair{e.From, e.To}
	switch e.Kind {
	case scheduler.Ended:
		if e.Report.Existed {
			t.made(e.Protection, pair, e.Report.Point.Time)
			return
		}
		t.CycleEnded(ctx, e.Protection, pair, e.Took, e.Report, nil)
	case scheduler.Failed:
		t.CycleEnded(ctx, e.Protection, pair, e.Took, e.Report, e.Err)
	case scheduler.Expired:
		t.count(ctx, "retention", e.Err)
	case scheduler.Pruned:
		t.count(ctx, "prune", e.Err)
	case scheduler.Listing:
		t.count(ctx, "listing", e.Err)
	}
}

func (t *Telemetry) count(ctx context.Context, source string, err error) {
	if err != nil {
		t.failures.Add(ctx, 1, metric.WithAttributes(attrSource.String(source), attrErrorType.String(health.CodeOf(err))))
	}
}

// Follow brings the RPOs that are told in line with a scheduler's status: what
// is new there is told, what is gone or expects no points is not, and directions
// follow. objective is the RPO of each protection's policy; nil: none. Call it
// when the scheduler has begun, and now and then: once a minute will do.
func (t *Telemetry) Follow(st scheduler.Status, objective func(dr.ProtectionID) time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	there := make(map[dr.ProtectionID]tracked, len(st.Protections))
	for _, p := range st.Protections {
		if !p.Expected {
			continue
		}
		x := tracked{pair: Pair{p.From, p.To}, newest: p.Last}
		if objective != nil {
			x.objective = objective(p.ID)
		}
		// A cycle may have ended since the status was taken.
		if was, known := t.tracked[p.ID]; known && was.pair == x.pair && was.newest.After(x.newest) {
			x.newest = was.newest
		}
		there[p.ID] = x
	}
	t.tracked = there
}

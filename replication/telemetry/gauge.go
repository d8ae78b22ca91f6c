package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Names of attributes.
const (
	attrProtection = attribute.Key("lifeboat.protection.id")
	attrFrom       = attribute.Key("lifeboat.site.source")
	attrTo         = attribute.Key("lifeboat.site.target")
	attrSite       = attribute.Key("lifeboat.site")
	attrOutcome    = attribute.Key("lifeboat.replication.outcome")
	attrSource     = attribute.Key("lifeboat.failure.source")
	attrRun        = attribute.Key("lifeboat.run.id")
	attrRunState   = attribute.Key("lifeboat.run.state")
	attrFlow       = attribute.Key("lifeboat.flow")
	attrStep       = attribute.Key("lifeboat.step.id")
	attrAction     = attribute.Key("lifeboat.step.action")
	attrAttempt    = attribute.Key("lifeboat.step.attempt")
	attrUndo       = attribute.Key("lifeboat.step.undo")
	attrPoint      = attribute.Key("lifeboat.point.id")
	attrAdopted    = attribute.Key("lifeboat.replication.adopted")
	attrErrorType  = attribute.Key("error.type") // OpenTelemetry's own
)

func (p Pair) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{attrFrom.String(p.From), attrTo.String(p.To)}
}

// Track has the RPO of a protection reported from now on: the time that has
// passed since the newest point's, which grows by itself until Track or a
// cycle's end tells of a younger one. A newest of zero reports the objective
// only. Call it for every protection when the process begins or it is added,
// and when its policy or direction changes: what is not tracked has no RPO.
func (t *Telemetry) Track(id dr.ProtectionID, p Pair, newest time.Time, objective time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tracked[id] = tracked{p, newest, objective}
}

// Forget ends the report of a protection's RPO: it is no longer protected, or
// was failed over, so that no point of it gets old.
func (t *Telemetry) Forget(id dr.ProtectionID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tracked, id)
}

// made notes a point that a cycle has made. An older one changes nothing, nor
// does the late end of a cycle whose protection was forgotten, or which goes
// the other way now.
func (t *Telemetry) made(id dr.ProtectionID, p Pair, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if was, known := t.tracked[id]; known && was.pair == p && at.After(was.newest) {
		was.newest = at
		t.tracked[id] = was
	}
}

func (t *Telemetry) observeRPO(o metric.Observer, rpo, objective metric.Float64Observable) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.o.Now()
	if t.o.Coarse {
		worst := map[Pair]tracked{}
		for _, x := range t.tracked {
			w, known := worst[x.pair]
			if !known || !x.newest.IsZero() && (w.newest.IsZero() || x.newest.Before(w.newest)) {
				w.newest = x.newest
			}
			if x.objective > 0 && (w.objective == 0 || x.objective < w.objective) {
				w.objective = x.objective
			}
			worst[x.pair] = w
		}
		for p, x := range worst {
			x.observe(o, rpo, objective, now, p.attributes())
		}
		return
	}
	for id, x := range t.tracked {
		x.observe(o, rpo, objective, now, append(x.pair.attributes(), attrProtection.String(string(id))))
	}
}

func (x tracked) observe(o metric.Observer, rpo, objective metric.Float64Observable, now time.Time, with []attribute.KeyValue) {
	set := metric.WithAttributeSet(attribute.NewSet(with...))
	if !x.newest.IsZero() {
		o.ObserveFloat64(rpo, max(0, now.Sub(x.newest)).Seconds(), set)
	}
	if x.objective > 0 {
		o.ObserveFloat64(objective, x.objective.Seconds(), set)
	}
}

func (t *Telemetry) observeQueue(o metric.Observer, queue metric.Int64Observable) {
	if t.o.Queue != nil {
		t.o.Queue(func(site string, n int) {
			o.ObserveInt64(queue, int64(n), metric.WithAttributes(attrSite.String(site)))
		})
	}
}

func (t *Telemetry) observeRuns(ctx context.Context, o metric.Observer, runs metric.Int64Observable) error {
	if t.o.Runs == nil {
		return nil
	}
	type kind struct {
		state dr.RunState
		flow  string
	}
	count := map[kind]int64{}
	for s, err := range t.o.Runs(ctx) {
		if err != nil {
			return err
		}
		count[kind{s.State, s.Flow}]++
	}
	for k, n := range count {
		o.ObserveInt64(runs, n, metric.WithAttributes(attrRunState.String(string(k.state)), attrFlow.String(k.flow)))
	}
	return nil
}

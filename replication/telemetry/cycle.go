package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/health"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Cycle begins the span of a replication cycle. Run the cycle with the context
// returned, so that what platforms trace is part of it, and call end once with
// what it returned.
func (t *Telemetry) Cycle(ctx context.Context, id dr.ProtectionID, p Pair) (_ context.Context, end func(replication.Report, error)) {
	began := t.o.Now()
	sites := metric.WithAttributes(p.attributes()...)
	t.active.Add(ctx, 1, sites)
	ctx, span := t.begin(ctx, id, p, began)
	return ctx, func(r replication.Report, err error) {
		now := t.o.Now()
		t.active.Add(ctx, -1, sites)
		t.end(ctx, span, id, p, now.Sub(began), r, err)
		span.End(trace.WithTimestamp(now))
	}
}

// CycleEnded records a cycle that has ended, for who is told of it only then,
// as by a scheduler's callback. Don't use it for cycles that Cycle has begun.
func (t *Telemetry) CycleEnded(ctx context.Context, id dr.ProtectionID, p Pair, took time.Duration, r replication.Report, err error) {
	now := t.o.Now()
	ctx, span := t.begin(ctx, id, p, now.Add(-took))
	t.end(ctx, span, id, p, took, r, err)
	span.End(trace.WithTimestamp(now))
}

func (t *Telemetry) begin(ctx context.Context, id dr.ProtectionID, p Pair, at time.Time) (context.Context, trace.Span) {
	return t.tracer.Start(ctx, "replicate", trace.WithTimestamp(at),
		trace.WithAttributes(append(p.attributes(), attrProtection.String(string(id)))...))
}

func (t *Telemetry) end(ctx context.Context, span trace.Span, id dr.ProtectionID, p Pair, took time.Duration, r replication.Report, err error) {
	with := p.attributes()
	// A cycle that failed has moved bytes too.
	for _, m := range []struct {
		outcome string
		bytes   int64
	}{{"written", r.Written}, {"zeroed", r.Zeroed}, {"equal", r.Equal}, {"resumed", r.Resumed}} {
		if m.bytes > 0 {
			t.io.Add(ctx, m.bytes, metric.WithAttributes(append(p.attributes(), attrOutcome.String(m.outcome))...))
			span.SetAttributes(attribute.Int64("lifeboat.replication."+m.outcome, m.bytes))
		}
	}
	if err != nil {
		with = append(with, t.failed(ctx, span, "replication", err))
	} else {
		t.made(id, p, r.Point.Time)
		span.SetAttributes(attrPoint.String(string(r.Point.ID)), attrAdopted.Bool(r.Adopted))
	}
	t.cycleDuration.Record(ctx, took.Seconds(), metric.WithAttributes(with...))
}

// failed counts a failure, marks its span, and returns what kind it is of.
func (t *Telemetry) failed(ctx context.Context, span trace.Span, source string, err error) attribute.KeyValue {
	kind := attrErrorType.String(health.CodeOf(err))
	t.failures.Add(ctx, 1, metric.WithAttributes(attrSource.String(source), kind))
	span.SetAttributes(kind)
	span.SetStatus(codes.Error, err.Error())
	return kind
}

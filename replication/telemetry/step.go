package telemetry

import (
	"context"
	"crypto/sha256"
	"encoding/json"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Actions returns actions each of whose attempts is a span and a value of the
// duration histogram, and that do else what a's do. An attempt whose context
// ended has error.type "cancelled" and counts as no failure.
func (t *Telemetry) Actions(a dr.Actions) dr.Actions {
	all := make(dr.Actions, len(a))
	for name, do := range a {
		if do != nil { // else it stays not registered
			all[name] = t.traced(name, do)
		}
	}
	return all
}

func (t *Telemetry) traced(name string, do dr.Action) dr.Action {
	with := [2][]attribute.KeyValue{ // full: what is appended goes to a copy
		{attrAction.String(name), attrUndo.Bool(false)},
		{attrAction.String(name), attrUndo.Bool(true)},
	}
	return func(ctx context.Context, c *dr.Call) (result json.RawMessage, err error) {
		began := t.o.Now()
		labels := with[0]
		if c.Undo {
			labels = with[1]
		}
		ctx, span := t.tracer.Start(ctx, name, trace.WithTimestamp(began),
			trace.WithLinks(trace.Link{SpanContext: RunLink(c.Run)}),
			trace.WithAttributes(attrRun.String(string(c.Run)), attrStep.String(c.Step), attrAction.String(name),
				attrAttempt.Int(c.Attempt), attrUndo.Bool(c.Undo)))
		returned := false
		defer func() {
			now := t.o.Now()
			switch {
			case !returned:
				labels = append(labels, t.failed(ctx, span, "step", &dr.PanicError{Value: "see the run"}))
			case err != nil && ctx.Err() != nil:
				kind := attrErrorType.String("cancelled")
				span.SetAttributes(kind)
				labels = append(labels, kind)
			case err != nil:
				labels = append(labels, t.failed(ctx, span, "step", err))
			}
			t.stepDuration.Record(ctx, now.Sub(began).Seconds(), metric.WithAttributes(labels...))
			span.End(trace.WithTimestamp(now))
		}()
		result, err = do(ctx, c)
		returned = true
		return result, err
	}
}

// RunLink is the span context that all attempts of a run link to, in every
// process and engine. It follows from the run's ID, and no span has it: it is
// a name to search by. It says nothing about sampling.
func RunLink(run dr.RunID) trace.SpanContext {
	h := sha256.Sum256([]byte("lifeboat run " + run))
	var c trace.SpanContextConfig
	copy(c.TraceID[:], h[:16])
	copy(c.SpanID[:], h[16:24])
	c.Remote = true
	return trace.NewSpanContext(c)
}

package telemetry

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// scope is the instrumentation scope of everything recorded here.
const scope = "github.com/lifeboat-dr/lifeboat/replication/telemetry"

// Options of New. The zero value records nothing.
type Options struct {
	Meter  metric.MeterProvider // nil: no metrics
	Tracer trace.TracerProvider // nil: no traces
	// Coarse reports the worst RPO of each pair of sites, and no protection by
	// name: for fleets of more machines than a metrics store likes series.
	Coarse bool
	// Queue, if given, tells how many cycles are due and wait at each site.
	// It is called whenever metrics are collected: it must be quick.
	Queue func(yield func(site string, n int))
	// Runs, if given, lists the runs to be counted: the Runs method of a
	// dr.RunLister. It is called whenever metrics are collected, and costs a
	// listing of the journal: purge runs that ended long ago.
	Runs func(context.Context) iter.Seq2[dr.Status, error]
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Pair is where a machine runs, and where its points go.
type Pair struct{ From, To string }

// Telemetry records. All methods are safe for concurrent use.
type Telemetry struct {
	o      Options
	tracer trace.Tracer

	io            metric.Int64Counter
	failures      metric.Int64Counter
	active        metric.Int64UpDownCounter
	cycleDuration metric.Float64Histogram
	stepDuration  metric.Float64Histogram
	registered    metric.Registration

	mu      sync.Mutex
	tracked map[dr.ProtectionID]tracked
}

// tracked is what the RPO of a protection is counted from.
type tracked struct {
	pair      Pair
	newest    time.Time
	objective time.Duration
}

// Boundaries of the histograms, in seconds. A cycle takes from a second to a
// day of first copy; an attempt mostly waits for a platform.
var (
	cycleSeconds = []float64{1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400}
	stepSeconds  = []float64{0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 21600}
)

// New makes the instruments. Call Close when the providers outlive it.
func New(o Options) (*Telemetry, error) {
	if o.Meter == nil {
		o.Meter = metricnoop.NewMeterProvider()
	}
	if o.Tracer == nil {
		o.Tracer = tracenoop.NewTracerProvider()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	t := &Telemetry{o: o, tracer: o.Tracer.Tracer(scope), tracked: map[dr.ProtectionID]tracked{}}
	if err := t.instruments(o.Meter.Meter(scope)); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	return t, nil
}

// Close ends the gauges. What is recorded later is recorded still.
func (t *Telemetry) Close() error { return t.registered.Unregister() }

func (t *Telemetry) instruments(m metric.Meter) error {
	var failed error
	keep := func(err error) {
		if failed == nil {
			failed = err
		}
	}
	var err error
	t.io, err = m.Int64Counter("lifeboat.replication.io", metric.WithUnit("By"),
		metric.WithDescription("Bytes that replication cycles dealt with, by what became of them."))
	keep(err)
	t.failures, err = m.Int64Counter("lifeboat.failures", metric.WithUnit("{failure}"),
		metric.WithDescription("Replication cycles and attempts of steps that failed."))
	keep(err)
	t.active, err = m.Int64UpDownCounter("lifeboat.replication.cycle.active", metric.WithUnit("{cycle}"),
		metric.WithDescription("Replication cycles under way."))
	keep(err)
	t.cycleDuration, err = m.Float64Histogram("lifeboat.replication.cycle.duration", metric.WithUnit("s"),
		metric.WithDescription("Duration of replication cycles."), metric.WithExplicitBucketBoundaries(cycleSeconds...))
	keep(err)
	t.stepDuration, err = m.Float64Histogram("lifeboat.step.duration", metric.WithUnit("s"),
		metric.WithDescription("Duration of the attempts of steps."), metric.WithExplicitBucketBoundaries(stepSeconds...))
	keep(err)

	rpo, err := m.Float64ObservableGauge("lifeboat.replication.rpo", metric.WithUnit("s"),
		metric.WithDescription("Age of the newest recovery point: what would be lost now."))
	keep(err)
	objective, err := m.Float64ObservableGauge("lifeboat.replication.objective", metric.WithUnit("s"),
		metric.WithDescription("Age of the newest recovery point above which replication is late."))
	keep(err)
	queue, err := m.Int64ObservableUpDownCounter("lifeboat.replication.queue.length", metric.WithUnit("{cycle}"),
		metric.WithDescription("Replication cycles that are due and wait."))
	keep(err)
	runs, err := m.Int64ObservableUpDownCounter("lifeboat.runs", metric.WithUnit("{run}"),
		metric.WithDescription("Runs by state and flow, of those that were listed."))
	keep(err)
	if failed != nil {
		return failed
	}
	t.registered, err = m.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		t.observeRPO(o, rpo, objective)
		t.observeQueue(o, queue)
		return t.observeRuns(ctx, o, runs)
	}, rpo, objective, queue, runs)
	return err
}

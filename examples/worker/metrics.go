package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
	"github.com/lifeboat-dr/lifeboat/replication/telemetry"
)

// watch is what this worker tells of itself at /metrics and in its log.
type watch struct {
	metrics *prometheus.Registry
	tel     *telemetry.Telemetry
	// attention is what may need a person.
	attention *attention
	// lost counts shards that others have taken, or may have.
	lost prometheus.Counter
}

// newWatch makes the instruments. They exist before anything is reached, so
// that /metrics answers from the beginning.
func newWatch(coarse bool, sites int, log *slog.Logger) (*watch, error) {
	w := &watch{metrics: prometheus.NewRegistry(), attention: &attention{log: log},
		lost: prometheus.NewCounter(prometheus.CounterOpts{Name: "lifeboat_fleet_shards_lost_total",
			Help: "Shards that this worker has lost, not given back: it stood still, or couldn't renew them in time, and others have them or may have."})}
	for _, c := range []prometheus.Collector{w.lost, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := w.metrics.Register(c); err != nil {
			return nil, err
		}
	}
	reader, err := exporter.New(exporter.WithRegisterer(w.metrics), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, err
	}
	// Two gauges have a series for each protection, unless they are coarse.
	limit := 50_000
	if coarse {
		limit = 2000 + sites*sites
	}
	meters := sdk.NewMeterProvider(sdk.WithReader(reader), sdk.WithCardinalityLimit(limit))
	w.tel, err = telemetry.New(telemetry.Options{Meter: meters, Coarse: coarse, Runs: w.attention.runs})
	return w, err
}

func (w *watch) follow(s scheduler.Status, objective func(dr.ProtectionID) time.Duration) {
	w.tel.Follow(s, objective)
}

// observe returns what a scheduler is to tell: metrics of everything, and in the
// log what a person may want to know.
func (w *watch) observe(log *slog.Logger) func(scheduler.Event) {
	return func(e scheduler.Event) {
		w.tel.Observe(e)
		level := slog.LevelDebug
		switch e.Kind {
		case scheduler.Failed, scheduler.Hung, scheduler.Late, scheduler.Listing:
			level = slog.LevelWarn
		case scheduler.Recovered:
			level = slog.LevelInfo
		case scheduler.Expired, scheduler.Pruned:
			if e.Err != nil {
				level = slog.LevelWarn
			}
		}
		if !log.Enabled(context.Background(), level) {
			return
		}
		args := []any{"protection", e.Protection, "from", e.From, "to", e.To, "rpo", e.RPO.Round(time.Millisecond), "took", e.Took.Round(time.Millisecond)}
		if e.Site != "" {
			args = append(args, "site", e.Site, "bytes", e.Bytes)
		}
		if e.Err != nil {
			args = append(args, "err", e.Err, "failures", e.Failures)
		}
		log.Log(context.Background(), level, string(e.Kind), args...)
	}
}

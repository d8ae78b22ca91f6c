package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestRPOGrowsByItself(t *testing.T) {
	r := newRecorder()
	now := noon
	tel, err := New(Options{Meter: r, Now: func() time.Time { return now }})
	require.NoError(t, err)
	web := Pair{"here", "there"}
	tel.Track("web", web, noon.Add(-time.Minute), 15*time.Minute)
	tel.Track("new", web, time.Time{}, 15*time.Minute)
	require.Equal(t, []string{
		"lifeboat.replication.objective{lifeboat.protection.id=new,lifeboat.site.source=here,lifeboat.site.target=there} 900",
		"lifeboat.replication.objective{lifeboat.protection.id=web,lifeboat.site.source=here,lifeboat.site.target=there} 900",
		"lifeboat.replication.rpo{lifeboat.protection.id=web,lifeboat.site.source=here,lifeboat.site.target=there} 60",
	}, r.collect(t))
	rpo := func() string {
		for _, v := range r.collect(t) {
			if len(v) > 30 && v[:24] == "lifeboat.replication.rpo" {
				return v[len(v)-4:]
			}
		}
		return ""
	}
	now = noon.Add(time.Minute)
	require.Equal(t, " 120", rpo(), "also while no cycle ends")
	tel.CycleEnded(t.Context(), "web", web, time.Second, replication.Report{}, errors.New("no"))
	require.Equal(t, " 120", rpo(), "a cycle that failed makes nothing younger")
	tel.CycleEnded(t.Context(), "web", web, time.Second, replication.Report{Point: dr.Point{Time: noon}}, nil)
	require.Equal(t, "} 60", rpo())
	tel.CycleEnded(t.Context(), "web", Pair{"there", "here"}, time.Second, replication.Report{Point: dr.Point{Time: now}}, nil)
	require.Equal(t, "} 60", rpo(), "the late end of a cycle of the other direction")
	tel.Forget("web")
	tel.CycleEnded(t.Context(), "web", web, time.Second, replication.Report{Point: dr.Point{Time: now}}, nil)
	require.Empty(t, rpo())
	require.NoError(t, tel.Close())
	require.Empty(t, r.callbacks)
}

func TestCoarse(t *testing.T) {
	r := newRecorder()
	tel, err := New(Options{Meter: r, Coarse: true, Now: func() time.Time { return noon }})
	require.NoError(t, err)
	for i := range 10_000 {
		tel.Track(dr.ProtectionID(fmt.Sprint(i)), Pair{"here", fmt.Sprint("there", i%2)}, noon.Add(-time.Duration(i)*time.Second), time.Duration(i+1)*time.Hour)
	}
	tel.Track("new", Pair{"here", "there0"}, time.Time{}, 0)
	require.Equal(t, []string{
		"lifeboat.replication.objective{lifeboat.site.source=here,lifeboat.site.target=there0} 3600",
		"lifeboat.replication.objective{lifeboat.site.source=here,lifeboat.site.target=there1} 7200",
		"lifeboat.replication.rpo{lifeboat.site.source=here,lifeboat.site.target=there0} 9998",
		"lifeboat.replication.rpo{lifeboat.site.source=here,lifeboat.site.target=there1} 9999",
	}, r.collect(t))
}

func TestCycles(t *testing.T) {
	r := newRecorder()
	now := noon
	tel, err := New(Options{Meter: r, Tracer: r, Now: func() time.Time { return now }})
	require.NoError(t, err)
	ctx, end := tel.Cycle(t.Context(), "web", Pair{"here", "there"})
	require.True(t, r.span(0).in(ctx), "what platforms trace is part of the cycle")
	require.Equal(t, []string{"lifeboat.replication.cycle.active{lifeboat.site.source=here,lifeboat.site.target=there} 1"}, r.sums())
	now = noon.Add(90 * time.Second)
	end(replication.Report{Point: dr.Point{ID: "p1", Time: noon}, Written: 10, Zeroed: 20, Equal: 30, Resumed: 40}, nil)
	tel.CycleEnded(t.Context(), "db", Pair{"here", "there"}, 5*time.Second, replication.Report{Written: 7}, fmt.Errorf("x: %w", dr.ErrCorrupt))
	require.Equal(t, []string{
		"lifeboat.failures{error.type=data-corrupt,lifeboat.failure.source=replication} 1",
		"lifeboat.replication.cycle.active{lifeboat.site.source=here,lifeboat.site.target=there} 0",
		"lifeboat.replication.cycle.duration{error.type=data-corrupt,lifeboat.site.source=here,lifeboat.site.target=there} 5",
		"lifeboat.replication.cycle.duration{lifeboat.site.source=here,lifeboat.site.target=there} 90",
		"lifeboat.replication.io{lifeboat.replication.outcome=equal,lifeboat.site.source=here,lifeboat.site.target=there} 30",
		"lifeboat.replication.io{lifeboat.replication.outcome=resumed,lifeboat.site.source=here,lifeboat.site.target=there} 40",
		"lifeboat.replication.io{lifeboat.replication.outcome=written,lifeboat.site.source=here,lifeboat.site.target=there} 17",
		"lifeboat.replication.io{lifeboat.replication.outcome=zeroed,lifeboat.site.source=here,lifeboat.site.target=there} 20",
	}, r.sums())
	good, bad := r.span(0), r.span(1)
	require.Equal(t, "replicate", good.name)
	require.Equal(t, []time.Time{noon, noon.Add(90 * time.Second)}, []time.Time{good.began, good.ended})
	require.Equal(t, "p1", good.attrs["lifeboat.point.id"])
	require.Equal(t, "10", good.attrs["lifeboat.replication.written"])
	require.Equal(t, codes.Unset, good.status)
	require.Equal(t, []time.Time{now.Add(-5 * time.Second), now}, []time.Time{bad.began, bad.ended})
	require.Equal(t, codes.Error, bad.status)
	require.Equal(t, "data-corrupt", bad.attrs["error.type"])
}

func TestAttempts(t *testing.T) {
	r := newRecorder()
	now := noon
	tel, err := New(Options{Meter: r, Tracer: r, Now: func() time.Time { now = now.Add(time.Second); return now }})
	require.NoError(t, err)
	a := tel.Actions(dr.Actions{
		"ok@1": func(context.Context, *dr.Call) (json.RawMessage, error) { return json.RawMessage("1"), nil },
		"no@1": func(ctx context.Context, _ *dr.Call) (json.RawMessage, error) {
			return nil, errors.Join(dr.ErrBusy, ctx.Err())
		},
		"oh@1":  func(context.Context, *dr.Call) (json.RawMessage, error) { panic("ouch") },
		"nil@1": nil,
	})
	require.NotContains(t, a, "nil@1")
	res, err := a["ok@1"](t.Context(), &dr.Call{Run: "r", Step: "s", Attempt: 3})
	require.NoError(t, err)
	require.Equal(t, "1", string(res))
	_, err = a["no@1"](t.Context(), &dr.Call{Run: "r", Undo: true})
	require.ErrorIs(t, err, dr.ErrBusy)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	_, _ = a["no@1"](stopped, &dr.Call{Run: "q"})
	require.PanicsWithValue(t, "ouch", func() { _, _ = a["oh@1"](t.Context(), &dr.Call{}) })
	require.Equal(t, []string{
		"lifeboat.failures{error.type=action-panicked,lifeboat.failure.source=step} 1",
		"lifeboat.failures{error.type=busy,lifeboat.failure.source=step} 1",
		"lifeboat.step.duration{error.type=action-panicked,lifeboat.step.action=oh@1,lifeboat.step.undo=false} 1",
		"lifeboat.step.duration{error.type=busy,lifeboat.step.action=no@1,lifeboat.step.undo=true} 1",
		"lifeboat.step.duration{error.type=cancelled,lifeboat.step.action=no@1,lifeboat.step.undo=false} 1",
		"lifeboat.step.duration{lifeboat.step.action=ok@1,lifeboat.step.undo=false} 1",
	}, r.sums())
	s := r.span(0)
	require.Equal(t, map[string]string{"lifeboat.run.id": "r", "lifeboat.step.id": "s", "lifeboat.step.action": "ok@1", "lifeboat.step.attempt": "3", "lifeboat.step.undo": "false"}, s.attrs)
	require.Equal(t, s.links, r.span(1).links, "attempts of a run are found by one link")
	require.NotEqual(t, s.links, r.span(2).links)
	require.True(t, s.links[0].SpanContext.IsValid())
	require.Equal(t, codes.Unset, r.span(2).status, "what was stopped has not failed")
}

func TestQueueAndRuns(t *testing.T) {
	r := newRecorder()
	no := errors.New("no")
	var fail error
	_, err := New(Options{
		Meter: r,
		Queue: func(yield func(string, int)) { yield("here", 7); yield("there", 0) },
		Runs: func(context.Context) iter.Seq2[dr.Status, error] {
			return func(yield func(dr.Status, error) bool) {
				for i := range 5 {
					state := []dr.RunState{dr.RunDone, dr.RunStuck}[i%2]
					if !yield(dr.Status{Run: dr.RunID(fmt.Sprint(i)), State: state, Flow: "f"}, nil) {
						return
					}
				}
				if fail != nil {
					yield(dr.Status{}, fail)
				}
			}
		},
	})
	require.NoError(t, err)
	require.Equal(t, []string{
		"lifeboat.replication.queue.length{lifeboat.site=here} 7", "lifeboat.replication.queue.length{lifeboat.site=there} 0",
		"lifeboat.runs{lifeboat.flow=f,lifeboat.run.state=done} 3", "lifeboat.runs{lifeboat.flow=f,lifeboat.run.state=stuck} 2",
	}, r.collect(t))
	fail = no
	require.ErrorIs(t, r.callbacks[0](t.Context(), &observer{r: r}), no)
}

func TestTheZeroValueRecordsNothing(t *testing.T) {
	tel, err := New(Options{})
	require.NoError(t, err)
	_, end := tel.Cycle(t.Context(), "web", Pair{})
	end(replication.Report{}, nil)
	tel.CycleEnded(t.Context(), "web", Pair{}, 0, replication.Report{}, errors.New("x"))
	require.NoError(t, tel.Close())
}

// Names and units are what dashboards are built on, and what doc.go lists.
func TestNamesAndUnits(t *testing.T) {
	r := newRecorder()
	_, err := New(Options{Meter: r})
	require.NoError(t, err)
	require.Equal(t, map[string]string{
		"lifeboat.replication.rpo": "s", "lifeboat.replication.objective": "s", "lifeboat.replication.io": "By",
		"lifeboat.replication.cycle.duration": "s", "lifeboat.replication.cycle.active": "{cycle}", "lifeboat.replication.queue.length": "{cycle}",
		"lifeboat.failures": "{failure}", "lifeboat.runs": "{run}", "lifeboat.step.duration": "s",
	}, r.units)
}

// BenchmarkAttempt is what telemetry adds to an attempt when nobody records.
func BenchmarkAttempt(b *testing.B) {
	tel, err := New(Options{})
	require.NoError(b, err)
	a := tel.Actions(dr.Actions{"a": func(context.Context, *dr.Call) (json.RawMessage, error) { return nil, nil }})
	c := &dr.Call{Run: "r", Step: "s"}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = a["a"](b.Context(), c)
	}
}

// recorder is as much of an SDK as the tests need: the real one is in a
// module of its own, with the example that serves Prometheus.
type recorder struct {
	noopMeters
	noopTracers

	mu        sync.Mutex
	units     map[string]string
	values    map[string]float64
	gauges    []string
	callbacks []metric.Callback
	spans     []*span
}

type noopMeters struct{ metricnoop.MeterProvider }

type noopTracers struct{ tracenoop.TracerProvider }

func newRecorder() *recorder {
	return &recorder{units: map[string]string{}, values: map[string]float64{}}
}

func (r *recorder) Meter(string, ...metric.MeterOption) metric.Meter  { return meter{r: r} }
func (r *recorder) Tracer(string, ...trace.TracerOption) trace.Tracer { return tracer{r: r} }

func key(name string, set attribute.Set) string {
	s := ""
	for _, kv := range set.ToSlice() {
		if s != "" {
			s += ","
		}
		s += string(kv.Key) + "=" + kv.Value.String()
	}
	return name + "{" + s + "}"
}

func (r *recorder) add(name string, set attribute.Set, v float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.values[key(name, set)] += v
}

// sums lists what was recorded, with the sum of each series.
func (r *recorder) sums() (all []string) {
	for k, v := range r.values {
		all = append(all, fmt.Sprintf("%s %v", k, v))
	}
	slices.Sort(all)
	return all
}

// collect lists what the gauges tell now.
func (r *recorder) collect(t *testing.T) []string {
	r.gauges = nil
	for _, c := range r.callbacks {
		require.NoError(t, c(t.Context(), &observer{r: r}))
	}
	slices.Sort(r.gauges)
	return r.gauges
}

func (r *recorder) span(i int) *span { return r.spans[i] }

type meter struct {
	metricnoop.Meter
	r *recorder
}

func (m meter) Int64Counter(name string, o ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	m.r.units[name] = metric.NewInt64CounterConfig(o...).Unit()
	return intCounter{r: m.r, name: name}, nil
}

func (m meter) Int64UpDownCounter(name string, o ...metric.Int64UpDownCounterOption) (metric.Int64UpDownCounter, error) {
	m.r.units[name] = metric.NewInt64UpDownCounterConfig(o...).Unit()
	return upDown{r: m.r, name: name}, nil
}

func (m meter) Float64Histogram(name string, o ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	m.r.units[name] = metric.NewFloat64HistogramConfig(o...).Unit()
	return histogram{r: m.r, name: name}, nil
}

func (m meter) Float64ObservableGauge(name string, o ...metric.Float64ObservableGaugeOption) (metric.Float64ObservableGauge, error) {
	m.r.units[name] = metric.NewFloat64ObservableGaugeConfig(o...).Unit()
	return floatGauge{name: name}, nil
}

func (m meter) Int64ObservableUpDownCounter(name string, o ...metric.Int64ObservableUpDownCounterOption) (metric.Int64ObservableUpDownCounter, error) {
	m.r.units[name] = metric.NewInt64ObservableUpDownCounterConfig(o...).Unit()
	return intGauge{name: name}, nil
}

func (m meter) RegisterCallback(f metric.Callback, _ ...metric.Observable) (metric.Registration, error) {
	m.r.callbacks = append(m.r.callbacks, f)
	return registration{r: m.r}, nil
}

type registration struct {
	metricnoop.Registration
	r *recorder
}

func (g registration) Unregister() error { g.r.callbacks = nil; return nil }

type intCounter struct {
	metricnoop.Int64Counter
	r    *recorder
	name string
}

func (c intCounter) Add(_ context.Context, n int64, o ...metric.AddOption) {
	c.r.add(c.name, metric.NewAddConfig(o).Attributes(), float64(n))
}

type upDown struct {
	metricnoop.Int64UpDownCounter
	r    *recorder
	name string
}

func (c upDown) Add(_ context.Context, n int64, o ...metric.AddOption) {
	c.r.add(c.name, metric.NewAddConfig(o).Attributes(), float64(n))
}

type histogram struct {
	metricnoop.Float64Histogram
	r    *recorder
	name string
}

func (h histogram) Record(_ context.Context, v float64, o ...metric.RecordOption) {
	h.r.add(h.name, metric.NewRecordConfig(o).Attributes(), v)
}

type floatGauge struct {
	metricnoop.Float64ObservableGauge
	name string
}

type intGauge struct {
	metricnoop.Int64ObservableUpDownCounter
	name string
}

type observer struct {
	metricnoop.Observer
	r *recorder
}

func (o *observer) ObserveFloat64(g metric.Float64Observable, v float64, opt ...metric.ObserveOption) {
	o.r.gauges = append(o.r.gauges, fmt.Sprintf("%s %v", key(g.(floatGauge).name, metric.NewObserveConfig(opt).Attributes()), v))
}

func (o *observer) ObserveInt64(g metric.Int64Observable, v int64, opt ...metric.ObserveOption) {
	o.r.gauges = append(o.r.gauges, fmt.Sprintf("%s %v", key(g.(intGauge).name, metric.NewObserveConfig(opt).Attributes()), v))
}

type tracer struct {
	tracenoop.Tracer
	r *recorder
}

func (t tracer) Start(ctx context.Context, name string, o ...trace.SpanStartOption) (context.Context, trace.Span) {
	c := trace.NewSpanStartConfig(o...)
	s := &span{name: name, began: c.Timestamp(), links: c.Links(), attrs: map[string]string{}}
	s.SetAttributes(c.Attributes()...)
	t.r.spans = append(t.r.spans, s)
	return trace.ContextWithSpan(ctx, s), s
}

type span struct {
	tracenoop.Span
	name         string
	began, ended time.Time
	links        []trace.Link
	attrs        map[string]string
	status       codes.Code
}

func (s *span) in(ctx context.Context) bool { return trace.SpanFromContext(ctx) == trace.Span(s) }
func (s *span) End(o ...trace.SpanEndOption) {
	c := trace.NewSpanEndConfig(o...)
	s.ended = c.Timestamp()
}
func (s *span) SetStatus(c codes.Code, _ string) { s.status = c }
func (s *span) SetAttributes(kv ...attribute.KeyValue) {
	for _, a := range kv {
		s.attrs[string(a.Key)] = a.Value.String()
	}
}

package observe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
)

type recorder struct {
	mu  sync.Mutex
	all []Event
}

func (r *recorder) see(_ context.Context, e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
}

// said lists what was seen, without times.
func (r *recorder) said() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.all {
		s := string(e.Kind)
		for _, part := range []string{string(e.Run), string(e.Protection), e.Step, e.Action, string(e.Verdict), e.By} {
			if part != "" {
				s += " " + part
			}
		}
		if e.Attempt > 0 {
			s += fmt.Sprintf(" #%d", e.Attempt)
		}
		if e.Undo {
			s += " undo"
		}
		if e.Err != nil {
			s += ": " + e.Err.Error()
		}
		all = append(all, s)
	}
	return all
}

// A run on the embedded engine, seen from outside.
func TestWhatARunTells(t *testing.T) {
	engine, err := embedded.Open(filepath.Join(t.TempDir(), "journal"), embedded.Options{BackoffFirst: time.Millisecond})
	require.NoError(t, err)
	defer engine.Close()
	var r recorder
	o := Orchestrator(engine, r.see)
	_, ok := dr.As[dr.Watcher](o)
	require.True(t, ok, "abilities stay visible")
	_, ok = dr.As[dr.Records](o)
	require.True(t, ok)

	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	failed := false
	go func() {
		served <- o.Serve(ctx, dr.Actions{
			"copy@1": func(_ context.Context, c *dr.Call) (json.RawMessage, error) {
				if !c.Undo && !failed {
					failed = true
					return nil, errors.New("hiccup")
				}
				return nil, nil
			},
			"last@1": func(context.Context, *dr.Call) (json.RawMessage, error) { return nil, dr.Permanent(errors.New("no")) },
		})
	}()
	p := dr.Plan{Flow: "f", Locks: []string{dr.ProtectionID("web").Lock(), "other"}, Steps: []dr.Step{
		{ID: "ok?", Gate: "Go?"}, {ID: "copy", Action: "copy@1", Undo: "copy@1", After: []string{"ok?"}},
		{ID: "last", Action: "last@1", After: []string{"copy"}},
	}}
	asked := By(ctx, "ann")
	require.NoError(t, o.Start(asked, "r1", p))
	require.ErrorIs(t, o.Start(asked, "r1", p), dr.ErrRunExists)
	decided := false
	s, err := dr.Wait(ctx, o, "r1", func(s dr.Status) {
		if s.State == dr.RunWaiting && !decided {
			decided = true
			require.NoError(t, o.Decide(ctx, "r1", "ok?", dr.Decision{Verdict: dr.Approve, By: "bob"}))
		}
	})
	require.NoError(t, err)
	require.Equal(t, dr.RunFailed, s.State)
	require.ErrorIs(t, o.Cancel(asked, "r1", "late"), dr.ErrNotAllowed)
	stop()
	require.ErrorIs(t, <-served, context.Canceled)
	said := r.said()
	require.Equal(t, []string{"run-started r1 web ann"}, said[:1])
	require.True(t, strings.HasPrefix(said[1], "run-refused r1 web ann: "), said[1])
	// The engine may begin the step before Decide returns.
	i := slices.Index(said, "decided r1 ok? approve bob")
	require.Contains(t, []int{2, 3, 4}, i)
	said = slices.Delete(said, i, i+1)
	require.Equal(t, []string{
		"attempt-begun r1 web copy copy@1 #1", "attempt-failed r1 web copy copy@1 #1: hiccup",
		"attempt-begun r1 web copy copy@1 #2", "attempt-ended r1 web copy copy@1 #2",
		"attempt-begun r1 web last last@1 #1", "attempt-failed r1 web last last@1 #1: no",
		"attempt-begun r1 web copy copy@1 #1 undo", "attempt-ended r1 web copy copy@1 #1 undo",
	}, said[2:10])
	require.Contains(t, said[10], "cancel-asked r1 ann: ")
	for _, e := range r.all {
		require.False(t, e.At.IsZero())
	}
}

func TestAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		a := Actions(dr.Actions{
			"ok@1": func(context.Context, *dr.Call) (json.RawMessage, error) {
				time.Sleep(time.Minute)
				return json.RawMessage(`7`), nil
			},
			"hang@1":  func(ctx context.Context, _ *dr.Call) (json.RawMessage, error) { <-ctx.Done(); return nil, ctx.Err() },
			"panic@1": func(context.Context, *dr.Call) (json.RawMessage, error) { panic("ouch") },
			"nil@1":   nil,
		}, r.see)
		require.NotContains(t, a, "nil@1", "it stays not registered")
		res, err := a["ok@1"](t.Context(), &dr.Call{})
		require.NoError(t, err)
		require.Equal(t, "7", string(res))
		require.Equal(t, time.Minute, r.all[1].Took)
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, err = a["hang@1"](ctx, &dr.Call{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, AttemptStopped, r.all[3].Kind)
		require.PanicsWithValue(t, "ouch", func() { _, _ = a["panic@1"](t.Context(), &dr.Call{}) })
		require.Equal(t, AttemptFailed, r.all[5].Kind)
		require.Error(t, r.all[5].Err)
	})
}

func TestWithoutObserverNothingIsWrapped(t *testing.T) {
	var o dr.Orchestrator = &lister{}
	require.Same(t, o, Orchestrator(o, nil))
	Log(nil)(t.Context(), Event{})
	Join(nil, nil)(t.Context(), Event{})
	require.Empty(t, Actor(t.Context()))
}

// lister is an orchestrator of which only the runs count.
type lister struct {
	dr.Orchestrator
	mu   sync.Mutex
	runs []dr.Status
	err  error
}

func (l *lister) Runs(context.Context) iter.Seq2[dr.Status, error] {
	return func(yield func(dr.Status, error) bool) {
		l.mu.Lock()
		runs := l.runs
		l.mu.Unlock()
		for _, s := range runs {
			if !yield(s, nil) {
				return
			}
		}
		if l.err != nil {
			yield(dr.Status{}, l.err)
		}
	}
}

func TestRunsTellsOfEachChangeOnce(t *testing.T) {
	require.ErrorIs(t, Runs(t.Context(), struct{ dr.Orchestrator }{}, 0, nil), dr.ErrUnsupported)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		st := func(id dr.RunID, s dr.RunState) dr.Status {
			return dr.Status{Run: id, State: s, Flow: "f", Started: began, Ended: began.Add(time.Hour), Reason: "why", Locks: []string{"protection/web"}}
		}
		l := &lister{runs: []dr.Status{st("old", dr.RunFailed), st("stuck", dr.RunStuck), st("going", dr.RunRunning)}}
		var r recorder
		ctx, stop := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() { end <- Runs(ctx, Orchestrator(l, r.see), time.Second, r.see) }()
		look := func(runs ...dr.Status) {
			time.Sleep(100 * time.Millisecond) // by the bubble's clock
			l.mu.Lock()
			l.runs = runs
			l.mu.Unlock()
			time.Sleep(time.Second)
			synctest.Wait()
		}
		look(st("old", dr.RunFailed), st("stuck", dr.RunStuck), st("going", dr.RunWaiting), st("new", dr.RunRunning))
		look(st("going", dr.RunWaiting), st("new", dr.RunRunning))
		look(st("going", dr.RunUndoing), st("new", dr.RunDone), st("quick", dr.RunCancelled))
		stop()
		require.ErrorIs(t, <-end, context.Canceled)
		require.Equal(t, []string{
			"run-stuck stuck web", "run-waiting going web", "run-undoing going web", "run-done new web",
			"run-cancelled quick web: run quick (f) cancelled: why",
		}, r.said())
		require.Equal(t, time.Hour, r.all[3].Took)
		l.err = errors.New("disk")
		require.ErrorIs(t, Runs(t.Context(), l, 0, r.see), l.err)
	})
}

// What gets whom out of bed.
func TestLevels(t *testing.T) {
	no := errors.New("no")
	for _, c := range []struct {
		kind Kind
		err  error
		want slog.Level
	}{
		{RunStuck, nil, slog.LevelError}, {RunFailed, no, slog.LevelError}, {CycleFailed, dr.ErrCorrupt, slog.LevelError},
		{CycleFailed, no, slog.LevelWarn}, {AttemptFailed, dr.ErrCorrupt, slog.LevelWarn}, {RPOExceeded, nil, slog.LevelWarn},
		{RunWaiting, nil, slog.LevelWarn}, {RunUndoing, nil, slog.LevelWarn}, {RunRefused, no, slog.LevelWarn},
		{Decided, no, slog.LevelWarn}, {CancelAsked, no, slog.LevelWarn},
		{Decided, nil, slog.LevelInfo}, {CancelAsked, nil, slog.LevelInfo}, {RunStarted, nil, slog.LevelInfo},
		{RunDone, nil, slog.LevelInfo}, {RunCancelled, no, slog.LevelInfo}, {RPORecovered, nil, slog.LevelInfo},
		{AttemptBegun, nil, slog.LevelDebug}, {AttemptEnded, nil, slog.LevelDebug}, {AttemptStopped, no, slog.LevelDebug},
		{CycleBegun, nil, slog.LevelDebug}, {CycleEnded, nil, slog.LevelDebug}, {RunRunning, nil, slog.LevelDebug},
	} {
		require.Equal(t, c.want, Event{Kind: c.kind, Err: c.err}.Level(), c.kind)
	}
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	see := Log(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})))
	at := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	see(t.Context(), Event{At: at, Kind: AttemptBegun, Run: "r"})
	require.Empty(t, out.String(), "debug is off")
	see(t.Context(), Event{At: at, Kind: AttemptFailed, Run: "r", Protection: "web", Step: "copy", Action: "copy@1", Attempt: 2, Undo: true, Took: time.Second, Err: errors.New("no room")})
	require.Equal(t, `time=2026-01-02T03:00:00.000Z level=WARN msg=attempt-failed run=r protection=web step=copy action=copy@1 undo=true attempt=2 took=1s error="no room"`+"\n", out.String())
}

// BenchmarkActions is the cost of telling, beside an action called bare.
func BenchmarkActions(b *testing.B) {
	bare := dr.Actions{"a": func(context.Context, *dr.Call) (json.RawMessage, error) { return nil, nil }}
	quiet := slog.New(slog.NewTextHandler(nil, &slog.HandlerOptions{Level: slog.LevelInfo}))
	c := &dr.Call{Run: "r", Step: "s", Epochs: map[string]uint64{"protection/web": 1}}
	for name, a := range map[string]dr.Actions{"bare": bare, "observed": Actions(bare, func(context.Context, Event) {}), "logged": Actions(bare, Log(quiet))} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = a["a"](b.Context(), c)
			}
		})
	}
}

package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var (
	_ dr.Orchestrator  = (*Engine)(nil)
	_ dr.Watcher       = (*Engine)(nil)
	_ dr.RunLister     = (*Engine)(nil)
	_ dr.OpenRunLister = (*Engine)(nil)
	_ dr.Claims        = (*Engine)(nil)
	_ dr.Records       = (*Engine)(nil)
	_ dr.RecordLister  = (*Engine)(nil)

	_ dr.ClaimLister    = (*Engine)(nil)
	_ dr.EpochRaiser    = (*Engine)(nil)
	_ dr.ClaimSeizer    = (*Engine)(nil)
	_ dr.RecordImporter = (*Engine)(nil)
)

func open(t testing.TB, path string, o Options) *Engine {
	t.Helper()
	e, err := Open(path, o)
	require.NoError(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

func journal(t testing.TB) string { return filepath.Join(t.TempDir(), "journal") }

// serve has e served until the function that it returns is called.
func serve(t testing.TB, e *Engine, a dr.Actions) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = e.Serve(ctx, a)
	}()
	stop = func() {
		cancel()
		<-gone
	}
	t.Cleanup(stop)
	return stop
}

func wait(t testing.TB, e *Engine, id dr.RunID) dr.Status {
	t.Helper()
	s, err := dr.Wait(context.Background(), e, id, nil)
	require.NoError(t, err)
	return s
}

func one(s dr.Step) dr.Plan { return dr.Plan{Flow: "test", Steps: []dr.Step{s}} }

func nothing(context.Context, *dr.Call) (json.RawMessage, error) { return nil, nil }

func TestOneProcess(t *testing.T) {
	e := open(t, journal(t), Options{})
	_, err := Open(e.path, Options{})
	require.ErrorIs(t, err, dr.ErrBusy)
	require.ErrorContains(t, err, e.path)
	require.NoError(t, e.Close())
	require.NoError(t, e.Close())
	require.ErrorIs(t, e.Start(t.Context(), "r", one(dr.Step{ID: "a", Action: "do"})), ErrClosed)
	open(t, e.path, Options{})
}

func TestServedOnce(t *testing.T) {
	e := open(t, journal(t), Options{})
	running := make(chan struct{})
	stop := serve(t, e, dr.Actions{"do": func(ctx context.Context, _ *dr.Call) (json.RawMessage, error) {
		close(running)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	require.NoError(t, e.Start(t.Context(), "r", one(dr.Step{ID: "a", Action: "do"})))
	<-running
	require.ErrorIs(t, e.Serve(t.Context(), nil), dr.ErrBusy)
	err := e.Start(t.Context(), "r2", one(dr.Step{ID: "a", Action: "other"}))
	require.ErrorIs(t, err, dr.ErrUnsupported)
	require.ErrorContains(t, err, "other")
	stop()
	require.NoError(t, e.Close())
}

// TestCloseWaits: what an action comes to while the engine is closed is kept.
func TestCloseWaits(t *testing.T) {
	e := open(t, journal(t), Options{})
	running := make(chan struct{})
	served := make(chan error, 1)
	acts := dr.Actions{"do": func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
		close(running)
		<-ctx.Done()
		return json.RawMessage(`"kept"`), nil
	}}
	require.NoError(t, e.Start(t.Context(), "r", one(dr.Step{ID: "a", Action: "do"})))
	go func() { served <- e.Serve(context.Background(), acts) }()
	<-running
	require.NoError(t, e.Close())
	require.ErrorIs(t, <-served, ErrClosed)
	s, err := open(t, e.path, Options{}).Status(t.Context(), "r")
	require.NoError(t, err)
	require.Equal(t, dr.RunDone, s.State)
	require.JSONEq(t, `"kept"`, string(s.Steps[0].Result))
}

func TestParallelIsBounded(t *testing.T) {
	e := open(t, journal(t), Options{Parallel: 3})
	var now, most atomic.Int64
	three := make(chan struct{})
	acts := dr.Actions{"do": func(ctx context.Context, _ *dr.Call) (json.RawMessage, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if n == 3 && most.CompareAndSwap(3, 3) {
			select {
			case <-three:
			default:
				close(three)
			}
		}
		<-three
		return nil, nil
	}}
	serve(t, e, acts)
	ids := []dr.RunID{"r0", "r1", "r2", "r3"}
	for _, id := range ids {
		p := dr.Plan{Flow: "wide"}
		for _, s := range []string{"a", "b", "c", "d"} {
			p.Steps = append(p.Steps, dr.Step{ID: s, Action: "do"})
		}
		require.NoError(t, e.Start(t.Context(), id, p))
	}
	for _, id := range ids {
		require.Equal(t, dr.RunDone, wait(t, e, id).State)
	}
	require.EqualValues(t, 3, most.Load())
}

func TestPurge(t *testing.T) {
	e := open(t, journal(t), Options{})
	serve(t, e, dr.Actions{"do": nothing})
	p := one(dr.Step{ID: "a", Action: "do"})
	p.Locks = []string{"m"}
	const far = uint64(1) << 40 // ahead of all clocks, so that epochs rise by one
	require.NoError(t, e.Raise(t.Context(), "m", far))
	require.NoError(t, e.Start(t.Context(), "ended", p))
	wait(t, e, "ended")
	require.NoError(t, e.Start(t.Context(), "open", one(dr.Step{ID: "g", Gate: "?"})))
	n, err := e.Purge(t.Context(), time.Hour)
	require.NoError(t, err)
	require.Zero(t, n, "it has just ended")
	n, err = e.Purge(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = e.Status(t.Context(), "ended")
	require.ErrorIs(t, err, dr.ErrNotFound)
	_, err = e.Status(t.Context(), "open")
	require.NoError(t, err)
	epoch, err := e.Acquire(t.Context(), "m", "me")
	require.NoError(t, err)
	require.Equal(t, far+2, epoch, "epochs are never forgotten")
	require.NoError(t, e.Release(t.Context(), "m", "me"))
	require.ErrorIs(t, e.Start(t.Context(), "ended", p), dr.ErrRunExists, "its keys are used up")
	require.NoError(t, e.Start(t.Context(), "next", p))
	wait(t, e, "next")
}

func TestTimes(t *testing.T) {
	for name, check := range map[string]func(*testing.T, *Engine){
		"back-off": func(t *testing.T, e *Engine) {
			var at []time.Time
			serve(t, e, dr.Actions{"do": func(context.Context, *dr.Call) (json.RawMessage, error) {
				at = append(at, time.Now())
				return nil, errors.New("no")
			}})
			require.NoError(t, e.Start(t.Context(), "r", one(dr.Step{ID: "a", Action: "do", Attempts: 12})))
			wait(t, e, "r")
			require.Len(t, at, 12)
			for i, d := 1, 200*time.Millisecond; i < len(at); i, d = i+1, min(2*d, time.Minute) {
				require.GreaterOrEqual(t, at[i].Sub(at[i-1]), d/2, "wait %d", i)
				require.LessOrEqual(t, at[i].Sub(at[i-1]), d, "wait %d", i)
			}
		},
		"the default outlasts a hiccup of minutes": func(t *testing.T, e *Engine) {
			began := time.Now()
			serve(t, e, dr.Actions{"do": func(context.Context, *dr.Call) (json.RawMessage, error) {
				return nil, fmt.Errorf("draft: %w", dr.ErrBusy)
			}})
			require.NoError(t, e.Start(t.Context(), "r", one(dr.Step{ID: "a", Action: "do"})))
			s := wait(t, e, "r")
			require.Equal(t, dr.DefaultAttempts, s.Steps[0].Attempt)
			require.Greater(t, time.Since(began), 4*time.Minute+45*time.Second)
			require.Less(t, time.Since(began), 10*time.Minute)
		},
		"silence and timeout": func(t *testing.T, e *Engine) {
			began := time.Now()
			serve(t, e, dr.Actions{"do": func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
				for range 3 {
					select {
					case <-time.After(50 * time.Second):
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					c.Beat(dr.Progress{What: "alive"})
				}
				<-ctx.Done()
				return nil, ctx.Err()
			}})
			require.NoError(t, e.Start(t.Context(), "silent", one(dr.Step{ID: "a", Action: "do", Attempts: 1, Silence: time.Minute})))
			s := wait(t, e, "silent")
			require.Equal(t, 210*time.Second, time.Since(began))
			require.Contains(t, s.Reason, "without a sign of life")
			began = time.Now()
			require.NoError(t, e.Start(t.Context(), "slow", one(dr.Step{ID: "a", Action: "do", Attempts: 1, Timeout: 2 * time.Minute})))
			s = wait(t, e, "slow")
			require.Equal(t, 2*time.Minute, time.Since(began))
			require.Contains(t, s.Reason, "stopped after 2m0s")
		},
		"gates": func(t *testing.T, e *Engine) {
			began := time.Now()
			stop := serve(t, e, nil)
			require.NoError(t, e.Start(t.Context(), "r", one(dr.Step{ID: "g", Gate: "?", Timeout: 3 * time.Hour})))
			time.Sleep(time.Hour) // of the bubble's time
			stop()
			time.Sleep(time.Hour)
			serve(t, e, nil)
			s := wait(t, e, "r")
			require.Equal(t, dr.RunCancelled, s.State)
			require.Equal(t, 3*time.Hour, time.Since(began), "it counts from the opening, whoever served")
		},
		"cancelled while waiting for another attempt": func(t *testing.T, e *Engine) {
			began := time.Now()
			serve(t, e, dr.Actions{"do": func(context.Context, *dr.Call) (json.RawMessage, error) { return nil, errors.New("no") }})
			require.NoError(t, e.Start(t.Context(), "r", one(dr.Step{ID: "a", Action: "do", Attempts: 100})))
			time.Sleep(10 * time.Minute)
			require.NoError(t, e.Cancel(t.Context(), "r", "enough"))
			require.Equal(t, dr.RunCancelled, wait(t, e, "r").State)
			require.Equal(t, 10*time.Minute, time.Since(began), "at once")
		},
		"purge": func(t *testing.T, e *Engine) {
			e.o.Keep = 90 * time.Minute
			serve(t, e, nil)
			require.NoError(t, e.Start(t.Context(), "r", dr.Plan{Flow: "empty"}))
			wait(t, e, "r")
			time.Sleep(89 * time.Minute)
			_, err := e.Status(t.Context(), "r")
			require.NoError(t, err)
			time.Sleep(32 * time.Minute)
			_, err = e.Status(t.Context(), "r")
			require.ErrorIs(t, err, dr.ErrNotFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := journal(t)
			synctest.Test(t, func(t *testing.T) { check(t, open(t, path, Options{})) })
		})
	}
}

func TestPanicsAreLogged(t *testing.T) {
	var log bytes.Buffer
	e := open(t, journal(t), Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	stop := serve(t, e, dr.Actions{"do": func(context.Context, *dr.Call) (json.RawMessage, error) { panic("ouch") }})
	require.NoError(t, e.Start(t.Context(), "r", one(dr.Step{ID: "a", Action: "do"})))
	s := wait(t, e, "r")
	stop()
	require.Equal(t, dr.RunFailed, s.State)
	require.NotContains(t, s.Reason, "engine_test.go")
	require.Contains(t, log.String(), "engine_test.go", "the stack is in the log")
}

// TestClaimsOutOfReach: while the other claims can't be reached, Start leaves
// nothing behind, and an ended run keeps trying to give its claims back.
func TestClaimsOutOfReach(t *testing.T) {
	c := &flaky{Claims: open(t, journal(t), Options{})}
	e := open(t, journal(t), Options{Claims: c, BackoffFirst: time.Millisecond, BackoffMost: time.Millisecond})
	p := one(dr.Step{ID: "a", Action: "do"})
	p.Locks = []string{"a", "b"}
	c.acquires.Store(2)
	require.ErrorIs(t, e.Start(t.Context(), "r", p), errOut)
	_, err := e.Status(t.Context(), "r")
	require.ErrorIs(t, err, dr.ErrNotFound)
	epoch, err := c.Acquire(t.Context(), "a", "me")
	require.NoError(t, err, "what was claimed was given back")
	require.NoError(t, c.Release(t.Context(), "a", "me"))
	require.NotZero(t, epoch)

	require.NoError(t, e.Start(t.Context(), "r", p))
	c.releases.Store(5)
	serve(t, e, dr.Actions{"do": nothing})
	require.Equal(t, dr.RunDone, wait(t, e, "r").State)
	require.LessOrEqual(t, c.releases.Load(), int64(0))
	_, err = c.Acquire(t.Context(), "b", "me")
	require.NoError(t, err)
}

// TestCrashWhileClaiming: the claims of a run whose Start was cut off are
// taken when somebody serves, or the run says why it could not.
func TestCrashWhileClaiming(t *testing.T) {
	for _, busy := range []bool{false, true} {
		c := open(t, journal(t), Options{})
		path := journal(t)
		e := open(t, path, Options{Claims: c, Intercept: func(w Write) error {
			if w.N == 2 {
				return errOut
			}
			return nil
		}})
		p := one(dr.Step{ID: "a", Action: "do"})
		p.Locks = []string{"m"}
		require.ErrorIs(t, e.Start(t.Context(), "r", p), errOut)
		require.NoError(t, e.Close())
		if busy {
			require.NoError(t, c.Release(t.Context(), "m", e.claimant("r")))
			_, err := c.Acquire(t.Context(), "m", "other")
			require.NoError(t, err)
		}
		e = open(t, path, Options{Claims: c})
		serve(t, e, dr.Actions{"do": nothing})
		s := wait(t, e, "r")
		if busy {
			require.Equal(t, dr.RunFailed, s.State)
			require.Contains(t, s.Reason, "other")
		} else {
			require.Equal(t, dr.RunDone, s.State)
		}
	}
}

var errOut = errors.New("out of reach")

// flaky are claims that fail when their counters come down to one, and while
// releases is positive.
type flaky struct {
	dr.Claims
	acquires, releases atomic.Int64
}

func (f *flaky) Acquire(ctx context.Context, resource, owner string) (uint64, error) {
	if f.acquires.Add(-1) == 0 {
		return 0, errOut
	}
	return f.Claims.Acquire(ctx, resource, owner)
}

func (f *flaky) Release(ctx context.Context, resource, owner string) error {
	if f.releases.Add(-1) >= 0 {
		return errOut
	}
	return f.Claims.Release(ctx, resource, owner)
}

// TestOneRunOfAnIDInTwoJournals: two engines that share claims and are asked
// for the same run don't both run it, nor does one give the other's claims
// back.
func TestOneRunOfAnIDInTwoJournals(t *testing.T) {
	c := open(t, journal(t), Options{})
	p := one(dr.Step{ID: "g", Gate: "?"})
	p.Locks = []string{"a", "b"}
	first, second := open(t, journal(t), Options{Claims: c}), open(t, journal(t), Options{Claims: c})
	require.NoError(t, first.Start(t.Context(), "r", p))
	err := second.Start(t.Context(), "r", p)
	require.ErrorIs(t, err, dr.ErrBusy)
	require.ErrorContains(t, err, first.claimant("r"))
	_, err = c.Acquire(t.Context(), "b", "other")
	require.ErrorIs(t, err, dr.ErrBusy, "the first still holds it")
	path := first.path
	require.NoError(t, first.Close())
	first = open(t, path, Options{Claims: c})
	require.NoError(t, first.Cancel(t.Context(), "r", "enough"))
	serve(t, first, nil)
	require.Equal(t, dr.RunCancelled, wait(t, first, "r").State)
	require.NoError(t, second.Start(t.Context(), "r", p), "it was given back under the same name")
}

// TestWatchOfARunThatIsTakenBack: who watches a run whose claims are refused
// learns that there is none.
func TestWatchOfARunThatIsTakenBack(t *testing.T) {
	c := &held{Claims: open(t, journal(t), Options{}), asked: make(chan struct{}), answer: make(chan struct{})}
	e := open(t, journal(t), Options{Claims: c})
	p := one(dr.Step{ID: "g", Gate: "?"})
	p.Locks = []string{"m"}
	started := make(chan error, 1)
	go func() { started <- e.Start(context.Background(), "r", p) }()
	<-c.asked
	n := 0
	for s, err := range e.Watch(t.Context(), "r") {
		if n++; n == 1 {
			require.NoError(t, err)
			require.Equal(t, dr.RunRunning, s.State)
			close(c.answer)
			continue
		}
		require.ErrorIs(t, err, dr.ErrNotFound)
	}
	require.Equal(t, 2, n)
	require.ErrorIs(t, <-started, dr.ErrBusy)
}

// held are claims that somebody else holds, and that say so when they are let.
type held struct {
	dr.Claims
	asked, answer chan struct{}
}

func (h *held) Acquire(context.Context, string, string) (uint64, error) {
	close(h.asked)
	<-h.answer
	return 0, dr.ErrBusy
}

// TestTakenOverWhileItStoodStill: an engine whose file was taken over stops
// its actions and says why, though it has nothing to write.
func TestTakenOverWhileItStoodStill(t *testing.T) {
	path := journal(t)
	synctest.Test(t, func(t *testing.T) {
		e := open(t, path, Options{})
		running := make(chan struct{})
		served := make(chan error, 1)
		go func() {
			served <- e.Serve(t.Context(), dr.Actions{"do": func(ctx context.Context, _ *dr.Call) (json.RawMessage, error) {
				close(running)
				<-ctx.Done()
				return nil, nil // it has done its work, but may not say so
			}})
		}()
		require.NoError(t, e.Start(t.Context(), "r", one(dr.Step{ID: "a", Action: "do"})))
		<-running
		db, _, err := openDB(path)
		require.NoError(t, err)
		defer db.Close()
		require.ErrorIs(t, <-served, dr.ErrFenced)
		var events int
		require.NoError(t, db.QueryRow(`SELECT count(*) FROM event`).Scan(&events))
		require.Equal(t, 2, events, "claimed and begun: the end isn't recorded")
		_, err = e.Status(t.Context(), "r")
		require.ErrorIs(t, err, dr.ErrFenced)
	})
}

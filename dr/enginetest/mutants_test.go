package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
)

// TestMutants runs promises on engines that break them, and on one that
// doesn't: a suite that no engine fails proves nothing.
func TestMutants(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			for _, name := range m.caught {
				var p promise
				for _, q := range promises() {
					if q.name == name {
						p = q
					}
				}
				require.NotEmpty(t, p.name, "no promise %q", name)
				honest := try(t, p, func(o *liar) {}, patience)
				require.Empty(t, honest, "the honest engine keeps it")
				got := try(t, p, m.lie, 2*time.Second)
				require.NotEmpty(t, got, "%q did not catch it", name)
			}
		})
	}
}

// try returns what a promise complains about.
func try(t *testing.T, p promise, lie func(*liar), wait time.Duration) string {
	r := &recorder{T: t, dir: t.TempDir()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.clean()
		p.check(newEnv(r, &lying{path: filepath.Join(r.TempDir(), "journal"), lie: lie}, wait))
	}()
	<-done
	return strings.Join(r.said, "\n")
}

// recorder is a T that fails without failing.
type recorder struct {
	*testing.T
	dir   string
	mu    sync.Mutex
	said  []string
	after []func()
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, fmt.Sprintf(format, args...))
}
func (r *recorder) FailNow()                         { runtime.Goexit() }
func (r *recorder) Skipf(format string, args ...any) { r.Errorf(format, args...); r.FailNow() }
func (r *recorder) Logf(string, ...any)              {}
func (r *recorder) Cleanup(f func())                 { r.after = append(r.after, f) }
func (r *recorder) TempDir() string                  { return r.dir }

func (r *recorder) clean() {
	for i := len(r.after) - 1; i >= 0; i-- {
		r.after[i]()
	}
}

// lying is an honest engine's state behind a wrapper that lies.
type lying struct {
	path   string
	lie    func(*liar)
	killed chan struct{}
	e      *embedded.Engine
	lives  int
	seen   sync.Map // what the wrapper remembers over deaths
	plans  sync.Map
}

var errKilled = errors.New("killed")

func (l *lying) Open() (dr.Orchestrator, error) {
	killed := make(chan struct{})
	l.killed = killed
	e, err := embedded.Open(l.path, embedded.Options{BackoffFirst: time.Millisecond, BackoffMost: 4 * time.Millisecond,
		Intercept: func(embedded.Write) error {
			select {
			case <-killed:
				return errKilled
			default:
				return nil
			}
		}})
	if err != nil {
		return nil, err
	}
	l.e = e
	l.lives++
	o := &liar{Engine: e, l: l, life: l.lives}
	l.lie(o)
	return o, nil
}

// Kill fails the next write, and sees to it that there is one.
func (l *lying) Kill() {
	close(l.killed)
	_ = l.e.Release(context.Background(), "nothing", "nobody")
	_ = l.e.Close()
}

// liar passes everything on but for what is set.
type liar struct {
	*embedded.Engine
	l    *lying
	life int

	start   func(ctx context.Context, id dr.RunID, p dr.Plan) error
	act     func(a dr.Action) dr.Action // wraps each action
	decide  func(ctx context.Context, id dr.RunID, step string, d dr.Decision) error
	cancel  func(ctx context.Context, id dr.RunID, why string) error
	status  func(s dr.Status, err error) (dr.Status, error)
	queues  func(q []string) []string
	refusal func(error) error // of Serve
	watch   func(iter.Seq2[dr.Status, error]) iter.Seq2[dr.Status, error]
	opened  func(ctx context.Context) // before it is served
}

func (o *liar) Start(ctx context.Context, id dr.RunID, p dr.Plan) error {
	o.l.plans.LoadOrStore(id, p)
	if o.start != nil {
		return o.start(ctx, id, p)
	}
	return o.Engine.Start(ctx, id, p)
}

func (o *liar) Decide(ctx context.Context, id dr.RunID, step string, d dr.Decision) error {
	if o.decide != nil {
		return o.decide(ctx, id, step, d)
	}
	return o.Engine.Decide(ctx, id, step, d)
}

func (o *liar) Cancel(ctx context.Context, id dr.RunID, why string) error {
	if o.cancel != nil {
		return o.cancel(ctx, id, why)
	}
	return o.Engine.Cancel(ctx, id, why)
}

func (o *liar) Status(ctx context.Context, id dr.RunID) (dr.Status, error) {
	s, err := o.Engine.Status(ctx, id)
	if o.status != nil {
		return o.status(s, err)
	}
	return s, err
}

func (o *liar) Watch(ctx context.Context, id dr.RunID) iter.Seq2[dr.Status, error] {
	if o.watch != nil {
		return o.watch(o.Engine.Watch(ctx, id))
	}
	return o.Engine.Watch(ctx, id)
}

func (o *liar) Serve(ctx context.Context, a dr.Actions, queues ...string) error {
	if o.opened != nil {
		o.opened(ctx)
	}
	wrapped := dr.Actions{}
	for name, do := range a {
		wrapped[name] = do
		if o.act != nil {
			wrapped[name] = o.act(do)
		}
	}
	if o.queues != nil {
		queues = o.queues(queues)
	}
	err := o.Engine.Serve(ctx, wrapped, queues...)
	if o.refusal != nil {
		return o.refusal(err)
	}
	return err
}

// each makes a lie of what is done to a call and what comes of it.
func each(f func(o *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error)) func(*liar) {
	return func(o *liar) {
		o.act = func(do dr.Action) dr.Action {
			return func(ctx context.Context, c *dr.Call) (json.RawMessage, error) { return f(o, ctx, c, do) }
		}
	}
}

var mutants = []struct {
	name   string
	lie    func(*liar)
	caught []string
}{
	{"forgets a journaled step", each(func(o *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		// In a later life the run's first step is run once more.
		first, ok := o.l.seen.LoadOrStore(c.Run, *c)
		res, err := do(ctx, c)
		if again := first.(dr.Call); ok && o.life > 1 && again.Step != c.Step {
			if _, done := o.l.seen.LoadOrStore(string(c.Run)+"!", true); !done {
				again.Attempt += 10
				_, _ = do(ctx, &again)
			}
		}
		return res, err
	}), []string{"a death at any effect loses nothing and doubles nothing"}},
	{"runs each step twice", each(func(o *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		_, _ = do(ctx, c)
		c.Attempt++
		return do(ctx, c)
	}), []string{"steps run in order, and side by side where After allows"}},
	{"undoes twice, under another key", each(func(_ *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		if c.Undo {
			again := *c
			again.Key += "!"
			_, _ = do(ctx, &again)
		}
		return do(ctx, c)
	}), []string{"a failed run is undone, last first"}},
	{"gives claims back before undoing", each(func(o *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		if c.Undo {
			for lock := range c.Epochs {
				_ = o.Release(ctx, lock, string(c.Run))
			}
		}
		return do(ctx, c)
	}), []string{"one resource, one run: until behind the last step"}},
	{"claims nothing", func(o *liar) {
		o.start = func(ctx context.Context, id dr.RunID, p dr.Plan) error {
			p.Locks = nil
			return o.Engine.Start(ctx, id, p)
		}
	}, []string{"one resource, one run: until behind the last step", "a stuck run keeps its claims"}},
	{"a key of its own for each attempt", each(func(_ *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		c.Key += fmt.Sprint("#", c.Attempt)
		return do(ctx, c)
	}), []string{"a step is tried again until it succeeds", "a death at any effect loses nothing and doubles nothing", "storms of deaths"}},
	{"one key for a step and its undo", each(func(_ *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		c.Key = dr.StepKey(c.Run, c.Step, false)
		return do(ctx, c)
	}), []string{"a failed run is undone, last first"}},
	{"counts attempts from one in each life", each(func(o *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		n, _ := o.l.seen.LoadOrStore(fmt.Sprint(o.life, c.Key), c.Attempt-1)
		c.Attempt -= n.(int)
		return do(ctx, c)
	}), []string{"a death is no failure: a step with one attempt gets another", "failures are counted across deaths"}},
	{"takes a death for a failure", func(o *liar) {
		o.opened = func(ctx context.Context) {
			for s, err := range o.Runs(ctx) {
				if err == nil && o.life > 1 && !s.State.Ended() {
					_ = o.Engine.Cancel(ctx, s.Run, "the process died")
				}
			}
		}
	}, []string{"a death at any effect loses nothing and doubles nothing", "a death is no failure: a step with one attempt gets another"}},
	{"repeats what is permanent", each(func(_ *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		res, err := do(ctx, c)
		if err != nil {
			err = errors.New(err.Error())
		}
		return res, err
	}), []string{"what repeating won't cure is not repeated"}},
	{"repeats nothing", each(func(_ *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		res, err := do(ctx, c)
		return res, dr.Permanent(err)
	}), []string{"a step is tried again until it succeeds", "an undo is tried again", "an attempt that takes too long is stopped and tried again"}},
	{"does not stop what takes too long", each(func(_ *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return do(ctx, c)
	}), []string{"an attempt that takes too long is stopped and tried again", "cancelling stops what runs, and undoes it"}},
	{"loses beats", each(func(_ *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		c.Beat = func(dr.Progress) {}
		return do(ctx, c)
	}), []string{"an attempt that beats is not silent", "progress is shown, the latest of each disk"}},
	{"gives no results but the last step's", each(func(o *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		p, _ := o.l.plans.Load(c.Run)
		s, _ := p.(dr.Plan).Step(c.Step)
		few := map[string]json.RawMessage{}
		for _, a := range s.After {
			if res, ok := c.Results[a]; ok {
				few[a] = res
			}
		}
		c.Results = few
		return do(ctx, c)
	}), []string{"a step gets the results of all that it comes after", "an undo gets its own step's result too"}},
	{"keeps from an undo what is left", each(func(_ *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		c.Left = nil
		return do(ctx, c)
	}), []string{"a failed undo is recorded, the rest is undone, and told of it"}},
	{"does not freeze the plan", each(func(o *liar, ctx context.Context, c *dr.Call, do dr.Action) (json.RawMessage, error) {
		p, _ := o.l.plans.Load(c.Run)
		if s, ok := p.(dr.Plan).Step(c.Step); ok {
			c.Input = s.Input
		}
		return do(ctx, c)
	}), []string{"the plan is frozen"}},
	{"the last answer counts", func(o *liar) {
		o.decide = func(ctx context.Context, id dr.RunID, step string, d dr.Decision) error {
			if err := o.Engine.Decide(ctx, id, step, d); !errors.Is(err, dr.ErrConflict) {
				return err
			}
			return nil
		}
	}, []string{"the first answer counts"}},
	{"takes answers from nobody", func(o *liar) {
		o.decide = func(ctx context.Context, id dr.RunID, step string, d dr.Decision) error {
			if d.By == "" {
				d.By = "nobody"
			}
			return o.Engine.Decide(ctx, id, step, d)
		}
	}, []string{"a decision says by whom, and fits the question"}},
	{"says that it cancels what it can't", func(o *liar) {
		o.cancel = func(ctx context.Context, id dr.RunID, why string) error {
			if err := o.Engine.Cancel(ctx, id, why); !errors.Is(err, dr.ErrNotAllowed) {
				return err
			}
			return nil
		}
	}, []string{"behind the point of no return there is no cancelling", "a run that is done can't be cancelled"}},
	{"forgets cancellations", func(o *liar) {
		o.cancel = func(context.Context, dr.RunID, string) error { return nil }
	}, []string{"cancelling stops what runs, and undoes it", "cancelling before anything started leaves nothing", "cancelling again hurries an undo that hangs, and takes no attempt from it"}},
	{"knows every run", func(o *liar) {
		o.status = func(s dr.Status, err error) (dr.Status, error) {
			if errors.Is(err, dr.ErrNotFound) {
				return dr.Status{State: dr.RunRunning}, nil
			}
			return s, err
		}
	}, []string{"an unknown run is not found", "an invalid plan is refused"}},
	{"starts a run twice", func(o *liar) {
		o.start = func(ctx context.Context, id dr.RunID, p dr.Plan) error {
			if err := o.Engine.Start(ctx, id, p); !errors.Is(err, dr.ErrRunExists) {
				return err
			}
			return nil
		}
	}, []string{"a run exists once, open or ended"}},
	{"takes every queue", func(o *liar) { o.queues = func([]string) []string { return nil } },
		[]string{"with queues, only their steps run"}},
	{"serves without the actions", func(o *liar) {
		o.refusal = func(err error) error {
			if errors.Is(err, dr.ErrUnsupported) {
				return nil
			}
			return err
		}
	}, []string{"Serve refuses while an open run needs what it doesn't have"}},
	{"never shows the end", func(o *liar) {
		o.watch = func(all iter.Seq2[dr.Status, error]) iter.Seq2[dr.Status, error] {
			return func(yield func(dr.Status, error) bool) {
				for s, err := range all {
					if s.State.Ended() || !yield(s, err) {
						return
					}
				}
			}
		}
	}, []string{"Watch tells now, what changes, and the end"}},
}

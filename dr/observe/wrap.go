package observe

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Actions returns actions that tell see when an attempt begins and how it
// ends, and do else what a's do. An action that panics is told of as failed,
// and goes on panicking.
func Actions(a dr.Actions, see Observer) dr.Actions {
	if see == nil {
		return a
	}
	all := make(dr.Actions, len(a))
	for name, do := range a {
		if do != nil { // else it stays not registered
			all[name] = observed(name, do, see)
		}
	}
	return all
}

func observed(name string, do dr.Action, see Observer) dr.Action {
	return func(ctx context.Context, c *dr.Call) (result json.RawMessage, err error) {
		began := time.Now()
		e := Event{At: began, Kind: AttemptBegun, Run: c.Run, Protection: only(maps.Keys(c.Epochs)),
			Step: c.Step, Action: name, Undo: c.Undo, Attempt: c.Attempt}
		see(ctx, e)
		returned := false
		defer func() {
			e.At = time.Now()
			e.Took = e.At.Sub(began)
			switch {
			case !returned:
				e.Kind, e.Err = AttemptFailed, &dr.PanicError{Value: "see the run"}
			case err == nil:
				e.Kind = AttemptEnded
			case ctx.Err() != nil:
				e.Kind, e.Err = AttemptStopped, err
			default:
				e.Kind, e.Err = AttemptFailed, err
			}
			see(ctx, e)
		}()
		result, err = do(ctx, c)
		returned = true
		return result, err
	}
}

// Orchestrator returns an orchestrator that tells see who starts, decides and
// cancels what, and of every attempt that is served through it: don't wrap the
// actions too. Abilities of o stay visible to dr.As.
func Orchestrator(o dr.Orchestrator, see Observer) dr.Orchestrator {
	if see == nil {
		return o
	}
	return &orchestrator{o, see}
}

type orchestrator struct {
	o   dr.Orchestrator
	see Observer
}

func (w *orchestrator) Unwrap() any { return w.o }

func (w *orchestrator) Start(ctx context.Context, run dr.RunID, p dr.Plan) error {
	err := w.o.Start(ctx, run, p)
	e := Event{At: time.Now(), Kind: RunStarted, Run: run, Flow: p.Flow, Protection: only(slices.Values(p.Locks)), By: Actor(ctx), Err: err}
	if err != nil {
		e.Kind = RunRefused
	}
	w.see(ctx, e)
	return err
}

func (w *orchestrator) Decide(ctx context.Context, run dr.RunID, step string, d dr.Decision) error {
	err := w.o.Decide(ctx, run, step, d)
	w.see(ctx, Event{At: time.Now(), Kind: Decided, Run: run, Step: step, By: d.By, Verdict: d.Verdict, Text: d.Note, Err: err})
	return err
}

func (w *orchestrator) Cancel(ctx context.Context, run dr.RunID, why string) error {
	err := w.o.Cancel(ctx, run, why)
	w.see(ctx, Event{At: time.Now(), Kind: CancelAsked, Run: run, By: Actor(ctx), Text: why, Err: err})
	return err
}

func (w *orchestrator) Status(ctx context.Context, run dr.RunID) (dr.Status, error) {
	return w.o.Status(ctx, run)
}

func (w *orchestrator) Serve(ctx context.Context, a dr.Actions, queues ...string) error {
	return w.o.Serve(ctx, Actions(a, w.see), queues...)
}

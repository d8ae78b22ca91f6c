package enginetest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var servePromises = []promise{
	{"Serve refuses while an open run needs what it doesn't have", func(e *env) {
		p := plan(step("a"))
		p.Steps[0].Undo = "undo@2"
		e.start("r", p)
		ctx, cancel := context.WithTimeout(context.Background(), e.wait)
		defer cancel()
		err := e.o.Serve(ctx, e.life.actions())
		require.Error(e, err)
		require.NoError(e, ctx.Err(), "it returns at once")
		require.ErrorContains(e, err, "undo@2")
		require.ErrorContains(e, err, "r")
		require.Empty(e, e.ledger.of("r"), "it refuses before anything runs")
		a := e.life.actions()
		a["undo@2"] = a["undo@1"]
		e.serveWith(a)
		e.ends("r", dr.RunDone)
	}},
	{"what an ended run needed is not asked for", func(e *env) {
		a := e.life.actions()
		a["old@1"] = a["do@1"]
		p := plan(step("a"))
		p.Steps[0].Action = "old@1"
		e.serveWith(a)
		e.start("r", p)
		e.ends("r", dr.RunDone)
		e.again()
		e.start("r2", plan(step("a")))
		e.ends("r2", dr.RunDone)
	}},
	{"with queues, only their steps run", func(e *env) {
		p := plan(step("a"), with(step("b", "a"), func(s *dr.Step) { s.Queue = "here" }),
			with(step("c", "b"), func(s *dr.Step) { s.Queue = "there" }), with(step("d", "b"), func(s *dr.Step) { s.Queue = "here" }))
		e.serve("here")
		e.start("r", p)
		e.step("r", "d", dr.StepDone)
		require.Equal(e, []string{"a", "b", "d"}, e.ledger.made("r"))
		require.Equal(e, dr.StepPending, states(e.status("r"))["c"])
		e.rest()
		e.serve("there")
		e.ends("r", dr.RunDone)
		e.ledger.follows(e, "r", p)
	}},
	{"what is asked of a site without workers is waited for no longer than the plan says", func(e *env) {
		there := func(s *dr.Step) { s.Queue, s.Optional, s.Patience = "there", true, 300*time.Millisecond }
		e.serve("here")
		e.start("r", plan(step("a"), with(step("b", "a"), there), step("c", "b")))
		s := e.ends("r", dr.RunDone)
		require.Equal(e, []string{"a", "c"}, e.ledger.made("r"))
		b, _ := s.Step("b")
		require.Equal(e, dr.StepFailed, b.State)
		require.Contains(e, b.Err, `no worker of site "there"`)
		require.Equal(e, "there", b.Queue)
	}},
	{"nor is it when it is to be taken back", func(e *env) {
		e.on["c"] = fails
		there := func(s *dr.Step) { s.Queue, s.Optional, s.Patience = "there", true, 300*time.Millisecond }
		e.serve("there")
		e.start("r", plan(with(step("b"), there), with(step("c", "b"), func(s *dr.Step) { s.Queue = "here" })))
		e.step("r", "b", dr.StepDone)
		e.rest()
		e.serve("here")
		s := e.ends("r", dr.RunFailed)
		require.Contains(e, s.Reason, `undoing step b failed: no worker of site "there"`)
	}},
	{"a site whose workers are busy is not taken for one without", func(e *env) {
		const many = 100 // more than an engine does at once; all go before the one that waits
		free := make(chan struct{})
		var begun atomic.Int64
		there := func(s *dr.Step) { s.Queue = "there" }
		var steps []dr.Step
		for i := range many {
			id := fmt.Sprintf("w%d", i)
			e.on[id] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
				begun.Add(1)
				select {
				case <-free:
					return e.life.effect(ctx, c)
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			steps = append(steps, with(step(id), there))
		}
		e.serve()
		e.start("busy", plan(steps...))
		for was := int64(0); was == 0 || was != begun.Load(); time.Sleep(500 * time.Millisecond) {
			was = begun.Load()
		}
		e.start("r", plan(with(step("b"), there, func(s *dr.Step) { s.Optional, s.Patience = true, time.Second }), step("c", "b")))
		time.Sleep(1500 * time.Millisecond)
		// It may have got a place, of an engine that is slow to give all of them away.
		if made := e.ledger.made("r"); slices.Contains(made, "c") {
			require.Contains(e, made, "b")
		}
		close(free)
		s := e.ends("r", dr.RunDone)
		b, _ := s.Step("b")
		require.Equal(e, dr.StepDone, b.State, b.Err)
		e.ends("busy", dr.RunDone)
	}},
	{"steps that only wait take no place from those that work", func(e *env) {
		const many = 300 // more than an engine does at once
		// Any of them may be begun again, where a worker is taken for lost.
		var begun sync.Map
		var left atomic.Int64
		left.Store(many)
		all, worked := make(chan struct{}), make(chan struct{})
		done := sync.OnceFunc(func() { close(worked) })
		var steps []dr.Step
		for i := range many {
			id := fmt.Sprintf("w%d", i)
			e.on[id] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
				if _, again := begun.LoadOrStore(id, true); !again && left.Add(-1) == 0 {
					close(all)
				}
				select {
				case <-worked:
					return e.life.effect(ctx, c)
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			steps = append(steps, with(step(id), func(s *dr.Step) { s.Waits = true }))
		}
		e.on["work"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			select {
			case <-all: // all of them wait at once
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			done()
			return e.life.effect(ctx, c)
		}
		e.serve()
		e.start("waiting", plan(steps...))
		e.start("working", plan(step("work")))
		e.ends("working", dr.RunDone)
		e.ends("waiting", dr.RunDone)
	}},
	{"a shutdown is no failure: the step is done later", func(e *env) {
		e.on["a"] = hang
		e.serve()
		e.start("r", plan(with(step("a"), func(s *dr.Step) { s.Attempts = 1 })))
		e.step("r", "a", dr.StepRunning)
		e.rest()
		require.Equal(e, dr.RunRunning, e.status("r").State)
		e.on["a"] = nil
		e.serve()
		e.ends("r", dr.RunDone)
		require.Equal(e, []int{1, 2}, e.ledger.attempts("r", "a"))
	}},
	{"what a shutdown waited for is not done again", func(e *env) {
		e.on["a"] = func(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
			<-ctx.Done() // and finishes what it was at
			return e.life.effect(ctx, c)
		}
		e.serve()
		e.start("r", plan(step("a"), step("b", "a")))
		e.step("r", "a", dr.StepRunning)
		e.rest()
		require.Equal(e, []string{"a"}, e.ledger.made("r"), "nothing is begun while it shuts down")
		e.serve()
		e.ends("r", dr.RunDone)
		require.Equal(e, []int{1}, e.ledger.attempts("r", "a"))
	}},
	{"Watch tells now, what changes, and the end", func(e *env) {
		w, ok := dr.As[dr.Watcher](e.o)
		if !ok {
			e.Skipf("it can't watch")
		}
		e.start("r", plan(step("before"), gate("g", "before"), step("a", "g")))
		var seen []dr.Status
		for s, err := range w.Watch(e.ctx(), "r") {
			require.NoError(e, err)
			seen = append(seen, s)
			if len(seen) == 1 {
				require.Equal(e, dr.RunRunning, s.State)
				e.serve()
			}
			if s.State == dr.RunWaiting {
				e.decide("r", "g", dr.Approve)
			}
		}
		require.GreaterOrEqual(e, len(seen), 3)
		require.Equal(e, dr.RunDone, seen[len(seen)-1].State)
		for _, s := range seen[:len(seen)-1] {
			require.False(e, s.State.Ended())
		}
		n := 0
		for s, err := range w.Watch(e.ctx(), "r") { // of a run that has ended
			require.NoError(e, err)
			require.Equal(e, dr.RunDone, s.State)
			n++
		}
		require.Equal(e, 1, n)
	}},
	{"Watch ends with its context", func(e *env) {
		w, ok := dr.As[dr.Watcher](e.o)
		if !ok {
			e.Skipf("it can't watch")
		}
		e.start("r", plan(step("a")))
		ctx, cancel := context.WithCancel(e.ctx())
		defer cancel()
		var last error
		for _, err := range w.Watch(ctx, "r") {
			last = err
			cancel()
		}
		require.ErrorIs(e, last, context.Canceled)
	}},
	{"Runs are listed, oldest first, also after a death", func(e *env) {
		if _, ok := dr.As[dr.RunLister](e.o); !ok {
			e.Skipf("it can't list runs")
		}
		e.serve()
		for _, id := range []dr.RunID{"z", "a", "m"} {
			e.start(id, plan(gate("g")))
		}
		e.step("a", "g", dr.StepWaiting)
		e.decide("a", "g", dr.Approve)
		e.ends("a", dr.RunDone)
		check := func() {
			l, _ := dr.As[dr.RunLister](e.o)
			var ids []dr.RunID
			var ended []bool
			for s, err := range l.Runs(e.ctx()) {
				require.NoError(e, err)
				ids, ended = append(ids, s.Run), append(ended, s.State.Ended())
			}
			require.Equal(e, []dr.RunID{"z", "a", "m"}, ids)
			require.Equal(e, []bool{false, true, false}, ended)
		}
		open := func() {
			l, ok := dr.As[dr.OpenRunLister](e.o)
			if !ok {
				return
			}
			// What has just ended may be among them for a moment.
			var ids []dr.RunID
			require.Eventually(e, func() bool {
				ids = nil
				for id, err := range l.OpenRuns(e.ctx()) {
					if err != nil {
						return false
					}
					ids = append(ids, id)
				}
				return slices.Equal(ids, []dr.RunID{"z", "m"})
			}, e.wait, 50*time.Millisecond)
		}
		check()
		e.again()
		check()
		open()
	}},
	{"what has ended stays as it ended", func(e *env) {
		e.on["b"] = fails
		e.serve()
		e.start("r", plan(step("a"), step("b", "a")))
		was := e.ends("r", dr.RunFailed)
		calls := len(e.ledger.of("r"))
		e.again()
		e.start("r2", plan(step("a"))) // by its end r would have been touched
		e.ends("r2", dr.RunDone)
		now := e.status("r")
		require.Equal(e, was.Reason, now.Reason)
		require.Equal(e, states(was), states(now))
		require.WithinDuration(e, was.Ended, now.Ended, time.Millisecond)
		require.Len(e, e.ledger.of("r"), calls)
	}},
}

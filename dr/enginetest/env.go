package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// errDead is what actions of a killed process return; nobody may record it.
var errDead = errors.New("the process is dead")

// life is one incarnation of the process.
type life struct {
	e    *env
	n    int           // from 1
	dead chan struct{} // closed, under the ledger's lock, when it dies
	want chan struct{} // an action wants the process to die
}

func (e *env) open() {
	e.Helper()
	o, err := e.state.Open()
	require.NoError(e, err, "open the engine")
	e.o = o
	e.lives++
	e.life = &life{e: e, n: e.lives, dead: make(chan struct{}), want: make(chan struct{}, 1)}
	e.served = nil
}

// serve has the engine served with the suite's actions.
func (e *env) serve(queues ...string) { e.serveWith(e.life.actions(), queues...) }

func (e *env) serveWith(a dr.Actions, queues ...string) {
	ctx, cancel := context.WithCancel(context.Background())
	served, o := make(chan struct{}), e.o
	e.stop, e.served = cancel, served
	go func() {
		defer close(served)
		e.err = o.Serve(ctx, a, queues...)
	}()
}

// rest ends serving as a shutdown does.
func (e *env) rest() {
	e.Helper()
	e.stop()
	select {
	case <-e.served:
	case <-time.After(e.wait):
		require.Fail(e, "Serve doesn't return after its context has ended")
	}
	require.ErrorIs(e, e.err, context.Canceled, "Serve returns its context's error")
	e.served = nil
}

// kill lets the process die. What runs in it comes to nothing from then on.
func (e *env) kill() {
	if e.o == nil {
		return
	}
	e.life.die()
	e.state.Kill()
	if e.served != nil {
		<-e.served
		e.stop()
	}
	e.o = nil
}

// again kills the process, and starts and serves another.
func (e *env) again() {
	e.Helper()
	e.kill()
	e.open()
	e.serve()
}

func (l *life) die() {
	l.e.ledger.mu.Lock()
	defer l.e.ledger.mu.Unlock()
	if !l.isDead() {
		close(l.dead)
	}
}

func (l *life) isDead() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// killMe is called by an action: it never returns to its engine alive.
func (l *life) killMe(ctx context.Context) (json.RawMessage, error) {
	l.die()
	select {
	case l.want <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return nil, errDead
}

// actions are the suite's, bound to this incarnation.
func (l *life) actions() dr.Actions { return dr.Actions{"do@1": l.act, "undo@1": l.act} }

func (l *life) act(ctx context.Context, c *dr.Call) (res json.RawMessage, err error) {
	n := l.e.ledger.enter(l, c)
	if n < 0 {
		<-ctx.Done()
		return nil, errDead
	}
	ok := false // also for a panic
	defer func() { l.e.ledger.leave(n, ok) }()
	name := c.Step
	if c.Undo {
		name += "~"
	}
	if f := l.e.on[name]; f != nil {
		res, err = f(ctx, c)
	} else {
		res, err = l.effect(ctx, c)
	}
	ok = err == nil
	return res, err
}

// effect is what an honest action does: it looks for what its key made, and
// makes it if it isn't there. The result names the step.
func (l *life) effect(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	if !l.e.ledger.effect(l, c) {
		<-ctx.Done()
		return nil, errDead
	}
	return json.Marshal(c.Step)
}

func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), e.wait)
	e.Cleanup(cancel)
	return ctx
}

func (e *env) start(id dr.RunID, p dr.Plan) {
	e.Helper()
	require.NoError(e, e.o.Start(e.ctx(), id, p), "start %s", id)
}

func (e *env) status(id dr.RunID) dr.Status {
	e.Helper()
	s, err := e.o.Status(e.ctx(), id)
	require.NoError(e, err, "status of %s", id)
	return s
}

// until waits for a status.
func (e *env) until(id dr.RunID, what string, is func(dr.Status) bool) dr.Status {
	e.Helper()
	limit := time.After(e.wait)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		s := e.status(id)
		if is(s) {
			return s
		}
		select {
		case <-limit:
			require.Fail(e, "it doesn't come to that", "%s; the run is %+v", what, s)
		case <-tick.C:
		}
	}
}

// step waits for a step's state.
func (e *env) step(id dr.RunID, step string, want dr.StepState) dr.StepStatus {
	e.Helper()
	s := e.until(id, "step "+step+" is "+string(want), func(s dr.Status) bool {
		st, ok := s.Step(step)
		return ok && st.State == want
	})
	st, _ := s.Step(step)
	return st
}

// ends waits for the run's end, killing and serving again whenever an action
// wants that, and compares how it ended.
func (e *env) ends(id dr.RunID, want dr.RunState) dr.Status {
	e.Helper()
	s := e.untilEnd(id)
	require.Equal(e, want, s.State, "how run %s ended: %s", id, s.Reason)
	require.False(e, s.Ended.IsZero(), "an ended run says when")
	e.ledger.check(e, id)
	return s
}

func (e *env) untilEnd(id dr.RunID) dr.Status {
	e.Helper()
	limit := time.After(e.wait)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-e.life.want:
			e.again()
			continue
		default:
		}
		s := e.status(id)
		if s.State.Ended() && !e.life.isDead() {
			return s
		}
		select {
		case <-limit:
			require.Fail(e, "the run doesn't end", "%+v", s)
		case <-e.life.want:
			e.again()
		case <-tick.C:
		}
	}
}

// states are the steps' states by ID.
func states(s dr.Status) map[string]dr.StepState {
	m := map[string]dr.StepState{}
	for _, st := range s.Steps {
		m[st.ID] = st.State
	}
	return m
}

// hang is an action that does nothing until it is stopped.
func hang(ctx context.Context, _ *dr.Call) (json.RawMessage, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// fails is an action that fails for good.
func fails(context.Context, *dr.Call) (json.RawMessage, error) {
	return nil, dr.Permanent(errors.New("broken"))
}

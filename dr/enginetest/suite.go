// Package enginetest is what every dr.Orchestrator must pass: each promise of
// the contract as a named subtest, a matrix of crashes, and random storms of
// them; likewise for dr.Claims and dr.Records. [Together] tests two engines of
// different processes over the same claims, and [Killed] is work for a process
// that is killed.
//
// The suite's actions keep a ledger of every call and every effect, by
// Call.Key. An engine passes if each effect happened once, in an order that
// the plan allows, whatever died in between.
//
//	func TestEngine(t *testing.T) {
//		enginetest.Run(t, func(t enginetest.T) enginetest.State { return newState(t) })
//	}
//
// The suite proves itself on engines that lie, in its own tests. What only one
// engine promises (a file format, a speed, back-off times) does not belong
// here.
package enginetest

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// T is what the suite needs of a *testing.T.
type T interface {
	Helper()
	Name() string
	TempDir() string
	Context() context.Context
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	FailNow()
	Skipf(format string, args ...any)
	Cleanup(func())
}

// State is durable state over which engines are opened, one after the other.
// It is empty at first, and goes away with its T's Cleanup.
//
// Engines should wait only a few milliseconds before they try a failed step
// again, or the suite takes long. They need room for eight actions at once.
type State interface {
	// Open opens an engine over the state. The suite has it served at most
	// once at a time, and calls Kill before it opens another.
	Open() (dr.Orchestrator, error)
	// Kill ends the engine as the death of its process would: what is
	// journaled stays, and when Kill returns nothing more will be. It ends
	// the contexts of actions under way, waits for them, and makes Serve
	// return. What these actions return must not be recorded.
	Kill()
}

// Patient is an ability of states whose engines take long to notice a death:
// how long a test may wait for anything. Others have 20 seconds.
type Patient interface {
	Patience() time.Duration
}

// Factory makes new state.
type Factory func(t T) State

// patience is how long anything may take before it counts as never.
const patience = 20 * time.Second

// promise is a sentence of the contract that can be checked.
type promise struct {
	name  string
	check func(*env)
}

func promises() []promise {
	return slices.Concat(startPromises, stepPromises, endingPromises, decisionPromises, servePromises, crashPromises)
}

// Run tests the promises one by one. Random ones log their seed.
func Run(t *testing.T, f Factory) {
	for _, p := range promises() {
		t.Run(p.name, func(t *testing.T) {
			s, wait := f(t), patience
			if p, ok := s.(Patient); ok {
				wait = p.Patience()
			}
			p.check(newEnv(t, s, wait))
		})
	}
}

// env is one subtest: the state, the engine that is open, and the ledger.
type env struct {
	T
	state  State
	o      dr.Orchestrator
	wait   time.Duration
	ledger *ledger
	life   *life
	lives  int
	served chan struct{}
	stop   context.CancelFunc
	err    error // what Serve returned

	// on is called in place of the plain effect, by step; undoing steps have
	// "~" added.
	on map[string]dr.Action
}

func newEnv(t T, s State, wait time.Duration) *env {
	e := &env{T: t, state: s, wait: wait, ledger: &ledger{}, on: map[string]dr.Action{}}
	e.open()
	t.Cleanup(e.kill)
	return e
}

func (e *env) rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// step is one that runs the suite's action and can be undone by it.
func step(id string, after ...string) dr.Step {
	return dr.Step{ID: id, Action: "do@1", Undo: "undo@1", After: after}
}

func plan(steps ...dr.Step) dr.Plan { return dr.Plan{Flow: "test", Rev: 1, Steps: steps} }

// with changes a step.
func with(s dr.Step, changes ...func(*dr.Step)) dr.Step {
	for _, change := range changes {
		change(&s)
	}
	return s
}

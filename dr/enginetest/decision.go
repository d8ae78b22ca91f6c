package enginetest

import (
	"encoding/json"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func gate(id string, after ...string) dr.Step {
	return dr.Step{ID: id, Gate: "may " + id + " pass?", After: after}
}

var decisionPromises = []promise{
	{"a gate waits for a person, and tells what it is about", func(e *env) {
		e.serve()
		e.start("r", plan(step("a"), gate("g", "a"), step("b", "g")))
		s := e.until("r", "it waits", func(s dr.Status) bool { return s.State == dr.RunWaiting })
		require.Equal(e, map[string]dr.StepState{"a": dr.StepDone, "g": dr.StepWaiting, "b": dr.StepPending}, states(s))
		require.Contains(e, s.Reason, "may g pass?")
		before := time.Now().Add(-time.Minute)
		require.NoError(e, e.o.Decide(e.ctx(), "r", "g", dr.Decision{Verdict: dr.Approve, By: "me", Note: "fine", At: before}))
		s = e.ends("r", dr.RunDone)
		require.Equal(e, []string{"a", "g"}, e.ledger.last(e, "r", "b").results, "the decision is the gate's result")
		var d dr.Decision
		require.NoError(e, json.Unmarshal(s.Steps[1].Result, &d))
		require.Equal(e, dr.Decision{Verdict: dr.Approve, By: "me", Note: "fine", At: d.At}, d)
		require.True(e, d.At.After(before), "the engine says when")
	}},
	{"a run is waiting only when nothing else can go on", func(e *env) {
		e.on["a"] = hang
		e.serve()
		e.start("r", plan(step("a"), gate("g")))
		e.step("r", "g", dr.StepWaiting)
		e.step("r", "a", dr.StepRunning)
		require.Equal(e, dr.RunRunning, e.status("r").State)
	}},
	{"a decision says by whom, and fits the question", func(e *env) {
		e.serve()
		e.start("r", plan(gate("g")))
		e.step("r", "g", dr.StepWaiting)
		require.ErrorIs(e, e.o.Decide(e.ctx(), "r", "g", dr.Decision{Verdict: dr.Approve}), dr.ErrInvalid)
		require.ErrorIs(e, e.o.Decide(e.ctx(), "r", "g", dr.Decision{Verdict: dr.Skip, By: "me"}), dr.ErrInvalid)
		require.ErrorIs(e, e.o.Decide(e.ctx(), "r", "g", dr.Decision{Verdict: "perhaps", By: "me"}), dr.ErrInvalid)
		e.step("r", "g", dr.StepWaiting)
	}},
	{"what nobody asks can't be decided", func(e *env) {
		e.serve()
		e.start("r", plan(gate("g"), gate("h", "g"), step("a", "h")))
		e.step("r", "g", dr.StepWaiting)
		for _, id := range []string{"h", "a", "no"} {
			require.ErrorIs(e, e.o.Decide(e.ctx(), "r", id, dr.Decision{Verdict: dr.Approve, By: "me"}), dr.ErrNotFound, "%s", id)
		}
	}},
	{"the first answer counts", func(e *env) {
		e.serve()
		e.start("r", plan(gate("g"), gate("h", "g")))
		e.step("r", "g", dr.StepWaiting)
		e.decide("r", "g", dr.Approve)
		e.decide("r", "g", dr.Approve)
		no := dr.Decision{Verdict: dr.Reject, By: "you"}
		require.ErrorIs(e, e.o.Decide(e.ctx(), "r", "g", no), dr.ErrConflict)
		e.again()
		require.ErrorIs(e, e.o.Decide(e.ctx(), "r", "g", no), dr.ErrConflict)
		e.step("r", "h", dr.StepWaiting)
		e.decide("r", "h", dr.Approve)
		e.ends("r", dr.RunDone)
		e.decide("r", "g", dr.Approve)
		require.ErrorIs(e, e.o.Decide(e.ctx(), "r", "g", no), dr.ErrConflict)
	}},
	{"a refused gate cancels the run, which is undone", func(e *env) {
		e.on["b"] = hang
		e.serve()
		e.start("r", plan(step("a"), gate("g", "a"), step("b", "a"), step("c", "g", "b")))
		e.step("r", "g", dr.StepWaiting)
		e.step("r", "b", dr.StepRunning)
		require.NoError(e, e.o.Decide(e.ctx(), "r", "g", dr.Decision{Verdict: dr.Reject, By: "me", Note: "not today"}))
		s := e.ends("r", dr.RunCancelled)
		require.Equal(e, []string{"a", "b~", "a~"}, e.ledger.made("r"))
		require.Contains(e, s.Reason, "not today")
	}},
	{"a gate that nobody answers in time is refused by the clock", func(e *env) {
		e.serve()
		e.start("r", plan(step("a"), with(gate("g", "a"), soon)))
		e.ends("r", dr.RunCancelled)
		require.Equal(e, []string{"a", "a~"}, e.ledger.made("r"))
		require.ErrorIs(e, e.o.Decide(e.ctx(), "r", "g", dr.Decision{Verdict: dr.Approve, By: "me"}), dr.ErrConflict)
	}},
	{"an optional gate that nobody answers lets the run go on", func(e *env) {
		e.serve()
		e.start("r", plan(with(with(gate("g"), soon), optional), step("a", "g")))
		s := e.ends("r", dr.RunDone)
		require.Equal(e, dr.StepFailed, states(s)["g"])
		require.Equal(e, []string{"a"}, e.ledger.made("r"))
	}},
	{"behind the point of no return a gate can't be refused", func(e *env) {
		e.serve()
		e.start("r", plan(with(step("a"), noReturn), gate("g", "a")))
		e.step("r", "g", dr.StepWaiting)
		require.ErrorIs(e, e.o.Decide(e.ctx(), "r", "g", dr.Decision{Verdict: dr.Reject, By: "me"}), dr.ErrNotAllowed)
		e.decide("r", "g", dr.Approve)
		e.ends("r", dr.RunDone)
	}},
	{"behind the point of no return a gate whose time runs out is stuck", func(e *env) {
		e.serve()
		e.start("r", plan(with(step("a"), noReturn), with(gate("g", "a"), soon), step("b", "g")))
		e.step("r", "g", dr.StepStuck)
		e.decide("r", "g", dr.Skip)
		e.ends("r", dr.RunDone)
		require.Equal(e, []string{"a", "b"}, e.ledger.made("r"))
	}},
}

func soon(s *dr.Step) { s.Timeout = 30 * time.Millisecond }

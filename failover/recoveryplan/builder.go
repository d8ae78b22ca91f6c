package recoveryplan

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
)

// revision of the plans made here. Raise it when steps change their meaning.
const revision = 1

// IDs of the steps that every run has. Those about machines are "open/ID",
// "copy/ID", "start/ID" and so on, those of groups begin with "group/NAME/",
// actions of the plan are "before/NAME", "after-shutdown/NAME", "after/NAME".
const (
	StepBegin  = "begin"
	StepFinish = "finish"
	// StepHold is the question before a drill is cleaned up.
	StepHold = "hold"
	// StepComplete asks whether a failback that has copied the machines while
	// they run may now shut them down.
	StepComplete = "complete"
)

// The stages that a machine goes through, each a step. A flow has the first and
// as many of the others as its machines' runs have gates.
const (
	stageOpen  = "open"     // begins the machine's run
	stageDown  = "shutdown" // goes on to the shutdown, when a person has completed
	stageCopy  = "copy"     // makes the replica's disks hold the point
	stageStart = "start"    // brings it up
	stageClean = "clean-up" // removes what a drill made
)

// stageBehind is the stage that begins by opening a gate.
var stageBehind = map[string]string{"": stageOpen, failback.StepComplete: stageDown, gateDown: stageCopy, gateStart: stageStart}

// builder makes the plan of a run.
type builder struct {
	p    Plan
	flow string
	to   Direction
	o    Options
	mine map[dr.ProtectionID]dr.Protection

	steps  []dr.Step
	staged map[dr.ProtectionID][]string // steps about a machine so far
	err    error
}

// tail are the steps that what comes next waits for.
type tail []string

func (b *builder) build() (dr.Plan, error) {
	b.staged = map[dr.ProtectionID][]string{}
	b.add(dr.Step{ID: StepBegin, Action: "plan.begin@1", Undo: "plan.begin@1"}, b.beginInput(), nil)
	at := b.actions("before", b.p.Before, tail{StepBegin})
	if g := gates(b.flow, b.o); len(g) > 0 {
		at = b.bringUp(g, at)
	} else {
		at = b.sideBySide(at)
	}
	at = b.actions("after", b.p.After, at)
	if b.flow == FlowDrill {
		at = b.cleanUp(at)
	}
	b.add(dr.Step{ID: StepFinish, Action: "plan.finish@1"}, b.finishInput(), at)
	pl := dr.Plan{Flow: Flow(b.flow), Rev: revision, Locks: []string{"plan/" + b.p.Name}, Steps: b.steps}
	if b.err != nil {
		return dr.Plan{}, b.err
	}
	return pl, pl.Validate()
}

// bringUp: all machines up to each gate, and behind the last one group by
// group.
func (b *builder) bringUp(gates []string, at tail) tail {
	open := ""
	for _, until := range gates {
		at = b.stage(open, until, at)
		switch until {
		case failback.StepComplete:
			at = b.gate(StepComplete, "All machines have been copied while they run. Shut them down, copy what has changed since, and start them at home?", at)
		case gateDown:
			at = b.actions("after-shutdown", b.p.AfterShutdown, at)
		}
		open = until
	}
	up := tail{}
	for _, g := range b.p.Groups {
		ids := b.members(g)
		if len(ids) == 0 {
			continue
		}
		// Its own machines must be ready, not those of groups that come later.
		ready := slices.Clone(up)
		for _, id := range ids {
			all := b.staged[id]
			ready = append(ready, all[len(all)-1])
		}
		up = b.group(g, ids, open, ready)
	}
	return up
}

// stage takes all machines from one gate to the next, and returns what to wait
// for.
func (b *builder) stage(open, until string, at tail) (end tail) {
	shuts := until == gateDown
	groups := slices.Clone(b.p.Groups)
	if shuts && b.p.ShutdownInReverse {
		slices.Reverse(groups)
	}
	for _, g := range groups {
		var mine tail
		for _, id := range b.members(g) {
			mine = append(mine, b.machine(g, id, open, until, at))
		}
		if shuts && b.p.ShutdownInReverse && len(mine) > 0 {
			at = mine // the next group, for its turn
		}
		end = append(end, mine...)
	}
	if until == gateStart {
		return nil // each group waits for its own
	}
	return b.barrier("all/"+stageBehind[open], end)
}

// group starts a group's machines and waits until it serves.
func (b *builder) group(g Group, ids []dr.ProtectionID, open string, ready tail) tail {
	name := "group/" + g.Name
	at := b.barrier(name+"/ready", ready)
	at = b.actions(name+"/before", g.Before, at)
	var started tail
	for _, id := range ids {
		started = append(started, b.machine(g, id, open, "", at))
	}
	at = b.judged(name+"/started", g.OnFailure, started, started)
	for _, h := range g.Health {
		if !b.asks(h, ids) {
			continue
		}
		id := name + "/health/" + h.Name
		s := dr.Step{ID: id, Action: "plan.health@1", Attempts: 1, Timeout: healthTimeout(h) + time.Minute}
		at = b.mayStop(s, healthInput{Plan: b.p.Name, Flow: b.flow, Health: h}, h.OnFailure, at)
	}
	return b.actions(name+"/after", g.After, at)
}

// asks reports whether a group's health check runs: also its machine must take
// part.
func (b *builder) asks(h Health, ids []dr.ProtectionID) bool {
	return applies(h.Only, h.Direction, b.flow, b.to) && (h.Machine == "" || slices.Contains(ids, h.Machine))
}

// sideBySide runs the machines' flows whole; a group's actions are around its
// own.
func (b *builder) sideBySide(at tail) (end tail) {
	for _, g := range b.p.Groups {
		ids := b.members(g)
		if len(ids) == 0 {
			continue
		}
		name := "group/" + g.Name
		mine := b.actions(name+"/before", g.Before, at)
		var ended tail
		for _, id := range ids {
			ended = append(ended, b.machine(g, id, "", "", mine))
		}
		mine = b.judged(name+"/done", g.OnFailure, ended, ended)
		end = append(end, b.actions(name+"/after", g.After, mine)...)
	}
	return end
}

// machine adds the step that takes one machine from a gate to the next.
func (b *builder) machine(g Group, id dr.ProtectionID, open, until string, at tail) string {
	in := b.p.input(id, b.flow, b.to, b.o)
	in.Approve, in.Until, in.Before = open, until, slices.Clone(b.staged[id])
	if open != "" {
		in.Networks = nil // the run is planned already
	}
	step := stageBehind[open] + "/" + string(id)
	s := dr.Step{ID: step, Action: "plan.machine@1", Waits: true}
	if open == "" {
		s.Undo = "plan.machine@1"
	}
	s.Optional = !(g.OnFailure == Stop && lossless(b.flow))
	s.NoReturn = b.flow == FlowCommit || b.flow == FlowCleanUp
	b.add(s, in, append(slices.Clone(at), b.staged[id]...))
	b.staged[id] = append(b.staged[id], step)
	return step
}

// cleanUp removes what a drill has made, whatever became of it.
func (b *builder) cleanUp(at tail) (end tail) {
	if b.o.Hold != "" {
		at = b.gate(StepHold, b.o.Hold, at)
	}
	for _, g := range b.p.Groups {
		for _, id := range b.members(g) {
			step := stageClean + "/" + string(id)
			in := machineInput{Plan: b.p.Name, Flow: FlowCleanUp, Group: g.Name, Machine: Machine{Protection: id}, Options: Options{Notes: b.o.Notes}, Before: b.staged[id]}
			b.add(dr.Step{ID: step, Action: "plan.clean@1", Waits: true, Optional: true}, in, at)
			end = append(end, step)
		}
	}
	return end
}

// members are the machines of a group that take part.
func (b *builder) members(g Group) (ids []dr.ProtectionID) {
	for _, m := range g.Machines {
		if _, ok := b.mine[m.Protection]; ok {
			ids = append(ids, m.Protection)
		}
	}
	return ids
}

func (b *builder) add(s dr.Step, input any, at tail) {
	raw, err := json.Marshal(input)
	if err != nil && b.err == nil {
		b.err = err
	}
	if s.Action != "" {
		s.Input = raw
	}
	s.After = slices.Compact(slices.Sorted(slices.Values(at)))
	if len(s.After) == 0 {
		s.After = nil
	}
	b.steps = append(b.steps, s)
}

// barrier is one step that waits for many, so that what waits for all of them
// need not name them.
func (b *builder) barrier(id string, at tail) tail {
	b.add(dr.Step{ID: id, Action: "plan.judge@1"}, judgeInput{}, at)
	return tail{id}
}

// judged is a barrier that looks whether one of the steps has failed, if that
// is to stop the run.
func (b *builder) judged(id string, rule Rule, of, at tail) tail {
	in := judgeInput{}
	if rule == Stop && !lossless(b.flow) {
		in.Stops = of
	}
	b.add(dr.Step{ID: id, Action: "plan.judge@1"}, in, at)
	return tail{id}
}

func (b *builder) gate(id, question string, at tail) tail {
	b.add(dr.Step{ID: id, Gate: question}, nil, at)
	return tail{id}
}

// actions adds those that apply, one behind the other.
func (b *builder) actions(where string, all []Action, at tail) tail {
	for _, a := range all {
		if !applies(a.Only, a.Direction, b.flow, b.to) {
			continue
		}
		s := dr.Step{ID: where + "/" + a.Name, Timeout: time.Duration(a.Timeout), Queue: a.Site, Attempts: max(1, a.Attempts)}
		switch {
		case a.Manual != "":
			s.Gate, s.Attempts = a.Manual, 0
		default:
			if s.Timeout == 0 {
				s.Timeout = DefaultActionTimeout
			}
			s.Action = "plan.script@1"
			if a.Callback != "" {
				s.Action = "plan.callback@1"
			}
			if a.Undo {
				s.Undo = s.Action
			}
		}
		at = b.mayStop(s, actionInput{Plan: b.p.Name, Flow: b.flow, Direction: b.to, Action: a, Machines: b.taking()}, a.OnFailure, at)
	}
	return at
}

// DefaultActionTimeout is how long one attempt of a script or callback may take
// that doesn't say.
const DefaultActionTimeout = 10 * time.Minute

// mayStop adds a step whose failure stops the run by its rule.
func (b *builder) mayStop(s dr.Step, in any, rule Rule, at tail) tail {
	if rule == "" {
		rule = Continue
		if lossless(b.flow) {
			rule = Stop
		}
	}
	s.Optional = rule == Continue || !lossless(b.flow)
	b.add(s, in, at)
	if rule == Stop && s.Optional {
		return b.judged(s.ID+"/judged", Stop, tail{s.ID}, tail{s.ID})
	}
	return tail{s.ID}
}

// taking are the machines that take part, in the plan's order.
func (b *builder) taking() (ids []dr.ProtectionID) {
	for _, g := range b.p.Groups {
		ids = append(ids, b.members(g)...)
	}
	return ids
}

func (b *builder) beginInput() beginInput {
	in := beginInput{Plan: b.p.Name, Flow: b.flow, Home: b.to == Home, Options: b.o, Machines: b.taking()}
	each := func(all []Action) {
		for _, a := range all {
			if !applies(a.Only, a.Direction, b.flow, b.to) {
				continue
			}
			if a.Callback != "" {
				in.Callbacks = append(in.Callbacks, a.Callback)
			}
			if len(a.Script) > 0 {
				in.Scripts = append(in.Scripts, a.Script[0])
			}
		}
	}
	each(b.p.Before)
	if slices.Contains(gates(b.flow, b.o), gateDown) {
		each(b.p.AfterShutdown)
	}
	each(b.p.After)
	for _, g := range b.p.Groups {
		each(g.Before)
		each(g.After)
		for _, h := range g.Health {
			if h.Callback != "" && b.asks(h, b.members(g)) {
				in.Callbacks = append(in.Callbacks, h.Callback)
			}
		}
	}
	in.Callbacks = slices.Compact(slices.Sorted(slices.Values(in.Callbacks)))
	in.Scripts = slices.Compact(slices.Sorted(slices.Values(in.Scripts)))
	return in
}

func (b *builder) finishInput() finishInput {
	in := finishInput{Plan: b.p.Name, Flow: b.flow, Direction: b.to, Objective: b.p.Objective, Options: b.o}
	for _, g := range b.p.Groups {
		for _, id := range b.members(g) {
			in.Machines = append(in.Machines, finishMachine{Protection: id, Group: g.Name, Steps: b.staged[id]})
		}
	}
	for _, s := range b.steps {
		switch s.Action {
		case "plan.script@1", "plan.callback@1", "plan.health@1":
			in.Checks = append(in.Checks, s.ID)
		}
	}
	return in
}

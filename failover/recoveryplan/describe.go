package recoveryplan

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// preview tells the plan's steps, and those of machines within the ones that
// drive them.
func (b *builder) preview(p dr.Plan, last map[string]time.Duration) []PreviewStep {
	own := map[dr.ProtectionID][]PreviewStep{}
	for _, id := range b.taking() {
		own[id] = b.machineSteps(id, last)
	}
	var all []PreviewStep
	for _, s := range p.Steps {
		v := PreviewStep{ID: s.ID, Last: last[s.ID], Person: s.Gate != "", Optional: s.Optional, NoReturn: s.NoReturn}
		if s.Gate != "" {
			v.What = "ask a person: " + s.Gate
		} else {
			b.describe(s, &v, own)
		}
		all = append(all, v)
	}
	return all
}

// describe says what a step of the plan's own does.
func (b *builder) describe(s dr.Step, v *PreviewStep, own map[dr.ProtectionID][]PreviewStep) {
	switch s.Action {
	case "plan.begin@1":
		v.What = "see that everything the plan needs is there"
		if together(b.flow, b.o) {
			v.What += ", and settle the machines' recovery points"
		}
	case "plan.judge@1":
		v.What = "wait for all before"
	case "plan.finish@1":
		v.What = "report"
	case "plan.script@1", "plan.callback@1":
		var in actionInput
		_ = json.Unmarshal(s.Input, &in) // made here
		if a := in.Action; len(a.Script) > 0 {
			v.What, v.Touches = "run script "+strings.Join(a.Script, " "), []string{"script " + a.Script[0]}
		} else {
			v.What, v.Touches = "call "+a.Callback, []string{"callback " + a.Callback}
		}
	case "plan.health@1":
		var in healthInput
		_ = json.Unmarshal(s.Input, &in)
		h := in.Health
		v.What = fmt.Sprintf("wait for %s%s%s, %s at most", h.TCP, h.HTTP, h.Callback, healthTimeout(h))
	case "plan.clean@1":
		var in machineInput
		_ = json.Unmarshal(s.Input, &in)
		v.Machine = in.Machine.Protection
		v.What = "remove the drill's machine"
		v.Touches = []string{"the drill's machine of " + string(v.Machine)}
	case "plan.machine@1":
		var in machineInput
		_ = json.Unmarshal(s.Input, &in)
		v.Machine = in.Machine.Protection
		b.part(in, v, own[v.Machine])
	}
}

// part picks the steps of the machine's run that lie between two gates.
func (b *builder) part(in machineInput, v *PreviewStep, all []PreviewStep) {
	behind := in.Approve == ""
	for _, s := range all {
		if s.ID == in.Until && in.Until != "" {
			break
		}
		behind = behind || s.ID == in.Approve
		if behind {
			v.Steps = append(v.Steps, s)
			v.Touches = merge(v.Touches, s.Touches)
		}
	}
	verbs := map[string]string{stageOpen: "begin", stageDown: "shut down", stageCopy: "make the replica ready", stageStart: "start"}
	v.What = verbs[stageBehind[in.Approve]]
	if in.Approve == "" && in.Until == gateDown {
		v.What = "shut down"
	}
	if in.Approve == "" && in.Until == "" {
		v.What = b.flow
	}
	if len(all) == 0 {
		v.What, v.Touches = "nothing: it would not take part", nil
	}
}

func merge(all, more []string) []string {
	for _, m := range more {
		seen := false
		for _, a := range all {
			seen = seen || a == m
		}
		if !seen {
			all = append(all, m)
		}
	}
	return all
}

// machineSteps are those of the machine's own run; none if it takes no part.
func (b *builder) machineSteps(id dr.ProtectionID, last map[string]time.Duration) (all []PreviewStep) {
	r := b.mine[id]
	in := b.p.input(id, b.flow, b.to, b.o)
	if v := judge(r, in); v.skip != "" || v.err != nil {
		return nil
	}
	p, err := child(r, in, "?", nil)
	if err != nil {
		return nil
	}
	for _, s := range p.Steps {
		what, touches := told(s, r, b.flow)
		all = append(all, PreviewStep{ID: s.ID, What: what, Touches: touches, Machine: id, Last: last[string(id)+"\x00"+s.ID],
			Person: s.Gate != "" && s.ID == failback.StepComplete, Optional: s.Optional, NoReturn: s.NoReturn})
	}
	return all
}

// told says what a step of a machine's flow does, and to what.
func told(s dr.Step, r dr.Protection, flow string) (what string, touches []string) {
	from := fmt.Sprintf("machine %s at %s", r.Active.Machine, r.Active.Site)
	to := fmt.Sprintf("machine %s at %s", r.Standby.Machine, r.Standby.Site)
	if r.Standby.Machine == "" {
		to = fmt.Sprintf("a new machine at %s", r.Standby.Site)
	}
	if flow == FlowTest || flow == FlowDrill {
		to = fmt.Sprintf("a new isolated machine at %s", r.Standby.Site)
	}
	store := "the recovery points at " + r.Standby.Site
	record := "the record of " + string(r.ID)
	switch flow {
	case FlowCommit, FlowCancel: // the record has exchanged the sites already
		from, to = fmt.Sprintf("machine %s at %s", r.Standby.Machine, r.Standby.Site), fmt.Sprintf("machine %s at %s", r.Active.Machine, r.Active.Site)
		store = "the recovery points at " + r.Active.Site
	case FlowCleanUp:
		if r.Test != nil {
			to = fmt.Sprintf("machine %s at %s", r.Test.Place.Machine, r.Test.Place.Site)
		}
	}
	switch s.ID {
	case failover.StepBegin:
		return "see that the state allows it, and hold replication", []string{record}
	case failover.StepShutdown:
		return "shut the guest down: " + from, []string{from}
	case failover.StepSync, failback.StepReplicate:
		return "replicate the last changes of " + from, []string{store}
	case failover.StepChoose:
		return "settle the recovery point", []string{record}
	case failover.StepPrepare:
		return "find or make " + to, []string{to}
	case failover.StepHydrate:
		return "make the disks hold the point: " + to, []string{to}
	case failover.StepCopy, failback.StepFirst:
		return "copy the disks of " + from + " to " + to, []string{to}
	case failover.StepStart:
		return "power on " + to, []string{to}
	case failover.StepStop:
		return "power off " + to, []string{to}
	case failover.StepVerify:
		return "look for a sign of life: " + to, nil
	case failover.StepMeasure:
		return "count what was not replicated", nil
	case failover.StepSeed:
		return "keep the disks of the former machine as a base", []string{store}
	case failover.StepRestart:
		return "power on " + from, []string{from}
	case failback.StepStandby:
		return "switch off, and keep off, " + to, []string{to}
	case failover.StepDelete:
		return "delete " + store, []string{store}
	case failover.StepRemove:
		if flow == FlowCleanUp {
			return "remove " + to, []string{to}
		}
		return "remove " + from + " with its disks", []string{from}
	case failback.StepReleaseFirst, failback.StepReleaseLast:
		return "let go of the snapshot of " + from, []string{from}
	case failover.StepFinish:
		return "record the new state", []string{record}
	case gateDown:
		return "wait until all machines are shut down", nil
	case gateStart:
		return "wait for the group's turn", nil
	}
	return s.ID, nil
}

package failover

import (
	"encoding/json"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Builder strings steps together, each after the one before, all with the
// same input. Packages that plan flows of one protection use it.
type Builder struct {
	plan  dr.Plan
	input json.RawMessage
	in    Input
	err   error
}

// NewBuilder begins a plan that claims the protection.
func NewBuilder(p dr.Protection, flow string, in Input) *Builder {
	raw, err := json.Marshal(in)
	return &Builder{
		plan:  dr.Plan{Flow: flow, Rev: revision, Locks: []string{p.ID.Lock()}},
		input: raw,
		in:    in,
		err:   err,
	}
}

// Add appends a step behind the last one.
func (b *Builder) Add(s dr.Step) {
	if s.Action != "" {
		s.Input = b.input
	}
	if n := len(b.plan.Steps); n > 0 {
		s.After = append(s.After, b.plan.Steps[n-1].ID)
	}
	b.plan.Steps = append(b.plan.Steps, s)
}

// bringUp appends the steps from a chosen point to a running machine.
func (b *Builder) bringUp() {
	q := b.in.To.Site
	b.Add(dr.Step{ID: StepPrepare, Action: "failover.prepare@1", Undo: "failover.prepare@1", Queue: q})
	b.Add(dr.Step{ID: StepHydrate, Action: "failover.hydrate@1", Queue: q})
	b.BringUpPrepared()
}

// BringUpPrepared appends the steps from disks that hold the point to a
// running machine.
func (b *Builder) BringUpPrepared() {
	q := b.in.To.Site
	b.Add(dr.Step{ID: StepStart, Action: "failover.start@1", Undo: "failover.start@1", Queue: q})
	b.Add(dr.Step{ID: StepVerify, Action: "failover.verify@1", Queue: q, Optional: true, Attempts: 1})
}

// Plan returns the plan, if it makes sense.
func (b *Builder) Plan() (dr.Plan, error) {
	if b.err != nil {
		return dr.Plan{}, fmt.Errorf("plan %s: %w", b.plan.Flow, b.err)
	}
	return b.plan, b.plan.Validate()
}

// InputOf describes a flow of the protection as it stands now.
func InputOf(p dr.Protection, op dr.Operation, flow string, o Options) Input {
	return Input{
		Protection: p.ID,
		Operation:  op,
		Flow:       flow,
		From:       p.Active,
		To:         p.Standby,
		Key:        "replica/" + string(p.ID) + "/" + p.Standby.Site,
		Options:    o,
	}
}

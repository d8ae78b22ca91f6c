package failover

import (
	"encoding/json"
	"fmt"
	"net/url"

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
	b.Add(dr.Step{ID: StepHydrate, Action: "failover.hydrate@1", Undo: "failover.hydrate@1", Queue: q})
	b.BringUpPrepared()
}

// BringUpPrepared appends the steps from disks that hold the point to a
// running machine.
func (b *Builder) BringUpPrepared() {
	q := b.in.To.Site
	b.Add(dr.Step{ID: StepStart, Action: "failover.start@1", Undo: "failover.start@1", Queue: q})
	b.Add(dr.Step{ID: StepVerify, Action: "failover.verify@1", Queue: q, Optional: true, Attempts: 1})
}

// ShutDown appends the step that shuts the machine down at From.
func (b *Builder) ShutDown(optional bool) {
	s := dr.Step{ID: StepShutdown, Action: "failover.shutdown@1", Undo: "failover.shutdown@1", Queue: b.in.From.Site,
		Timeout: b.in.shutdownTimeout() + 2*LookTimeout, Optional: optional}
	if optional {
		s.Attempts, s.Patience = attemptsMay, Patience
	}
	b.Add(s)
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
		Key:        keyOf(p, p.Standby),
		Options:    o,
	}
}

// keyOf tells the protection's machine at a place from all others.
func keyOf(p dr.Protection, at dr.Place) string {
	if at.Key != "" {
		return at.Key
	}
	return replicaKey(p.ID, at.Site)
}

// replicaKey is of one protection and one site, whatever their names.
func replicaKey(id dr.ProtectionID, site string) string {
	return "replica/" + url.PathEscape(string(id)) + "/" + url.PathEscape(site)
}

// inputAbout describes a flow about the failover that is not committed: From
// and To are that failover's.
func inputAbout(p dr.Protection, op dr.Operation, flow string, o Options) Input {
	in := InputOf(p, op, flow, o)
	in.From, in.To, in.Key, in.Former = p.Standby, p.Active, keyOf(p, p.Active), p.Failover
	return in
}

// Anew makes the flow use a machine of its own at To, whatever there is.
func (in *Input) Anew(p dr.Protection) {
	in.To = dr.Place{Site: in.To.Site}
	in.Key = fmt.Sprintf("%s/%d", replicaKey(p.ID, p.Standby.Site), p.Version)
}

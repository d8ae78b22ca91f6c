package recoveryplan

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Options say how one run of a plan goes. The zero value takes the latest
// point of each machine, and the way that the machines' records allow.
type Options struct {
	// Point is which recovery points are taken, of every machine the same kind;
	// "" is the latest. Custom is for one machine alone, never for a plan.
	// Planned failovers take the point of their own final replication.
	Point recoverypoint.Option `json:"point,omitempty"`
	// Shutdown asks an unplanned failover to shut machines down and replicate
	// their last changes first; it goes on where that fails.
	Shutdown bool `json:"shutdown,omitempty"`
	// Home makes a test, a drill or an unplanned failover go home. The others
	// know their way: planned failovers go out, failbacks home.
	Home bool `json:"home,omitempty"`
	// Sync is how a failback brings the disks home; as in failback.Options.
	Sync failback.Sync `json:"sync,omitempty"`
	// Cold as in failback.ReprotectOptions, Discard as in failover.CommitOptions.
	Cold    bool `json:"cold,omitempty"`
	Discard bool `json:"discard,omitempty"`
	// Hold is a question put to a person in a drill when everything is up:
	// approved, the drill is cleaned up. "": it is cleaned up at once.
	Hold string `json:"hold,omitempty"`
	// Notes are kept in the report of a drill and of a clean-up.
	Notes string `json:"notes,omitempty"`
	// Only are the machines that take part; none: all of the plan.
	Only []dr.ProtectionID `json:"only,omitempty"`
}

// Test plans a drill of all machines, each in isolation from production, while
// that and replication go on. Clean it up with [CleanUp]. Machines that can't
// be tested are reported, and don't keep the others from it.
func Test(p Plan, records []dr.Protection, o Options) (dr.Plan, error) {
	return plan(p, FlowTest, records, o)
}

// Drill is Test and the clean-up in one run, to be run unattended: what the
// test made is removed also when a check has failed.
func Drill(p Plan, records []dr.Protection, o Options) (dr.Plan, error) {
	return plan(p, FlowDrill, records, o)
}

// Planned plans a failover of all machines without loss. It does not run while
// the state of one machine forbids it; one that is at the other site already
// is skipped.
func Planned(p Plan, records []dr.Protection, o Options) (dr.Plan, error) {
	return plan(p, FlowPlanned, records, o)
}

// Unplanned plans a failover when the site may be lost. Machines whose state
// forbids it are reported, and don't keep the others from it; those that are
// at the other site already are skipped.
func Unplanned(p Plan, records []dr.Protection, o Options) (dr.Plan, error) {
	return plan(p, FlowUnplanned, records, o)
}

// Failback plans to bring all machines home without loss. As Planned, it does
// not run while the state of one machine forbids it; machines that are at home
// are skipped. Every machine needs a recovery point, unless o.Sync says that
// its disks are copied directly.
func Failback(p Plan, records []dr.Protection, o Options) (dr.Plan, error) {
	return plan(p, FlowFailback, records, o)
}

// Reprotect plans to replicate all machines to the side that they left. A
// replication group must be whole: its machines reprotect together.
func Reprotect(p Plan, records []dr.Protection, o Options) (dr.Plan, error) {
	return plan(p, FlowReprotect, records, o)
}

// Commit plans to make the failovers of all machines final; machines without
// an uncommitted failover are skipped.
func Commit(p Plan, records []dr.Protection, o Options) (dr.Plan, error) {
	return plan(p, FlowCommit, records, o)
}

// Cancel plans to take the uncommitted failovers of all machines back;
// machines without one are skipped.
func Cancel(p Plan, records []dr.Protection, o Options) (dr.Plan, error) {
	return plan(p, FlowCancel, records, o)
}

// CleanUp plans the end of a test of all machines; those without one are
// skipped.
func CleanUp(p Plan, records []dr.Protection, o Options) (dr.Plan, error) {
	return plan(p, FlowCleanUp, records, o)
}

// Make plans a flow by its name, for programs that are told it.
func Make(p Plan, flow string, records []dr.Protection, o Options) (dr.Plan, error) {
	if !slices.Contains(flows, flow) {
		return dr.Plan{}, fmt.Errorf("%w: flow %q of a recovery plan; there are %q", dr.ErrInvalid, flow, flows)
	}
	return plan(p, flow, records, o)
}

// Flow is the name that the run of a plan's flow has in dr.Plan and dr.Status.
func Flow(flow string) string { return "plan/" + flow }

// pick returns the records of the plan's machines; a protection that there is no
// record of is ErrNotFound.
func (p Plan) pick(records []dr.Protection, only []dr.ProtectionID) (map[dr.ProtectionID]dr.Protection, error) {
	byID := map[dr.ProtectionID]dr.Protection{}
	for _, r := range records {
		byID[r.ID] = r
	}
	mine := map[dr.ProtectionID]dr.Protection{}
	var errs []error
	for _, id := range p.Machines() {
		if len(only) > 0 && !slices.Contains(only, id) {
			continue
		}
		r, ok := byID[id]
		if !ok {
			errs = append(errs, fmt.Errorf("recovery plan %s: protection %s: %w", p.Name, id, dr.ErrNotFound))
			continue
		}
		mine[id] = r
	}
	for _, id := range only {
		if !slices.Contains(p.Machines(), id) {
			errs = append(errs, fmt.Errorf("recovery plan %s: %w: machine %s is not in it", p.Name, dr.ErrInvalid, id))
		}
	}
	return mine, errors.Join(errs...)
}

func direction(flow string, o Options) Direction {
	if flow == FlowFailback || o.Home {
		return Home
	}
	return Out
}

// plan makes the run's plan: first what can be refused is refused.
func plan(p Plan, flow string, records []dr.Protection, o Options) (dr.Plan, error) {
	if err := p.Validate(); err != nil {
		return dr.Plan{}, err
	}
	if err := o.validate(p, flow); err != nil {
		return dr.Plan{}, err
	}
	mine, err := p.pick(records, o.Only)
	if err != nil {
		return dr.Plan{}, err
	}
	b := &builder{p: p, flow: flow, to: direction(flow, o), o: o}
	var refused []error
	able := 0
	for _, id := range p.Machines() {
		r, ok := mine[id]
		if !ok {
			continue // not to take part
		}
		v := judge(r, p.input(id, flow, b.to, o))
		if v.skip == "" && v.err == nil {
			able++
		}
		if v.err != nil && (lossless(flow) || flow == FlowCommit) {
			refused = append(refused, v.err)
		}
	}
	if err := errors.Join(refused...); err != nil {
		return dr.Plan{}, fmt.Errorf("recovery plan %s: %s: %w", p.Name, flow, err)
	}
	if able == 0 {
		return dr.Plan{}, fmt.Errorf("recovery plan %s: %s: %w: no machine of it can take part:\n%s", p.Name, flow, dr.ErrNotAllowed, why(p, mine, flow, b.to, o))
	}
	if err := whole(p, mine, records, flow, b.to, o); err != nil {
		return dr.Plan{}, err
	}
	b.mine = mine
	return b.build()
}

func why(p Plan, mine map[dr.ProtectionID]dr.Protection, flow string, to Direction, o Options) (s string) {
	for _, id := range p.Machines() {
		r, ok := mine[id]
		if !ok {
			continue
		}
		v := judge(r, p.input(id, flow, to, o))
		if v.err != nil {
			s += "\t" + v.err.Error() + "\n"
		} else {
			s += fmt.Sprintf("\t%s: skipped: %s\n", id, v.skip)
		}
	}
	return s
}

func (o Options) validate(p Plan, flow string) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("recovery plan %s: %s: %w: "+format, append([]any{p.Name, flow, dr.ErrInvalid}, args...)...)
	}
	c := recoverypoint.Choice{Option: o.Point}
	if o.Point == recoverypoint.Custom {
		return bad("recovery point option %s is for one machine, not for recovery plans", o.Point)
	}
	if err := c.Validate(); err != nil {
		return err
	}
	switch {
	case o.Point != "" && flow == FlowPlanned:
		return bad("a planned failover takes its own final points")
	case o.Home && flow != FlowTest && flow != FlowDrill && flow != FlowUnplanned:
		return bad("the direction can't be chosen in this flow")
	case o.Sync != "" && flow != FlowFailback:
		return bad("only a failback synchronizes")
	case o.Hold != "" && flow != FlowDrill:
		return bad("only a drill holds before its clean-up")
	}
	return nil
}

// verdict says whether a machine takes part.
type verdict struct {
	skip string // it need not: why
	err  error  // it can't: why
}

// judge looks at a machine's record. What it says at the planning is looked at
// again when the machine's turn comes.
func judge(r dr.Protection, in machineInput) verdict {
	there, flow := r.AtHome() == in.Home, in.Flow
	switch flow {
	case FlowPlanned, FlowUnplanned, FlowFailback:
		if there {
			return verdict{skip: "it is at " + r.Active.Site + " already"}
		}
	case FlowTest, FlowDrill:
		if there {
			return verdict{err: fmt.Errorf("protection %s: %w: it runs at %s, which is where the plan would take it", r.ID, dr.ErrNotAllowed, r.Active.Site)}
		}
	case FlowCommit, FlowCancel:
		if r.Failover == nil {
			return verdict{skip: "there is no failover to " + flow + ", its state is " + string(r.State)}
		}
	case FlowCleanUp:
		if r.Test == nil {
			return verdict{skip: "there is no test failover"}
		}
	case FlowReprotect:
		if r.State == dr.Protected {
			return verdict{skip: "it is protected already"}
		}
	}
	if _, err := child(r, in, "?", nil); err != nil {
		return verdict{err: err}
	}
	return verdict{}
}

// whole refuses what would tear a replication group apart. Machines that
// need not take part any more don't count against it: a run that went on past a
// machine that failed must be possible to repeat.
func whole(p Plan, mine map[dr.ProtectionID]dr.Protection, records []dr.Protection, flow string, to Direction, o Options) error {
	op := map[string]dr.Operation{FlowReprotect: dr.OpReprotect, FlowFailback: dr.OpFailback}[flow]
	if op == "" {
		return nil
	}
	var chosen []dr.Protection
	groups := map[string][]dr.Protection{}
	for _, id := range p.Machines() {
		r, ok := mine[id]
		if !ok {
			continue
		}
		chosen = append(chosen, r)
		if v := judge(r, p.input(id, flow, to, o)); r.Group != "" && v.skip == "" && v.err == nil {
			groups[r.Group] = append(groups[r.Group], r)
		}
	}
	errs := []error{replication.ValidateTogether(op, chosen, records)}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		errs = append(errs, replication.ValidateGroup(groups[name]))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("recovery plan %s: %s: %w", p.Name, flow, err)
	}
	return nil
}

// input describes one machine's part in a flow.
func (p Plan) input(id dr.ProtectionID, flow string, to Direction, o Options) machineInput {
	in := machineInput{Plan: p.Name, Flow: flow, Home: to == Home, Options: o, Machine: Machine{Protection: id}, Networks: p.Networks}
	in.Options.Only, in.Options.Hold = nil, ""
	for _, g := range p.Groups {
		for _, m := range g.Machines {
			if m.Protection == id {
				in.Group, in.Machine = g.Name, m
			}
		}
	}
	return in
}

package recoveryplan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Preview says what a run would do, without a step of it.
type Preview struct {
	Plan      string    `json:"plan"`
	Flow      string    `json:"flow"`
	Direction Direction `json:"direction"`
	// Steps are all of the run, in an order in which they may run, and within
	// those about machines the steps of the machines' own runs.
	Steps []PreviewStep `json:"steps"`
	// Findings are what is missing or should be known; Ready is true if none
	// of them is a blocker.
	Findings []Finding `json:"findings,omitempty"`
	Ready    bool      `json:"ready"`
	// Estimate is how long the run would take if each step took as long as
	// last time; 0 if that isn't known of any step. Unknown counts the steps of
	// which it isn't: decisions of persons are among them.
	Estimate time.Duration `json:"estimate,omitempty"`
	Unknown  int           `json:"unknown,omitempty"`
}

// PreviewStep is one step that would run.
type PreviewStep struct {
	ID   string `json:"id"`
	What string `json:"what"` // for people
	// Touches names what the step changes: "machine db1 at hq". None: it only
	// looks, or waits.
	Touches []string        `json:"touches,omitempty"`
	Machine dr.ProtectionID `json:"machine,omitempty"`
	// Last is how long it took last time; 0: it never ran, or nobody knows.
	Last     time.Duration `json:"last,omitempty"`
	Person   bool          `json:"person,omitempty"` // a person is asked
	Optional bool          `json:"optional,omitempty"`
	NoReturn bool          `json:"noReturn,omitempty"` // behind it there is no way back
	Steps    []PreviewStep `json:"steps,omitempty"`
}

// Finding is something that a dry run found.
type Finding struct {
	Code    string          `json:"code"` // stable, for programs
	Machine dr.ProtectionID `json:"machine,omitempty"`
	Text    string          `json:"text"`
	Remedy  string          `json:"remedy,omitempty"`
	// Blocker: the run would be refused, or the machine would fail.
	Blocker bool `json:"blocker,omitempty"`
}

// Codes of findings. Those of platforms and of checks are their own.
const (
	CodeRefused     = "refused"           // the run would be refused
	CodeState       = "state"             // a machine's state forbids the flow
	CodeSkipped     = "skipped"           // a machine needs not take part
	CodeMissing     = "missing"           // a callback or script that this process lacks
	CodeSite        = "site-unknown"      // a site that this process doesn't know
	CodeUnreachable = "unreachable"       // a machine, or its platform, that doesn't answer
	CodeNoPoint     = "no-point"          // no recovery point of the kind wanted
	CodePointAge    = "point-age"         // the point that would be taken is older than the objective
	CodeShutdown    = "no-guest-shutdown" // the platform can't ask guests to shut down
	CodeRunning     = "standby-running"   // somebody runs the standby machine
)

// Check adds findings about one machine to a dry run: readiness, networks, what
// the embedding program knows. It must change nothing, and stop when ctx ends.
type Check func(ctx context.Context, p dr.Protection, flow string, to Direction) ([]Finding, error)

// DryRun says every step that the flow would take, what each touches, what is
// missing, and how long each took last time. It asks platforms and stores, and
// changes nothing. What keeps the run from being made at all is a finding, too;
// an error means only that the plan makes no sense, or that ctx has ended.
func DryRun(ctx context.Context, e *Env, p Plan, flow string, records []dr.Protection, o Options, checks ...Check) (Preview, error) {
	v := Preview{Plan: p.Name, Flow: flow, Direction: direction(flow, o)}
	if err := p.Validate(); err != nil {
		return v, err
	}
	mine, err := p.pick(records, o.Only)
	if err != nil {
		return v, err
	}
	if _, err := Make(p, flow, records, o); err != nil {
		if errors.Is(err, dr.ErrInvalid) {
			return v, err
		}
		v.Findings = append(v.Findings, Finding{Code: CodeRefused, Text: err.Error(), Remedy: "see the other findings", Blocker: true})
	}
	b := &builder{p: p, flow: flow, to: v.Direction, o: o, mine: mine}
	whole, err := b.build()
	if err != nil {
		return v, err
	}
	in := b.beginInput()
	for _, err := range e.missing(in.Callbacks, in.Scripts) {
		v.Findings = append(v.Findings, Finding{Code: CodeMissing, Text: err.Error(), Remedy: "the process that serves the run must have it", Blocker: true})
	}
	points, found, err := e.points(ctx, p, in, mine)
	if err != nil {
		return v, err
	}
	v.Findings = append(v.Findings, found...)

	look := looking{e: e, p: p, flow: flow, to: v.Direction, o: o, points: points, checks: checks}
	all := make([][]Finding, len(in.Machines))
	var g errgroup.Group
	g.SetLimit(listAtOnce)
	for i, id := range in.Machines {
		g.Go(func() error {
			all[i] = look.at(ctx, mine[id])
			return nil
		})
	}
	_ = g.Wait() // it returns none
	for _, f := range all {
		v.Findings = append(v.Findings, f...)
	}
	v.Findings = append(v.Findings, look.networks(ctx, mine)...)
	last, err := e.last(ctx, p.Name, flow)
	if err != nil {
		return v, err
	}
	v.Steps = b.preview(whole, last)
	v.Estimate, v.Unknown = estimate(whole, v.Steps)
	v.Ready = true
	for _, f := range v.Findings {
		v.Ready = v.Ready && !f.Blocker
	}
	return v, ctx.Err()
}

// points are those that would be taken, of flows that take points as they are.
func (e *Env) points(ctx context.Context, p Plan, in beginInput, mine map[dr.ProtectionID]dr.Protection) (map[dr.ProtectionID]dr.Point, []Finding, error) {
	switch in.Flow {
	case FlowTest, FlowDrill, FlowUnplanned:
	case FlowFailback:
		if in.Options.Point == "" {
			return nil, nil, nil // its own final point
		}
	default:
		return nil, nil, nil
	}
	able := in
	able.Machines = nil
	for _, id := range in.Machines {
		if v := judge(mine[id], p.input(id, in.Flow, direction(in.Flow, in.Options), in.Options)); v.skip == "" && v.err == nil {
			able.Machines = append(able.Machines, id)
		}
	}
	if len(able.Machines) == 0 {
		return nil, nil, nil
	}
	sel, recs, err := e.selection(ctx, able)
	if err != nil {
		if errors.Is(err, dr.ErrInvalid) || ctx.Err() != nil {
			return nil, nil, err
		}
		return nil, []Finding{{Code: CodeNoPoint, Text: err.Error(), Blocker: true}}, nil
	}
	points := map[dr.ProtectionID]dr.Point{}
	var found []Finding
	for i, s := range sel {
		if s.Err != nil {
			f := Finding{Code: CodeNoPoint, Machine: recs[i].ID, Text: s.Err.Error(), Blocker: true}
			if d := (*dr.Error)(nil); errors.As(s.Err, &d) {
				f.Remedy = d.Remedy
			}
			found = append(found, f)
			continue
		}
		points[recs[i].ID] = s.Point
	}
	return points, found, nil
}

// last tells how long the steps of the newest run of this plan and flow took
// that went to its end, and those of its machines' runs.
func (e *Env) last(ctx context.Context, plan, flow string) (map[string]time.Duration, error) {
	l, ok := dr.As[dr.RunLister](e.Runs)
	if !ok {
		return nil, nil
	}
	var newest dr.Status
	for s, err := range l.Runs(ctx) {
		if err != nil {
			return nil, fmt.Errorf("list earlier runs: %w", err)
		}
		if r, ok := ReportOf(s); ok && r.Plan == plan && r.Flow == flow && s.State == dr.RunDone && !s.Started.Before(newest.Started) {
			newest = s
		}
	}
	took := map[string]time.Duration{}
	r, ok := ReportOf(newest)
	if !ok {
		return took, nil
	}
	add := func(prefix string, s dr.Status) {
		for _, x := range s.Steps {
			if x.State == dr.StepDone && !x.Ended.Before(x.Started) {
				took[prefix+x.ID] = x.Ended.Sub(x.Started)
			}
		}
	}
	add("", newest)
	for _, m := range r.Machines {
		if m.Run == "" {
			continue
		}
		s, err := e.Runs.Status(ctx, ChildRun(newest.Run, m.Protection))
		if err == nil {
			add(string(m.Protection)+"\x00", s)
		} else if !errors.Is(err, dr.ErrNotFound) {
			return nil, err
		}
	}
	return took, nil
}

// estimate is the longest way through the plan, by what steps took last time.
func estimate(p dr.Plan, steps []PreviewStep) (time.Duration, int) {
	ends := map[string]time.Duration{}
	var most time.Duration
	unknown := 0
	for i, s := range p.Steps {
		var start time.Duration
		for _, a := range s.After {
			start = max(start, ends[a])
		}
		if steps[i].Last == 0 && (s.Gate != "" || steps[i].Machine != "" || len(steps[i].Touches) > 0) {
			unknown++
		}
		ends[s.ID] = start + steps[i].Last
		most = max(most, ends[s.ID])
	}
	return most, unknown
}

package failover

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// IDs of the steps, for inserting own ones beside them. Not every flow has
// every step.
const (
	StepBegin    = "begin"      // refuses what is not allowed; holds replication
	StepShutdown = "shutdown"   // shuts the machine down at From
	StepSync     = "final-sync" // replicates the last changes
	StepChoose   = "choose"     // settles which recovery point, and pins it
	StepPrepare  = "prepare"    // finds or makes the machine at To, stopped
	StepStop     = "stop"       // stops the machine that runs from another point
	StepHydrate  = "hydrate"    // makes its disks hold the point
	StepCopy     = "last-copy"  // in place of points: the disks of From, shut down, straight into those of To
	StepStart    = "start"      // powers it on
	StepVerify   = "verify"     // looks for evidence that it lives
	StepMeasure  = "measure"    // counts what was not replicated, where it can be told
	StepSeed     = "seed"       // keeps the former machine's disks as a base for the way back
	StepRestart  = "restart"    // powers the former machine on again
	StepDelete   = "delete-points"
	StepRemove   = "remove" // removes the machine that is no longer needed
	StepFinish   = "finish" // records the new state
)

// Names of the flows.
const (
	FlowTest      = "test-failover"
	FlowCleanUp   = "clean-up-test"
	FlowPlanned   = "planned-failover"
	FlowUnplanned = "unplanned-failover"
	FlowChange    = "change-point"
	FlowCommit    = "commit"
	FlowCancel    = "cancel-failover"
)

// revision of the plans made here. Raise it when steps change their meaning.
const revision = 1

// Options of a failover. The zero value fails over to the latest point, to
// the replica that there is or to a new one.
type Options struct {
	// Point to fail over to; the zero value is the latest. A planned
	// failover takes the point of its own final replication.
	Point recoverypoint.Choice `json:"point,omitzero"`
	// Shutdown asks an unplanned failover to shut the machine down and
	// replicate its last changes first; it goes on if that fails.
	Shutdown bool `json:"shutdown,omitempty"`
	// ShutdownTimeout bounds the guest's shutdown; 0: 10 minutes. A flow that
	// is taken back before the machine was off waits as long again whether
	// the guest still goes down, to start it then.
	ShutdownTimeout time.Duration `json:"shutdownTimeout,omitempty"`
	// PowerOff allows a planned failover to power a machine off whose guest
	// can't be shut down. What the guest had not written is lost.
	PowerOff bool `json:"powerOff,omitempty"`
	// Where and how to make the machine.
	Where Where `json:"where,omitzero"`
	// VerifyTimeout bounds the wait for evidence that the machine lives;
	// 0: 5 minutes. A backend that can't probe has nothing to wait for.
	VerifyTimeout time.Duration `json:"verifyTimeout,omitempty"`
}

// Where says how a machine is made; fields as in backend.Placement. Package
// failover/networks makes Networks and Cards of a mapping.
type Where struct {
	Name     string                  `json:"name,omitempty"`
	Networks map[string]string       `json:"networks,omitempty"`
	Cards    map[string]backend.Card `json:"cards,omitempty"`
	Options  json.RawMessage         `json:"options,omitempty"`
}

// Input is what the steps of one protection's flows are given. Callers' own
// steps may be given it too.
type Input struct {
	Protection dr.ProtectionID `json:"protection"`
	Operation  dr.Operation    `json:"operation"`
	Flow       string          `json:"flow"`
	// From is where the machine runs when the flow begins, To the other side.
	From dr.Place `json:"from"`
	To   dr.Place `json:"to"`
	// Key tells the machine that the flow makes from all others.
	Key  string `json:"key,omitempty"`
	Test bool   `json:"test,omitempty"`
	// During is the state that the record has while the flow runs, if it is
	// another than before, and Before the one it goes back to.
	During dr.State `json:"during,omitempty"`
	Before dr.State `json:"before,omitempty"`
	Options
	// Former is the failover that the flow is about.
	Former *dr.Failover `json:"former,omitempty"`
	// StopTo says that a machine that runs at To is switched off by the flow.
	StopTo bool `json:"stopTo,omitempty"`
	// Drill is the test failover that a clean-up is about.
	Drill dr.RunID `json:"drill,omitempty"`
	Notes string   `json:"notes,omitempty"`
}

// Planned plans a failover without loss: shut down, replicate the last
// changes, start at the other side. It does not run if the machine can't be
// shut down or anything else fails; then the machine runs again where it was.
func Planned(p dr.Protection, o Options) (dr.Plan, error) {
	if err := p.Allow(dr.OpPlannedFailover); err != nil {
		return dr.Plan{}, err
	}
	if o.Point.Option != "" {
		return dr.Plan{}, fmt.Errorf("%w: a planned failover takes its own final point; choose a point with an unplanned failover, or change it afterwards", dr.ErrInvalid)
	}
	return Forward(p, dr.OpPlannedFailover, FlowPlanned, o)
}

// Unplanned plans a failover when the primary side may be lost. Shutting down
// and the last replication are tried if asked for, and their failure is
// recorded; the report says what was lost.
func Unplanned(p dr.Protection, o Options) (dr.Plan, error) {
	if err := p.Allow(dr.OpUnplannedFailover); err != nil {
		return dr.Plan{}, err
	}
	return Forward(p, dr.OpUnplannedFailover, FlowUnplanned, o)
}

// Forward makes the plan that planned and unplanned failover and failback
// share. It does not ask whether the operation is allowed: its callers do.
func Forward(p dr.Protection, op dr.Operation, flow string, o Options) (dr.Plan, error) {
	if err := o.Point.Validate(); err != nil {
		return dr.Plan{}, err
	}
	in := InputOf(p, op, flow, o)
	must := op != dr.OpUnplannedFailover
	b := NewBuilder(p, flow, in)
	b.Add(dr.Step{ID: StepBegin, Action: "failover.begin@1", Undo: "failover.begin@1"})
	if must || o.Shutdown {
		b.ShutDown(!must)
		sync := dr.Step{ID: StepSync, Action: "failover.sync@1", Undo: "failover.sync@1", Queue: p.Standby.Site}
		if !must {
			sync.Optional, sync.Attempts, sync.Silence = true, attemptsMay, silenceMay
		}
		b.Add(sync)
	}
	b.Add(dr.Step{ID: StepChoose, Action: "failover.choose@1", Undo: "failover.choose@1", Queue: p.Standby.Site})
	b.bringUp()
	if !must {
		b.Add(dr.Step{ID: StepMeasure, Action: "failover.measure@1", Queue: p.Active.Site, Optional: true, Attempts: attemptsMay, Timeout: 2 * LookTimeout, Patience: Patience})
	}
	b.Add(dr.Step{ID: StepFinish, Action: "failover.finish@1", Undo: "record.restore@1"})
	return b.Plan()
}

// What may fail without stopping the flow is not worth many tries while the
// company is down, nor waiting for a site that says nothing.
const (
	attemptsMay = 2
	silenceMay  = 5 * time.Minute
)

// Patience is how long flows wait for a worker of a site that may be lost, and
// its workers with it, where they can go on without. For those of a site that
// lives, which may have hundreds of machines to shut down at once, they wait
// longer ([dr.BusyPatience]).
const Patience = 2 * time.Minute

// Test plans a drill: a copy of the machine from a point, in isolation, while
// replication and production go on. Clean it up with CleanUp.
func Test(p dr.Protection, run dr.RunID, o Options) (dr.Plan, error) {
	if err := p.Allow(dr.OpTestFailover); err != nil {
		return dr.Plan{}, err
	}
	if err := o.Point.Validate(); err != nil {
		return dr.Plan{}, err
	}
	in := InputOf(p, dr.OpTestFailover, FlowTest, o)
	in.Test, in.To, in.Key = true, dr.Place{Site: p.Standby.Site}, testKey(p.ID, run)
	b := NewBuilder(p, FlowTest, in)
	b.Add(dr.Step{ID: StepBegin, Action: "test.begin@1", Undo: "test.begin@1"})
	b.Add(dr.Step{ID: StepChoose, Action: "failover.choose@1", Undo: "failover.choose@1", Queue: p.Standby.Site})
	b.bringUp()
	b.Add(dr.Step{ID: StepFinish, Action: "test.finish@1"})
	return b.Plan()
}

// CleanUp plans the end of a drill: everything that it made is removed. notes
// are kept in the report.
func CleanUp(p dr.Protection, notes string) (dr.Plan, error) {
	if err := p.Allow(dr.OpCleanUpTest); err != nil {
		return dr.Plan{}, err
	}
	in := InputOf(p, dr.OpCleanUpTest, FlowCleanUp, Options{})
	in.To, in.Drill, in.Notes = p.Test.Place, p.Test.Run, notes
	b := NewBuilder(p, FlowCleanUp, in)
	b.Add(dr.Step{ID: StepBegin, Action: "test.cleaning@1", Undo: "test.cleaning@1"})
	b.Add(dr.Step{ID: StepRemove, Action: "test.remove@1", NoReturn: true, Queue: in.To.Site})
	b.Add(dr.Step{ID: StepFinish, Action: "test.cleaned@1"})
	return b.Plan()
}

// ChangePoint plans to run the failed-over machine from another point, until
// the failover is committed. What it wrote since the failover is given up. If
// the new point can't be had it runs from the former one again.
func ChangePoint(p dr.Protection, to recoverypoint.Choice, o Options) (dr.Plan, error) {
	if err := p.Allow(dr.OpChangePoint); err != nil {
		return dr.Plan{}, err
	}
	if err := to.Validate(); err != nil {
		return dr.Plan{}, err
	}
	o.Point = to
	in := inputAbout(p, dr.OpChangePoint, FlowChange, o)
	b := NewBuilder(p, FlowChange, in)
	b.Add(dr.Step{ID: StepBegin, Action: "failover.begin@1", Undo: "failover.begin@1"})
	b.Add(dr.Step{ID: StepChoose, Action: "failover.choose@1", Undo: "failover.choose@1", Queue: in.To.Site})
	b.Add(dr.Step{ID: StepStop, Action: "change.stop@1", Undo: "change.stop@1", Queue: in.To.Site})
	b.Add(dr.Step{ID: StepHydrate, Action: "change.hydrate@1", Undo: "change.hydrate@1", Queue: in.To.Site})
	b.Add(dr.Step{ID: StepStart, Action: "change.start@1", Undo: "change.start@1", Queue: in.To.Site})
	b.Add(dr.Step{ID: StepVerify, Action: "failover.verify@1", Queue: in.To.Site, Optional: true, Attempts: 1})
	b.Add(dr.Step{ID: StepFinish, Action: "change.finish@1", Undo: "record.restore@1"})
	return b.Plan()
}

// CommitOptions of a commit.
type CommitOptions struct {
	// Discard, when a failback is committed, gives up the former machine's
	// disks at once instead of keeping them as a base: replicating there
	// again is then a full copy.
	Discard bool
}

// Commit plans to make a failover final: its point can't be changed any more,
// and all recovery points are deleted. Committing a failback removes the
// machine and the disks on the side that it left.
func Commit(p dr.Protection, o CommitOptions) (dr.Plan, error) {
	if err := p.Allow(dr.OpCommit); err != nil {
		return dr.Plan{}, err
	}
	in := inputAbout(p, dr.OpCommit, FlowCommit, Options{})
	b := NewBuilder(p, FlowCommit, in)
	b.Add(dr.Step{ID: StepBegin, Action: "failover.begin@1", Undo: "failover.begin@1"})
	home := p.AtHome()
	if home && !o.Discard {
		// Its failure costs a full copy later; it must not keep a machine
		// from being home.
		b.Add(dr.Step{ID: StepSeed, Action: "commit.seed@1", Undo: "commit.seed@1", Queue: in.From.Site, Optional: true, Attempts: 3, Silence: silenceMay, Patience: Patience})
	}
	b.Add(dr.Step{ID: StepDelete, Action: "commit.delete@1", NoReturn: true, Queue: in.To.Site})
	if home {
		b.Add(dr.Step{ID: StepRemove, Action: "commit.remove@1", Queue: in.From.Site})
	}
	b.Add(dr.Step{ID: StepFinish, Action: "commit.finish@1"})
	return b.Plan()
}

// Cancel plans to take an uncommitted failover back: the machine at this side
// stops, the former one runs again unless it was off before, and replication
// goes on. What was written since the failover is given up. If the
// former machine can't be started the one at this side runs on.
func Cancel(p dr.Protection) (dr.Plan, error) {
	if err := p.Allow(dr.OpCancelFailover); err != nil {
		return dr.Plan{}, err
	}
	in := inputAbout(p, dr.OpCancelFailover, FlowCancel, Options{})
	b := NewBuilder(p, FlowCancel, in)
	b.Add(dr.Step{ID: StepBegin, Action: "failover.begin@1", Undo: "failover.begin@1"})
	b.Add(dr.Step{ID: StepStop, Action: "change.stop@1", Undo: "change.stop@1", Queue: in.To.Site})
	if p.Failover.Ran {
		b.Add(dr.Step{ID: StepRestart, Action: "cancel.restart@1", Undo: "cancel.restart@1", Queue: in.From.Site})
	}
	b.Add(dr.Step{ID: StepFinish, Action: "cancel.finish@1", Undo: "record.restore@1"})
	return b.Plan()
}

package failback

import (
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// IDs of the steps that failover has not.
const (
	StepStandby   = "stop-standby" // the former machine is off and stays off
	StepReplicate = "replicate"    // the first point of the new direction
	StepFirst     = "first-copy"   // phase 1 of a direct failback, while the machine runs
	StepComplete  = "complete"     // a person says when phase 2 may begin

	// A copy's capture goes only when its result is kept.
	StepReleaseFirst = "release-first"
	StepReleaseLast  = "release-last"
)

// Names of the flows.
const (
	FlowReprotect = "reprotect"
	FlowFailback  = "failback"
)

// ReprotectOptions of a reprotection.
type ReprotectOptions struct {
	// Alternate creates a new machine at the other side, although there may
	// be the former one, and copies everything. Without it the former
	// machine is used if the record still knows one.
	Alternate bool
	// Where and how to make a new machine.
	Where failover.Where
	// Cold leaves the standby machine's disks as they are until a failover.
	// Without it they are brought to the first point, so that a failover
	// back copies only what has changed since.
	Cold bool
}

// Reprotect plans to replicate from where the machine now runs to the side
// that it left. The machine there is turned off and stays off. If it fails
// the machine is committed and unprotected, as before.
func Reprotect(p dr.Protection, o ReprotectOptions) (dr.Plan, error) {
	if err := p.Allow(dr.OpReprotect); err != nil {
		return dr.Plan{}, err
	}
	in := failover.InputOf(p, dr.OpReprotect, FlowReprotect, failover.Options{Where: o.Where})
	in.During, in.Before, in.StopTo = dr.Synchronizing, p.State, true
	if o.Alternate {
		in.Anew(p)
	}
	b := failover.NewBuilder(p, FlowReprotect, in)
	q := p.Standby.Site
	b.Add(dr.Step{ID: failover.StepBegin, Action: "failover.begin@1", Undo: "failover.begin@1"})
	if in.To.Machine != "" {
		b.Add(dr.Step{ID: StepStandby, Action: "failback.standby@1", Undo: "failback.standby@1", Queue: q})
	}
	b.Add(dr.Step{ID: failover.StepPrepare, Action: "failover.prepare@1", Undo: "failover.prepare@1", Queue: q})
	if in.To.Machine != "" {
		b.Add(dr.Step{ID: failover.StepSeed, Action: "reprotect.seed@1", Undo: "reprotect.seed@1", Queue: q})
	}
	b.Add(dr.Step{ID: StepReplicate, Action: "reprotect.replicate@1", Undo: "reprotect.replicate@1", Queue: q})
	if !o.Cold {
		b.Add(dr.Step{ID: failover.StepHydrate, Action: "reprotect.hydrate@1", Undo: "reprotect.hydrate@1", Queue: q, Optional: true, Attempts: 3})
	}
	b.Add(dr.Step{ID: failover.StepFinish, Action: "reprotect.finish@1", Undo: "record.restore@1"})
	return b.Plan()
}

// Sync says how a failback brings the disks home.
type Sync string

// Ways of synchronizing. Before and During are the two choices that Azure
// Site Recovery gives for Hyper-V machines; here they work for every backend,
// and need no reprotection first.
const (
	// FromPoints uses the recovery points that reprotection makes; the
	// machine must be reprotected.
	FromPoints Sync = ""
	// Before copies a snapshot while the machine runs, waits for a person to
	// complete it, then shuts the machine down and copies the changes: the
	// shortest downtime.
	Before Sync = "before"
	// During shuts the machine down and copies everything, without sums: for
	// machines that have run there for a month or more, or whose former
	// machine is gone.
	During Sync = "during"
)

// Options of a failback.
type Options struct {
	Sync Sync
	// Alternate fails back to a new machine, although there may be the
	// former one. With FromPoints it is chosen when reprotecting.
	Alternate bool
	failover.Options
}

// Failback plans to bring the machine home, without loss: it is shut down
// where it runs, and started at home with its last changes. If that fails it
// runs again where it ran.
func Failback(p dr.Protection, o Options) (dr.Plan, error) {
	if err := p.Allow(dr.OpFailback); err != nil {
		return dr.Plan{}, err
	}
	switch o.Sync {
	case FromPoints:
		if p.State != dr.Protected {
			return dr.Plan{}, fmt.Errorf("protection %s: %w: failing back from recovery points needs at least one: reprotect first, or synchronize %q or %q", p.ID, dr.ErrNotAllowed, Before, During)
		}
		if o.Alternate {
			return dr.Plan{}, fmt.Errorf("protection %s: %w: choose the alternate location when reprotecting", p.ID, dr.ErrInvalid)
		}
		return failover.Forward(p, dr.OpFailback, FlowFailback, o.Options)
	case Before, During:
		return direct(p, o)
	}
	return dr.Plan{}, fmt.Errorf("%w: synchronize %q", dr.ErrInvalid, o.Sync)
}

// direct plans a failback from disk to disk.
func direct(p dr.Protection, o Options) (dr.Plan, error) {
	if o.Point.Option != "" {
		return dr.Plan{}, fmt.Errorf("%w: a direct failback takes the machine as it is; there is no point to choose", dr.ErrInvalid)
	}
	in := failover.InputOf(p, dr.OpFailback, FlowFailback, o.Options)
	in.StopTo = true
	if o.Alternate {
		in.Anew(p)
	}
	b := failover.NewBuilder(p, FlowFailback, in)
	q := p.Standby.Site
	b.Add(dr.Step{ID: failover.StepBegin, Action: "failover.begin@1", Undo: "failover.begin@1"})
	if in.To.Machine != "" {
		b.Add(dr.Step{ID: StepStandby, Action: "failback.standby@1", Undo: "failback.standby@1", Queue: q})
	}
	b.Add(dr.Step{ID: failover.StepPrepare, Action: "failover.prepare@1", Undo: "failover.prepare@1", Queue: q})
	if o.Sync == Before {
		b.Add(dr.Step{ID: StepFirst, Action: "failback.first@1", Undo: "failback.release@1", Queue: q})
		b.Add(dr.Step{ID: StepReleaseFirst, Action: "failback.release@1", Queue: p.Active.Site, Optional: true, Attempts: 2, Timeout: failover.LookTimeout, Patience: failover.Patience})
		b.Add(dr.Step{ID: StepComplete, Gate: "The machine has been copied while it runs. Shut it down at " + p.Active.Site + ", copy what has changed since, and start it at " + p.Standby.Site + "?"})
	}
	b.ShutDown(false)
	b.Add(dr.Step{ID: failover.StepCopy, Action: "failback.last@1", Undo: "failback.release@1", Queue: q})
	b.BringUpPrepared()
	b.Add(dr.Step{ID: StepReleaseLast, Action: "failback.release@1", Queue: p.Active.Site, Optional: true, Attempts: 2, Timeout: failover.LookTimeout, Patience: failover.Patience})
	b.Add(dr.Step{ID: failover.StepFinish, Action: "failover.finish@1", Undo: "record.restore@1"})
	return b.Plan()
}

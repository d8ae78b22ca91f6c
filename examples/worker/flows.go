package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/observe"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// request asks for runs: of one protection, of several with a run each, or of a
// recovery plan.
type request struct {
	// Run names the run; with several it begins their names. Asked again under
	// the same name the same is answered, and nothing happens twice. "": a new
	// one each time.
	Run         string            `json:"run,omitempty"`
	Flow        string            `json:"flow"`
	Protection  dr.ProtectionID   `json:"protection,omitempty"`
	Protections []dr.ProtectionID `json:"protections,omitempty"`
	// All are all protections that run at this site.
	All  string          `json:"all,omitempty"`
	Plan json.RawMessage `json:"plan,omitempty"` // a recoveryplan.Plan
	By   string          `json:"by,omitempty"`

	choices
}

// choices are the options of flows; each flow takes those that mean something
// to it.
type choices struct {
	Point     recoverypoint.Choice  `json:"point,omitzero"`
	Shutdown  bool                  `json:"shutdown,omitempty"`
	PowerOff  bool                  `json:"powerOff,omitempty"`
	Verify    recoveryplan.Duration `json:"verifyTimeout,omitempty"`
	Where     failover.Where        `json:"where,omitzero"`
	Sync      failback.Sync         `json:"sync,omitempty"`
	Alternate bool                  `json:"alternate,omitempty"`
	Cold      bool                  `json:"cold,omitempty"`
	Discard   bool                  `json:"discard,omitempty"`
	Notes     string                `json:"notes,omitempty"`
	Home      bool                  `json:"home,omitempty"` // of plans
	Hold      string                `json:"hold,omitempty"`
}

// started is what became of one run that was asked for.
type started struct {
	Run        dr.RunID        `json:"run"`
	Protection dr.ProtectionID `json:"protection,omitempty"`
	Error      string          `json:"error,omitempty"`
}

// errDraining refuses runs.
var errDraining = errors.New("this worker drains and starts no runs any more: ask another, or this one when it is back")

// startRuns starts runs. One that can't is an error of the request; of several,
// each says what became of it.
func (w *worker) startRuns(p *plant, r *http.Request) (any, error) {
	q, err := read[request](r)
	if err != nil {
		return nil, err
	}
	if w.board.read().Draining {
		// In a journal of this worker's own it would lie until the next start, and
		// whoever asked would take it for under way.
		return nil, errDraining
	}
	ctx := observe.By(r.Context(), asker(r.Context(), q.By))
	if q.Run == "" {
		q.Run = q.Flow + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	}
	switch {
	case q.Plan != nil && q.Protection == "" && q.Protections == nil && q.All == "":
		return started{Run: dr.RunID(q.Run)}, q.startPlan(ctx, p)
	case q.Plan == nil && q.Protection != "" && q.Protections == nil && q.All == "":
		s := started{Run: dr.RunID(q.Run), Protection: q.Protection}
		return s, q.start(ctx, p, s.Run, s.Protection)
	case q.Plan == nil && q.Protection == "" && (q.Protections == nil) != (q.All == ""):
		return q.startMany(ctx, p)
	}
	return nil, fmt.Errorf("%w: want one of protection, protections, all and plan", dr.ErrInvalid)
}

func (q request) startMany(ctx context.Context, p *plant) ([]started, error) {
	for d, err := range p.engine.records.Protections(ctx) {
		if q.All == "" {
			break
		}
		if err != nil {
			return nil, err
		}
		if d.Active.Site == q.All {
			q.Protections = append(q.Protections, d.ID)
		}
	}
	all := make([]started, len(q.Protections))
	var g errgroup.Group
	g.SetLimit(16)
	for i, id := range q.Protections {
		all[i] = started{Run: dr.RunID(q.Run + "-" + string(id)), Protection: id}
		g.Go(func() error {
			if err := q.start(ctx, p, all[i].Run, id); err != nil {
				all[i].Error = err.Error()
			}
			return nil
		})
	}
	return all, g.Wait()
}

// start starts a run of one protection. One that is there already is the same
// one: whoever asks twice chose its name.
func (q request) start(ctx context.Context, p *plant, run dr.RunID, id dr.ProtectionID) error {
	d, err := p.env.Records.Load(ctx, id)
	if err != nil {
		return err
	}
	if s, err := p.runs.Status(ctx, run); err == nil {
		return q.same(s, id)
	}
	pl, err := q.plan(d, run)
	if err != nil {
		return err
	}
	return p.runs.Start(ctx, run, pl)
}

// same refuses a name that another thing has.
func (q request) same(s dr.Status, id dr.ProtectionID) error {
	if s.Flow == q.Flow && len(s.Locks) == 1 && s.Locks[0] == id.Lock() {
		return nil
	}
	return fmt.Errorf("run %s is %s of %v: %w", s.Run, s.Flow, s.Locks, dr.ErrRunExists)
}

// plan plans the flow. It decides nothing that the record's state doesn't allow.
func (q request) plan(d dr.Protection, run dr.RunID) (dr.Plan, error) {
	o := failover.Options{Point: q.Point, Shutdown: q.Shutdown, PowerOff: q.PowerOff, VerifyTimeout: time.Duration(q.Verify), Where: q.Where}
	switch q.Flow {
	case replication.FlowProtect:
		return replication.Protect(d)
	case replication.FlowUnprotect:
		return replication.Unprotect(d)
	case failover.FlowTest:
		return failover.Test(d, run, o)
	case failover.FlowCleanUp:
		return failover.CleanUp(d, q.Notes)
	case failover.FlowPlanned:
		return failover.Planned(d, o)
	case failover.FlowUnplanned:
		return failover.Unplanned(d, o)
	case failover.FlowChange:
		return failover.ChangePoint(d, q.Point, o)
	case failover.FlowCommit:
		return failover.Commit(d, failover.CommitOptions{Discard: q.Discard})
	case failover.FlowCancel:
		return failover.Cancel(d)
	case failback.FlowReprotect:
		return failback.Reprotect(d, failback.ReprotectOptions{Alternate: q.Alternate, Where: q.Where, Cold: q.Cold})
	case failback.FlowFailback:
		return failback.Failback(d, failback.Options{Sync: q.Sync, Alternate: q.Alternate, Options: o})
	}
	return dr.Plan{}, fmt.Errorf("%w: there is no flow %q", dr.ErrInvalid, q.Flow)
}

// startPlan starts a run of a recovery plan, whose flows have names of their
// own: test, drill, planned, unplanned, failback, reprotect, commit, cancel,
// clean-up.
func (q request) startPlan(ctx context.Context, p *plant) error {
	plan, err := recoveryplan.Decode(bytes.NewReader(q.Plan))
	if err != nil {
		return err
	}
	run := dr.RunID(q.Run)
	if s, err := p.runs.Status(ctx, run); err == nil {
		if s.Flow == recoveryplan.Flow(q.Flow) && slices.Equal(s.Locks, []string{"plan/" + plan.Name}) {
			return nil
		}
		return fmt.Errorf("run %s is %s of %v: %w", s.Run, s.Flow, s.Locks, dr.ErrRunExists)
	}
	var all []dr.Protection
	for d, err := range p.engine.records.Protections(ctx) {
		if err != nil {
			return err
		}
		all = append(all, d)
	}
	pl, err := recoveryplan.Make(plan, q.Flow, all, recoveryplan.Options{Point: q.Point.Option, Shutdown: q.Shutdown, Home: q.Home,
		Sync: q.Sync, Cold: q.Cold, Discard: q.Discard, Hold: q.Hold, Notes: q.Notes})
	if err != nil {
		return err
	}
	return p.runs.Start(ctx, run, pl)
}

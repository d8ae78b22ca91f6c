package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Flows planned here.
const (
	FlowProtect   = "protect"
	FlowUnprotect = "unprotect"
)

// New returns the record of a machine that is not protected yet: it runs at
// home, and is to be recovered at the other site. Save it, then run Protect.
func New(id dr.ProtectionID, home dr.Place, recoverAt string) dr.Protection {
	return dr.Protection{
		ID: id, Home: home.Site, Active: home,
		Standby: dr.Place{Site: recoverAt}, State: dr.Unprotected,
	}
}

// input of the steps planned here.
type input struct {
	Protection dr.ProtectionID `json:"protection"`
	From       dr.Place        `json:"from"`
	To         dr.Place        `json:"to"`
}

// Protect plans to protect a machine: its first recovery point is made. If
// that fails, after going on with what was copied as often as the step is
// tried, the machine is unprotected as before and nothing of it is left.
func Protect(p dr.Protection) (dr.Plan, error) {
	if err := p.ID.Validate(); err != nil {
		return dr.Plan{}, err
	}
	if err := p.Allow(dr.OpProtect); err != nil {
		return dr.Plan{}, err
	}
	return p3(p, FlowProtect,
		dr.Step{ID: "begin", Action: "protect.begin@1", Undo: "protect.begin@1"},
		dr.Step{ID: "replicate", Action: "protect.replicate@1", Undo: "protect.replicate@1", Queue: p.Standby.Site},
		dr.Step{ID: "finish", Action: "protect.finish@1", Undo: "protect.finish@1"})
}

// Unprotect plans to end a protection: its recovery points are deleted and
// the stopped replica, if this library made one, is removed. The machine runs
// on where it runs.
func Unprotect(p dr.Protection) (dr.Plan, error) {
	if err := p.Allow(dr.OpUnprotect); err != nil {
		return dr.Plan{}, err
	}
	return p3(p, FlowUnprotect,
		dr.Step{ID: "begin", Action: "unprotect.begin@1", Undo: "unprotect.begin@1"},
		dr.Step{ID: "delete", Action: "unprotect.delete@1", NoReturn: true, Queue: p.Standby.Site},
		dr.Step{ID: "finish", Action: "unprotect.finish@1"})
}

func p3(p dr.Protection, flow string, steps ...dr.Step) (dr.Plan, error) {
	in, err := json.Marshal(input{p.ID, p.Active, p.Standby})
	if err != nil {
		return dr.Plan{}, err
	}
	for i := range steps {
		steps[i].Input = in
		if i > 0 {
			steps[i].After = []string{steps[i-1].ID}
		}
	}
	pl := dr.Plan{Flow: flow, Rev: 1, Locks: []string{p.ID.Lock()}, Steps: steps}
	return pl, pl.Validate()
}

// Actions are the steps of the flows planned here.
func Actions(e *Env) dr.Actions {
	return dr.Actions{
		"protect.begin@1":     e.protectBegin,
		"protect.replicate@1": e.protectReplicate,
		"protect.finish@1":    e.protectFinish,
		"unprotect.begin@1":   e.unprotectBegin,
		"unprotect.delete@1":  e.unprotectDelete,
		"unprotect.finish@1":  e.unprotectFinish,
	}
}

func readInput(c *dr.Call) (input, error) {
	var in input
	if err := json.Unmarshal(c.Input, &in); err != nil {
		return in, dr.Permanent(fmt.Errorf("input of step %s: %w", c.Step, err))
	}
	return in, nil
}

func (e *Env) protectBegin(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := readInput(c)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		return nil, e.let(ctx, c, in.Protection, dr.Unprotected)
	}
	p, err := e.Records.Load(ctx, in.Protection)
	if err != nil {
		return nil, err
	}
	if p.Run != c.Run { // asked before the platform is: a refusal should cost nothing
		if err := p.Allow(dr.OpProtect); err != nil {
			return nil, err
		}
	}
	if err := e.preflight(ctx, in.From); err != nil {
		return nil, err
	}
	if _, err := e.Sites.Site(in.To.Site); err != nil {
		return nil, err
	}
	_, err = e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		if err := p.Allow(dr.OpProtect); err != nil {
			return err
		}
		if p.Active != in.From || p.Standby != in.To {
			return dr.Permanent(fmt.Errorf("protection %s: %w: plan again", p.ID, dr.ErrConflict))
		}
		p.Run = c.Run
		return p.Move(dr.Synchronizing)
	})
	return nil, err
}

// let takes a run's hold on the record back, and the state if there is one to
// go back to. A record that the run doesn't hold, because it was refused, is
// not touched.
func (e *Env) let(ctx context.Context, c *dr.Call, id dr.ProtectionID, back dr.State) error {
	p, err := e.Records.Load(ctx, id)
	if err != nil || p.Run != c.Run {
		return err
	}
	_, err = e.Update(ctx, c, id, func(p *dr.Protection) error {
		if p.Run != c.Run {
			return nil
		}
		p.Run = ""
		if back == "" {
			return nil
		}
		return p.Move(back)
	})
	return err
}

// preflight refuses machines that could not be captured whole.
func (e *Env) preflight(ctx context.Context, at dr.Place) error {
	site, err := e.Sites.Site(at.Site)
	if err != nil {
		return err
	}
	f, ok := dr.As[backend.Preflighter](site.Backend)
	if !ok {
		return nil
	}
	problems, err := f.Preflight(ctx, at.Machine)
	if err != nil {
		return &dr.Error{Op: "preflight", Side: dr.SourceSide, Site: at.Site, Machine: at.Machine, Err: err}
	}
	var found []error
	for _, p := range problems {
		if !p.Blocker {
			e.Logger().WarnContext(ctx, "preflight", "machine", at.Machine, "disk", p.Disk, "code", p.Code, "problem", p.Text, "remedy", p.Remedy)
			continue
		}
		found = append(found, &dr.Error{Op: "preflight", Side: dr.SourceSide, Site: at.Site, Machine: at.Machine, Disk: p.Disk, Off: -1,
			Err: fmt.Errorf("%w: %s: %s", dr.ErrUnsupported, p.Code, p.Text), Remedy: p.Remedy})
	}
	return errors.Join(found...)
}

func (e *Env) protectReplicate(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := readInput(c)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		name := PointName(dr.StepKey(c.Run, c.Step, false))
		if err := e.Abandon(ctx, in.From, in.To.Site, name); err != nil {
			return nil, err
		}
		to, err := e.Sites.Site(in.To.Site)
		if err != nil {
			return nil, err
		}
		return nil, DeleteSince(ctx, to.Points, in.From.Machine, name)
	}
	p, err := e.Records.Load(ctx, in.Protection)
	if err != nil {
		return nil, err
	}
	rep, err := e.ReplicateAs(ctx, p, PointName(c.Key), dr.CrashConsistent, c.Beat)
	if err != nil {
		return nil, err
	}
	return json.Marshal(rep)
}

func (e *Env) protectFinish(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := readInput(c)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		_, err := e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
			if p.State == dr.Protected && p.Run == "" {
				p.State, p.Last, p.Run = dr.Synchronizing, dr.Point{}, c.Run
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		return nil, e.Hold(ctx, in.Protection)
	}
	var rep Report
	if err := json.Unmarshal(c.Results["replicate"], &rep); err != nil {
		return nil, dr.Permanent(fmt.Errorf("result of step replicate: %w", err))
	}
	_, err = e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		p.Last, p.Run, p.Replication, p.Upkeep = rep.Point, "", dr.ReplicationIdle, dr.Upkeep{}
		return p.Move(dr.Protected)
	})
	return nil, err
}

func (e *Env) unprotectBegin(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := readInput(c)
	if err != nil {
		return nil, err
	}
	if c.Undo {
		return nil, e.let(ctx, c, in.Protection, "")
	}
	_, err = e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		if err := p.Allow(dr.OpUnprotect); err != nil {
			return err
		}
		if p.Active != in.From || p.Standby != in.To {
			return dr.Permanent(fmt.Errorf("protection %s: %w: plan again", p.ID, dr.ErrConflict))
		}
		p.Run = c.Run
		return nil
	})
	if err != nil {
		return nil, err
	}
	return nil, e.Hold(ctx, in.Protection)
}

func (e *Env) unprotectDelete(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := readInput(c)
	if err != nil {
		return nil, err
	}
	to, err := e.Sites.Site(in.To.Site)
	if err != nil {
		return nil, err
	}
	e.ReleaseLeft(ctx, in.From, to.Points)
	if err := DeleteAll(ctx, to.Points, in.From.Machine); err != nil {
		return nil, err
	}
	if in.To.Key == "" {
		return nil, nil
	}
	if err := to.Backend.Remove(ctx, in.To.Machine); err != nil {
		return nil, &dr.Error{Op: "remove the replica", Side: dr.TargetSide, Site: in.To.Site, Machine: in.To.Machine, Err: err}
	}
	return nil, nil
}

func (e *Env) unprotectFinish(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := readInput(c)
	if err != nil {
		return nil, err
	}
	_, err = e.Update(ctx, c, in.Protection, func(p *dr.Protection) error {
		if p.Standby.Key != "" {
			p.Standby = dr.Place{Site: p.Standby.Site}
		}
		p.Last, p.Common, p.Pins, p.Accepted, p.Expiring, p.Run, p.Replication = dr.Point{}, dr.Point{}, nil, nil, nil, "", dr.ReplicationIdle
		p.Upkeep, p.Resync = dr.Upkeep{}, false
		return p.Move(dr.Unprotected)
	})
	return nil, err
}

// Pause keeps replication cycles from beginning, and stops one that runs in
// this process. Resume takes it back.
func (e *Env) Pause(ctx context.Context, id dr.ProtectionID) error {
	_, err := e.Amend(ctx, id, func(p *dr.Protection) error {
		if err := p.Allow(dr.OpPause); err != nil {
			return err
		}
		p.Replication, p.Resync = dr.ReplicationPaused, p.Replication == dr.ResyncRequired
		return nil
	})
	if err != nil {
		return err
	}
	return e.Hold(ctx, id)
}

// Resume lets replication go on after Pause.
func (e *Env) Resume(ctx context.Context, id dr.ProtectionID) error {
	_, err := e.Amend(ctx, id, func(p *dr.Protection) error {
		if err := p.Allow(dr.OpResume); err != nil {
			return err
		}
		p.Replication = dr.ReplicationIdle
		if p.Resync {
			p.Replication = dr.ResyncRequired
		}
		p.Resync = false
		return nil
	})
	return err
}

// Expire deletes the recovery points that the policy doesn't keep, other than
// those that flows have pinned and those that suspicion holds
// (recoverypoint.Held), and returns them. Ages are what they were when the newest
// point was made: so a process whose clock is ahead, or a platform whose clock is
// behind and names the points' times, costs none of them.
func (e *Env) Expire(ctx context.Context, id dr.ProtectionID, policy recoverypoint.Policy) (_ []dr.PointID, err error) {
	p, err := e.Records.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	store, machine := p.Standby.Site, p.Active.Machine
	if p.State == dr.FailedOver { // the points are where it now runs
		store, machine = p.Active.Site, p.Standby.Machine
	}
	site, err := e.Sites.Site(store)
	if err != nil {
		return nil, err
	}
	var points []dr.Point
	listed := map[dr.PointID]bool{}
	for q, err := range site.Points.List(ctx, machine) {
		if err != nil {
			return nil, err
		}
		points = append(points, q)
		listed[q.ID] = true
	}
	// What one that came to no end has deleted is told by nobody else.
	over := func(q dr.PointID) bool { return !listed[q] }
	held := recoverypoint.Held(points, p.Accepted)
	maps.Copy(held, p.Pins)
	gone := recoverypoint.Expired(points, policy, earlier(e.Time(), points), held)
	if len(gone) == 0 && !slices.ContainsFunc(p.Expiring, over) {
		return nil, nil
	}
	_, err = e.Amend(ctx, id, func(p *dr.Protection) error {
		p.Expiring = slices.DeleteFunc(p.Expiring, over)
		gone = slices.DeleteFunc(gone, func(q dr.PointID) bool { _, pinned := p.Pins[q]; return pinned })
		for _, q := range gone {
			if !slices.Contains(p.Expiring, q) {
				p.Expiring = append(p.Expiring, q)
			}
		}
		return nil
	})
	if err != nil || len(gone) == 0 {
		return nil, err
	}
	deleted := 0
	defer func() {
		// If this can't be said the next time says it. Until then they are
		// only not offered.
		_, amendErr := e.Amend(context.WithoutCancel(ctx), id, func(p *dr.Protection) error {
			p.Expiring = slices.DeleteFunc(p.Expiring, func(q dr.PointID) bool { return slices.Contains(gone, q) })
			for _, q := range gone[:deleted] {
				delete(p.Accepted, q)
			}
			return nil
		})
		err = join(err, amendErr)
	}()
	for i, q := range gone {
		if err := site.Points.Delete(ctx, machine, q); err != nil {
			return gone[:i], &dr.Error{Op: "expire", Side: dr.StoreSide, Site: store, Machine: machine, Point: q, Err: err}
		}
		deleted++
	}
	return gone, nil
}

// earlier is now, or the time of the newest recovery point if that was before.
func earlier(now time.Time, points []dr.Point) time.Time {
	for _, q := range slices.Backward(points) {
		if !q.Base && !q.Time.IsZero() {
			if q.Time.Before(now) {
				return q.Time
			}
			break
		}
	}
	return now
}

// PointName derives a point's name from a step's key: the same step always
// captures under the same name.
func PointName(key string) dr.PointID {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '_'
	}, key)
	h := fnv.New64a()
	h.Write([]byte(key)) // two keys may read the same once cleaned
	return dr.PointID(fmt.Sprintf("%.160s-%08x", clean, uint32(h.Sum64())))
}

// CycleName names the point of an ordinary cycle after its time, UTC.
func CycleName(t time.Time) dr.PointID {
	return dr.PointID(t.UTC().Format("20060102T150405.000000000Z"))
}

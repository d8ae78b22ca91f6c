package replication

import (
	"context"
	"errors"
	"time"

	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// KeepOptions are what one cycle of a protection does otherwise than usual.
type KeepOptions struct {
	// Want is the consistency wanted; 0: what the policy wants now.
	Want dr.Consistency
	// Limits bound the copy, beside those of Env.Copy.
	Limits []*rate.Limiter
	// Progress may be nil; see CopyOptions.Progress.
	Progress func(dr.Progress)
}

// Replicate runs one cycle of a protection: it makes a recovery point younger
// than the last. dr.ErrNotAllowed while replication is paused or a flow holds
// it, dr.ErrBusy while a cycle is under way in this process.
func (e *Env) Replicate(ctx context.Context, id dr.ProtectionID, want dr.Consistency, progress func(dr.Progress)) (Report, error) {
	if want == 0 {
		want = dr.CrashConsistent
	}
	return e.ReplicateBy(ctx, id, nil, KeepOptions{Want: want, Progress: progress})
}

// ReplicateBy is Replicate that makes the point which the protection's policy
// wants now: an application-consistent one if that is due. One that was asked
// for in vain is due again after the policy's interval, not at every cycle. A
// record that wants a resync has whole disks compared.
//
// A good cycle ends what the record's Upkeep remembers of bad ones, in the
// write that names the new point. One that failed writes nothing: who repeats
// cycles decides what to remember.
func (e *Env) ReplicateBy(ctx context.Context, id dr.ProtectionID, policies Policies, o KeepOptions) (Report, error) {
	ctx, leave, err := e.enter(ctx, id) // before looking at the record: a flow that sets Run finds the cycle
	if err != nil {
		return Report{}, err
	}
	defer leave()
	p, err := e.Records.Load(ctx, id)
	if err != nil {
		return Report{}, err
	}
	if err := p.Allow(dr.OpReplicate); err != nil {
		return Report{}, err
	}
	if o.Want == 0 {
		if o.Want, err = e.want(ctx, p, policies); err != nil {
			return Report{}, err
		}
	}
	c := CycleOptions{Have: resync(p), Progress: o.Progress, Limits: o.Limits}
	rep, err := e.replicate(ctx, p, "", o.Want, c) // goes on with an interrupted cycle, if there is one
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(cause, err)
		}
		return rep, err
	}
	return rep, e.noteLast(ctx, p, rep.Point, o.Want)
}

// resync is the history of a protection that wants whole disks compared: none;
// nil where nobody wants that.
func resync(p dr.Protection) *History {
	if p.Replication != dr.ResyncRequired {
		return nil
	}
	return &History{}
}

// noteLast records the newest point of a protection that was p when its cycle,
// which asked for want, began.
func (e *Env) noteLast(ctx context.Context, p dr.Protection, last dr.Point, want dr.Consistency) error {
	_, err := e.Amend(ctx, p.ID, func(now *dr.Protection) error {
		// A clock that was set back makes no point older than the one it follows.
		follows := now.Last.ID == p.Last.ID || now.Last.Time.Before(last.Time)
		if now.Active != p.Active || now.Standby.Site != p.Standby.Site || !follows {
			return nil
		}
		now.Last = last
		now.Upkeep = dr.Upkeep{Asked: p.Upkeep.Asked}
		switch {
		case last.Consistency == dr.ApplicationConsistent:
			now.Upkeep.Asked = time.Time{}
		case want == dr.ApplicationConsistent:
			now.Upkeep.Asked = e.Time()
		}
		if p.Replication == dr.ResyncRequired && now.Replication == dr.ResyncRequired {
			now.Replication = dr.ReplicationIdle
		}
		return nil
	})
	return err
}

// want asks the policy what the next point should be.
func (e *Env) want(ctx context.Context, p dr.Protection, policies Policies) (dr.Consistency, error) {
	policy, _, err := policies.Of(p)
	if err != nil {
		return 0, err
	}
	if policy.ApplicationEvery <= 0 {
		return dr.CrashConsistent, nil
	}
	now := e.Time()
	if since := now.Sub(p.Upkeep.Asked); since >= 0 && since < policy.ApplicationEvery {
		return dr.CrashConsistent, nil
	}
	to, err := e.Sites.Site(p.Standby.Site)
	if err != nil {
		return 0, err
	}
	var points []dr.Point
	for q, err := range to.Points.List(ctx, p.Active.Machine) {
		if err != nil {
			return 0, &dr.Error{Op: "list recovery points", Side: dr.StoreSide, Site: p.Standby.Site, Machine: p.Active.Machine, Err: err}
		}
		points = append(points, dr.Point{Time: q.Time, Consistency: q.Consistency, Base: q.Base})
	}
	return policy.Want(points, now), nil
}

// ExpireBy is Expire by the policy that applies to the protection now.
func (e *Env) ExpireBy(ctx context.Context, id dr.ProtectionID, policies Policies) ([]dr.PointID, error) {
	p, err := e.Records.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	var policy recoverypoint.Policy
	if policy, _, err = policies.Of(p); err != nil {
		return nil, err
	}
	return e.Expire(ctx, id, policy)
}

// Kept is what Keep did.
type Kept struct {
	Report
	Expired []dr.PointID // recovery points that retention deleted
}

// Keep runs one cycle of a protection as its policy says, and then retention.
// If only retention failed the error comes together with the new point in
// Report.Point.
func (e *Env) Keep(ctx context.Context, id dr.ProtectionID, policies Policies, o KeepOptions) (Kept, error) {
	rep, err := e.ReplicateBy(ctx, id, policies, o)
	if err != nil {
		return Kept{Report: rep}, err
	}
	gone, err := e.ExpireBy(ctx, id, policies)
	return Kept{rep, gone}, err
}

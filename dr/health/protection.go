package health

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Facts are what is known of one protection. Only Protection and Now are
// needed; what is left out is not judged.
type Facts struct {
	Protection dr.Protection
	Now        time.Time
	// Policy is the replication policy that applies now.
	Policy recoverypoint.Policy
	// Newest is the newest recovery point; zero: Protection.Last.
	Newest dr.Point
	// Points, if given, are the points there are, oldest first, as a store's
	// List yields them: with them missing application-consistent points are
	// found, what pins keep, and what looks like mass encryption.
	Points []dr.Point

	// Cycle is the error that the last replication cycle ended with; nil if
	// it succeeded or is not known.
	Cycle error
	// Failures counts the cycles that have failed in a row, and FailedAt is
	// when the first of them did.
	Failures int
	FailedAt time.Time

	// PausedAt is when replication was paused. If zero, a paused protection
	// is judged by the age of its newest point: it was not paused before that.
	PausedAt time.Time
	// Drilled is when a test failover last succeeded; zero: never. It is
	// judged only if Limits.DrillEvery is set.
	Drilled time.Time

	// More are findings that were made elsewhere, such as of readiness or
	// of scans: they count as the protection's own.
	More []Error

	Limits Limits
}

// Limits say how long something may last. The zero value of a field stands
// for the default, which is named; they are choices of this library.
type Limits struct {
	Paused      time.Duration // before a pause is too long; 0: 1 hour
	Drill       time.Duration // before a drill should be cleaned up; 0: 24 hours
	Uncommitted time.Duration // before a failover should be committed; 0: 24 hours, the shorter of Azure Site Recovery's windows for changing the point
	DrillEvery  time.Duration // how often recovery is to be tested; 0: not judged
	Failures    int           // cycles that fail in a row before that is critical; 0: 3
	// RPO is how many times the policy's RPO the newest point may be old
	// before that is critical; 0: 4, which is an hour of the default policies.
	RPO int
	// Skew is how far clocks may be apart; 0: 5 minutes.
	Skew time.Duration
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (l Limits) filled() Limits {
	const day = 24 * time.Hour
	l.Paused, l.Drill, l.Uncommitted = or(l.Paused, time.Hour), or(l.Drill, day), or(l.Uncommitted, day)
	l.Failures, l.RPO, l.Skew = or(l.Failures, 3), or(l.RPO, 4), or(l.Skew, 5*time.Minute)
	return l
}

// Report is how well a protection is.
type Report struct {
	Entity      Entity              `json:"entity"`
	Level       Level               `json:"level"` // that of the worst error
	Errors      []Error             `json:"errors,omitempty"`
	State       dr.State            `json:"state"`
	Replication dr.ReplicationState `json:"replication,omitempty"`
	Sites       []string            `json:"sites"` // the active one first
	RPO         time.Duration       `json:"rpo"`   // age of the newest point; -1: there is none, or it is of no use now
	Newest      dr.PointID          `json:"newest,omitempty"`
	Time        time.Time           `json:"time"` // of the facts
}

// judge collects the findings of one protection.
type judge struct {
	Facts
	l      Limits
	entity Entity
	found  []Error
}

// Of judges a protection by facts. It is pure: the same facts give the same
// report, with the errors in a fixed order, worst first.
func Of(f Facts) Report {
	p := f.Protection
	if f.Newest.ID == "" {
		f.Newest = p.Last
	}
	j := &judge{Facts: f, l: f.Limits.filled(), entity: Entity{Kind: KindProtection, ID: string(p.ID), Name: p.Name}}
	r := Report{Entity: j.entity, State: p.State, Replication: p.Replication, Sites: []string{p.Active.Site, p.Standby.Site},
		RPO: -1, Newest: f.Newest.ID, Time: f.Now}
	if p.State == dr.Protected && f.Newest.ID != "" {
		r.RPO = recoverypoint.Age(f.Newest, f.Now)
	}
	switch p.State {
	case dr.Protected:
		j.age()
		j.paused()
		j.application()
		j.drilled()
		j.cycle()
	case dr.Synchronizing:
		j.paused()
		j.cycle()
	case dr.FailedOver:
		j.uncommitted()
	case dr.Committed:
		j.add(CodeNotProtected, fmt.Sprintf("the machine runs at %s since its failover was committed, and nothing of it is replicated", p.Active.Site), time.Time{})
	}
	j.resync()
	j.test()
	j.pins()
	j.suspicion()
	r.Errors = append(j.found, f.More...)
	slices.SortStableFunc(r.Errors, func(a, b Error) int { return int(b.Level) - int(a.Level) })
	r.Level = Worst(r.Errors)
	return r
}

// add makes a finding that began at the given time, or that was seen now.
func (j *judge) add(code, message string, began time.Time, also ...string) *Error {
	if began.IsZero() || began.After(j.Now) {
		began = j.Now
	}
	e := condition(code).finding(j.entity, message, began)
	e.ID = ID(code, j.entity, also...)
	j.found = append(j.found, e)
	return &j.found[len(j.found)-1]
}

// age compares the newest point with the RPO, and with the clock.
func (j *judge) age() {
	limit := j.Policy.RPO
	if j.Newest.ID == "" {
		if limit > 0 {
			e := j.add(CodeRPOExceeded, "there is no recovery point at all", time.Time{})
			e.Level, e.PossibleCauses = Critical, j.causes()
		}
		return
	}
	if ahead := j.Newest.Time.Sub(j.Now); ahead > j.l.Skew {
		j.add(CodeClockSkew, fmt.Sprintf("point %s is of %s, %s after now", j.Newest.ID, stamp(j.Newest.Time), round(ahead)), time.Time{})
		return
	}
	age := recoverypoint.Age(j.Newest, j.Now)
	if limit <= 0 || age <= limit {
		return
	}
	e := j.add(CodeRPOExceeded, fmt.Sprintf("point %s is %s old, the objective is %s", j.Newest.ID, round(age), limit), j.Newest.Time.Add(limit))
	if age/time.Duration(j.l.RPO) > limit {
		e.Level = Critical
	}
	e.PossibleCauses = j.causes()
}

// causes says why there may be no younger point, what is known first.
func (j *judge) causes() (why []string) {
	if j.Protection.Replication == dr.ReplicationPaused {
		why = append(why, "replication is paused")
	}
	if j.Protection.Run != "" {
		why = append(why, fmt.Sprintf("run %s holds replication", j.Protection.Run))
	}
	if j.failing() {
		why = append(why, "replication cycles fail")
	}
	if j.Protection.Replication == dr.ResyncRequired {
		why = append(why, "whole disks are compared, which takes longer")
	}
	if len(why) == 0 {
		why = []string{"no process replicates this protection", "the machine writes more than the link carries", "a cycle hangs"}
	}
	return why
}

func (j *judge) paused() {
	if j.Protection.Replication != dr.ReplicationPaused {
		return
	}
	since, what := j.PausedAt, "replication was paused at "
	if since.IsZero() {
		since, what = j.Newest.Time, "replication is paused, and the newest point is of "
	}
	if since.IsZero() || j.Now.Sub(since) <= j.l.Paused {
		return
	}
	j.add(CodePausedLong, what+stamp(since), since.Add(j.l.Paused))
}

func (j *judge) application() {
	every := j.Policy.ApplicationEvery
	if every <= 0 || len(j.Points) == 0 {
		return
	}
	var since time.Time // of the newest one, or of the oldest point
	last := "there is none"
	for _, p := range j.Points {
		if p.Base {
			continue
		}
		if p.Consistency == dr.ApplicationConsistent {
			since, last = p.Time, fmt.Sprintf("the newest is of %s", stamp(p.Time))
		} else if since.IsZero() {
			since = p.Time
		}
	}
	// One that fails is tried again with the next cycle: twice the interval
	// tells trouble from bad luck.
	if since.IsZero() || j.Now.Sub(since) <= 2*every {
		return
	}
	j.add(CodeApplicationLate, fmt.Sprintf("an application-consistent point is wanted every %s; %s", every, last), since.Add(2*every))
}

// failing reports whether cycles fail. One that a flow or a pause keeps from
// beginning has not failed.
func (j *judge) failing() bool {
	held := j.Protection.Run != "" || j.Protection.Replication == dr.ReplicationPaused
	return j.Cycle != nil && !errors.Is(j.Cycle, dr.ErrBusy) && (!held || !errors.Is(j.Cycle, dr.ErrNotAllowed))
}

func (j *judge) cycle() {
	if !j.failing() {
		return
	}
	inner, _ := FromError(j.Cycle, j.entity, or(j.FailedAt, j.Now))
	message := inner.Message
	if j.Failures > 1 {
		message = fmt.Sprintf("%d cycles in a row have failed: %s", j.Failures, message)
	}
	e := j.add(CodeReplicationFailing, clip(message), j.FailedAt)
	e.PossibleCauses, e.RecommendedAction, e.Inner = inner.PossibleCauses, inner.RecommendedAction, []Error{inner}
	if j.Failures >= j.l.Failures || dr.IsPermanent(j.Cycle) {
		e.Level = Critical
	}
}

func (j *judge) resync() {
	s := j.Protection.State
	if j.Protection.Replication == dr.ResyncRequired && (s == dr.Protected || s == dr.Synchronizing) {
		j.add(CodeResyncRequired, "the next cycle compares whole disks", time.Time{})
	}
}

func (j *judge) drilled() {
	switch every := j.l.DrillEvery; {
	case every <= 0:
	case j.Drilled.IsZero():
		j.add(CodeNeverDrilled, fmt.Sprintf("a test failover is wanted every %s, and there was none", every), time.Time{})
	case j.Now.Sub(j.Drilled) > every:
		j.add(CodeDrillOverdue, fmt.Sprintf("a test failover is wanted every %s, and the last was at %s", every, stamp(j.Drilled)), j.Drilled.Add(every))
	}
}

func (j *judge) test() {
	t := j.Protection.Test
	switch {
	case t == nil:
	case t.State == dr.TestFailed:
		j.add(CodeDrillCleanUpFailed, fmt.Sprintf("of test failover %s at %s something is left", t.Run, t.Place.Site), time.Time{}, string(t.Run))
	case !t.Started.IsZero() && j.Now.Sub(t.Started) > j.l.Drill:
		j.add(CodeDrillNotCleanedUp, fmt.Sprintf("test failover %s at %s began at %s and is %s", t.Run, t.Place.Site, stamp(t.Started), t.State), t.Started.Add(j.l.Drill), string(t.Run))
	}
}

func (j *judge) uncommitted() {
	f := j.Protection.Failover
	if f == nil || f.At.IsZero() || j.Now.Sub(f.At) <= j.l.Uncommitted {
		return
	}
	j.add(CodeFailoverNotCommitted, fmt.Sprintf("the machine runs at %s since %s by %s %s", j.Protection.Active.Site, stamp(f.At), f.Kind, f.Run), f.At.Add(j.l.Uncommitted), string(f.Run))
}

// pins finds points that retention would take, by holder: a holder that
// hangs on to many is one finding.
func (j *judge) pins() {
	keep := j.Policy.Keep
	if keep <= 0 {
		return
	}
	type held struct {
		n      int
		oldest dr.Point
	}
	by := map[string]held{}
	for _, p := range j.Points {
		who, pinned := j.Protection.Pins[p.ID]
		if !pinned || p.Time.IsZero() || j.Now.Sub(p.Time) <= keep {
			continue
		}
		h := by[who]
		if h.n++; h.n == 1 || p.Time.Before(h.oldest.Time) {
			h.oldest = p
		}
		by[who] = h
	}
	for _, who := range slices.Sorted(maps.Keys(by)) {
		h := by[who]
		j.add(CodePinned, fmt.Sprintf("%s keeps %d points beyond %s, the oldest %s of %s", who, h.n, keep, h.oldest.ID, stamp(h.oldest.Time)),
			h.oldest.Time.Add(keep), who)
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// round leaves what a person reads.
func round(d time.Duration) time.Duration { return d.Round(time.Second) }

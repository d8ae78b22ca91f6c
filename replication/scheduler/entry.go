package scheduler

import (
	"hash/fnv"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// view is what the scheduler keeps of a record.
type view struct {
	id       dr.ProtectionID
	name     string
	machine  dr.MachineID
	from, to string
	host     string
	period   time.Duration
	rpo      time.Duration
	expected bool      // the state wants points
	why      string    // no cycle may begin: why; "" if it may
	last     time.Time // the moment of the newest point
	upkeep   dr.Upkeep
}

func (s *Scheduler) view(p dr.Protection) view {
	v := view{id: p.ID, name: p.Name, machine: p.Active.Machine, from: p.Active.Site, to: p.Standby.Site, last: p.Last.Time, upkeep: p.Upkeep}
	if v.upkeep.Until.Sub(s.env.Time()) > s.o.Backoff.most() {
		v.upkeep.Until = time.Time{} // by a clock that was ahead: at once
	}
	v.expected = p.State == dr.Protected || p.State == dr.Synchronizing
	if s.o.Host != nil {
		v.host = s.o.Host(p)
	}
	policy, every, err := s.o.Policies.Of(p)
	v.period, v.rpo = every, policy.RPO
	switch {
	case err != nil:
		v.why, v.period = err.Error(), time.Minute
	case !v.expected:
		v.why = "state is " + string(p.State)
	case p.Replication == dr.ReplicationPaused:
		v.why = "replication is paused"
	case p.Run != "":
		v.why = "run " + string(p.Run) + " holds replication"
	}
	return v
}

// entry is one protection as the scheduler sees it. The scheduler's lock
// guards it.
type entry struct {
	view
	seen    time.Time // since when the scheduler knows it
	touched time.Time // when it was last changed by a cycle's end
	begun   time.Time // when its last cycle began, in this process
	took    time.Duration
	soon    bool      // asked for: begins without waiting for its phase
	held    time.Time // a cycle was refused: not before
	due     time.Time // when the next cycle should begin
	run     *run      // nil: none under way
	gone    bool      // there is no record any more
	hits    Totals
	late    bool
	owes    bool      // retention failed after the last cycle
	key     time.Time // orders those that are ready
	lane    *lane

	waitAt, readyAt, lateAt int
}

func newEntry(v view, now time.Time) *entry {
	return &entry{view: v, seen: now, waitAt: -1, readyAt: -1, lateAt: -1}
}

// spread returns a number from 0 to 1 that follows from the ID.
func spread(id dr.ProtectionID, salt uint64) float64 {
	h := fnv.New64a()
	h.Write([]byte(id))
	x := h.Sum64() + salt*0x9e3779b97f4a7c15
	x ^= x >> 33 // FNV's upper bits hardly differ in names that differ at their end
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}

// slot returns the first moment after t that is the protection's in an
// interval. It counts from the Unix epoch, and so is the same in every process.
func slot(id dr.ProtectionID, period time.Duration, t time.Time) time.Time {
	phase := time.Duration(spread(id, 0) * float64(period))
	into := (time.Duration(t.UnixNano()) - phase) % period
	if into < 0 {
		into += period
	}
	return t.Add(period - into)
}

// base is when the last cycle began as far as is known. A clock that was set
// back must not make a machine wait for the future.
func (e *entry) base(now time.Time) time.Time {
	t := e.begun
	if t.IsZero() {
		t = e.last
	}
	if t.After(now) {
		t = now
	}
	return t
}

// begins returns when the next cycle may begin.
func (e *entry) begins(now time.Time, ramp time.Duration) time.Time {
	var due time.Time
	switch base := e.base(now); {
	case e.soon:
		return now
	case e.upkeep.Failures > 0:
		due = e.upkeep.Until
	case base.IsZero():
		due = e.seen
	default:
		due = slot(e.id, e.period, base)
	}
	if e.begun.IsZero() && !due.After(e.seen) {
		due = e.seen.Add(time.Duration(spread(e.id, 1) * float64(ramp)))
	}
	if due.Before(e.held) {
		return e.held
	}
	return due
}

// heavy cycles get half of the places at most: those that are expected to fail
// or to outlast their interval.
func (e *entry) heavy() bool {
	return e.upkeep.Failures > 0 || e.last.IsZero() || e.took > e.period
}

// urgent is the moment from which a ready entry's urgency is counted: that of
// its newest point. A failing one counts from its next try only, or it would
// always be the most urgent.
func (e *entry) urgent() time.Time {
	switch {
	case e.upkeep.Failures > 0 && !e.soon:
		return e.upkeep.Until.Add(-e.period)
	case e.last.IsZero():
		return e.seen.Add(-e.period)
	}
	return e.last
}

// lateFrom is when the newest point becomes too old.
func (e *entry) lateFrom() time.Time {
	if e.last.IsZero() {
		return e.seen.Add(e.rpo)
	}
	return e.last.Add(e.rpo)
}

// age is the RPO now. Without any point it counts from when the machine was
// first seen.
func (e *entry) age(now time.Time) time.Duration {
	t := e.last
	if t.IsZero() {
		t = e.seen
	}
	return max(0, now.Sub(t))
}

// lateFor is how long the present point has been too old, as far as this
// process has seen it.
func (e *entry) lateFor(now time.Time) time.Duration {
	if !e.expected || e.rpo <= 0 {
		return 0
	}
	from := e.lateFrom()
	if from.Before(e.seen) {
		from = e.seen
	}
	return max(0, now.Sub(from))
}

// pointed takes a new point into account.
func (e *entry) pointed(t, now time.Time) {
	e.hits.WorstRPO = max(e.hits.WorstRPO, e.age(now))
	e.hits.Late += e.lateFor(now)
	e.last = t
}

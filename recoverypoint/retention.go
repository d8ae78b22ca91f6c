package recoverypoint

import (
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Policy says how long points are kept and how young they should be. The zero
// value keeps everything and demands nothing.
type Policy struct {
	// Keep is how far back one can go; older points expire. 0: for ever.
	Keep time.Duration `json:"keep,omitempty"`
	// Dense is how far back every point is kept. Older ones are thinned to
	// one in Every. 0 together with an Every thins at once.
	Dense time.Duration `json:"dense,omitempty"`
	// Every is the interval of thinned points, counted from the Unix epoch
	// and so the same at every call; whole seconds. 0: no thinning.
	Every time.Duration `json:"every,omitempty"`
	// KeepApplicationConsistent keeps the newest application-consistent
	// point, however old it is.
	KeepApplicationConsistent bool `json:"keepApplicationConsistent,omitempty"`

	// ApplicationEvery is how often an application-consistent point is
	// wanted; the others need be crash-consistent only. 0: never.
	ApplicationEvery time.Duration `json:"applicationEvery,omitempty"`
	// RPO is the age of the newest point above which replication is late.
	// 0: never.
	RPO time.Duration `json:"rpo,omitempty"`
}

// The defaults are those of Azure Site Recovery. The windows of 72 and 24
// hours, and the failback policy whole, stand in the article "About
// on-premises disaster recovery failover/failback"; the 15 minutes of the
// failback policy serve the other two as well, of which it gives none.
const (
	applicationEvery = 60 * time.Minute
	rpoThreshold     = 15 * time.Minute
)

// VMwarePolicy is the default for VMware and physical machines: 72 hours.
func VMwarePolicy() Policy {
	return Policy{Keep: 72 * time.Hour, ApplicationEvery: applicationEvery, RPO: rpoThreshold}
}

// HyperVPolicy is the default for Hyper-V machines: 24 hours.
func HyperVPolicy() Policy {
	return Policy{Keep: 24 * time.Hour, ApplicationEvery: applicationEvery, RPO: rpoThreshold}
}

// FailbackPolicy is that of the way home: 24 hours. Theirs can't be edited;
// ours is a value like any other.
func FailbackPolicy() Policy {
	return Policy{Keep: 24 * time.Hour, ApplicationEvery: applicationEvery, RPO: rpoThreshold}
}

// Validate refuses negative durations, intervals of part seconds, and thinning that would begin only
// where points have expired already.
func (p Policy) Validate() error {
	switch {
	case p.Keep < 0, p.Dense < 0, p.Every < 0, p.ApplicationEvery < 0, p.RPO < 0:
		return fmt.Errorf("%w: retention policy with a negative duration", dr.ErrInvalid)
	case p.Every%time.Second != 0:
		return fmt.Errorf("%w: retention policy: interval %v is not of whole seconds", dr.ErrInvalid, p.Every)
	case p.Dense > 0 && p.Every == 0:
		return fmt.Errorf("%w: retention policy: dense for %v, and no interval for what is older", dr.ErrInvalid, p.Dense)
	case p.Keep > 0 && p.Every > 0 && p.Dense >= p.Keep:
		return fmt.Errorf("%w: retention policy: dense for %v, but nothing is kept longer than %v", dr.ErrInvalid, p.Dense, p.Keep)
	}
	return nil
}

// Late reports whether the newest recovery point is older than the policy's
// RPO, or there is none.
func (p Policy) Late(points []dr.Point, now time.Time) bool {
	if p.RPO <= 0 {
		return false
	}
	i := last(points, func(q dr.Point) bool { return !q.Base })
	return i < 0 || Age(points[i], now) > p.RPO
}

// Want says what consistency the next point should have: application if the
// last such point is ApplicationEvery old, or there is none; else crash.
func (p Policy) Want(points []dr.Point, now time.Time) dr.Consistency {
	if p.ApplicationEvery <= 0 {
		return dr.CrashConsistent
	}
	i := last(points, isApplication)
	if i >= 0 && Age(points[i], now) < p.ApplicationEvery {
		return dr.CrashConsistent
	}
	return dr.ApplicationConsistent
}

// Expired returns the points that retention may delete now, oldest first;
// points are one machine's, as a store's List yields them. Deleting all or
// some of them, and asking again, comes to the same end.
//
// Never among them are: points in pinned (a dr.Protection's Pins); the newest
// recovery point; the newest point of all, also if it is a base, because the
// next is written over it; points of the future or of no time at all, about
// whose age nothing is known; with KeepApplicationConsistent the newest of
// that kind. Nor any if the policy is not valid.
//
// Of thinned points the first application-consistent one of each interval
// stays, if there is none the first that bears a group's mark, else the first
// of all: so points of a group's common moment are thinned alike, and stay
// common. Their interval is that of the mark's Time, if it has one.
func Expired(points []dr.Point, p Policy, now time.Time, pinned map[dr.PointID]string) []dr.PointID {
	if p.Validate() != nil {
		return nil
	}
	keep := map[int]bool{len(points) - 1: true, last(points, func(q dr.Point) bool { return !q.Base }): true}
	if p.KeepApplicationConsistent {
		keep[last(points, isApplication)] = true
	}
	stays := p.thinned(points, now, pinned)
	var gone []dr.PointID
	for i, q := range points {
		if _, pin := pinned[q.ID]; pin || keep[i] || q.Time.IsZero() || q.Time.After(now) {
			continue
		}
		old := p.Keep > 0 && now.Sub(q.Time) > p.Keep
		if old || p.thins(q, now) && stays[p.interval(q)] != i {
			gone = append(gone, q.ID)
		}
	}
	return gone
}

// thinned returns for each interval the index of the point that stays. Pins
// don't count: they end, and the interval would be left with nothing.
func (p Policy) thinned(points []dr.Point, now time.Time, pinned map[dr.PointID]string) map[int64]int {
	stays := map[int64]int{}
	for i, q := range points {
		if _, pin := pinned[q.ID]; pin || !p.thins(q, now) {
			continue
		}
		n := p.interval(q)
		if j, ok := stays[n]; !ok || worth(q) > worth(points[j]) {
			stays[n] = i
		}
	}
	return stays
}

// thins reports whether the point is in the part of the window that is
// thinned. Bases are not: they serve as parents, and age out.
func (p Policy) thins(q dr.Point, now time.Time) bool {
	age := now.Sub(q.Time)
	return p.Every > 0 && !q.Base && !q.Time.IsZero() && age > p.Dense && age >= 0 && (p.Keep == 0 || age <= p.Keep)
}

func (p Policy) interval(q dr.Point) int64 {
	// Seconds and the rest apart: a time in nanoseconds overflows in 2262,
	// and before 1678.
	every := int64(p.Every / time.Second)
	t := q.Time
	if !q.Group.IsZero() && !q.Group.Time.IsZero() {
		t = q.Group.Time
	}
	s := t.Unix()
	if s < 0 {
		s -= every - 1
	}
	return s / every
}

// worth ranks points that compete for one interval.
func worth(q dr.Point) int {
	w := 0
	if isApplication(q) {
		w += 2
	}
	if !q.Group.IsZero() {
		w++
	}
	return w
}

func isApplication(q dr.Point) bool { return !q.Base && q.Consistency == dr.ApplicationConsistent }

// last returns the index of the newest point that fits, or -1.
func last(points []dr.Point, fits func(dr.Point) bool) int {
	for i, q := range slices.Backward(points) {
		if fits(q) {
			return i
		}
	}
	return -1
}

package fleet

import "time"

// EventKind says what happened.
type EventKind string

// Kinds of events. Each Taken is followed by one of Given and Lost of the same
// shard and epoch.
const (
	Joined EventKind = "joined" // the worker is known to the others
	Left   EventKind = "left"   // and no more
	Taken  EventKind = "shard-taken"
	Giving EventKind = "shard-giving" // no cycle begins any more; Why
	Given  EventKind = "shard-given"  // nothing is under way any more; Err names what doesn't stop
	// Lost: the shard is not held any more, and what was under way was stopped;
	// Err says why. dr.ErrFenced: somebody else has it, or may have.
	Lost EventKind = "shard-lost"
	// Cut: the leases can't be reached, Err; it is told once. What is held is
	// kept until its time is over.
	Cut       EventKind = "leases-cut-off"
	Reachable EventKind = "leases-reachable" // again
	// Outdated: the fleet has a newer layout; the worker gives all back and takes
	// nothing until it is started anew.
	Outdated EventKind = "layout-outdated"
)

// Event is something that happened to a worker. Fields that don't apply are
// empty.
type Event struct {
	Kind  EventKind
	Time  time.Time
	Shard Shard
	Epoch uint64
	Why   string
	Err   error
}

package scheduler

import (
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// EventKind says what happened.
type EventKind string

// Kinds of events. Every Started is followed by one of Ended, Failed and
// Stopped of the same protection.
const (
	Started EventKind = "cycle-started"
	Ended   EventKind = "cycle-ended"  // a new point: Report
	Failed  EventKind = "cycle-failed" // Err, Failures, Until
	// Stopped: the cycle was stopped or refused through no fault of its own,
	// because a flow holds the machine, or it, its site or the scheduler stops.
	Stopped EventKind = "cycle-stopped"
	// Hung: a cycle was silent for too long and is being stopped.
	Hung EventKind = "cycle-hung"
	// Late: the newest point has become older than the policy's RPO.
	Late      EventKind = "rpo-late"
	Recovered EventKind = "rpo-recovered"
	Expired   EventKind = "points-expired" // Points, or Err
	Pruned    EventKind = "store-pruned"   // Site and Bytes, or Err
	// Listing: the records could not be listed, Err; those known are kept on.
	Listing EventKind = "listing-failed"
)

// Event is something that happened. Fields that don't apply are empty.
type Event struct {
	Kind       EventKind
	Time       time.Time
	Protection dr.ProtectionID
	Machine    dr.MachineID
	From, To   string // sites of the protection's direction
	Site       string // Pruned: whose store
	// RPO is the newest point's age at Time; of an Ended that of the point
	// before it, the worst that the cycle has ended.
	RPO time.Duration
	// Waited is how long after it was due the cycle began.
	Waited   time.Duration
	Took     time.Duration
	Report   replication.Report
	Err      error
	Failures int       // in a row
	Until    time.Time // when a failing machine is tried again
	Points   []dr.PointID
	Bytes    int64
}

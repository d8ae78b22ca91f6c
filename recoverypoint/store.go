package recoverypoint

import (
	"context"
	"iter"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// PointStore keeps points of many machines. All methods are safe for
// concurrent use.
//
// Abilities that stores may have: [Processor], [Pender], [Pruner], [Scrubber].
// Images opened from a store are dr.ChangeTracker and dr.Summer; the tracker
// answers for every point of the same machine that is in the store. Drafts
// are dr.Summer, dr.Zeroer and dr.Resumer.
type PointStore interface {
	// Create begins a new point. p's ID, Machine, Parent, Group and Base are
	// final; Time, Consistency, Cursors and Changes come with the draft's
	// Commit. The draft starts as the content of p.Parent, a point of the same machine
	// in this store (ErrNotFound), or as zeros if that is "". Disks may be
	// added, removed, grown or shrunk from one point to the next: what is
	// new reads as zeros.
	//
	// If an earlier draft of the same ID was interrupted, and was of the
	// same moment (equal parent, disks, time and cursors), the draft goes on
	// where it was: dr.Resumer tells what is there. If it was of another
	// moment it is thrown away. A point of that ID that is committed is
	// ErrExists, unless it is equal: then a draft is returned whose Commit is
	// a no-op, and which is Durable all over.
	//
	// One draft a machine at a time: a second is ErrBusy.
	Create(ctx context.Context, p dr.Point) (dr.Draft, error)

	// Open opens a point of a machine for reading. It stays readable until
	// closed, also if the point is deleted meanwhile.
	Open(ctx context.Context, m dr.MachineID, id dr.PointID) (dr.Image, error)

	// List yields the machine's processed points, in the order in which
	// they were committed, oldest first. A machine without points yields
	// nothing.
	List(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error]

	// Delete removes a point. Other points are not affected, also those
	// that have it as their parent. One that is not there is no error. A
	// draft of that ID that was interrupted is thrown away; while it is open
	// that is ErrBusy. Space may come back only later.
	Delete(ctx context.Context, m dr.MachineID, id dr.PointID) error
}

// Processor is an ability of stores that receive data first and make points
// of it later. "Latest" means Process and then the newest; "latest processed"
// means the newest. A replication cycle ends with Process, so that the two differ
// by what came last, or by what a process that died has left. A store without it
// processes on Commit.
type Processor interface {
	Process(ctx context.Context, m dr.MachineID) error
}

// Pender is an ability of stores: drafts that were interrupted.
type Pender interface {
	// Pending yields the points of drafts of the machine that are begun and
	// not committed, as given to Create.
	Pending(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error]
}

// Pruner is an ability of stores: to give back the space of deleted points.
type Pruner interface {
	// Prune may be killed anywhere and started again, and never takes what
	// a reader has open. It returns the bytes given back.
	Prune(ctx context.Context) (int64, error)
}

// Scrubber is an ability of stores: to read everything and check it.
type Scrubber interface {
	// Scrub yields each damage found; none means that every point of every
	// machine can be restored. An error ends it: the check is incomplete.
	Scrub(ctx context.Context) iter.Seq2[Damage, error]
}

// Damage is stored data that is not what was written.
type Damage struct {
	Object  string       `json:"object"` // the store's name of the damaged thing
	Machine dr.MachineID `json:"machine,omitempty"`
	Points  []dr.PointID `json:"points,omitempty"` // every point that needs it
	Disk    dr.DiskID    `json:"disk,omitempty"`
	Extent  dr.Extent    `json:"extent,omitzero"` // of the disk; Len 0: unknown
	Err     error        `json:"-"`
}

// Newest returns the last point of m that is a recovery point, or ErrNoPoint.
func Newest(ctx context.Context, s PointStore, m dr.MachineID) (dr.Point, error) {
	var last dr.Point
	for p, err := range s.List(ctx, m) {
		if err != nil {
			return dr.Point{}, err
		}
		if !p.Base {
			last = p
		}
	}
	if last.ID == "" {
		return dr.Point{}, &dr.Error{Op: "newest point", Side: dr.StoreSide, Machine: m, Err: dr.ErrNoPoint}
	}
	return last, nil
}

// Age returns how old the point is at now, never less than zero.
func Age(p dr.Point, now time.Time) time.Duration { return max(0, now.Sub(p.Time)) }

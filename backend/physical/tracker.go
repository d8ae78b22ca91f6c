package physical

import (
	"context"
	"iter"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Tracker knows what machines write to their disks. It divides a machine's
// time by marks and keeps, for each mark that is still wanted, what was
// written since. Asking takes nothing away: a cycle that fails after its mark
// was set loses nothing, because the older marks still answer.
//
// All methods are safe for concurrent use, also with the writes they track.
type Tracker interface {
	// Cut sets a mark. Every write that is seen by a read of the disk only
	// after Cut was called belongs to the time since the mark: so a tracker
	// notes a write before it can reach the disk and again when it has
	// completed, as one that is under way at the mark must be in both times.
	//
	// A mark is never given twice, not for another machine, and not by a
	// tracker that was restarted: then old marks answer dr.ErrChangesLost,
	// unless the tracker can prove that it missed nothing.
	Cut(ctx context.Context, m dr.MachineID) (dr.Cursor, error)

	// Mark notes that [off, off+n) of a disk is being written by other ways
	// than those the tracker watches: a draft calls it before each write and
	// again after it. What was noted lasts as long as the marks do.
	Mark(m dr.MachineID, d dr.DiskID, off, n int64)

	// Since yields extents that cover everything written to the disk since
	// the mark, up to now, ascending and without overlap. It may say too
	// much, never too little. If that can't be told for sure (an unknown
	// mark, a lost event, a restart) it yields dr.ErrChangesLost first and
	// nothing else.
	Since(ctx context.Context, m dr.MachineID, d dr.DiskID, mark dr.Cursor) iter.Seq2[dr.Extent, error]

	// Keep says which of the machine's marks are wanted; all others are lost
	// and the room they took is free.
	Keep(ctx context.Context, m dr.MachineID, marks []dr.Cursor) error
}

// Diagnoser is an ability of Trackers that can't track everything: Preflight
// asks it.
type Diagnoser interface {
	// Problems are what of the machine's disks isn't tracked, why, and what to
	// do. None is a Blocker: such disks are compared.
	Problems(m dr.MachineID) []backend.Problem
}

package replication

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// History is what is known of a draft's present content. It carries both
// sides' histories, so that only what can differ is copied; where something
// is not known the copy does more, never less.
//
// The zero History knows nothing: blocks are compared by their sums where
// both sides are dr.Summer, else everything is copied.
type History struct {
	// Blank says that the draft reads as zeros.
	Blank bool
	// Common is a point from which both the image and the draft descend.
	Common dr.Point
	// Theirs tells by dr.ChangeTracker what changed on the draft's side
	// since Common; nil says that nothing did: the draft is Common exactly.
	Theirs dr.Image
}

// CopyOptions are the knobs of a Copy. The zero value copies everything.
type CopyOptions struct {
	Have History
	// Readers bounds the requests in flight over all disks; 0: 8.
	Readers int
	// Chunk is the largest request in bytes; 0: 1 MiB.
	Chunk int
	// Limit, if set, bounds the bytes a second that travel.
	Limit *rate.Limiter
	// Progress, if set, is called often, by one goroutine at a time. It must
	// not block.
	Progress func(dr.Progress)
	// Full copies every byte without comparing sums, for when most of it is
	// known to have changed. Changes and Theirs are not asked.
	Full bool
}

// Report is what a Copy did.
type Report struct {
	Point   dr.Point      `json:"point"`   // as committed
	Adopted bool          `json:"adopted"` // the platform took the image by itself; nothing travelled
	Passes  int           `json:"passes"`
	Changed int64         `json:"changed"`        // bytes that could differ
	Read    int64         `json:"read"`           // bytes read from the image
	Written int64         `json:"written"`        // bytes that travelled and were written, zeros not counted
	Zeroed  int64         `json:"zeroed"`         // bytes made zero without travelling
	Equal   int64         `json:"equal"`          // bytes found equal by their sums
	Resumed int64         `json:"resumed"`        // bytes already there from an interrupted copy
	Full    []dr.DiskID   `json:"full,omitempty"` // disks whose changes were not known
	Took    time.Duration `json:"took"`
}

// Replicator runs one cycle: capture, copy, commit.
type Replicator interface {
	Replicate(ctx context.Context, id dr.MachineID, want dr.Consistency) (dr.Point, error)
}

package transfer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// A record that is being moved is held by one of these runs, which don't exist:
// moving while what goes on with it is stopped and may still be saved, moved
// once it is frozen. What follows is the name of the new place.
const (
	movingMark = "moving:"
	movedMark  = "moved:"
)

// Moved tells whether the record is one that was left behind, and where it has
// gone. It counts there even if the import has not happened yet.
func Moved(p dr.Protection) (to string, ok bool) { return strings.CutPrefix(string(p.Run), movedMark) }

// Old are the records of a place that they leave. They implement dr.Records and
// dr.RecordLister: Save refuses what has moved with dr.ErrNotAllowed, which says
// where it is, and it isn't listed any more. Make it with [Leaving].
type Old struct{ r dr.Records }

// Leaving returns the records of r as they must be used, by every process that
// saves them, from before they begin to leave. r must be a dr.RecordLister.
func Leaving(r dr.Records) *Old { return &Old{r} }

// Unwrap returns the records themselves, for their abilities.
func (o *Old) Unwrap() any { return o.r }

// Load returns the record; one that has moved with its mark in Run, and as it
// was then.
func (o *Old) Load(ctx context.Context, id dr.ProtectionID) (dr.Protection, error) {
	return o.r.Load(ctx, id)
}

// Save implements dr.Records.
func (o *Old) Save(ctx context.Context, p dr.Protection) (dr.Protection, error) {
	// Comparing with the stored version, the save finds out about a mark that is
	// set after this look; and no mark is ever taken away by a save.
	if p.Version > 0 {
		now, err := o.r.Load(ctx, p.ID)
		if errors.Is(err, dr.ErrNotFound) {
			return o.r.Save(ctx, p)
		}
		if err != nil {
			return dr.Protection{}, err
		}
		if to, ok := Moved(now); ok {
			return dr.Protection{}, fmt.Errorf("protection %s: %w: its record has moved to %s", p.ID, dr.ErrNotAllowed, to)
		}
		if strings.HasPrefix(string(now.Run), movingMark) && p.Version == now.Version && p.Run != now.Run {
			return dr.Protection{}, fmt.Errorf("protection %s: %w: its record is %s", p.ID, dr.ErrBusy, now.Run)
		}
	}
	return o.r.Save(ctx, p)
}

// Protections implements dr.RecordLister.
func (o *Old) Protections(ctx context.Context) iter.Seq2[dr.Protection, error] {
	return func(yield func(dr.Protection, error) bool) {
		l, ok := dr.As[dr.RecordLister](o.r)
		if !ok {
			yield(dr.Protection{}, fmt.Errorf("%w: %T can't list its records", dr.ErrUnsupported, o.r))
			return
		}
		for p, err := range l.Protections(ctx) {
			if _, gone := Moved(p); gone && err == nil {
				continue
			}
			if !yield(p, err) {
				return
			}
		}
	}
}

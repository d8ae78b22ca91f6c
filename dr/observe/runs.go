package observe

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// kinds of the states that a run comes to.
var kinds = map[dr.RunState]Kind{
	dr.RunRunning: RunRunning, dr.RunWaiting: RunWaiting, dr.RunUndoing: RunUndoing, dr.RunStuck: RunStuck,
	dr.RunDone: RunDone, dr.RunFailed: RunFailed, dr.RunCancelled: RunCancelled,
}

// Runs looks at all runs every so often (0: 5 seconds) until ctx ends, and
// tells when one has come to another state: above all, that one is stuck or
// waits, of which no call tells. Runs that had ended before the first look are
// passed over; those that wait or are stuck then are told of again, because
// nobody knows whether they were before. Ways that a run took between two looks
// are not seen.
//
// It returns ctx's error, ErrUnsupported if o is no dr.RunLister, or the error
// with which a listing failed; call it again then.
//
// A look costs a listing of the journal: purge runs that ended long ago.
func Runs(ctx context.Context, o dr.Orchestrator, every time.Duration, see Observer) error {
	l, ok := dr.As[dr.RunLister](o)
	if !ok {
		return fmt.Errorf("runs of an orchestrator that can't list them: %w", dr.ErrUnsupported)
	}
	if every <= 0 {
		every = 5 * time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var before map[dr.RunID]dr.RunState
	for {
		now := make(map[dr.RunID]dr.RunState, len(before))
		for s, err := range l.Runs(ctx) {
			if err != nil {
				return err
			}
			now[s.Run] = s.State
			was, known := before[s.Run]
			switch {
			case known && was == s.State:
			case before == nil && (s.State.Ended() || s.State == dr.RunRunning):
			case !known && s.State == dr.RunRunning: // its start was told
			default:
				see(ctx, changed(s))
			}
		}
		before = now // what was purged is forgotten
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func changed(s dr.Status) Event {
	e := Event{At: time.Now(), Kind: kinds[s.State], Run: s.Run, Flow: s.Flow, Protection: only(slices.Values(s.Locks)), Text: s.Reason}
	if s.State.Ended() && !s.Started.IsZero() {
		e.At, e.Took = s.Ended, s.Ended.Sub(s.Started)
	}
	e.Err = s.Err()
	return e
}

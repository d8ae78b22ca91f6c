package fleet

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// Options are the knobs of a Worker.
type Options struct {
	// Leases are where the fleet's workers meet. Required.
	Leases Leases
	Layout Layout
	// Name is the worker's, for people: its host's, say.
	Name string
	// Weight is its share of the shards in proportion to others'; 0: 1.
	Weight int
	// Sites are those that it reaches; none: all. It keeps shards of areas whose
	// sites it reaches all.
	Sites []string
	// TTL is how long what the worker holds stays its own if it is not heard of,
	// and so about how long a dead worker's machines wait; 0: 30 seconds. Whole
	// milliseconds.
	TTL time.Duration
	// Margin is how long before the lease's end the worker stops what it does;
	// 0: a sixth of TTL. Calls that have begun must end within it, and by as much
	// clocks may differ in their speed.
	Margin time.Duration
	// Beat is how often it renews; 0: a sixth of TTL.
	Beat time.Duration
	// Finish is how long the cycles of a shard that goes to another, or is given
	// back by Drain, may go on; 0: a minute.
	Finish time.Duration
	// Moves is how many shards at a time are given to workers that have fewer;
	// 0: 4.
	Moves int
	// Scheduler are the options of the scheduler that runs the cycles; see
	// NewKeeper. Its retention is refused with dr.ErrNotAllowed while the worker's
	// clock is more than five minutes ahead of the leases'.
	Scheduler scheduler.Options
	// Observe, if set, is told what happens to the worker, by several goroutines
	// but one at a time. It must not block.
	Observe func(Event)
}

func (o Options) filled() Options {
	o.TTL = cmp.Or(o.TTL, 30*time.Second)
	o.Margin = cmp.Or(o.Margin, o.TTL/6)
	o.Beat = cmp.Or(o.Beat, o.TTL/6)
	o.Finish = cmp.Or(o.Finish, time.Minute)
	o.Moves = cmp.Or(o.Moves, 4)
	o.Weight = cmp.Or(o.Weight, 1)
	return o
}

func (o Options) validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: fleet: "+format, append([]any{dr.ErrInvalid}, args...)...)
	}
	f := o.filled()
	switch {
	case o.Leases == nil:
		return bad("there are no leases")
	case f.TTL < 0 || f.Margin < 0 || f.Beat < 0 || f.Finish < 0 || f.Moves < 0 || f.Weight < 0:
		return bad("options below 0")
	case f.TTL%time.Millisecond != 0:
		return bad("a TTL of part milliseconds: %v", f.TTL)
	case f.Margin+2*f.Beat > f.TTL:
		return bad("TTL %v leaves no time for a beat of %v to fail once: with a margin of %v want %v at least", f.TTL, f.Beat, f.Margin, f.Margin+2*f.Beat)
	}
	return nil
}

// lifeID names one life of a worker.
func lifeID(name string) string { return cmp.Or(name, "worker") + "-" + rand.Text()[:10] }

package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// Keeper keeps the machines of those shards that it is told to, by one scheduler
// for all of them: so its limits hold for the process, and the records are listed
// once. It asks nobody whether it may: a [Worker] tells it by leases, an engine
// whose own units of work are exclusive may do so instead. Its methods are safe
// for concurrent use.
type Keeper struct {
	env    *replication.Env
	layout Layout
	sched  *scheduler.Scheduler
	ask    func() // has who gives holds say soon which are; nil: it does by itself

	parts atomic.Pointer[[]part]
	ahead atomic.Int64 // of the leases' clock is this one, in nanoseconds; 0: not known

	mu     sync.Mutex
	holds  map[Shard]*Hold
	shards map[dr.ProtectionID]Shard // of those whose shard is held
}

// part is how much of an area is held here.
type part struct {
	Area
	held int
}

// NewKeeper returns one that keeps nothing yet. env.Records must be listable, and
// either refuse what is fenced ([Fencer]) or be guarded ([Guard]):
// dr.ErrUnsupported. Of the scheduler's options Only, Within, Pruning and
// Share must not be set (dr.ErrInvalid); its limits of sites, hosts and bandwidth
// are the fleet's: a keeper uses as much of them as it holds of the shards. Ramp is
// 2 seconds if it is 0: a takeover makes a few machines overdue, not all.
func NewKeeper(env *replication.Env, l Layout, o scheduler.Options) (*Keeper, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	if !guards(env.Records) {
		return nil, fmt.Errorf("fleet: %w: the records take what a worker saves that stood still: wrap them by Guard", dr.ErrUnsupported)
	}
	if o.Only != nil || o.Within != nil || o.Pruning != nil || o.Share != nil {
		return nil, fmt.Errorf("fleet: %w: the scheduler's Only, Within, Pruning and Share are the fleet's", dr.ErrInvalid)
	}
	k := &Keeper{env: env, layout: l, holds: map[Shard]*Hold{}, shards: map[dr.ProtectionID]Shard{}}
	if o.Ramp == 0 {
		o.Ramp = 2 * time.Second
	}
	cycle, policies := o.Replicate, o.Policies
	if cycle == nil {
		cycle = func(ctx context.Context, id dr.ProtectionID, ko replication.KeepOptions) (replication.Report, error) {
			return env.KeepGroup(ctx, id, policies, ko)
		}
	}
	o.Replicate = func(ctx context.Context, id dr.ProtectionID, ko replication.KeepOptions) (replication.Report, error) {
		r, err := cycle(ctx, id, ko)
		if h, ok := ctx.Value(holdKey{}).(*Hold); ok && errors.Is(err, dr.ErrFenced) {
			if h.doubt(ctx, err); h.ctx.Err() != nil {
				<-ctx.Done() // then it is no failure of the machine
			}
		}
		return r, err
	}
	expire := o.Expire
	if expire == nil {
		expire = func(ctx context.Context, id dr.ProtectionID) ([]dr.PointID, error) {
			return env.ExpireBy(ctx, id, policies)
		}
	}
	o.Expire = func(ctx context.Context, id dr.ProtectionID) ([]dr.PointID, error) {
		if err := k.early(id); err != nil {
			return nil, err
		}
		return expire(ctx, id)
	}
	k.count()
	o.Only, o.Within, o.Pruning, o.Share = k.mine, k.within, k.pruning, k.share
	var err error
	k.sched, err = scheduler.New(env, o)
	return k, err
}

// Run keeps what is held until ctx ends, and what was under way has stopped. It
// runs once; see scheduler.Scheduler.Run for what it returns.
func (k *Keeper) Run(ctx context.Context) error { return k.sched.Run(ctx) }

// Scheduler is the one that runs the cycles: for pauses of sites, and its status.
func (k *Keeper) Scheduler() *scheduler.Scheduler { return k.sched }

// Keep keeps a shard's machines from now on, under the epoch of whatever gave it
// to this process. dr.ErrBusy: it is held here already. A cycle of an earlier hold
// that has not ended yet keeps its own machine from beginning another.
//
// The epoch, which must rise with each holding, reaches platforms and stores by
// dr.WithFences. It is not one of [Leases]: records are fenced by [Guard] only, which
// they need to be wrapped by (dr.ErrUnsupported). A cycle that is refused as fenced
// waits for the next [Hold.Until] to hear that the shard is held all the same; a hold
// without a bound it ends.
func (k *Keeper) Keep(s Shard, epoch uint64) (*Hold, error) {
	if _, ok := k.env.Records.(guarded); !ok {
		return nil, fmt.Errorf("fleet: shard %s: %w: without a lease the records must be wrapped by Guard", s, dr.ErrUnsupported)
	}
	return k.keep(s, epoch, false, time.Time{})
}

// keep is Keep, until a time from the first moment on; zero: open.
func (k *Keeper) keep(s Shard, epoch uint64, leased bool, until time.Time) (*Hold, error) {
	ctx, stop := context.WithCancelCause(context.Background())
	h := &Hold{keeper: k, shard: s, epoch: epoch, leased: leased, since: time.Now(), ctx: ctx, stop: stop, running: map[dr.ProtectionID]*cycle{}, idle: make(chan struct{}), said: make(chan struct{})}
	if !until.IsZero() {
		h.Until(until)
	}
	k.mu.Lock()
	if k.holds[s] != nil {
		k.mu.Unlock()
		stop(nil)
		h.close() // and its timer
		return nil, fmt.Errorf("fleet: shard %s: %w: it is held here", s, dr.ErrBusy)
	}
	k.holds[s] = h
	k.count()
	k.mu.Unlock()
	k.sched.Poke()
	return h, nil
}

// changed takes a hold out that is over.
func (k *Keeper) changed(h *Hold) {
	k.mu.Lock()
	is := k.holds[h.shard] == h
	if is {
		delete(k.holds, h.shard)
		k.count()
	}
	k.mu.Unlock()
	if is {
		k.sched.Poke()
	}
}

// count notes how much of each area is held.
func (k *Keeper) count() {
	var parts []part
	for _, a := range k.layout.areas() {
		p := part{Area: a}
		for n := range a.Shards {
			if k.holds[a.shard(n)] != nil {
				p.held++
			}
		}
		parts = append(parts, p)
	}
	k.parts.Store(&parts)
}

// share is the scheduler's: as much of what sites bear as is held of the shards
// whose machines may use it. As no shard is held twice the workers' shares are
// never more than all, whoever comes and goes.
func (k *Keeper) share(sites ...string) float64 {
	held, all := 0, 0
	for _, p := range *k.parts.Load() {
		if !slices.ContainsFunc(sites, func(s string) bool { return !p.has(s) }) {
			held += p.held
			all += p.Shards
		}
	}
	return float64(held) / float64(max(1, all))
}

// mostAhead is how far a worker's clock may be ahead of the leases' for it to tell how
// old points are: it is nothing to a policy, and more than a slow answer makes of it.
const mostAhead = 5 * time.Minute

// early refuses retention by a clock that is far ahead: where it is also what names the
// points' times, as at Azure, the first point after a step of a week would have all
// others deleted.
func (k *Keeper) early(id dr.ProtectionID) error {
	ahead := time.Duration(k.ahead.Load())
	if ahead <= mostAhead {
		return nil
	}
	return &dr.Error{Op: "expire", Err: fmt.Errorf("%w: protection %s: this worker's clock is %v ahead of the leases'", dr.ErrNotAllowed, id, ahead.Round(time.Second)),
		Remedy: "set the clock of this host, or of the one that keeps the leases: until they agree no points are deleted"}
}

// patience is how long a cycle runs on beside a flow: a listing may be older than
// the cycle, and the flow over.
const patience = 5 * time.Second

// mine is the scheduler's Only.
func (k *Keeper) mine(p dr.Protection) bool {
	s, ok := k.layout.Of(p)
	k.mu.Lock()
	h := k.holds[s]
	if !ok || h == nil {
		delete(k.shards, p.ID)
	} else {
		k.shards[p.ID] = s
	}
	k.mu.Unlock()
	if !ok || h == nil {
		return false
	}
	if p.Run != "" {
		// A flow of another process can't stop a cycle of this one by Env.Hold.
		// A group's cycle is of all its machines, and only this one's part is in the
		// flow's way, whoever of them has begun it.
		cause := fmt.Errorf("%w: run %s holds protection %s", dr.ErrBusy, p.Run, p.ID)
		if !k.env.Interrupt(p, patience, cause) {
			h.interrupt(p.ID, patience, cause)
		}
	}
	return true
}

// within is the scheduler's.
func (k *Keeper) within(ctx context.Context, id dr.ProtectionID) (context.Context, func(), error) {
	k.mu.Lock()
	s, ok := k.shards[id]
	h := k.holds[s]
	k.mu.Unlock()
	if !ok || h == nil {
		return nil, nil, notHeld(s)
	}
	return h.begin(ctx, id)
}

// pruning is the scheduler's: a store is pruned by one worker.
func (k *Keeper) pruning(ctx context.Context, site string) (context.Context, func(), error) {
	s, ok := k.layout.OfStore(site)
	k.mu.Lock()
	h := k.holds[s]
	k.mu.Unlock()
	if !ok || h == nil {
		return nil, nil, notHeld(s)
	}
	return h.begin(ctx, "")
}

// Summaries tell how each shard that is held is kept.
func (k *Keeper) Summaries() map[Shard]Summary {
	k.mu.Lock()
	defer k.mu.Unlock()
	sums := make(map[Shard]*Summary, len(k.holds))
	for s := range k.holds {
		sums[s] = &Summary{}
	}
	k.sched.Glances(func(g scheduler.Glance) {
		s, ok := k.shards[g.ID]
		sum := sums[s]
		if !ok || sum == nil {
			return
		}
		if g.Expected {
			sum.Machines++
			sum.Oldest = max(sum.Oldest, g.RPO)
		}
		if g.Late {
			sum.Late++
		}
		if g.Failures > 0 {
			sum.Failing++
		}
		if g.Running {
			sum.Running++
		}
	})
	all := make(map[Shard]Summary, len(sums))
	for s, sum := range sums {
		sum.Oldest = sum.Oldest.Truncate(time.Millisecond)
		all[s] = *sum
	}
	return all
}

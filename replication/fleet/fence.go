package fleet

import (
	"context"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// leasedKey is where a context says that it acts under a lease.
type leasedKey struct{}

// leased is a shard and the epoch of its lease.
type leased struct {
	shard Shard
	epoch uint64
}

// Fence returns the shard for which ctx acts under a lease, and the lease's epoch;
// false if it acts for none. Records that are kept beside the leases refuse a Save
// whose epoch isn't the shard's newest with dr.ErrFenced, in the statement that
// saves: that is what the check is exact with, and it costs no write. See
// [Guard] for others.
func Fence(ctx context.Context) (Shard, uint64, bool) {
	l, ok := ctx.Value(leasedKey{}).(leased)
	return l.shard, l.epoch, ok
}

// WithFence returns a context that acts for a shard under the epoch of its
// lease. A worker sets it on each cycle, so that it reaches records, stores and
// platforms alike: these by dr.Fences, as the resource [Shard.Resource].
func WithFence(ctx context.Context, s Shard, epoch uint64) context.Context {
	return context.WithValue(withEpoch(ctx, s, epoch), leasedKey{}, leased{s, epoch})
}

// withEpoch is WithFence for epochs that are not of leases.
func withEpoch(ctx context.Context, s Shard, epoch uint64) context.Context {
	return dr.WithFences(ctx, map[string]uint64{s.Resource(): epoch})
}

// Fencer is an ability of Records that are kept beside the leases: their Save
// heeds [Fence], as fleettest.Fencer tests.
type Fencer interface {
	// FencesShards reports whether Save does.
	FencesShards() bool
}

// fenced is the refusal of a Save.
func fenced(id dr.ProtectionID, s Shard, epoch uint64) error {
	return fmt.Errorf("record of protection %s: %w: shard %s is not held under epoch %d any more", id, dr.ErrFenced, s, epoch)
}

// holdKey is where a cycle's context keeps its hold.
type holdKey struct{}

// Guard returns records whose Save, in a cycle of a worker, asks first whether
// the worker still holds the shard by its own clock: dr.ErrFenced. Records that
// are a [Fencer] are asked both ways. Others have only this, and that a Save
// whose record somebody else has saved is refused (dr.ErrConflict): a process
// that stands still between the question and the Save, for longer than its
// lease, may then note once more a point that it really made before. Saves
// outside of a worker's cycles pass.
func Guard(r dr.Records) dr.Records { return guarded{r} }

type guarded struct{ dr.Records }

// Unwrap shows the records' abilities.
func (g guarded) Unwrap() any { return g.Records }

func (g guarded) Save(ctx context.Context, p dr.Protection) (dr.Protection, error) {
	if h, ok := ctx.Value(holdKey{}).(*Hold); ok && !h.valid() {
		return p, fenced(p.ID, h.shard, h.epoch)
	}
	return g.Records.Save(ctx, p)
}

// guards reports whether a stalled worker's saves would be refused.
func guards(r dr.Records) bool {
	if _, ok := r.(guarded); ok {
		return true
	}
	f, ok := dr.As[Fencer](r)
	return ok && f.FencesShards()
}

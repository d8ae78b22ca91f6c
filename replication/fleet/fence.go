package fleet

import (
	"context"
	"fmt"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Fence returns the shard for which ctx acts, and the epoch of its lease; false
// if it acts for none. Records that are kept beside the leases refuse a Save
// whose epoch isn't the shard's newest with dr.ErrFenced, in the statement that
// saves: that is what the check is exact with, and it costs no write. See
// [Guard] for others.
func Fence(ctx context.Context) (Shard, uint64, bool) {
	for resource, epoch := range dr.Fences(ctx) {
		if s, ok := strings.CutPrefix(resource, fencePrefix); ok {
			return Shard(s), epoch, true
		}
	}
	return "", 0, false
}

// WithFence returns a context that acts for a shard under the epoch of its
// lease. A worker sets it on each cycle, so that it reaches records, stores and
// platforms alike.
func WithFence(ctx context.Context, s Shard, epoch uint64) context.Context {
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

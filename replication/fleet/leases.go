package fleet

import (
	"context"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Leases are where the workers of a fleet meet: who lives, and who may keep
// which shard until when. All times are by the clock of whatever keeps them;
// workers measure durations only.
//
// A lease is held by one member at a time, from Take until it is released, its
// member leaves, or its time is over. Each holding of a shard has an epoch
// higher than any before, whoever held it: the last one plus 1, and no less than
// the seconds since 1970 ([NextEpoch]), so that epochs rise even if what was kept
// of them is lost: platforms remember them, too. A lease whose time is over is never
// renewed, nobody need have taken it: its holder has stopped acting.
//
// All methods are safe for concurrent use, from many processes. An error says
// that nothing is known of what happened: what was asked for may have been
// done. fleettest.Leases tests an implementation.
type Leases interface {
	// Renew says that the member lives, for its TTL from now on, and renews all
	// leases that it holds for as long. It is called for all shards at once, a
	// few times in each TTL. A member that isn't known joins. The view has what
	// it holds now.
	//
	// dr.ErrConflict: the fleet has another layout under the member's
	// generation. A member of an older generation than the fleet's is renewed,
	// that it may end what it does.
	Renew(ctx context.Context, m Member) (View, error)

	// Take leases shards to a member, for its TTL, and returns those that it
	// was given: those that nobody holds. The others are left out, as is what
	// it holds already. dr.ErrFenced: the member isn't known, its time is over,
	// or the fleet has a newer generation.
	//
	// While a shard of an older generation is held nothing is given. The first
	// that is given in a generation raises the epochs of all shards of older
	// ones: what was held there is fenced.
	Take(ctx context.Context, member string, shards []Shard) ([]Lease, error)

	// Release gives shards back; those not held by the member stay as they are.
	Release(ctx context.Context, member string, shards []Shard) error

	// Leave gives back all that the member holds, and forgets it.
	Leave(ctx context.Context, member string) error

	// View tells what is so now.
	View(ctx context.Context) (View, error)
}

// Member is a worker as the others see it.
type Member struct {
	// ID is one life of one worker: a process that starts anew has another.
	ID string `json:"id"`
	// Name is the worker's own, for people.
	Name string `json:"name,omitempty"`
	// Weight is its share in proportion to others'; 0: 1.
	Weight int `json:"weight,omitempty"`
	// Sites are those that it reaches; none: all.
	Sites []string `json:"sites,omitempty"`
	// Generation and Layout (its Digest) tell how it shares out protections.
	Generation uint64 `json:"generation,omitempty"`
	Layout     string `json:"layout,omitempty"`
	// Draining members are given nothing.
	Draining bool `json:"draining,omitempty"`
	// TTL is how long it lives, and holds what it holds, after it was last
	// heard of. Whole milliseconds.
	TTL time.Duration `json:"ttl"`
	// Shards is what it tells of those that it keeps, for consoles.
	Shards map[Shard]Summary `json:"shards,omitempty"`
}

// Summary tells how a shard is kept.
type Summary struct {
	Machines int `json:"machines"`          // that expect points
	Late     int `json:"late,omitempty"`    // whose newest point is older than their RPO
	Failing  int `json:"failing,omitempty"` // whose last cycle failed
	Running  int `json:"running,omitempty"` // cycles under way
	// Oldest is the greatest age of a newest point.
	Oldest time.Duration `json:"oldest,omitempty"`
}

// Lease is one holding of a shard.
type Lease struct {
	Shard      Shard     `json:"shard"`
	Member     string    `json:"member"` // its ID
	Epoch      uint64    `json:"epoch"`
	Generation uint64    `json:"generation,omitempty"` // of its member
	Since      time.Time `json:"since"`                // by the leases' clock
	// Left is for how long it is held if it isn't renewed.
	Left time.Duration `json:"left"`
}

// View is a moment of the fleet.
type View struct {
	Time time.Time `json:"time"` // by the leases' clock
	// Generation is the newest that any member had, and Layout its digest.
	Generation uint64   `json:"generation,omitempty"`
	Layout     string   `json:"layout,omitempty"`
	Members    []Member `json:"members"` // those that live, by ID
	Leases     []Lease  `json:"leases"`  // those that are held, by shard
}

// NextEpoch is the epoch of a shard's next holding, after last.
func NextEpoch(last uint64, now time.Time) uint64 {
	return dr.NextEpoch(last, now)
}

package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Options configure a platform. The zero value is a platform with every
// ability.
type Options struct {
	// Site begins the IDs of machines that Prepare makes; "": "replica".
	// Give two platforms of one test different names, to tell their
	// machines apart.
	Site string
	// Now is the platform's clock; nil: time.Now.
	Now func() time.Time
	// Consistency is the best that a running guest reaches; 0:
	// dr.ApplicationConsistent.
	Consistency dr.Consistency
	// Granularity is the size in bytes of the blocks that the change
	// tracker knows, a multiple of 512; 0: 64 KiB.
	Granularity int64
	// QuiesceLimit is how long a guest can be held; 0: 10 s, what Windows
	// grants a shadow copy between freeze and thaw.
	QuiesceLimit time.Duration
	// Effect is told of everything that changes, in order for one machine. It
	// is called under locks: it must not call the platform. Nil: nobody is told.
	Effect func(Effect)

	NoTracker   bool // images are no dr.ChangeTracker
	NoMap       bool // images are no dr.Mapper
	NoSums      bool // images and drafts are no dr.Summer
	NoZero      bool // drafts are no dr.Zeroer
	NoResume    bool // drafts are no dr.Resumer
	NoList      bool // no backend.Lister
	NoShutdown  bool // no backend.Shutdowner
	NoQuiesce   bool // no backend.Quiescer
	NoSweep     bool // no backend.Sweeper
	NoProbe     bool // no backend.Prober
	NoPreflight bool // no backend.Preflighter
	NoNetworks  bool // no backend.NetworkLister
	NoInspect   bool // no backend.Inspector
	NoRoom      bool // no backend.Roomer
}

// Backend is the platform. All methods are safe for concurrent use. Make one
// with New.
type Backend struct {
	opts      Options
	abilities any           // a chain, see ability.go
	life      atomic.Uint64 // counts crashes; handles of an earlier life are dead

	mu       sync.Mutex // before any machine's mu
	machines map[dr.MachineID]*machine
	made     int
	failures map[Op][]error
	networks []backend.Network
	bounded  bool  // whether there is a bound on room
	room     int64 // in bytes, for what Prepare has not made yet
}

var _ backend.Backend = (*Backend)(nil)

// New returns a platform without machines. It panics if o.Granularity is
// negative or no multiple of 512.
func New(o Options) *Backend {
	if o.Granularity < 0 || o.Granularity%512 != 0 {
		panic(fmt.Sprintf("memory: granularity %d is no multiple of 512", o.Granularity))
	}
	if o.Site == "" {
		o.Site = "replica"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Consistency == 0 {
		o.Consistency = dr.ApplicationConsistent
	}
	if o.Granularity == 0 {
		o.Granularity = pageSize
	}
	if o.QuiesceLimit == 0 {
		o.QuiesceLimit = 10 * time.Second
	}
	b := &Backend{opts: o, machines: map[dr.MachineID]*machine{}, failures: map[Op][]error{}}
	b.abilities = b.chain()
	return b
}

// Unwrap shows the platform's abilities to dr.As.
func (b *Backend) Unwrap() any { return b.abilities }

// enter begins every operation: it honours the context and failures that
// tests have asked for.
func (b *Backend) enter(ctx context.Context, op Op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if q := b.failures[op]; len(q) > 0 {
		b.failures[op] = q[1:]
		return q[0]
	}
	return nil
}

// find returns the machine or ErrNotFound.
func (b *Backend) find(op string, id dr.MachineID) (*machine, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.machines[id]
	if m == nil {
		return nil, &dr.Error{Op: op, Machine: id, Err: dr.ErrNotFound}
	}
	return m, nil
}

// all returns the machines ordered by ID.
func (b *Backend) all() []*machine {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ms []*machine
	for _, id := range slices.Sorted(maps.Keys(b.machines)) {
		ms = append(ms, b.machines[id])
	}
	return ms
}

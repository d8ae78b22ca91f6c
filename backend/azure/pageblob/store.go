package pageblob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"iter"
	"log/slog"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// Azure's documented limits of one page blob.
const (
	blobBytesPerSecond    = 60 << 20
	blobRequestsPerSecond = 500
)

// Options are the knobs of a Store. The zero value keeps Azure's limits.
type Options struct {
	// BytesPerSecond is what Process writes to one page blob; 0: 60 MiB, which
	// is Azure's limit; below 0: as much as it takes.
	BytesPerSecond int
	// RequestsPerSecond is the same for requests that write; 0: 500.
	RequestsPerSecond int
	// Concurrency is how many requests a draft and a disk being processed have
	// in flight; 0: 4. Each holds up to 4 MiB, those of drafts 8 MiB.
	Concurrency int
	// CrossCheck makes Changes ask Azure as well what changed between two
	// snapshots of one blob, and fail with dr.ErrCorrupt if bytes differ that
	// this store's records don't tell of. It reads what only Azure tells of.
	CrossCheck bool
	// Log hears of what was put off or thrown away; nil: nobody does.
	Log *slog.Logger
}

// Store is a recoverypoint.PointStore on one container. Its methods are safe
// for concurrent use. It holds nothing that would have to be closed.
type Store struct {
	c   *container.Client
	o   Options
	log *slog.Logger
	// segment is how many bytes of data a segment has, at most.
	segment int
	// promoteFrom is how many bytes more than a point's own the way back to its
	// parent may cost before Azure copies the parent's snapshot instead.
	promoteFrom int64
	buffers     sync.Pool // of *[]byte, each as long as a segment
	chunks      sync.Pool // of *[]byte, each of maxPages
	segments    *segmentCache
	points      *pointCache
	paces       sync.Map // blob's name → *pace

	mu       sync.Mutex
	machines map[dr.MachineID]*machine
}

// machine is what this process alone knows of a machine.
type machine struct {
	turn    chan struct{} // who changes the head; a place of one
	process chan struct{} // who processes

	// opening is held for reading from before a head is read until what it
	// names is pinned, and for writing to see what is pinned.
	opening sync.RWMutex

	mu   sync.Mutex
	open *draft
	pins map[string]int // open images, by their manifest's draft
}

var (
	_ recoverypoint.PointStore = (*Store)(nil)
	_ recoverypoint.Pender     = (*Store)(nil)
	_ recoverypoint.Processor  = (*Store)(nil)
	_ recoverypoint.Pruner     = (*Store)(nil)
	_ recoverypoint.Scrubber   = (*Store)(nil)
)

// New returns the store in a container, which must exist; what is in it under
// "m/" belongs to the store. It makes no request. The client's own options say
// how often and for how long a request is repeated.
func New(c *container.Client, o Options) *Store {
	if o.BytesPerSecond == 0 {
		o.BytesPerSecond = blobBytesPerSecond
	}
	if o.RequestsPerSecond == 0 {
		o.RequestsPerSecond = blobRequestsPerSecond
	}
	if o.Concurrency <= 0 {
		o.Concurrency = 4
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		c: c, o: o, log: o.Log, segment: segmentSize, promoteFrom: 64 << 20,
		points: newPointCache(), machines: map[dr.MachineID]*machine{},
	}
	s.segments = newSegmentCache(s)
	s.buffers.New = func() any { b := make([]byte, s.segment); return &b }
	s.chunks.New = func() any { b := make([]byte, maxPages); return &b }
	return s
}

// newNonce returns 16 hexadecimal digits that nobody else has.
func newNonce() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (s *Store) machine(m dr.MachineID) *machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.machines[m]
	if st == nil {
		st = &machine{turn: make(chan struct{}, 1), process: make(chan struct{}, 1), pins: map[string]int{}}
		s.machines[m] = st
	}
	return st
}

// take waits for a place of one.
func take(ctx context.Context, c chan struct{}) error {
	select {
	case c <- struct{}{}:
		return nil
	default:
	}
	select {
	case c <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// List yields the processed points as they were when the first was asked for.
// Each point that this process sees first costs a request.
func (s *Store) List(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
	return func(yield func(dr.Point, error) bool) {
		fail := func(id dr.PointID, err error) { yield(dr.Point{}, failure("list", m, id, "", -1, err)) }
		if err := m.Validate(); err != nil {
			fail("", err)
			return
		}
		h, _, err := s.readHead(ctx, m)
		if err != nil {
			fail("", err)
			return
		}
		for _, e := range h.Points {
			if !e.listed() {
				continue
			}
			p, err := s.pointOf(ctx, m, e)
			if isNotFound(err) {
				// Deleted meanwhile, or in another manifest now.
				if h, _, err = s.readHead(ctx, m); err == nil {
					now := h.bySeq(e.Seq)
					if now == nil || !now.listed() {
						continue
					}
					p, err = s.pointOf(ctx, m, *now)
				}
			}
			if err != nil {
				fail(e.ID, err)
				return
			}
			if !yield(p.Clone(), nil) {
				return
			}
		}
	}
}

// Pending yields the points of drafts that are begun and not committed, the
// one that is being written among them.
func (s *Store) Pending(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
	return func(yield func(dr.Point, error) bool) {
		err := m.Validate()
		var h *head
		if err == nil {
			h, _, err = s.readHead(ctx, m)
		}
		if err != nil {
			yield(dr.Point{}, failure("list drafts", m, "", "", -1, err))
			return
		}
		for _, d := range h.Drafts {
			if !yield(d.Point, nil) {
				return
			}
		}
	}
}

// check refuses what the store can't keep a point of.
func check(p dr.Point) error {
	if err := recoverypoint.Check(p); err != nil {
		return err
	}
	for _, d := range p.Machine.Disks {
		if d.Size > maxDisk {
			return fmt.Errorf("%w: disk %q of %d bytes: a page blob has %d at most", dr.ErrInvalid, d.ID, d.Size, int64(maxDisk))
		}
	}
	return nil
}

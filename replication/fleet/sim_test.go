package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// records keeps protections in memory, in order.
type records struct {
	mu  sync.Mutex
	all map[dr.ProtectionID]dr.Protection
	ids []dr.ProtectionID // sorted
}

func (r *records) Load(_ context.Context, id dr.ProtectionID) (dr.Protection, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.all[id]
	if !ok {
		return p, fmt.Errorf("%w: %s", dr.ErrNotFound, id)
	}
	return p, nil
}

func (r *records) Save(_ context.Context, p dr.Protection) (dr.Protection, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.all[p.ID]
	if old.Version != p.Version {
		return p, dr.ErrConflict
	}
	if !ok {
		i, _ := slices.BinarySearch(r.ids, p.ID)
		r.ids = slices.Insert(r.ids, i, p.ID)
	}
	p.Version++
	if r.all == nil {
		r.all = map[dr.ProtectionID]dr.Protection{}
	}
	r.all[p.ID] = p
	return p, nil
}

func (r *records) Protections(ctx context.Context) iter.Seq2[dr.Protection, error] {
	return func(yield func(dr.Protection, error) bool) {
		r.mu.Lock()
		ids := slices.Clone(r.ids)
		r.mu.Unlock()
		for _, id := range ids {
			if p, err := r.Load(ctx, id); err == nil && !yield(p, nil) {
				return
			}
		}
	}
}

// sim is a fleet of workers in one process, with clocks, leases and machines that
// the test has in its hands.
type sim struct {
	t       testing.TB
	layout  fleet.Layout
	records records
	leases  fleet.Memory
	o       fleet.Options // of every worker
	limits  scheduler.Limits
	took    func(id dr.ProtectionID) time.Duration
	refused func(id dr.ProtectionID) error // what stores and platforms say; nil: nothing

	mu      sync.Mutex
	acting  map[fleet.Shard]map[*worker]int // cycles under way
	cycles  map[dr.ProtectionID]int
	aborted int // cycles that were stopped
	fenced  int // of those that went on, and were refused
	wrong   []string
	workers []*worker
	moved   int // shards that were taken
}

// worker is one of the fleet, with what the test does to it.
type worker struct {
	*fleet.Worker
	sim   *sim
	name  string
	stop  context.CancelFunc
	ended chan error

	mu     sync.Mutex
	cut    bool  // can't reach the leases
	barred error // can't take any
	dead   bool
	sites  []string
	kinds  map[fleet.EventKind]int
}

func newSim(t testing.TB, machines, shards int) *sim {
	s := &sim{t: t, layout: fleet.Layout{Shards: shards}, acting: map[fleet.Shard]map[*worker]int{}, cycles: map[dr.ProtectionID]int{},
		took: func(dr.ProtectionID) time.Duration { return 2 * time.Second }}
	for i := range machines {
		s.machine(i, "berlin", "bonn", "")
	}
	return s
}

func (s *sim) machine(i int, from, to, group string) {
	id := dr.ProtectionID(fmt.Sprintf("vm-%05d", i))
	p := replication.New(id, dr.Place{Site: from, Machine: dr.MachineID(id)}, to)
	p.State, p.Group = dr.Protected, group
	p.Last = dr.Point{ID: "seed", Time: time.Now().Add(-time.Duration(i%300) * time.Second)}
	_, err := s.records.Save(context.Background(), p)
	require.NoError(s.t, err)
}

// start has one more worker take part.
func (s *sim) start(name string, sites ...string) *worker {
	w := &worker{sim: s, name: name, ended: make(chan error, 1), sites: sites, kinds: map[fleet.EventKind]int{}}
	env := &replication.Env{Records: fleet.Guard(&s.records)}
	o := s.o
	o.Leases, o.Name, o.Sites = w, name, sites
	if o.Layout.Shards == 0 && len(o.Layout.Areas) == 0 {
		o.Layout = s.layout
	}
	o.Observe = w.observe
	o.Scheduler.Limits = s.limits
	o.Scheduler.Limits.Total = 1000
	o.Scheduler.Expire = func(context.Context, dr.ProtectionID) ([]dr.PointID, error) { return nil, nil }
	o.Scheduler.Replicate = func(ctx context.Context, id dr.ProtectionID, _ replication.KeepOptions) (replication.Report, error) {
		return w.cycle(ctx, env, o.Layout, id)
	}
	var err error
	w.Worker, err = fleet.New(env, o)
	require.NoError(s.t, err)
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	go func() { w.ended <- w.Run(ctx) }()
	s.mu.Lock()
	s.workers = append(s.workers, w)
	s.mu.Unlock()
	return w
}

func (w *worker) observe(e fleet.Event) {
	w.sim.mu.Lock()
	defer w.sim.mu.Unlock()
	w.kinds[e.Kind]++
	if e.Kind == fleet.Taken {
		w.sim.moved++
	}
}

// count tells of events under the lock.
func (w *worker) count(k fleet.EventKind) int {
	w.sim.mu.Lock()
	defer w.sim.mu.Unlock()
	return w.kinds[k]
}

// cycle is one of the simulation: it takes time, and is refused if its shard has
// become another's.
func (w *worker) cycle(ctx context.Context, env *replication.Env, l fleet.Layout, id dr.ProtectionID) (replication.Report, error) {
	s := w.sim
	shard, epoch, ok := fleet.Fence(ctx)
	p, err := s.records.Load(ctx, id)
	if err != nil {
		return replication.Report{}, err
	}
	if of, _ := l.Of(p); !ok || of != shard {
		s.bad("%s: a cycle of %s, which is of shard %s, acts for %q", w.name, id, of, shard)
	}
	if s.refused != nil {
		if err := s.refused(id); err != nil {
			return replication.Report{}, err
		}
	}
	began := time.Now()
	took, deaf := s.took(id), false
	if took < 0 {
		took, deaf = -took, true // goes on whatever it is told: the fence's to refuse
	} else {
		s.act(w, shard, epoch, 1)
		defer s.act(w, shard, epoch, -1)
	}
	select {
	case <-time.After(took):
	case <-never(ctx, deaf):
	}
	if w.gone() {
		return replication.Report{}, errors.New("killed")
	}
	if ctx.Err() != nil && !deaf {
		s.mu.Lock()
		s.aborted++
		s.mu.Unlock()
		return replication.Report{}, ctx.Err()
	}
	held := !s.lost(shard, epoch)
	p, err = env.Amend(context.WithoutCancel(ctx), id, func(p *dr.Protection) error {
		p.Last, p.Upkeep = dr.Point{ID: replication.CycleName(began), Time: began}, dr.Upkeep{}
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, dr.ErrFenced) {
		s.fenced++
	} else if !held {
		s.wrong = append(s.wrong, fmt.Sprintf("%s saved %s under epoch %d of shard %s, which was over: %v", w.name, id, epoch, shard, err))
	}
	if err == nil {
		s.cycles[id]++
	}
	return replication.Report{Point: p.Last}, err
}

func never(ctx context.Context, deaf bool) <-chan struct{} {
	if deaf {
		return nil
	}
	return ctx.Done()
}

// lost reports whether the leases say that the epoch is over.
func (s *sim) lost(shard fleet.Shard, epoch uint64) bool {
	return s.leases.Current(shard) != epoch
}

// act notes that a worker begins or ends to act for a shard.
func (s *sim) act(w *worker, shard fleet.Shard, epoch uint64, n int) {
	lost := n > 0 && s.lost(shard, epoch)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.acting[shard] == nil {
		s.acting[shard] = map[*worker]int{}
	}
	a := s.acting[shard]
	if n > 0 {
		for other := range a {
			if other != w && !other.gone() {
				s.wrong = append(s.wrong, fmt.Sprintf("%v: %s and %s act for shard %s", time.Now(), w.name, other.name, shard))
			}
		}
		if lost {
			s.wrong = append(s.wrong, fmt.Sprintf("%v: %s begins a cycle of shard %s, which it doesn't hold", time.Now(), w.name, shard))
		}
	}
	if a[w] += n; a[w] == 0 {
		delete(a, w)
	}
}

func (s *sim) bad(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

func (w *worker) gone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

// kill ends a worker as SIGKILL does: nothing of it is heard any more.
func (w *worker) kill() {
	w.mu.Lock()
	w.dead, w.cut = true, true
	w.mu.Unlock()
	w.stop()
	<-w.ended
}

// sever cuts a worker off the leases, or mends it.
func (w *worker) sever(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

// Its leases are the fleet's, unless it is cut off: then calls hang.
func (w *worker) reach(ctx context.Context) error {
	w.mu.Lock()
	cut := w.cut
	w.mu.Unlock()
	if !cut {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (w *worker) Renew(ctx context.Context, m fleet.Member) (fleet.View, error) {
	if err := w.reach(ctx); err != nil {
		return fleet.View{}, err
	}
	return w.sim.leases.Renew(ctx, m)
}

func (w *worker) Take(ctx context.Context, member string, shards []fleet.Shard) ([]fleet.Lease, error) {
	if err := w.reach(ctx); err != nil {
		return nil, err
	}
	w.mu.Lock()
	barred := w.barred
	w.mu.Unlock()
	if barred != nil {
		return nil, barred
	}
	return w.sim.leases.Take(ctx, member, shards)
}

func (w *worker) Release(ctx context.Context, member string, shards []fleet.Shard) error {
	if err := w.reach(ctx); err != nil {
		return err
	}
	return w.sim.leases.Release(ctx, member, shards)
}

func (w *worker) Leave(ctx context.Context, member string) error {
	if err := w.reach(ctx); err != nil {
		return err
	}
	return w.sim.leases.Leave(ctx, member)
}

func (w *worker) View(ctx context.Context) (fleet.View, error) { return w.sim.leases.View(ctx) }

// shares counts the shards that each worker holds by the leases, by name.
func (s *sim) shares() map[string]int {
	v, _ := s.leases.View(context.Background())
	got := map[string]int{}
	for _, st := range fleet.Table(s.layout, v) {
		got[st.Name]++
	}
	return got
}

// oldest is the greatest age of a newest point.
func (s *sim) oldest() (age time.Duration) {
	s.records.mu.Lock()
	defer s.records.mu.Unlock()
	for p := range maps.Values(s.records.all) {
		age = max(age, time.Since(p.Last.Time))
	}
	return age
}

// running counts the cycles under way.
func (s *sim) running() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, by := range s.acting {
		for _, k := range by {
			n += k
		}
	}
	return n
}

// check fails the test for what has gone wrong.
func (s *sim) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wrong) > 0 {
		s.t.Fatalf("%d wrongs, the first: %s", len(s.wrong), s.wrong[0])
	}
}

// end stops all workers that live.
func (s *sim) end() {
	for _, w := range s.workers {
		if !w.gone() {
			w.stop()
			<-w.ended
		}
	}
	s.check()
}

package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Causes with which cycles are stopped.
var (
	errSilent = errors.New("no progress for too long")
	errPaused = errors.New("the site is paused")
	errEnding = errors.New("the scheduler ends")
)

// Scheduler begins the cycles of all protections when they are due. Make one
// with New. Its methods are safe for concurrent use.
type Scheduler struct {
	env    *replication.Env
	list   dr.RecordLister
	o      Options
	cycle  func(context.Context, dr.ProtectionID, replication.KeepOptions) (replication.Report, error)
	expire func(context.Context, dr.ProtectionID) ([]dr.PointID, error)
	pipes  []*pipe

	ended  chan result
	looked chan look
	pruned chan pruning
	notify chan struct{} // capacity 1: something was asked
	over   chan struct{} // closed at Run's end, for those who were given up

	mu       sync.Mutex
	serving  bool
	entries  map[dr.ProtectionID]*entry
	waiting  heap[*entry] // by when they may begin
	lates    heap[*entry] // not late yet, by when they will be
	queue    *queue
	runs     map[*run]bool
	pauses   map[string]Pause
	asked    map[dr.ProtectionID]bool // by Poke
	askAll   bool
	looking  bool
	nextList time.Time
	listed   time.Time
	listErr  error
	pruning  string
	prunes   map[string]time.Time // when each store is due
	checked  time.Time            // when silences were looked for
	told     time.Time            // when all was told to stop
	events   []Event
	totals   Totals
}

// New returns a scheduler of the protections in env.Records, which must be a
// dr.RecordLister (dr.ErrUnsupported). Options that make no sense are
// dr.ErrInvalid.
func New(env *replication.Env, o Options) (*Scheduler, error) {
	l, ok := dr.As[dr.RecordLister](env.Records)
	if !ok {
		return nil, fmt.Errorf("scheduler: %w: the records can't be listed", dr.ErrUnsupported)
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	s := &Scheduler{
		env: env, list: l, o: o.filled(), cycle: o.Replicate, expire: o.Expire, pipes: newPipes(o.Bandwidth),
		ended: make(chan result), looked: make(chan look), pruned: make(chan pruning), notify: make(chan struct{}, 1), over: make(chan struct{}),
		entries: map[dr.ProtectionID]*entry{}, runs: map[*run]bool{}, pauses: map[string]Pause{}, asked: map[dr.ProtectionID]bool{}, prunes: map[string]time.Time{},
	}
	s.queue = newQueue(s.o.Limits)
	s.queue.share = s.o.Share
	s.waiting = heap[*entry]{less: func(a, b *entry) bool { return a.due.Before(b.due) }, at: func(e *entry) *int { return &e.waitAt }}
	s.lates = heap[*entry]{less: func(a, b *entry) bool { return a.lateFrom().Before(b.lateFrom()) }, at: func(e *entry) *int { return &e.lateAt }}
	if s.cycle == nil {
		s.cycle = func(ctx context.Context, id dr.ProtectionID, k replication.KeepOptions) (replication.Report, error) {
			return env.KeepGroup(ctx, id, s.o.Policies, k)
		}
	}
	if s.expire == nil {
		s.expire = func(ctx context.Context, id dr.ProtectionID) ([]dr.PointID, error) {
			return env.ExpireBy(ctx, id, s.o.Policies)
		}
	}
	return s, nil
}

// Run schedules until ctx ends, waits for the cycles under way to stop, and
// returns ctx's error. Cycles that were given up because they don't stop when
// told to are not waited for, and named in the error; nor is a listing or a prune
// that doesn't stop within Grace. It runs once.
func (s *Scheduler) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.serving {
		s.mu.Unlock()
		return fmt.Errorf("scheduler: %w: Run was called before", dr.ErrBusy)
	}
	s.serving = true
	s.mu.Unlock()
	inner, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(errEnding)
	done := ctx.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s.mu.Lock()
		next, busy := s.turn(inner, done == nil)
		events := s.events
		s.events = nil
		s.mu.Unlock()
		if s.o.Observe != nil {
			for _, e := range events {
				s.o.Observe(e)
			}
		}
		if done == nil && !busy {
			close(s.over)
			return errors.Join(ctx.Err(), s.abandoned())
		}
		timer.Reset(next)
		select {
		case <-done:
			done = nil
			s.mu.Lock()
			s.told = time.Now()
			s.mu.Unlock()
			stop(errEnding)
		case <-timer.C:
		case <-s.notify:
		case r := <-s.ended:
			s.settle(r)
		case l := <-s.looked:
			s.see(l)
		case p := <-s.pruned:
			s.prunedStore(p)
		}
	}
}

// turn does all that is due, and returns how long nothing more will be. busy
// says that something is under way.
func (s *Scheduler) turn(ctx context.Context, ending bool) (next time.Duration, busy bool) {
	now := s.env.Time()
	s.watch(now)
	if !ending {
		maps.DeleteFunc(s.pauses, func(_ string, p Pause) bool { return p.over(now) })
		for _, p := range s.pipes {
			p.set(now, s.o.Share)
		}
		s.queue.divide()
		s.wake(now)
		s.tellLate(now)
		for {
			e := s.queue.take(now, s.open)
			if e == nil {
				break
			}
			s.begin(ctx, e, now)
		}
		s.look(ctx, now)
		s.prune(ctx, now)
	}
	busy = (s.looking || s.pruning != "") && !(ending && time.Since(s.told) >= s.o.Grace)
	for r := range s.runs {
		busy = busy || !r.givenUp
		if busy {
			break
		}
	}
	if ending {
		return s.patience(), busy
	}
	return s.until(now), busy
}

// until returns how long nothing will be due.
func (s *Scheduler) until(now time.Time) time.Duration {
	// Windows begin and end on whole minutes.
	next := now.Truncate(time.Minute).Add(time.Minute)
	sooner := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	if s.waiting.len() > 0 {
		sooner(s.waiting.top().due)
	}
	if s.lates.len() > 0 {
		sooner(s.lates.top().lateFrom().Add(1))
	}
	if !s.looking {
		sooner(s.nextList)
	}
	for _, p := range s.pauses {
		if !p.Until.IsZero() {
			sooner(p.Until)
		}
	}
	if len(s.runs) > 0 {
		sooner(s.checked.Add(s.patience()))
	}
	return max(0, next.Sub(now))
}

// wake moves what has become due to the queue.
func (s *Scheduler) wake(now time.Time) {
	for s.waiting.len() > 0 && !s.waiting.top().due.After(now) {
		e := s.waiting.top()
		s.waiting.drop(e)
		s.queue.put(e)
	}
}

// arrange puts an entry where it belongs after anything about it changed.
func (s *Scheduler) arrange(e *entry, now time.Time) {
	s.waiting.drop(e)
	s.queue.drop(e)
	s.lates.drop(e)
	if e.expected && e.rpo > 0 && !e.gone && !e.late {
		s.lates.put(e)
	}
	if e.late && e.lateFor(now) == 0 {
		e.late = false
		if e.expected && e.rpo > 0 {
			s.tell(Event{Kind: Recovered, RPO: e.age(now)}, e, now)
			s.lates.put(e)
		}
	}
	if e.run != nil || e.gone || e.why != "" {
		return
	}
	if e.due = e.begins(now, s.o.Ramp); e.due.After(now) {
		s.waiting.put(e)
		return
	}
	s.queue.put(e)
}

// tellLate tells of points that have become too old.
func (s *Scheduler) tellLate(now time.Time) {
	for s.lates.len() > 0 && s.lates.top().lateFrom().Before(now) {
		e := s.lates.top()
		s.lates.drop(e)
		e.late = true
		s.tell(Event{Kind: Late, RPO: e.age(now)}, e, now)
	}
}

// tell queues an event; they are told without the lock.
func (s *Scheduler) tell(ev Event, e *entry, now time.Time) {
	if s.o.Observe == nil {
		return
	}
	ev.Time = now
	if e != nil {
		ev.Protection, ev.Machine, ev.From, ev.To = e.id, e.machine, e.from, e.to
	}
	s.events = append(s.events, ev)
}

func (s *Scheduler) abandoned() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.looking {
		errs = append(errs, errors.New("a listing of the records doesn't stop"))
	}
	if s.pruning != "" {
		errs = append(errs, fmt.Errorf("site %s: pruning its store doesn't stop", s.pruning))
	}
	for r := range s.runs {
		errs = append(errs, fmt.Errorf("protection %s: the cycle that began at %s doesn't stop", r.entry.id, r.began.Format(time.RFC3339)))
	}
	return errors.Join(errs...)
}

func (s *Scheduler) nudge() {
	select {
	case s.notify <- struct{}{}:
	default:
	}
}

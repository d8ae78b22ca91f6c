package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// Worker is one of those that keep a fleet's machines. Make one with New. Its
// methods are safe for concurrent use.
type Worker struct {
	o      Options
	id     string
	areas  []Area
	keeper *Keeper

	nudge  chan struct{} // capacity 1: look again before the next beat
	events sync.Mutex    // one event at a time

	mu       sync.Mutex
	serving  bool
	draining bool
	stopping chan struct{} // closed: a drain's time is over
	drained  chan struct{} // closed when Run has ended
	outdated bool
	joined   bool
	view     View
	renewed  time.Time // when the last good Renew began
	err      error     // of the last Renew
	takeErr  error     // of the last Take
	holds    map[Shard]*Hold
	ending   map[Shard]string // why what is on its way out is; in holds still
}

// New returns a worker of the fleet that keeps the protections of env.Records;
// see NewKeeper for what these must be. Options that make no sense are
// dr.ErrInvalid.
func New(env *replication.Env, o Options) (*Worker, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	k, err := NewKeeper(env, o.Layout, o.Scheduler)
	if err != nil {
		return nil, err
	}
	w := &Worker{o: o.filled(), id: lifeID(o.Name), areas: o.Layout.areas(), keeper: k,
		nudge: make(chan struct{}, 1), stopping: make(chan struct{}), drained: make(chan struct{}),
		holds: map[Shard]*Hold{}, ending: map[Shard]string{}}
	k.ask = w.again
	return w, nil
}

// ID is the worker's among the members: this life's.
func (w *Worker) ID() string { return w.id }

// Keeper is what keeps the worker's shards.
func (w *Worker) Keeper() *Keeper { return w.keeper }

// Run takes part in the fleet until ctx ends, whose error it returns then: what is
// under way is stopped, and all given back, so that others take over at once. It
// also ends, with nil, when Drain has given all back; and with an error if the
// worker can't be one of the fleet (dr.ErrConflict: another layout under the same
// generation). It runs once.
func (w *Worker) Run(ctx context.Context) error {
	w.mu.Lock()
	if w.serving {
		w.mu.Unlock()
		return fmt.Errorf("fleet: %w: Run was called before", dr.ErrBusy)
	}
	w.serving = true
	w.mu.Unlock()
	defer close(w.drained)
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	kept := make(chan error, 1)
	go func() { kept <- w.keeper.Run(inner) }()
	err := w.serve(ctx)
	for _, h := range w.held() {
		h.Stop(errGiven)
	}
	stop()
	if kerr := <-kept; !errors.Is(kerr, context.Canceled) || errorsBeside(kerr) {
		err = errors.Join(err, kerr)
	}
	w.leave(ctx)
	return err
}

// errorsBeside reports whether a scheduler's end names cycles that don't stop.
func errorsBeside(err error) bool {
	j, ok := err.(interface{ Unwrap() []error })
	return ok && len(j.Unwrap()) > 1
}

// leave tells the others that all is theirs.
func (w *Worker) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.o.Margin)
	defer cancel()
	for s, h := range w.heldBy() {
		w.forget(s, h)
		if errors.Is(h.Cause(), errGiven) {
			w.tell(Event{Kind: Given, Shard: s, Epoch: h.epoch})
		}
	}
	err := w.o.Leases.Leave(ctx, w.id)
	w.mu.Lock()
	joined := w.joined
	w.joined = false
	w.mu.Unlock()
	if joined {
		w.tell(Event{Kind: Left, Err: err})
	}
}

// Drain gives all back gracefully: no cycle begins any more, those under way go on
// for Finish at most, and Run ends. When ctx ends before, they are stopped. It
// returns when Run has ended, ctx's error if that was needed.
func (w *Worker) Drain(ctx context.Context) error {
	w.mu.Lock()
	w.draining = true
	serving := w.serving
	w.mu.Unlock()
	if !serving {
		return nil
	}
	w.again()
	select {
	case <-w.drained:
		return nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	select {
	case <-w.stopping:
	default:
		close(w.stopping)
	}
	w.mu.Unlock()
	for _, h := range w.held() {
		h.Stop(errGiven)
	}
	w.again()
	<-w.drained
	return ctx.Err()
}

// again has the worker look at once.
func (w *Worker) again() {
	select {
	case w.nudge <- struct{}{}:
	default:
	}
}

func (w *Worker) held() []*Hold {
	var all []*Hold
	for _, h := range w.heldBy() {
		all = append(all, h)
	}
	return all
}

func (w *Worker) heldBy() map[Shard]*Hold {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make(map[Shard]*Hold, len(w.holds))
	for s, h := range w.holds {
		all[s] = h
	}
	return all
}

// serve beats until there is a reason to end.
func (w *Worker) serve(ctx context.Context) error {
	var ends sync.WaitGroup
	defer ends.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-w.nudge:
		}
		next, err := w.beat(ctx, &ends)
		if err != nil {
			return err
		}
		if w.empty() {
			return nil
		}
		timer.Reset(next)
	}
}

// empty reports whether a drain is over.
func (w *Worker) empty() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.draining && len(w.holds) == 0
}

// beat renews, gives and takes, and returns how long to wait for the next.
func (w *Worker) beat(ctx context.Context, ends *sync.WaitGroup) (time.Duration, error) {
	began := time.Now()
	// A call that hangs must not keep the next from being tried.
	call, cancel := context.WithTimeout(ctx, w.o.Beat)
	v, err := w.o.Leases.Renew(call, w.member())
	cancel()
	switch {
	case errors.Is(err, dr.ErrConflict), errors.Is(err, dr.ErrInvalid):
		return 0, fmt.Errorf("fleet: %w", err)
	case err != nil && ctx.Err() != nil:
		return 0, ctx.Err()
	case err != nil:
		w.cut(err)
		w.reap(ctx, ends, nil)
		return max(w.o.Beat/8, w.o.Beat-time.Since(began)), nil
	}
	until := began.Add(w.o.TTL - w.o.Margin)
	if !v.Time.IsZero() {
		w.keeper.ahead.Store(int64(w.keeper.env.Time().Sub(v.Time)))
	}
	w.reached(v, began)
	mine := map[Shard]uint64{}
	for _, l := range v.Leases {
		if l.Member == w.id {
			mine[l.Shard] = l.Epoch
		}
	}
	for s, h := range w.heldBy() {
		if mine[s] == h.epoch {
			h.Until(until)
		} else {
			h.Stop(fmt.Errorf("%w: shard %s is not leased to this worker any more", dr.ErrFenced, s))
		}
	}
	w.reap(ctx, ends, mine)
	if !w.balance(ctx, ends, v) {
		return w.o.Beat / 8, nil
	}
	return w.next(v, began), nil
}

// next is how long until the next beat. A lease of somebody who isn't heard of is
// free when its time is over.
func (w *Worker) next(v View, began time.Time) time.Duration {
	next := w.o.Beat
	for _, l := range v.Leases {
		if l.Member != w.id && l.Left < next {
			next = l.Left + time.Millisecond
		}
	}
	return max(time.Millisecond, next-time.Since(began))
}

func (w *Worker) member() Member {
	sums := w.keeper.Summaries()
	w.mu.Lock()
	defer w.mu.Unlock()
	return Member{ID: w.id, Name: w.o.Name, Weight: w.o.Weight, Sites: slices.Clone(w.o.Sites), Generation: w.o.Layout.Generation, Layout: w.o.Layout.Digest(),
		Draining: w.draining, TTL: w.o.TTL, Shards: sums}
}

// cut notes that the leases can't be reached.
func (w *Worker) cut(err error) {
	w.mu.Lock()
	first := w.err == nil
	w.err = err
	w.mu.Unlock()
	if first {
		w.tell(Event{Kind: Cut, Err: err})
	}
}

// reached notes what the leases said.
func (w *Worker) reached(v View, began time.Time) {
	w.mu.Lock()
	again, first := w.err != nil, !w.joined
	w.view, w.renewed, w.err, w.joined = v, began, nil, true
	outdated := v.Generation > w.o.Layout.Generation
	old := outdated && !w.outdated
	w.outdated = outdated
	w.mu.Unlock()
	if again {
		w.tell(Event{Kind: Reachable})
	}
	if first {
		w.tell(Event{Kind: Joined})
	}
	if old {
		w.tell(Event{Kind: Outdated, Why: fmt.Sprintf("the fleet is of generation %d, this worker of %d", v.Generation, w.o.Layout.Generation)})
	}
}

// reap sees to holds that are over, and to leases that nothing is done under. mine
// is what the leases say is held; nil: not known.
func (w *Worker) reap(ctx context.Context, ends *sync.WaitGroup, mine map[Shard]uint64) {
	var loose []Shard
	w.mu.Lock()
	for s := range mine {
		if w.holds[s] == nil {
			loose = append(loose, s) // the answer to a Take or a Release was lost
		}
	}
	w.mu.Unlock()
	if len(loose) > 0 {
		w.release(ctx, loose...)
	}
	for s, h := range w.heldBy() {
		if h.ctx.Err() != nil {
			w.end(ctx, ends, s, h, "")
		}
	}
}

// end gives a shard back when what is under way has ended. why is empty for one
// that is lost.
func (w *Worker) end(ctx context.Context, ends *sync.WaitGroup, s Shard, h *Hold, why string) {
	w.mu.Lock()
	if w.holds[s] != h { // it was forgotten meanwhile: what is noted now would be of the next hold
		w.mu.Unlock()
		return
	}
	_, already := w.ending[s]
	w.ending[s] = why
	stopping := w.stopping
	w.mu.Unlock()
	if already {
		return
	}
	if why != "" {
		w.tell(Event{Kind: Giving, Shard: s, Epoch: h.epoch, Why: why})
	}
	ends.Go(func() {
		finish, cancel := context.WithTimeout(ctx, w.o.Finish)
		defer cancel()
		defer context.AfterFunc(h.ctx, cancel)()
		go func() {
			select {
			case <-stopping:
				cancel()
			case <-finish.Done():
			}
		}()
		err := h.Finish(finish, w.o.Margin)
		if ctx.Err() != nil {
			return // Run sees to it
		}
		// Whatever may still be under way has been told to stop, and is fenced.
		w.release(ctx, s)
		w.forget(s, h)
		if errors.Is(h.Cause(), errGiven) {
			w.tell(Event{Kind: Given, Shard: s, Epoch: h.epoch, Err: err})
		} else if err != nil {
			w.keeper.env.Logger().WarnContext(ctx, "a shard was lost", "shard", s, "epoch", h.epoch, "error", err)
		}
		w.again()
	})
}

// forget takes a hold out.
func (w *Worker) forget(s Shard, h *Hold) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.holds[s] == h {
		delete(w.holds, s)
		delete(w.ending, s)
	}
}

// release gives shards back. If it can't they are found at a later beat, or end by
// time.
func (w *Worker) release(ctx context.Context, shards ...Shard) {
	ctx, cancel := context.WithTimeout(ctx, w.o.Beat)
	defer cancel()
	_ = w.o.Leases.Release(ctx, w.id, shards)
}

func (w *Worker) tell(e Event) {
	if w.o.Observe == nil {
		return
	}
	e.Time = w.keeper.env.Time()
	w.events.Lock()
	defer w.events.Unlock()
	w.o.Observe(e)
}

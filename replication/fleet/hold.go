package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// errGiven is the cause with which what is still under way is stopped when a
// shard goes to another.
var errGiven = errors.New("the shard is given back")

// Hold is a shard that is kept in this process: see [Keeper.Keep]. Its methods
// are safe for concurrent use.
type Hold struct {
	keeper *Keeper
	shard  Shard
	epoch  uint64
	leased bool // the epoch is a lease's
	since  time.Time
	ctx    context.Context
	stop   context.CancelCauseFunc

	mu      sync.Mutex
	until   time.Time // it is over then; zero: open
	wall    time.Time // the same by the clock that people read
	timer   *time.Timer
	said    chan struct{} // closed when Until is called next
	closing bool          // no cycle begins any more
	running map[dr.ProtectionID]*cycle
	work    int           // under way, with prunes
	idle    chan struct{} // closed when closing and nothing is under way
}

// cycle is one under way.
type cycle struct {
	began time.Time
	stop  context.CancelCauseFunc
}

// Shard is the one that is held.
func (h *Hold) Shard() Shard { return h.shard }

// Epoch is that of its lease.
func (h *Hold) Epoch() uint64 { return h.epoch }

// Until says that the shard is held until t, which must have a monotonic clock's
// reading (time.Now): then what is under way is stopped, unless Until was called
// again before. A hold that has ended stays so. A zero t takes the bound away. A cycle
// that was refused as fenced waits for the next call, which says that the shard is held
// all the same.
func (h *Hold) Until(t time.Time) {
	h.mu.Lock()
	if h.ctx.Err() != nil || h.over() {
		h.mu.Unlock()
		h.Stop(h.late()) // whether or not its timer has been heard yet
		return
	}
	defer h.mu.Unlock()
	h.until = t
	close(h.said)
	h.said = make(chan struct{})
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
	if !t.IsZero() {
		left := time.Until(t)
		h.wall = h.keeper.env.Time().Round(0).Add(left)
		h.timer = time.AfterFunc(left, func() { h.Stop(h.late()) })
	}
}

func (h *Hold) late() error {
	return fmt.Errorf("%w: shard %s was not renewed in time", dr.ErrFenced, h.shard)
}

// doubt is for a cycle that was refused as fenced. Either another has the shard, or it
// is something of the machine's alone: a flow has begun the draft that the cycle
// wanted, or another program writes to its store. One such machine must not stop all
// that share its shard. So who gave the hold is asked: doubt returns when Until has
// been called, or the hold or ctx is over. A hold without a bound has nobody to ask, and
// ends. If Until only repeats what was so before the refusal, what the cycle saves of
// its failure is refused as well.
func (h *Hold) doubt(ctx context.Context, refused error) {
	h.mu.Lock()
	said, open := h.said, h.until.IsZero()
	h.mu.Unlock()
	if open {
		h.Stop(refused)
		return
	}
	if ask := h.keeper.ask; ask != nil {
		ask()
	}
	select {
	case <-said:
	case <-h.ctx.Done():
	case <-ctx.Done():
	}
}

// over reports whether the hold's time is over, by either clock: the one that times
// are measured by stands still while the computer is suspended or a virtual machine
// paused, and the leases' doesn't. A clock that is set forward ends holds, too, that
// nobody else would have got yet: the worker takes them again. mu is held.
func (h *Hold) over() bool {
	return !h.until.IsZero() && (!time.Now().Before(h.until) || !h.keeper.env.Time().Round(0).Before(h.wall))
}

// Ended is closed when the hold is over: no cycle begins, and those that were
// under way are being stopped.
func (h *Hold) Ended() <-chan struct{} { return h.ctx.Done() }

// Cause is why the hold is over; nil while it isn't.
func (h *Hold) Cause() error { return context.Cause(h.ctx) }

// Stop ends the hold at once: cycles under way are stopped. It doesn't wait for
// them: Finish does.
func (h *Hold) Stop(cause error) {
	h.stop(cause)
	// At once, so that this is why: the scheduler stops them, too, when it finds
	// their records gone.
	h.mu.Lock()
	for _, c := range h.running {
		c.stop(context.Cause(h.ctx))
	}
	h.mu.Unlock()
	h.close()
	h.keeper.changed(h)
}

// Finish ends the hold gracefully: no cycle begins, and it returns nil when those
// under way have ended. When ctx ends before they are stopped, and those that
// have not stopped within patience are named in the error.
func (h *Hold) Finish(ctx context.Context, patience time.Duration) error {
	idle := h.close()
	select {
	case <-idle:
	case <-h.ctx.Done():
	case <-ctx.Done():
		h.stop(errGiven)
	}
	if h.ctx.Err() != nil {
		wait := time.NewTimer(patience)
		defer wait.Stop()
		select {
		case <-idle:
		case <-wait.C:
		}
	}
	h.Stop(errGiven)
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for id, c := range h.running {
		errs = append(errs, fmt.Errorf("protection %s: the cycle that began at %s doesn't stop", id, c.began.Format(time.RFC3339)))
	}
	return errors.Join(errs...)
}

// close lets no cycle begin, and returns what is closed when none is under way.
func (h *Hold) close() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closing {
		h.closing = true
		h.settle()
	}
	return h.idle
}

// settle closes idle if it is time.
func (h *Hold) settle() {
	if h.closing && h.work == 0 {
		select {
		case <-h.idle:
		default:
			close(h.idle)
		}
	}
	if h.ctx.Err() != nil && h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
}

// valid reports whether the shard is held now.
func (h *Hold) valid() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ctx.Err() == nil && !h.over()
}

// begin makes the context of something that is done for the shard, id's cycle or
// with "" something else.
func (h *Hold) begin(ctx context.Context, id dr.ProtectionID) (context.Context, func(), error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing || h.ctx.Err() != nil || h.over() {
		return nil, nil, notHeld(h.shard)
	}
	fence := withEpoch
	if h.leased {
		fence = WithFence
	}
	ctx, stop := context.WithCancelCause(context.WithValue(fence(ctx, h.shard, h.epoch), holdKey{}, h))
	heed := context.AfterFunc(h.ctx, func() { stop(context.Cause(h.ctx)) })
	h.work++
	if id != "" {
		h.running[id] = &cycle{time.Now(), stop}
	}
	return ctx, func() {
		heed()
		stop(nil)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.work--
		delete(h.running, id)
		h.settle()
	}, nil
}

// interrupt stops the protection's cycle, if one has been under way for a while.
func (h *Hold) interrupt(id dr.ProtectionID, atLeast time.Duration, cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.running[id]; c != nil && time.Since(c.began) >= atLeast {
		c.stop(cause)
	}
}

// busy is how many cycles are under way.
func (h *Hold) busy() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.work
}

func notHeld(s Shard) error {
	return fmt.Errorf("%w: shard %s is not held here", dr.ErrNotAllowed, s)
}

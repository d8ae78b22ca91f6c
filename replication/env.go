package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Env is what actions act on: the sites and records that a process knows. One
// value serves all flows of a process; it is safe for concurrent use and must
// not be copied.
type Env struct {
	Sites   Sites
	Records dr.Records
	// Copy holds the options of every copy: readers, limits. Have, Progress
	// and Full are set by the flows.
	Copy CopyOptions
	// Log may be nil.
	Log *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time

	mu      sync.Mutex
	cycles  map[dr.ProtectionID]*running // replication cycles under way here
	shared  map[string]*sharedCycle      // cycles of replication groups under way here, by group
	groups  map[string][]dr.ProtectionID // who is in which, when they were last listed
	grouped time.Time                    // and when that was
}

// running is a cycle that Hold can stop.
type running struct {
	began time.Time
	stop  context.CancelCauseFunc
	gone  chan struct{}
}

// Time returns the present time of the environment's clock.
func (e *Env) Time() time.Time {
	if e.Now != nil {
		return e.Now()
	}
	return time.Now()
}

// Logger returns the log, which may discard everything.
func (e *Env) Logger() *slog.Logger {
	if e.Log != nil {
		return e.Log
	}
	return slog.New(slog.DiscardHandler)
}

// Update changes a protection's record as the effect of a step, once: a step
// that is repeated after a crash finds its key in the record and changes
// nothing. change is given the record as it stands and may refuse with an
// error. A save that somebody else's save overtook is tried anew; one by a
// run whose claim is older than the record's is dr.ErrFenced.
func (e *Env) Update(ctx context.Context, c *dr.Call, id dr.ProtectionID, change func(*dr.Protection) error) (dr.Protection, error) {
	return e.save(ctx, id, func(p *dr.Protection) (bool, error) {
		if p.Applied == c.Key {
			return false, nil
		}
		if err := change(p); err != nil {
			return false, err
		}
		p.Applied, p.Epoch = c.Key, c.Epochs[id.Lock()]
		return true, nil
	})
}

// Amend changes a record outside of any run.
func (e *Env) Amend(ctx context.Context, id dr.ProtectionID, change func(*dr.Protection) error) (dr.Protection, error) {
	return e.save(ctx, id, func(p *dr.Protection) (bool, error) { return true, change(p) })
}

func (e *Env) save(ctx context.Context, id dr.ProtectionID, change func(*dr.Protection) (bool, error)) (dr.Protection, error) {
	for {
		p, err := e.Records.Load(ctx, id)
		if err != nil {
			return p, fmt.Errorf("record of protection %s: %w", id, err)
		}
		changed, err := change(&p)
		if err != nil || !changed {
			return p, err
		}
		saved, err := e.Records.Save(ctx, p)
		if err == nil {
			return saved, nil
		}
		if !errors.Is(err, dr.ErrConflict) || ctx.Err() != nil {
			return p, fmt.Errorf("record of protection %s: %w", id, err)
		}
	}
}

// Hold stops a replication cycle of the protection that this process runs,
// and waits until it has ended. New ones don't begin while the record's Run
// is set.
func (e *Env) Hold(ctx context.Context, id dr.ProtectionID) error {
	e.mu.Lock()
	r := e.cycles[id]
	e.mu.Unlock()
	if r == nil {
		return nil
	}
	r.stop(fmt.Errorf("%w: a flow holds protection %s", dr.ErrBusy, id))
	select {
	case <-r.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Interrupt is Hold for flows of other processes, which can't call it here, by who
// has read their Run in the record: a cycle of the protection that has been under way
// for atLeast is stopped, with the cause, and not waited for. Of a replication group's
// cycle only the machine's own part is. false says that neither is under way in this
// process.
func (e *Env) Interrupt(p dr.Protection, atLeast time.Duration, cause error) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.cycles[p.ID]
	if r != nil && time.Since(r.began) >= atLeast {
		r.stop(cause)
	}
	return r != nil || p.Group != "" && e.shared[p.Group] != nil
}

// enter registers a cycle; leave ends it.
func (e *Env) enter(ctx context.Context, id dr.ProtectionID) (_ context.Context, leave func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cycles[id] != nil {
		return nil, nil, fmt.Errorf("protection %s: a replication cycle is under way: %w", id, dr.ErrBusy)
	}
	ctx, stop := context.WithCancelCause(ctx)
	r := &running{began: time.Now(), stop: stop, gone: make(chan struct{})}
	if e.cycles == nil {
		e.cycles = map[dr.ProtectionID]*running{}
	}
	e.cycles[id] = r
	return ctx, func() {
		e.mu.Lock()
		delete(e.cycles, id)
		e.mu.Unlock()
		stop(nil)
		close(r.gone)
	}, nil
}

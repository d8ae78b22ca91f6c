package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// ErrClosed is what the methods of a closed engine fail with.
var ErrClosed = errors.New("engine is closed")

// Options are the engine's settings. The zero value works.
type Options struct {
	// Claims are asked for the plans' locks. Nil: those in the engine's own
	// file, which are claimed and released in the same transactions as the
	// run begins and ends. Set it where several engines share resources: they
	// are claimed in the name of the run and of the journal, "RUN@JOURNAL", so
	// that engines that were asked for the same run don't both run it. Claims
	// of a journal that is lost are released by that name, which ErrBusy tells.
	// An engine can be given some, or none any more, only once no run is open:
	// ErrNotAllowed. One other place can't be told from another: see to it that
	// no run is open before you name another. Their epochs begin above those that
	// this journal has had; epochs that only others know are carried over by
	// transfer.Epochs.
	// While they can't be reached, what claims or has ended waits, and its
	// Status tells why.
	Claims dr.Claims

	// Parallel is how many actions run at once, over all runs; what is over
	// that waits its turn. 0: 64. Steps mostly wait for a platform.
	Parallel int

	// An attempt that failed is followed by another after BackoffFirst, each
	// further one after twice the time, up to BackoffMost; every wait is
	// shortened at random by up to half, so that what failed together isn't
	// tried again together. 0: 200 ms and 1 minute.
	BackoffFirst, BackoffMost time.Duration

	// Keep is how long ended runs stay in the journal; while serving, older
	// ones are purged once an hour. 0: until [Engine.Purge] is called.
	Keep time.Duration

	// Log gets what a person may want to know later. Nil: nothing is logged.
	Log *slog.Logger

	// Intercept is meant for fault tests. It is called before and after each
	// write to the file, one at a time. An error makes the engine stop as a
	// failing disk would: before the write, nothing of it is durable; after
	// it, everything is, but the engine doesn't know. It must not call the
	// engine's methods that write.
	Intercept func(Write) error
}

// Write describes one write to the file: a transaction, with what several
// callers wanted written at the same time.
type Write struct {
	N     int64    // which one since the file was opened, from 1
	After bool     // it is durable; else it is about to be made
	What  []string // what is in it, for people: `run r1: begun "copy"`
}

// Engine is an orchestrator in one process. All methods are safe for
// concurrent use. Those that change something return when it is durable, even
// if their context ends meanwhile.
type Engine struct {
	path  string
	o     Options
	log   *slog.Logger
	lock  io.Closer
	db    *sql.DB // for reading
	owner owner
	w     *writer

	ctx  context.Context // ends, with its cause, when the engine is of no use any more
	fail context.CancelCauseFunc
	quit chan struct{} // closed by Close: what runs may still be recorded

	closing sync.Once
	closed  error

	mu     sync.Mutex
	live   map[dr.RunID]*run // those not ended
	served chan struct{}     // closed when Serve has returned; nil before
	serves atomic.Pointer[serving]
}

// Open opens the file, or makes it. ErrBusy: another process, or another
// engine in this one, has it open. ErrUnsupported: a later version of this
// package wrote it. Close must be called.
func Open(path string, o Options) (*Engine, error) {
	if o.Parallel <= 0 {
		o.Parallel = 64
	}
	if o.BackoffFirst <= 0 {
		o.BackoffFirst = 200 * time.Millisecond
	}
	if o.BackoffMost <= 0 {
		o.BackoffMost = time.Minute
	}
	e := &Engine{path: path, o: o, log: o.Log, live: map[dr.RunID]*run{}, quit: make(chan struct{})}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	e.ctx, e.fail = context.WithCancelCause(context.Background())
	if err := e.open(); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

func (e *Engine) open() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("journal %s: %w", e.path, err)
		}
	}()
	path, err := realPath(e.path)
	if err != nil {
		return err
	}
	if e.lock, err = lockFile(path); err != nil {
		return err
	}
	if e.db, e.owner, err = openDB(path); err != nil {
		return err
	}
	if e.w, err = newWriter(e); err != nil {
		return err
	}
	return e.loadOpen()
}

// Close ends serving, waits until Serve has returned, which takes as long as
// the actions take to stop, and closes the file. What is open goes on when the
// file is opened and served again. A second call does nothing.
func (e *Engine) Close() error {
	e.mu.Lock()
	if !e.quitting() {
		close(e.quit)
	}
	served := e.served
	e.mu.Unlock()
	if served != nil {
		<-served
	}
	return e.close()
}

func (e *Engine) close() error {
	e.fail(ErrClosed)
	e.closing.Do(func() {
		var errs []error
		if e.w != nil {
			errs = append(errs, e.w.close())
		}
		if e.db != nil {
			errs = append(errs, e.db.Close())
		}
		if e.lock != nil {
			errs = append(errs, e.lock.Close())
		}
		e.closed = errors.Join(errs...)
	})
	return e.closed
}

func (e *Engine) quitting() bool {
	select {
	case <-e.quit:
		return true
	default:
		return false
	}
}

// dead returns why the engine is of no use any more, or nil.
func (e *Engine) dead() error {
	if e.ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("journal %s: %w", e.path, context.Cause(e.ctx))
}

func now() time.Time { return time.Now().UTC().Round(0) }

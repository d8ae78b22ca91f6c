package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// maxBatch bounds how many callers' changes share one transaction.
const maxBatch = 512

// writer is the only one that writes to the file: whatever has queued up
// while a transaction was being synced goes into the next.
type writer struct {
	e      *Engine
	conn   *sql.Conn
	stmts  map[string]*sql.Stmt
	writes int64

	mu    sync.Mutex
	wake  *sync.Cond
	queue []*change
	err   error // why nothing is written any more
	gone  chan struct{}
}

// change is what one caller wants written.
type change struct {
	// do writes it. It first reads whatever could make it refuse, and returns
	// a *refusal then, having written nothing: that fails this change only.
	do   func(w *writer) error
	what func() []string
	done chan error
}

// refusal is an answer, not a failure of the file.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

func refuse(format string, args ...any) error { return &refusal{fmt.Errorf(format, args...)} }

func newWriter(e *Engine) (*writer, error) {
	conn, err := e.db.Conn(context.Background())
	if err != nil {
		return nil, explain(err)
	}
	w := &writer{e: e, conn: conn, stmts: map[string]*sql.Stmt{}, gone: make(chan struct{})}
	w.wake = sync.NewCond(&w.mu)
	go w.loop()
	return w, nil
}

// write returns when the change is durable or refused.
func (w *writer) write(c *change) error {
	c.done = make(chan error, 1)
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return w.err
	}
	w.queue = append(w.queue, c)
	w.mu.Unlock()
	w.wake.Signal()
	return <-c.done
}

// close lets what is queued be written, unless the writer has failed.
func (w *writer) close() error {
	w.stop(w.e.closedErr())
	<-w.gone
	for _, s := range w.stmts {
		s.Close()
	}
	return w.conn.Close()
}

func (w *writer) stop(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	w.wake.Broadcast()
}

func (w *writer) loop() {
	defer close(w.gone)
	for {
		w.mu.Lock()
		for len(w.queue) == 0 && w.err == nil {
			w.wake.Wait()
		}
		if len(w.queue) == 0 {
			w.mu.Unlock()
			return
		}
		n := min(len(w.queue), maxBatch)
		batch := w.queue[:n:n]
		w.queue = w.queue[n:]
		w.mu.Unlock()
		if !w.batch(batch) {
			return
		}
	}
}

// batch writes and answers. If the file fails everybody is told, and false
// returned.
func (w *writer) batch(batch []*change) bool {
	refused, err := w.transact(batch)
	if err == nil {
		for i, c := range batch {
			c.done <- refused[i]
		}
		return true
	}
	err = explain(err)
	w.e.fail(err) // before anybody hears of it: nothing more may begin
	err = fmt.Errorf("journal %s: %w", w.e.path, err)
	w.mu.Lock()
	w.err = err
	rest := w.queue
	w.queue = nil
	w.mu.Unlock()
	for _, c := range append(batch, rest...) {
		c.done <- err
	}
	return false
}

func (w *writer) transact(batch []*change) (refused []error, err error) {
	w.writes++
	info := Write{N: w.writes}
	if w.e.o.Intercept != nil {
		for _, c := range batch {
			info.What = append(info.What, c.what()...)
		}
		if err := w.e.o.Intercept(info); err != nil {
			return nil, err
		}
	}
	if err := w.begin(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			// The cause is what counts; the connection is not used again.
			_ = w.exec(`ROLLBACK`)
		}
	}()
	var epoch int64
	if err := w.row(`SELECT epoch FROM owner`).Scan(&epoch); err != nil {
		return nil, err
	}
	if epoch != w.e.owner.epoch {
		return nil, errFenced
	}
	refused = make([]error, len(batch))
	for i, c := range batch {
		err := c.do(w)
		if r := (*refusal)(nil); errors.As(err, &r) {
			refused[i] = r.error
		} else if err != nil {
			return nil, err
		}
	}
	if err := w.exec(`COMMIT`); err != nil {
		return nil, err
	}
	if w.e.o.Intercept != nil {
		info.After = true
		if err := w.e.o.Intercept(info); err != nil {
			return nil, err
		}
	}
	return refused, nil
}

var errFenced = fmt.Errorf("%w: another process took the file over", dr.ErrFenced)

// begin waits as long as it must for somebody who has locked the file, such as
// a person with SQLite's shell: nothing is in doubt yet, and a run that stands
// still is better than one whose engine is gone.
func (w *writer) begin() error {
	for {
		err := w.exec(`BEGIN IMMEDIATE`) // gives up after the busy_timeout
		if sqliteCode(err) != sqlite3.SQLITE_BUSY || w.stopped() {
			return err
		}
		w.e.log.Warn("journal is locked by another process; nothing goes on until it lets go", "path", w.e.path)
	}
}

func (w *writer) stopped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err != nil
}

// stmt prepares each query once.
func (w *writer) stmt(q string) (*sql.Stmt, error) {
	if s := w.stmts[q]; s != nil {
		return s, nil
	}
	s, err := w.conn.PrepareContext(context.Background(), q)
	if err == nil {
		w.stmts[q] = s
	}
	return s, err
}

func (w *writer) exec(q string, args ...any) error {
	s, err := w.stmt(q)
	if err != nil {
		return err
	}
	_, err = s.Exec(args...)
	return err
}

// row is the one row of a query.
func (w *writer) row(q string, args ...any) scanner {
	s, err := w.stmt(q)
	if err != nil {
		return badRow{err}
	}
	return s.QueryRow(args...)
}

type scanner interface{ Scan(...any) error }

type badRow struct{ err error }

func (b badRow) Scan(...any) error { return b.err }

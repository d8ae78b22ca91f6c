package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Status tells where the run is. It shows only what is durable.
func (e *Engine) Status(ctx context.Context, id dr.RunID) (dr.Status, error) {
	r, err := e.find(ctx, id)
	if err != nil {
		return dr.Status{}, err
	}
	s, _, err := r.status(false)
	return s, err
}

// Decide answers a gate or a stuck step. It works also while nobody serves.
func (e *Engine) Decide(ctx context.Context, id dr.RunID, step string, d dr.Decision) error {
	r, err := e.find(ctx, id)
	if err != nil {
		return err
	}
	return r.tell(func() (*dr.Event, error) { return r.fold.Decide(step, d, now()) })
}

// Cancel stops the run. It works also while nobody serves; what has to be
// undone is then undone by who serves next. Asked again it stops what is still
// waited for, such as a step that a crash left in doubt and that is being
// settled, or an undo that hangs and is then tried again.
func (e *Engine) Cancel(ctx context.Context, id dr.RunID, why string) error {
	r, err := e.find(ctx, id)
	if err != nil {
		return err
	}
	return r.tell(func() (*dr.Event, error) { return r.fold.Cancel(why, now()) })
}

// Watch yields the run's status as it changes. Its last error is the engine's,
// if the engine stops before the run has ended, or ctx's.
func (e *Engine) Watch(ctx context.Context, id dr.RunID) iter.Seq2[dr.Status, error] {
	return func(yield func(dr.Status, error) bool) {
		r, err := e.find(ctx, id)
		if err != nil {
			yield(dr.Status{}, err)
			return
		}
		for {
			s, changed, err := r.status(true)
			if err != nil {
				yield(dr.Status{}, err)
				return
			}
			if !yield(s, nil) || changed == nil {
				return
			}
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				err = ctx.Err()
			case <-e.ctx.Done():
				err = e.dead()
			}
			yield(dr.Status{}, err)
			return
		}
	}
}

// Runs yields all runs, oldest first, each as it is when it is reached.
func (e *Engine) Runs(ctx context.Context) iter.Seq2[dr.Status, error] {
	return func(yield func(dr.Status, error) bool) {
		var n int64
		for {
			if err := e.ready(ctx); err != nil {
				yield(dr.Status{}, err)
				return
			}
			var id dr.RunID
			err := e.db.QueryRowContext(ctx, `SELECT n, id FROM run WHERE n > ? ORDER BY n LIMIT 1`, n).Scan(&n, &id)
			if errors.Is(err, sql.ErrNoRows) {
				return
			}
			if err != nil {
				yield(dr.Status{}, e.readErr(err))
				return
			}
			s, err := e.Status(ctx, id)
			if errors.Is(err, dr.ErrNotFound) { // purged meanwhile
				continue
			}
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// OpenRuns yields the runs that haven't ended, oldest first. It reads no other.
func (e *Engine) OpenRuns(ctx context.Context) iter.Seq2[dr.RunID, error] {
	return func(yield func(dr.RunID, error) bool) {
		var n int64
		for {
			if err := e.ready(ctx); err != nil {
				yield("", err)
				return
			}
			var id dr.RunID
			err := e.db.QueryRowContext(ctx, `SELECT n, id FROM run WHERE ended IS NULL AND n > ? ORDER BY n LIMIT 1`, n).Scan(&n, &id)
			if errors.Is(err, sql.ErrNoRows) {
				return
			}
			if err != nil {
				yield("", e.readErr(err))
				return
			}
			if !yield(id, nil) {
				return
			}
		}
	}
}

// Purge forgets runs that ended longer ago than olderThan, and returns how
// many. Fencing epochs are never forgotten, nor are the runs' IDs.
func (e *Engine) Purge(ctx context.Context, olderThan time.Duration) (int, error) {
	const most = 100 // in one transaction: others are waiting
	before := now().Add(-olderThan).UnixNano()
	for total := 0; ; {
		ns, err := e.endedBefore(ctx, before, most)
		if err != nil || len(ns) == 0 {
			return total, err
		}
		err = e.write(ctx, func(w *writer) error {
			for _, n := range ns {
				if err := w.exec(`INSERT OR IGNORE INTO past SELECT id FROM run WHERE n = ?`, n); err != nil {
					return err
				}
				if err := w.forget(n); err != nil {
					return err
				}
			}
			return nil
		}, fmt.Sprintf("purge %d runs", len(ns)))
		if err != nil {
			return total, err
		}
		total += len(ns)
	}
}

func (e *Engine) endedBefore(ctx context.Context, before int64, most int) (ns []int64, err error) {
	if err := e.ready(ctx); err != nil {
		return nil, err
	}
	rows, err := e.db.QueryContext(ctx, `SELECT n FROM run WHERE ended < ? LIMIT ?`, before, most)
	if err != nil {
		return nil, e.readErr(err)
	}
	defer rows.Close()
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return nil, e.readErr(err)
		}
		ns = append(ns, n)
	}
	return ns, rows.Err()
}

// find returns the run: the open one, or one made of the journal of an ended
// one, which nobody else has.
func (e *Engine) find(ctx context.Context, id dr.RunID) (*run, error) {
	for {
		if err := e.ready(ctx); err != nil {
			return nil, err
		}
		e.mu.Lock()
		r := e.live[id]
		e.mu.Unlock()
		if r != nil {
			return r, nil
		}
		r, err := e.loadEnded(ctx, id)
		if r != nil || err != nil {
			return r, err
		}
		// It is recorded as open: about to be enlisted, or another owner's.
		if err := e.checkOwner(ctx); err != nil {
			return nil, err
		}
		if !pause(ctx, time.Millisecond) {
			return nil, ctx.Err()
		}
	}
}

// checkOwner ends the engine if another process has taken the file over.
func (e *Engine) checkOwner(ctx context.Context) error {
	var epoch int64
	if err := e.db.QueryRowContext(ctx, `SELECT epoch FROM owner`).Scan(&epoch); err != nil {
		return e.readErr(err)
	}
	if epoch != e.owner.epoch {
		e.fail(errFenced)
	}
	return e.dead()
}

// loadEnded returns nil for a run that is open.
func (e *Engine) loadEnded(ctx context.Context, id dr.RunID) (*run, error) {
	rows, err := e.db.QueryContext(ctx, `SELECT id, n, fold, plan, ended, body FROM run LEFT JOIN event ON run = n WHERE id = ? ORDER BY seq`, id)
	if err != nil {
		return nil, e.readErr(err)
	}
	runs, open, err := e.replay(rows)
	switch {
	case err != nil:
		return nil, e.readErr(err)
	case len(runs) == 0:
		return nil, notFound(id)
	case open:
		return nil, nil
	}
	return runs[0], nil
}

// loadOpen brings the open runs back.
func (e *Engine) loadOpen() error {
	rows, err := e.db.Query(`SELECT id, n, fold, plan, ended, body FROM run LEFT JOIN event ON run = n WHERE ended IS NULL ORDER BY n, seq`)
	if err != nil {
		return explain(err)
	}
	runs, _, err := e.replay(rows)
	if err != nil {
		return err
	}
	for _, r := range runs {
		e.live[r.id] = r
	}
	return e.claimsElsewhere()
}

// claimsElsewhere refuses to go on with runs that have claimed elsewhere than
// where this engine would look: they would be given back where they aren't held,
// and another engine that shares the right ones could take what such a run holds.
func (e *Engine) claimsElsewhere() error {
	// Of a run of an older program that isn't recorded. What it claimed in this file
	// it did when it was recorded: it has all of it, or has claimed elsewhere.
	var id dr.RunID
	err := e.db.QueryRow(`SELECT id FROM run WHERE ended IS NULL AND
		coalesce(outside, iif(coalesce(json_array_length(CAST(plan AS TEXT), '$.locks'), 0) = 0, NULL, NOT EXISTS(SELECT 1 FROM claim WHERE owner = run.id))) <> ?
		ORDER BY n LIMIT 1`, e.o.Claims != nil).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return explain(err)
	}
	where := "in this file, and Options.Claims names others"
	if e.o.Claims == nil {
		where = "in other claims, which Options.Claims must name"
	}
	return fmt.Errorf("%w: run %s is open, and holds its claims %s (open it as before until that run has ended)", dr.ErrNotAllowed, id, where)
}

// replay makes runs of rows that are ordered by run and event. open: the last
// of them has not ended.
func (e *Engine) replay(rows *sql.Rows) (runs []*run, open bool, err error) {
	defer rows.Close()
	var r *run
	for rows.Next() {
		var id dr.RunID
		var n int64
		var fold int
		var plan, body sql.RawBytes
		var ended sql.NullInt64
		if err := rows.Scan(&id, &n, &fold, &plan, &ended, &body); err != nil {
			return nil, false, explain(err)
		}
		open = !ended.Valid
		if r == nil || r.n != n {
			if fold > dr.FoldRev {
				return nil, false, fmt.Errorf("run %s: %w: its journal has fold revision %d, this program knows %d", id, dr.ErrUnsupported, fold, dr.FoldRev)
			}
			var p dr.Plan
			if err := json.Unmarshal(plan, &p); err != nil {
				return nil, false, fmt.Errorf("run %s: plan: %w: %v", id, dr.ErrCorrupt, err)
			}
			if err := p.Validate(); err != nil {
				return nil, false, fmt.Errorf("run %s: %w: %v", id, dr.ErrCorrupt, err)
			}
			r = newRun(e, id, n, p)
			runs = append(runs, r)
		}
		if body == nil {
			continue // no event yet
		}
		var ev dr.Event
		if err := json.Unmarshal(body, &ev); err != nil {
			return nil, false, fmt.Errorf("run %s: event %d: %w: %v", id, r.seq+1, dr.ErrCorrupt, err)
		}
		if err := r.restore(ev); err != nil {
			return nil, false, err
		}
	}
	if err := rows.Err(); err != nil {
		return nil, false, explain(err)
	}
	return runs, open, nil
}

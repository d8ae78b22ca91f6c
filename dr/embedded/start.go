package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Start records the run and claims its locks. While the engine is served, a
// run that needs an action which is not registered is refused with
// ErrUnsupported; before, Serve would refuse. The ID of a run that was purged is
// ErrRunExists for ever: what its steps made is found under keys that are made
// of it, and a second run would take that for its own.
func (e *Engine) Start(ctx context.Context, id dr.RunID, p dr.Plan) error {
	p, err := p.Frozen()
	if err != nil {
		return err
	}
	if id == "" {
		return fmt.Errorf("run: %w: it has no ID", dr.ErrInvalid)
	}
	if s := e.serves.Load(); s != nil {
		if err := s.able(id, dr.NewRun(id, p)); err != nil {
			return err
		}
	}
	plan, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("run %s: %w: plan: %v", id, dr.ErrInvalid, err)
	}
	if e.o.Claims == nil {
		return e.startHere(ctx, id, p, plan)
	}
	return e.startOutside(ctx, id, p, plan)
}

// startHere claims in the transaction that records the run.
func (e *Engine) startHere(ctx context.Context, id dr.RunID, p dr.Plan, plan []byte) error {
	var n int64
	ev := dr.Event{Kind: dr.EventClaimed, At: now(), Epochs: map[string]uint64{}}
	err := e.write(ctx, func(w *writer) error {
		if err := w.unknown(id); err != nil {
			return err
		}
		for _, l := range p.Locks {
			if err := w.free(l, string(id)); err != nil {
				return err
			}
		}
		for _, l := range p.Locks {
			epoch, err := w.claim(l, string(id))
			if err != nil {
				return err
			}
			ev.Epochs[l] = epoch
		}
		var err error
		if n, err = w.insert(id, plan); err != nil {
			return err
		}
		body, err := json.Marshal(ev)
		if err != nil {
			return err
		}
		return w.exec(`INSERT INTO event VALUES(?, 1, ?)`, n, body)
	}, "start run "+string(id))
	if err != nil {
		return fmt.Errorf("run %s: start: %w", id, err)
	}
	r := newRun(e, id, n, p)
	if err := r.restore(ev); err != nil {
		return err
	}
	e.enlist(r)
	r.poke()
	return nil
}

// startOutside records the run first: a crash while it claims leaves a run
// that goes on claiming, not claims that nobody knows of.
func (e *Engine) startOutside(ctx context.Context, id dr.RunID, p dr.Plan, plan []byte) error {
	var n int64
	err := e.write(ctx, func(w *writer) (err error) {
		if err = w.unknown(id); err == nil {
			n, err = w.insert(id, plan)
		}
		return err
	}, "start run "+string(id))
	if err != nil {
		return fmt.Errorf("run %s: start: %w", id, err)
	}
	r := newRun(e, id, n, p)
	k := key{kind: dr.TaskClaim}
	r.hand[k] = &hand{stop: func(error) {}, outside: true}
	e.enlist(r)
	epochs, err := e.acquireAll(ctx, id, p.Locks)
	if err != nil {
		return fmt.Errorf("run %s: start: %w", id, e.takeBack(ctx, r, k, err))
	}
	return r.tell(func() (*dr.Event, error) {
		delete(r.hand, k)
		if !r.wants(dr.TaskClaim) { // cancelled meanwhile
			return nil, nil
		}
		return &dr.Event{Kind: dr.EventClaimed, At: now(), Epochs: epochs}, nil
	})
}

// takeBack forgets a run whose locks could not be claimed. If that isn't
// possible, or somebody has cancelled it meanwhile, the run stays, as one that
// failed or was cancelled.
func (e *Engine) takeBack(ctx context.Context, r *run, k key, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	held := releaseAll(ctx, e.o.Claims, e.claimant(r.id), r.fold.Plan().Locks)
	if held != nil {
		e.log.Warn("claims of a run that did not start are still held", "run", r.id, "err", held)
	}
	return errors.Join(cause, held, r.tell(func() (*dr.Event, error) {
		delete(r.hand, k)
		if !r.wants(dr.TaskClaim) {
			return nil, nil
		}
		if held != nil {
			return &dr.Event{Kind: dr.EventRefused, At: now(), Err: cause.Error()}, nil
		}
		if err := e.write(context.Background(), func(w *writer) error { return w.forget(r.n) }, "forget run "+string(r.id)); err != nil {
			return nil, err
		}
		e.mu.Lock()
		delete(e.live, r.id)
		e.mu.Unlock()
		r.forget()
		return nil, nil
	}))
}

// claimant is the run's name among the owners of other claims than the
// engine's: a run of the same ID in another journal is another owner.
func (e *Engine) claimant(id dr.RunID) string { return string(id) + "@" + e.owner.journal }

// enlist makes an open run known.
func (e *Engine) enlist(r *run) {
	e.mu.Lock()
	e.live[r.id] = r
	e.mu.Unlock()
}

func (w *writer) unknown(id dr.RunID) error {
	var ended sql.NullInt64
	err := w.row(`SELECT ended FROM run WHERE id = ?`, id).Scan(&ended)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		var was bool
		if err := w.row(`SELECT EXISTS (SELECT 1 FROM past WHERE id = ?)`, id).Scan(&was); err != nil || !was {
			return err
		}
		return refuse("%w: it has ended, and was purged", dr.ErrRunExists)
	case err != nil:
		return err
	case ended.Valid:
		return refuse("%w, and has ended", dr.ErrRunExists)
	}
	return refuse("%w, and is open", dr.ErrRunExists)
}

func (w *writer) insert(id dr.RunID, plan []byte) (n int64, err error) {
	err = w.row(`INSERT INTO run(id, fold, plan, outside) VALUES(?, ?, ?, ?) RETURNING n`, id, dr.FoldRev, plan, w.e.o.Claims != nil).Scan(&n)
	return n, err
}

func (w *writer) forget(n int64) error {
	if err := w.exec(`DELETE FROM event WHERE run = ?`, n); err != nil {
		return err
	}
	return w.exec(`DELETE FROM run WHERE n = ?`, n)
}

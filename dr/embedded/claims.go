package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Acquire claims the resource in the engine's own file, also if
// [Options.Claims] names others for its runs. The engine's runs claim under
// their RunID.
func (e *Engine) Acquire(ctx context.Context, resource, owner string) (epoch uint64, err error) {
	if resource == "" || owner == "" {
		return 0, fmt.Errorf("%w: claim of %q by %q: both must be named", dr.ErrInvalid, resource, owner)
	}
	err = e.write(ctx, func(w *writer) error {
		if err := w.free(resource, owner); err != nil {
			return err
		}
		epoch, err = w.claim(resource, owner)
		return err
	}, "claim "+resource)
	return epoch, err
}

// Release gives the claim back. The resource's epoch is kept for ever.
func (e *Engine) Release(ctx context.Context, resource, owner string) error {
	return e.write(ctx, func(w *writer) error { return w.release(resource, owner) }, "release "+resource)
}

// Claims yields what the engine's own file knows, each as it is when it is
// reached.
func (e *Engine) Claims(ctx context.Context) iter.Seq2[dr.Claim, error] {
	return func(yield func(dr.Claim, error) bool) {
		var c dr.Claim
		for {
			if err := e.ready(ctx); err != nil {
				yield(dr.Claim{}, err)
				return
			}
			var owner sql.NullString
			err := e.db.QueryRowContext(ctx, `SELECT resource, owner, epoch FROM claim WHERE resource > ? ORDER BY resource LIMIT 1`, c.Resource).Scan(&c.Resource, &owner, &c.Epoch)
			if errors.Is(err, sql.ErrNoRows) {
				return
			}
			if err != nil {
				yield(dr.Claim{}, e.readErr(err))
				return
			}
			c.Owner = owner.String
			if !yield(c, nil) {
				return
			}
		}
	}
}

// Raise makes the resource's next epoch in the engine's own file higher than
// atLeast.
func (e *Engine) Raise(ctx context.Context, resource string, atLeast uint64) error {
	if resource == "" || atLeast >= math.MaxInt64 {
		return fmt.Errorf("%w: raise the epoch of %q to %d", dr.ErrInvalid, resource, atLeast)
	}
	return e.write(ctx, func(w *writer) error {
		var epoch uint64
		err := w.row(`SELECT epoch FROM claim WHERE resource = ?`, resource).Scan(&epoch)
		if err != nil && !errors.Is(err, sql.ErrNoRows) || epoch >= atLeast {
			return ignore(err, sql.ErrNoRows)
		}
		if err := w.free(resource, ""); err != nil {
			return err
		}
		return w.exec(`INSERT INTO claim VALUES(?1, NULL, ?2) ON CONFLICT DO UPDATE SET epoch = ?2`, resource, atLeast)
	}, "raise epoch of "+resource)
}

// Seize takes a claim of the engine's own file from who holds it. Those of its
// own runs can't be seized: the run can be cancelled.
func (e *Engine) Seize(ctx context.Context, resource, from, to string) (epoch uint64, err error) {
	if resource == "" || from == "" {
		return 0, fmt.Errorf("%w: seize %q from %q: both must be named", dr.ErrInvalid, resource, from)
	}
	err = e.write(ctx, func(w *writer) error {
		var holder sql.NullString
		err := w.row(`SELECT owner, epoch FROM claim WHERE resource = ?`, resource).Scan(&holder, &epoch)
		if err := ignore(err, sql.ErrNoRows); err != nil {
			return err
		}
		if holder.String != from {
			return refuse("%s: %w: held by %q, not by %s", resource, dr.ErrConflict, holder.String, from)
		}
		var open bool
		if err := w.row(`SELECT EXISTS (SELECT 1 FROM run WHERE id = ? AND ended IS NULL)`, from).Scan(&open); err != nil {
			return err
		}
		if open && e.o.Claims == nil {
			return refuse("%s: %w: run %s of this journal holds it: cancel that", resource, dr.ErrNotAllowed, from)
		}
		epoch++
		return w.exec(`UPDATE claim SET owner = ?2, epoch = ?3 WHERE resource = ?1`, resource, sql.NullString{String: to, Valid: to != ""}, epoch)
	}, "seize "+resource)
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// ignore is err, unless it is that.
func ignore(err, that error) error {
	if errors.Is(err, that) {
		return nil
	}
	return err
}

// free refuses if somebody else holds the resource.
func (w *writer) free(resource, owner string) error {
	var holder sql.NullString
	err := w.row(`SELECT owner FROM claim WHERE resource = ?`, resource).Scan(&holder)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil && holder.Valid && holder.String != owner {
		return refuse("%s: %w: held by %s", resource, dr.ErrBusy, holder.String)
	}
	return err
}

// claim takes a resource that is free or the owner's.
func (w *writer) claim(resource, owner string) (epoch uint64, err error) {
	err = w.row(`INSERT INTO claim VALUES(?1, ?2, 1) ON CONFLICT DO UPDATE
		SET epoch = epoch + (owner IS NULL), owner = ?2 RETURNING epoch`, resource, owner).Scan(&epoch)
	return epoch, err
}

func (w *writer) release(resource, owner string) error {
	return w.exec(`UPDATE claim SET owner = NULL WHERE resource = ? AND owner = ?`, resource, owner)
}

// write makes one change of the file.
func (e *Engine) write(ctx context.Context, do func(*writer) error, what ...string) error {
	if err := e.ready(ctx); err != nil {
		return err
	}
	return e.w.write(&change{do: do, what: func() []string { return what }})
}

// ready refuses calls to a dead engine, and those whose context has ended.
func (e *Engine) ready(ctx context.Context) error {
	if err := e.dead(); err != nil {
		return err
	}
	return ctx.Err()
}

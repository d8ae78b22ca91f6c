package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

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
		if err := usedUp(resource, epoch); err != nil {
			return err
		}
		epoch = dr.NextEpoch(epoch, now())
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

// free refuses if somebody else holds the resource, or nobody can any more.
func (w *writer) free(resource, owner string) error {
	var holder sql.NullString
	var epoch uint64
	err := w.row(`SELECT owner, epoch FROM claim WHERE resource = ?`, resource).Scan(&holder, &epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil && holder.Valid && holder.String != owner {
		return refuse("%s: %w: held by %s", resource, dr.ErrBusy, holder.String)
	}
	if err == nil && !holder.Valid {
		return usedUp(resource, epoch)
	}
	return err
}

// usedUp refuses to give an epoch after the last that the file can hold: it would
// take that for a failure of its own.
func usedUp(resource string, epoch uint64) error {
	if epoch < math.MaxInt64 {
		return nil
	}
	return refuse("%s: %w: its epochs are used up at %d", resource, dr.ErrInvalid, epoch)
}

// claim takes a resource that is free or the owner's.
func (w *writer) claim(resource, owner string) (epoch uint64, err error) {
	err = w.row(`INSERT INTO claim VALUES(?1, ?2, ?3) ON CONFLICT DO UPDATE
		SET epoch = CASE WHEN owner IS NULL THEN max(epoch + 1, ?3) ELSE epoch END, owner = ?2 RETURNING epoch`,
		resource, owner, dr.NextEpoch(0, now())).Scan(&epoch)
	return epoch, err
}

func (w *writer) release(resource, owner string) error {
	return w.exec(`UPDATE claim SET owner = NULL WHERE resource = ? AND owner = ?`, resource, owner)
}

// remember keeps epochs that other claims have given, so that those of this
// file, or of a third place, don't fall behind them. What somebody holds in this
// file stays as it is.
func (w *writer) remember(epochs map[string]uint64) error {
	for l, epoch := range epochs {
		if epoch > math.MaxInt64 {
			continue // no place of this library gives such
		}
		if err := w.exec(`INSERT INTO claim VALUES(?1, NULL, ?2) ON CONFLICT DO UPDATE SET epoch = max(epoch, ?2) WHERE owner IS NULL`, l, epoch); err != nil {
			return err
		}
	}
	return nil
}

// acquireAll claims with Options.Claims, in one order everywhere, so that two
// runs can't each hold what the other wants.
func (e *Engine) acquireAll(ctx context.Context, run dr.RunID, locks []string) (map[string]uint64, error) {
	epochs := make(map[string]uint64, len(locks))
	for _, l := range slices.Sorted(slices.Values(locks)) {
		epoch, err := e.acquire(ctx, l, e.claimant(run))
		if err != nil {
			return nil, err
		}
		epochs[l] = epoch
	}
	return epochs, nil
}

// acquire claims one resource, under an epoch above all that this journal has
// had for it: a lower one is refused by whatever has seen those, in the middle of
// a failover. That is so where the journal was given other claims, and nobody
// has carried the epochs over.
func (e *Engine) acquire(ctx context.Context, resource, owner string) (uint64, error) {
	epoch, err := e.o.Claims.Acquire(ctx, resource, owner)
	if err != nil {
		return 0, err
	}
	past, err := e.past(ctx, resource)
	if err != nil || epoch > past {
		return epoch, err
	}
	// No step of the run has begun under it.
	if err := e.o.Claims.Release(ctx, resource, owner); err != nil {
		return 0, err
	}
	r, ok := dr.As[dr.EpochRaiser](e.o.Claims)
	if !ok {
		return 0, fmt.Errorf("%s: %w: Options.Claims gave epoch %d, and this journal has had %d: raise the epochs there (transfer.Epochs)", resource, dr.ErrFenced, epoch, past)
	}
	if err := r.Raise(ctx, resource, past); err != nil {
		return 0, err
	}
	e.log.Warn("other claims were behind the journal: their epoch is raised", "resource", resource, "gave", epoch, "past", past)
	return e.o.Claims.Acquire(ctx, resource, owner)
}

// past is the highest epoch that this file knows of a resource.
func (e *Engine) past(ctx context.Context, resource string) (epoch uint64, err error) {
	err = e.db.QueryRowContext(ctx, `SELECT epoch FROM claim WHERE resource = ?`, resource).Scan(&epoch)
	if err = ignore(err, sql.ErrNoRows); err != nil {
		return 0, e.readErr(err)
	}
	return epoch, nil
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

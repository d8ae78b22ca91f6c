package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

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

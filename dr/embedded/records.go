package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Load returns the record.
func (e *Engine) Load(ctx context.Context, id dr.ProtectionID) (dr.Protection, error) {
	if err := e.ready(ctx); err != nil {
		return dr.Protection{}, err
	}
	var body []byte
	err := e.db.QueryRowContext(ctx, `SELECT body FROM protection WHERE id = ?`, id).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return dr.Protection{}, fmt.Errorf("protection %s: %w", id, dr.ErrNotFound)
	}
	if err != nil {
		return dr.Protection{}, e.readErr(err)
	}
	return decodeProtection(id, body)
}

func decodeProtection(id dr.ProtectionID, body []byte) (p dr.Protection, err error) {
	if err := json.Unmarshal(body, &p); err != nil {
		return p, fmt.Errorf("protection %s: %w: %v", id, dr.ErrCorrupt, err)
	}
	return p, nil
}

// Save stores the record.
func (e *Engine) Save(ctx context.Context, p dr.Protection) (dr.Protection, error) {
	if p.ID == "" {
		return p, fmt.Errorf("protection: %w: it has no ID", dr.ErrInvalid)
	}
	// The file would take them for a failure of its own, which is the engine's end.
	if p.Version >= math.MaxInt64 || p.Epoch > math.MaxInt64 {
		return dr.Protection{}, fmt.Errorf("protection %s: %w: version %d, epoch %d: too high", p.ID, dr.ErrInvalid, p.Version, p.Epoch)
	}
	was := p.Version
	p.Version++
	body, err := json.Marshal(p)
	if err != nil {
		return dr.Protection{}, fmt.Errorf("protection %s: %w: %v", p.ID, dr.ErrInvalid, err)
	}
	err = e.write(ctx, func(w *writer) error {
		var version, epoch uint64
		err := w.row(`SELECT version, epoch FROM protection WHERE id = ?`, p.ID).Scan(&version, &epoch)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		switch {
		case p.Epoch < epoch:
			return refuse("protection %s: %w: saved under epoch %d, this is %d", p.ID, dr.ErrFenced, epoch, p.Epoch)
		case was != version:
			return refuse("protection %s: %w: it is at version %d, not %d", p.ID, dr.ErrConflict, version, was)
		}
		return w.exec(`INSERT INTO protection VALUES(?1, ?2, ?3, ?4)
			ON CONFLICT DO UPDATE SET version = ?2, epoch = ?3, body = ?4`, p.ID, p.Version, p.Epoch, body)
	}, "save protection "+string(p.ID))
	if err != nil {
		return dr.Protection{}, err
	}
	return decodeProtection(p.ID, body) // shares nothing with the caller's
}

// Import stores the record with the version that it has, if that is higher.
func (e *Engine) Import(ctx context.Context, p dr.Protection) error {
	if p.ID == "" || p.Version == 0 || p.Version >= math.MaxInt64 || p.Epoch > math.MaxInt64 {
		return fmt.Errorf("protection %q: %w: import of version %d, epoch %d", p.ID, dr.ErrInvalid, p.Version, p.Epoch)
	}
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("protection %s: %w: %v", p.ID, dr.ErrInvalid, err)
	}
	return e.write(ctx, func(w *writer) error {
		var version, epoch uint64
		var there []byte
		err := w.row(`SELECT version, epoch, body FROM protection WHERE id = ?`, p.ID).Scan(&version, &epoch, &there)
		if err := ignore(err, sql.ErrNoRows); err != nil {
			return err
		}
		switch {
		case p.Epoch < epoch:
			return refuse("protection %s: %w: saved under epoch %d, this is %d", p.ID, dr.ErrFenced, epoch, p.Epoch)
		case version == p.Version && string(there) == string(body):
			return nil
		case version >= p.Version:
			return refuse("protection %s: %w: it is at version %d, this is %d", p.ID, dr.ErrConflict, version, p.Version)
		}
		return w.exec(`INSERT INTO protection VALUES(?1, ?2, ?3, ?4)
			ON CONFLICT DO UPDATE SET version = ?2, epoch = ?3, body = ?4`, p.ID, p.Version, p.Epoch, body)
	}, "import protection "+string(p.ID))
}

// Protections yields all records, each as it is when it is reached.
func (e *Engine) Protections(ctx context.Context) iter.Seq2[dr.Protection, error] {
	return func(yield func(dr.Protection, error) bool) {
		var id dr.ProtectionID
		for {
			if err := e.ready(ctx); err != nil {
				yield(dr.Protection{}, err)
				return
			}
			var body []byte
			err := e.db.QueryRowContext(ctx, `SELECT id, body FROM protection WHERE id > ? ORDER BY id LIMIT 1`, id).Scan(&id, &body)
			if errors.Is(err, sql.ErrNoRows) {
				return
			}
			if err != nil {
				yield(dr.Protection{}, e.readErr(err))
				return
			}
			if !yield(decodeProtection(id, body)) {
				return
			}
		}
	}
}

func (e *Engine) readErr(err error) error {
	return fmt.Errorf("journal %s: read: %w", e.path, explain(err))
}

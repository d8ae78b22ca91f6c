package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Import implements [dr.RecordImporter]. ErrInvalid: p has no version, or is what
// Save refuses.
func (s *Store) Import(ctx context.Context, p dr.Protection) error {
	if p.ID == "" || !utf8.ValidString(string(p.ID)) || p.Version == 0 || p.Version > math.MaxInt64 || p.Epoch > math.MaxInt64 {
		return fmt.Errorf("protection: %w: import of %q at version %d, epoch %d", dr.ErrInvalid, p.ID, p.Version, p.Epoch)
	}
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("protection %s: %w: %v", p.ID, dr.ErrInvalid, err)
	}
	if p, err = decode([]byte(p.ID), body); err != nil { // as whoever loads it will have it
		return err
	}
	id := []byte(p.ID)
	return s.try(ctx, "import protection "+string(p.ID), func(ctx context.Context) error {
		for {
			var was, epoch int64
			var there []byte
			err := s.pool.QueryRow(ctx, s.q(`SELECT version, epoch, body FROM @.protection WHERE id = $1::bytea`), id).Scan(&was, &epoch, &there)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) {
				return err
			}
			if there != nil {
				if q, err := decode(id, there); err == nil && reflect.DeepEqual(p, q) {
					// It may be what an attempt without an answer has left.
					won, err := s.swap(ctx, `UPDATE @.protection SET save = save WHERE id = $1::bytea AND version = $2::bigint RETURNING `+durable, id, was)
					if won || err != nil {
						return err
					}
					continue
				}
			}
			switch {
			case int64(p.Epoch) < epoch:
				return refuse("%w: saved under epoch %d, this is %d", dr.ErrFenced, epoch, p.Epoch)
			case int64(p.Version) <= was:
				return refuse("%w: it is at version %d, and another than the one to import at %d", dr.ErrConflict, was, p.Version)
			}
			won, err := s.swap(ctx, `INSERT INTO @.protection AS p (id, version, epoch, save, body) VALUES($1::bytea, $2::bigint, $3::bigint, $4::uuid, $5::json)
				ON CONFLICT(id) DO UPDATE SET version = excluded.version, epoch = excluded.epoch, save = excluded.save, body = excluded.body
				WHERE p.version = $6::bigint RETURNING `+durable, id, int64(p.Version), int64(p.Epoch), newUUID(), string(body), was)
			if won || err != nil {
				return err
			}
		}
	})
}

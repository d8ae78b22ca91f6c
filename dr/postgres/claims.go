package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// claim is a row of the table.
type claim struct {
	owner []byte // nil: free
	epoch int64  // 0: there is no row
}

// Acquire claims the resource. An error other than ErrBusy and ErrInvalid
// leaves open whether it did: ask again, or release.
func (s *Store) Acquire(ctx context.Context, resource, owner string) (epoch uint64, err error) {
	if resource == "" || owner == "" {
		return 0, fmt.Errorf("%w: claim of %q by %q: both must be named", dr.ErrInvalid, resource, owner)
	}
	err = s.try(ctx, "claim "+resource, func(ctx context.Context) error {
		for {
			c, err := s.claim(ctx, resource)
			if err != nil {
				return err
			}
			var won bool
			switch {
			case c.owner != nil && string(c.owner) != owner:
				return refuse("%s: %w: held by %s", resource, dr.ErrBusy, c.owner)
			case c.owner != nil:
				// It is written once more: what an attempt without an answer
				// has left may be visible before every standby has it.
				epoch = uint64(c.epoch)
				won, err = s.swap(ctx, `UPDATE @.claim SET since = since WHERE resource = $1::bytea AND owner = $2::bytea AND epoch = $3::bigint
					RETURNING `+durable, []byte(resource), []byte(owner), c.epoch)
			case c.epoch == 0:
				epoch = 1
				won, err = s.swap(ctx, `INSERT INTO @.claim(resource, owner, epoch) VALUES($1::bytea, $2::bytea, 1) ON CONFLICT DO NOTHING
					RETURNING `+durable, []byte(resource), []byte(owner))
			default:
				// The epoch is compared, so that a statement that arrives late
				// claims nothing.
				epoch = uint64(c.epoch) + 1
				won, err = s.swap(ctx, `UPDATE @.claim SET owner = $2::bytea, epoch = epoch + 1, since = clock_timestamp()
					WHERE resource = $1::bytea AND owner IS NULL AND epoch = $3::bigint RETURNING `+durable, []byte(resource), []byte(owner), c.epoch)
			}
			if won || err != nil {
				return err
			}
			// Somebody was faster: the next look tells who.
		}
	})
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// Release gives the claim back. The resource's epoch is kept for ever.
func (s *Store) Release(ctx context.Context, resource, owner string) error {
	// Only the holding that is seen first is given back, also by a statement
	// that arrives late: not one that the same owner has got since.
	var epoch int64
	return s.try(ctx, "release "+resource, func(ctx context.Context) error {
		if epoch == 0 {
			c, err := s.claim(ctx, resource)
			if err != nil || c.owner == nil || string(c.owner) != owner {
				return err
			}
			epoch = c.epoch
		}
		_, err := s.swap(ctx, `UPDATE @.claim SET owner = NULL, since = clock_timestamp()
			WHERE resource = $1::bytea AND owner = $2::bytea AND epoch = $3::bigint RETURNING `+durable, []byte(resource), []byte(owner), epoch)
		return err
	})
}

// claim reads how a resource stands.
func (s *Store) claim(ctx context.Context, resource string) (c claim, err error) {
	err = s.pool.QueryRow(ctx, s.q(`SELECT owner, epoch FROM @.claim WHERE resource = $1::bytea`), []byte(resource)).Scan(&c.owner, &c.epoch)
	if errors.Is(err, pgx.ErrNoRows) {
		return claim{}, nil
	}
	return c, err
}

// swap runs a statement that changes one row or none, and tells which.
func (s *Store) swap(ctx context.Context, sql string, args ...any) (won bool, err error) {
	var how string
	err = s.pool.QueryRow(ctx, s.q(sql), args...).Scan(&how)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

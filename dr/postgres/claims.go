package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// claim is a row of the table.
type claim struct {
	owner []byte // nil: free
	epoch int64  // 0: there is no row
	next  int64  // dr.NextEpoch, by the database's clock
}

// Acquire claims the resource. An error other than ErrBusy and ErrInvalid
// leaves open whether it did: ask again, or release.
func (s *Store) Acquire(ctx context.Context, resource, owner string) (epoch uint64, err error) {
	if resource == "" || owner == "" {
		return 0, fmt.Errorf("%w: claim of %q by %q: both must be named", dr.ErrInvalid, resource, owner)
	}
	sent := int64(-1) // the epoch that what is on its way compares with
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
				epoch, sent = uint64(c.next), c.epoch
				won, err = s.swap(ctx, `INSERT INTO @.claim(resource, owner, epoch) VALUES($1::bytea, $2::bytea, $3::bigint) ON CONFLICT DO NOTHING
					RETURNING `+durable, []byte(resource), []byte(owner), c.next)
			default:
				// The epoch is compared, so that a statement that arrives late
				// claims nothing.
				epoch, sent = uint64(c.next), c.epoch
				won, err = s.swap(ctx, `UPDATE @.claim SET owner = $2::bytea, epoch = $4::bigint, since = clock_timestamp()
					WHERE resource = $1::bytea AND owner IS NULL AND epoch = $3::bigint RETURNING `+durable, []byte(resource), []byte(owner), c.epoch, c.next)
			}
			if won || err != nil {
				return err
			}
			// Somebody was faster: the next look tells who.
		}
	})
	if err != nil && !refused(err) {
		s.doubts(resource, sent)
	}
	if err != nil {
		return 0, err
	}
	s.passed(resource, int64(epoch))
	return epoch, nil
}

// Release gives the claim back. The resource's epoch is kept for ever. If an
// Acquire of this store has failed, what of it is still on its way claims nothing
// any more: the epoch that it compares with is passed.
func (s *Store) Release(ctx context.Context, resource, owner string) error {
	// Only the holding that is seen first is given back, also by a statement
	// that arrives late: not one that the same owner has got since.
	var epoch, past int64
	err := s.try(ctx, "release "+resource, func(ctx context.Context) error {
		for epoch == 0 {
			c, err := s.claim(ctx, resource)
			switch {
			case err != nil:
				return err
			case c.owner == nil && s.doubted(resource, c.epoch):
				past = c.epoch + 1
				if won, err := s.pass(ctx, resource, c.epoch); won || err != nil {
					return err
				}
				// What was on its way may just have arrived.
			case c.owner == nil || string(c.owner) != owner:
				past = c.epoch
				return s.settle(ctx, resource, c.epoch)
			default:
				epoch, past = c.epoch, c.epoch
			}
		}
		won, err := s.swap(ctx, `UPDATE @.claim SET owner = NULL, since = clock_timestamp()
			WHERE resource = $1::bytea AND owner = $2::bytea AND epoch = $3::bigint RETURNING `+durable, []byte(resource), []byte(owner), epoch)
		if !won && err == nil {
			return s.settle(ctx, resource, epoch) // an attempt whose answer was lost did it
		}
		return err
	})
	if err == nil {
		s.passed(resource, past)
	}
	return err
}

// settle writes a claim once more as it is: what was seen of it may be what an
// attempt without an answer has left, which goes with this server if a standby that
// doesn't have it takes over. Epoch 0: there is none.
func (s *Store) settle(ctx context.Context, resource string, epoch int64) error {
	if epoch == 0 {
		return nil
	}
	_, err := s.swap(ctx, `UPDATE @.claim SET since = since WHERE resource = $1::bytea RETURNING `+durable, []byte(resource))
	return err
}

// pass lets a free claim's epoch be used by nobody, unless somebody was faster.
func (s *Store) pass(ctx context.Context, resource string, epoch int64) (won bool, err error) {
	if epoch == 0 {
		return s.swap(ctx, `INSERT INTO @.claim(resource, epoch) VALUES($1::bytea, 1) ON CONFLICT DO NOTHING RETURNING `+durable, []byte(resource))
	}
	return s.swap(ctx, `UPDATE @.claim SET epoch = epoch + 1 WHERE resource = $1::bytea AND owner IS NULL AND epoch = $2::bigint
		RETURNING `+durable, []byte(resource), epoch)
}

// doubts notes that a claim of the resource may still be on its way, which takes
// effect if the epoch is that one when it arrives. Below 0: none is.
func (s *Store) doubts(resource string, epoch int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch < 0 {
		return
	}
	if s.doubt == nil {
		s.doubt = map[string]int64{}
	}
	s.doubt[resource] = max(epoch, s.doubt[resource])
}

// passed notes that the resource's epoch has come to be that one: what compares
// with one below takes no effect any more, however late it arrives.
func (s *Store) passed(resource string, epoch int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, ok := s.doubt[resource]; ok && was < epoch {
		delete(s.doubt, resource)
	}
}

// doubted tells whether a claim may be on its way that compares with the epoch.
func (s *Store) doubted(resource string, epoch int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, ok := s.doubt[resource]
	return ok && was >= epoch
}

// Raise implements [dr.EpochRaiser].
func (s *Store) Raise(ctx context.Context, resource string, atLeast uint64) error {
	if resource == "" || atLeast >= math.MaxInt64 {
		return fmt.Errorf("%w: raise epoch of %q to %d", dr.ErrInvalid, resource, atLeast)
	}
	return s.try(ctx, "raise epoch of "+resource, func(ctx context.Context) error {
		for {
			c, err := s.claim(ctx, resource)
			if err != nil {
				return err
			}
			if uint64(c.epoch) >= atLeast {
				return s.settle(ctx, resource, c.epoch)
			}
			if c.owner != nil {
				return refuse("%s: %w: held by %s under epoch %d", resource, dr.ErrBusy, c.owner, c.epoch)
			}
			var won bool
			if c.epoch == 0 {
				won, err = s.swap(ctx, `INSERT INTO @.claim(resource, epoch) VALUES($1::bytea, $2::bigint) ON CONFLICT DO NOTHING
					RETURNING `+durable, []byte(resource), int64(atLeast))
			} else {
				won, err = s.swap(ctx, `UPDATE @.claim SET epoch = $2::bigint WHERE resource = $1::bytea AND owner IS NULL AND epoch = $3::bigint
					RETURNING `+durable, []byte(resource), int64(atLeast), c.epoch)
			}
			if won || err != nil {
				return err
			}
		}
	})
}

// Seize implements [dr.ClaimSeizer].
func (s *Store) Seize(ctx context.Context, resource, from, to string) (epoch uint64, err error) {
	if resource == "" || from == "" {
		return 0, fmt.Errorf("%w: seize %q from %q: both must be named", dr.ErrInvalid, resource, from)
	}
	var next []byte // nil: nobody
	if to != "" {
		next = []byte(to)
	}
	var seen, tried int64 // the epoch that an attempt would have given, after the one that was seen
	err = s.try(ctx, "seize "+resource, func(ctx context.Context) error {
		for {
			c, err := s.claim(ctx, resource)
			if err != nil {
				return err
			}
			if tried != 0 && c.epoch == tried && string(c.owner) == to {
				epoch = uint64(tried)
				return s.settle(ctx, resource, c.epoch) // an attempt whose answer was lost
			}
			if string(c.owner) != from {
				held := "nobody holds it"
				if c.owner != nil {
					held = "held by " + string(c.owner)
				}
				return refuse("%s: %w: %s, not by %s", resource, dr.ErrConflict, held, from)
			}
			if seen != c.epoch { // an earlier attempt may still arrive, and must be known again
				seen, tried = c.epoch, c.next
			}
			won, err := s.swap(ctx, `UPDATE @.claim SET owner = $3::bytea, epoch = $5::bigint, since = clock_timestamp()
				WHERE resource = $1::bytea AND owner = $2::bytea AND epoch = $4::bigint RETURNING `+durable, []byte(resource), []byte(from), next, c.epoch, tried)
			if err != nil {
				return err
			}
			if won {
				epoch = uint64(tried)
				return nil
			}
		}
	})
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// Claims implements [dr.ClaimLister]. They are read in pages, as records are;
// Since is by the database's clock.
func (s *Store) Claims(ctx context.Context) iter.Seq2[dr.Claim, error] {
	return func(yield func(dr.Claim, error) bool) {
		last := []byte{}
		for {
			var rows []dr.Claim
			err := s.try(ctx, "list claims", func(ctx context.Context) error {
				rows = rows[:0]
				return s.each(ctx, func(r pgx.Rows) error {
					var resource, owner []byte
					var epoch int64
					var since time.Time
					err := r.Scan(&resource, &owner, &epoch, &since)
					rows = append(rows, dr.Claim{Resource: string(resource), Owner: string(owner), Epoch: uint64(epoch), Since: since.UTC()})
					return err
				}, `SELECT resource, owner, epoch, since FROM @.claim WHERE resource > $1::bytea ORDER BY resource LIMIT $2::int`, last, page)
			})
			if err != nil {
				yield(dr.Claim{}, err)
				return
			}
			for _, c := range rows {
				if !yield(c, nil) {
					return
				}
			}
			if len(rows) < page {
				return
			}
			last = []byte(rows[len(rows)-1].Resource)
		}
	}
}

// each calls f with each row.
func (s *Store) each(ctx context.Context, f func(pgx.Rows) error, sql string, args ...any) error {
	rows, err := s.pool.Query(ctx, s.q(sql), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// claim reads how a resource stands.
func (s *Store) claim(ctx context.Context, resource string) (c claim, err error) {
	var clock time.Time
	err = s.pool.QueryRow(ctx, s.q(`SELECT owner, coalesce(epoch, 0), clock_timestamp() FROM (VALUES(1)) AS one LEFT JOIN @.claim ON resource = $1::bytea`), []byte(resource)).Scan(&c.owner, &c.epoch, &clock)
	c.next = int64(dr.NextEpoch(uint64(c.epoch), clock))
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

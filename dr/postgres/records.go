package postgres

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// page is how many records a listing reads at once: about a megabyte.
const page = 250

// Load returns the record.
func (s *Store) Load(ctx context.Context, id dr.ProtectionID) (p dr.Protection, err error) {
	var body []byte
	err = s.try(ctx, "load protection "+string(id), func(ctx context.Context) error {
		err := s.pool.QueryRow(ctx, s.q(`SELECT body FROM @.protection WHERE id = $1::bytea`), []byte(id)).Scan(&body)
		if errors.Is(err, pgx.ErrNoRows) {
			return refuse("%w", dr.ErrNotFound)
		}
		return err
	})
	if err != nil {
		return p, err
	}
	return decode([]byte(id), body)
}

func decode(id, body []byte) (p dr.Protection, err error) {
	if err := json.Unmarshal(body, &p); err != nil {
		return p, fmt.Errorf("protection %s: %w: %v", id, dr.ErrCorrupt, err)
	}
	if string(p.ID) != string(id) {
		return p, fmt.Errorf("protection %s: %w: its record is of %q", id, dr.ErrCorrupt, p.ID)
	}
	return p, nil
}

// fence is the shard for which a save acts; none if shard is nil.
type fence struct {
	shard []byte
	epoch int64
}

func fenceOf(ctx context.Context) (f fence) {
	if shard, epoch, ok := fleet.Fence(ctx); ok {
		f.shard = []byte(shard)
		if epoch <= math.MaxInt64 {
			f.epoch = int64(epoch)
		}
	}
	return f
}

// FencesShards implements [fleet.Fencer]: a save for a shard holds the row of its
// lease still until it is durable, so that no takeover comes between.
func (s *Store) FencesShards() bool { return true }

// overtaken refuses what is done for a shard under an epoch that isn't its
// newest.
func (s *Store) overtaken(ctx context.Context, f fence) error {
	if f.shard == nil {
		return nil
	}
	var epoch int64
	err := s.pool.QueryRow(ctx, s.q(`SELECT epoch FROM @.shard WHERE shard = $1::bytea`), f.shard).Scan(&epoch)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if epoch != f.epoch {
		return refuse("%w: shard %s is not held under epoch %d any more, but %d", dr.ErrFenced, f.shard, f.epoch, epoch)
	}
	return nil
}

// saved is a record as it is stored.
type saved struct {
	version, epoch int64 // 0: there is none
	save           string
}

// Save stores the record. If the answer is lost the record is read again, which
// tells whether it was this call that saved it. ErrInvalid: its ID is empty or
// isn't UTF-8, which JSON can't hold, or a number is above 2^63-1. Another error
// than that, ErrConflict and ErrFenced leaves open whether it was saved.
func (s *Store) Save(ctx context.Context, p dr.Protection) (dr.Protection, error) {
	if p.ID == "" || !utf8.ValidString(string(p.ID)) {
		return dr.Protection{}, fmt.Errorf("protection: %w: no ID: %q", dr.ErrInvalid, p.ID)
	}
	if p.Version >= math.MaxInt64 || p.Epoch > math.MaxInt64 {
		return dr.Protection{}, fmt.Errorf("protection %s: %w: version %d, epoch %d: too high", p.ID, dr.ErrInvalid, p.Version, p.Epoch)
	}
	was := p.Version
	p.Version++
	body, err := json.Marshal(p)
	if err != nil {
		return dr.Protection{}, fmt.Errorf("protection %s: %w: %v", p.ID, dr.ErrInvalid, err)
	}
	save, fence := newUUID(), fenceOf(ctx)
	err = s.try(ctx, "save protection "+string(p.ID), func(ctx context.Context) error {
		for {
			won, err := s.put(ctx, p, was, save, body, fence)
			if won || err != nil {
				return err
			}
			now, err := s.saved(ctx, p.ID)
			switch {
			case err != nil:
				return err
			case now.save == save:
				// An earlier attempt of this call did it. It is written once
				// more, as a claim is that was there already.
				won, err := s.swap(ctx, `UPDATE @.protection SET save = save WHERE id = $1::bytea AND save = $2::uuid RETURNING `+durable, []byte(p.ID), save)
				if won || err != nil {
					return err
				}
			}
			if err := s.overtaken(ctx, fence); err != nil {
				return err
			}
			switch {
			case int64(p.Epoch) < now.epoch:
				return refuse("%w: saved under epoch %d, this is %d", dr.ErrFenced, now.epoch, p.Epoch)
			case int64(was) != now.version:
				return refuse("%w: it is at version %d, not %d", dr.ErrConflict, now.version, was)
			}
			// It has just become what this call expects.
		}
	})
	if err != nil {
		return dr.Protection{}, err
	}
	return decode([]byte(p.ID), body) // shares nothing with the caller's
}

// put stores the record if the one that is there allows it.
func (s *Store) put(ctx context.Context, p dr.Protection, was uint64, save string, body []byte, f fence) (bool, error) {
	id, epoch, text := []byte(p.ID), int64(p.Epoch), string(body)
	if was == 0 {
		const insert = `INSERT INTO @.protection(id, version, epoch, save, body)
			SELECT $1::bytea, 1, $2::bigint, $3::uuid, $4::json WHERE ` + held + ` ON CONFLICT DO NOTHING RETURNING ` + durable
		return s.swap(ctx, insert, id, epoch, save, text, f.shard, f.epoch)
	}
	const update = `UPDATE @.protection SET version = version + 1, epoch = $2::bigint, save = $3::uuid, body = $4::json
		WHERE id = $1::bytea AND version = $7::bigint AND epoch <= $2::bigint AND ` + held + ` RETURNING ` + durable
	return s.swap(ctx, update, id, epoch, save, text, f.shard, f.epoch, int64(was))
}

// held is true for who acts for no shard, or under its newest epoch.
const held = `($5::bytea IS NULL OR EXISTS(SELECT FROM @.shard WHERE shard = $5::bytea AND epoch = $6::bigint FOR KEY SHARE))`

func (s *Store) saved(ctx context.Context, id dr.ProtectionID) (r saved, err error) {
	err = s.pool.QueryRow(ctx, s.q(`SELECT version, epoch, save::text FROM @.protection WHERE id = $1::bytea`), []byte(id)).Scan(&r.version, &r.epoch, &r.save)
	if errors.Is(err, pgx.ErrNoRows) {
		return saved{}, nil
	}
	return r, err
}

// newUUID is random, as PostgreSQL writes it.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Protections yields all records, ordered by ID, byte by byte. They are read in
// pages of 250: each page as it was at one moment, no connection is held while
// the caller works, and memory doesn't grow with their number. A record that
// can't be read is an error, and the listing goes on behind it.
func (s *Store) Protections(ctx context.Context) iter.Seq2[dr.Protection, error] {
	return func(yield func(dr.Protection, error) bool) {
		last := []byte{}
		for {
			rows, err := s.page(ctx, last)
			if err != nil {
				yield(dr.Protection{}, err)
				return
			}
			for _, r := range rows {
				if !yield(decode(r.id, r.body)) {
					return
				}
			}
			if len(rows) < page {
				return
			}
			last = rows[len(rows)-1].id
		}
	}
}

type row struct{ id, body []byte }

// page reads the records behind one.
func (s *Store) page(ctx context.Context, after []byte) (rows []row, err error) {
	err = s.try(ctx, "list protections", func(ctx context.Context) error {
		rows = rows[:0]
		return s.each(ctx, func(got pgx.Rows) error {
			var r row
			err := got.Scan(&r.id, &r.body)
			rows = append(rows, r)
			return err
		}, `SELECT id, body FROM @.protection WHERE id > $1::bytea ORDER BY id LIMIT $2::int`, after, page)
	})
	return rows, err
}

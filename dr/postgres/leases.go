package postgres

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// Leases are those of a store's schema: they are a type of their own, as giving
// back a claim and giving back shards are both called Release.
type Leases struct{ s *Store }

var _ fleet.Leases = (*Leases)(nil)

// Leases returns the leases of a fleet, which are kept beside the records: what
// the store saves for a shard heeds them ([Store.FencesShards]). A schema has
// one fleet.
func (s *Store) Leases() *Leases { return &Leases{s} }

// meeting is the fleet's row, locked, and the moment after it was.
type meeting struct {
	now        time.Time // by the database's clock
	generation int64
	layout     string
}

// meet runs f while nobody else changes leases. A process that stands still in
// the middle is thrown out, so that the others can go on. What is in a
// transaction of its own can't arrive late: until it ends the others wait.
func (s *Store) meet(ctx context.Context, op string, f func(ctx context.Context, tx pgx.Tx, m meeting) error) error {
	return s.try(ctx, op, func(ctx context.Context) error {
		return s.transact(ctx, func(tx pgx.Tx) error {
			var b pgx.Batch // a round trip
			b.Queue(`SELECT ` + durable + `, set_config('idle_in_transaction_session_timeout', '3s', true)`)
			b.Queue(s.q(`SELECT generation, layout FROM @.fleet FOR UPDATE`))
			b.Queue(`SELECT clock_timestamp()`)
			var m meeting
			var how, limit string
			got := tx.SendBatch(ctx, &b)
			err := first(got.QueryRow().Scan(&how, &limit), got.QueryRow().Scan(&m.generation, &m.layout), got.QueryRow().Scan(&m.now), got.Close())
			if err != nil {
				return err
			}
			return f(ctx, tx, m)
		})
	})
}

// first is the first error: in a batch the others only repeat it.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Renew implements [fleet.Leases].
func (l *Leases) Renew(ctx context.Context, who fleet.Member) (v fleet.View, err error) {
	who.TTL = who.TTL.Truncate(time.Millisecond)
	if who.ID == "" || !utf8.ValidString(who.ID) || who.TTL <= 0 || who.Generation > math.MaxInt64 {
		return v, fmt.Errorf("fleet: %w: member %q with a TTL of %v, generation %d", dr.ErrInvalid, who.ID, who.TTL, who.Generation)
	}
	body, err := json.Marshal(who)
	if err != nil {
		return v, fmt.Errorf("fleet: %w: member %q: %v", dr.ErrInvalid, who.ID, err)
	}
	err = l.s.meet(ctx, "renew", func(ctx context.Context, tx pgx.Tx, m meeting) error {
		switch g := int64(who.Generation); {
		case g > m.generation || m.layout == "":
			if _, err := tx.Exec(ctx, l.s.q(`UPDATE @.fleet SET generation = $1::bigint, layout = $2::text`), g, who.Layout); err != nil {
				return err
			}
		case g == m.generation && who.Layout != m.layout:
			return refuse("%w: worker %s has another layout than the fleet under generation %d", dr.ErrConflict, who.Name, g)
		}
		var b pgx.Batch // another
		until := m.now.Add(who.TTL)
		b.Queue(l.s.q(`UPDATE @.shard SET until = $3::timestamptz WHERE member = $1::bytea AND until > $2::timestamptz`), []byte(who.ID), m.now, until)
		b.Queue(l.s.q(`DELETE FROM @.member WHERE until <= $2::timestamptz AND id <> $1::bytea`), []byte(who.ID), m.now)
		b.Queue(l.s.q(`INSERT INTO @.member(id, generation, ttl, until, body) VALUES($1::bytea, $2::bigint, $3::bigint * interval '1 ms', $4::timestamptz, $5::json)
			ON CONFLICT(id) DO UPDATE SET generation = excluded.generation, ttl = excluded.ttl, until = excluded.until, body = excluded.body`),
			[]byte(who.ID), int64(who.Generation), who.TTL.Milliseconds(), until, string(body))
		b.Queue(l.s.q(view))
		got := tx.SendBatch(ctx, &b)
		for range b.Len() - 1 {
			if _, err := got.Exec(); err != nil {
				return first(err, got.Close())
			}
		}
		v, err = scanView(got.QueryRow())
		return first(err, got.Close())
	})
	if err != nil {
		return fleet.View{}, err
	}
	return v, nil
}

// Take implements [fleet.Leases].
func (l *Leases) Take(ctx context.Context, member string, shards []fleet.Shard) (given []fleet.Lease, err error) {
	taking, names := newUUID(), shardNames(shards)
	err = l.s.meet(ctx, "take shards", func(ctx context.Context, tx pgx.Tx, m meeting) error {
		given = nil
		var generation, ttl int64
		err := tx.QueryRow(ctx, l.s.q(`SELECT generation, (extract(epoch FROM ttl) * 1000)::bigint FROM @.member WHERE id = $1::bytea AND until > $2::timestamptz`),
			[]byte(member), m.now).Scan(&generation, &ttl)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return refuse("%w: worker %s is not heard of any more", dr.ErrFenced, member)
		case err != nil:
			return err
		case generation < m.generation:
			return refuse("%w: worker %s is of generation %d, the fleet of %d", dr.ErrFenced, member, generation, m.generation)
		}
		var old bool
		err = tx.QueryRow(ctx, l.s.q(`SELECT EXISTS(SELECT FROM @.shard WHERE generation <> $1::bigint AND until > $2::timestamptz)`), m.generation, m.now).Scan(&old)
		if old || err != nil {
			return err
		}
		until := m.now.Add(time.Duration(ttl) * time.Millisecond)
		// Those that an attempt of this call was given, whose answer was lost,
		// are among them.
		rows, err := tx.Query(ctx, l.s.q(`INSERT INTO @.shard AS s (shard, member, epoch, generation, taking, since, until)
			SELECT DISTINCT decode(name, 'hex'), $2::bytea, $3::bigint, $4::bigint, $5::uuid, $6::timestamptz, $7::timestamptz FROM json_array_elements_text($1::json) AS name
			ON CONFLICT(shard) DO UPDATE SET member = excluded.member, generation = excluded.generation, taking = excluded.taking, until = excluded.until,
				epoch = CASE s.taking WHEN excluded.taking THEN s.epoch ELSE greatest(s.epoch + 1, excluded.epoch) END,
				since = CASE s.taking WHEN excluded.taking THEN s.since ELSE excluded.since END
			WHERE s.until <= $6::timestamptz OR s.taking = excluded.taking AND s.member = excluded.member
			RETURNING shard, epoch, since`),
			names, []byte(member), max(1, m.now.Unix()), generation, taking, m.now, until)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			g := fleet.Lease{Member: member, Generation: uint64(generation), Left: time.Duration(ttl) * time.Millisecond}
			var name []byte
			var epoch int64
			if err := rows.Scan(&name, &epoch, &g.Since); err != nil {
				return err
			}
			g.Shard, g.Epoch, g.Since = fleet.Shard(name), uint64(epoch), g.Since.UTC()
			given = append(given, g)
		}
		if err := rows.Err(); err != nil || len(given) == 0 {
			return err
		}
		_, err = tx.Exec(ctx, l.s.q(`UPDATE @.shard SET epoch = epoch + 1, generation = $1::bigint WHERE generation <> $1::bigint`), m.generation)
		return err
	})
	if err != nil {
		return nil, err
	}
	return given, nil
}

// Release implements [fleet.Leases].
func (l *Leases) Release(ctx context.Context, member string, shards []fleet.Shard) error {
	names := shardNames(shards)
	return l.s.meet(ctx, "release shards", func(ctx context.Context, tx pgx.Tx, m meeting) error {
		_, err := tx.Exec(ctx, l.s.q(`UPDATE @.shard SET member = NULL, taking = NULL, until = '-infinity'
			WHERE member = $1::bytea AND shard IN (SELECT decode(name, 'hex') FROM json_array_elements_text($2::json) AS name)`), []byte(member), names)
		return err
	})
}

// Leave implements [fleet.Leases].
func (l *Leases) Leave(ctx context.Context, member string) error {
	return l.s.meet(ctx, "leave", func(ctx context.Context, tx pgx.Tx, m meeting) error {
		var b pgx.Batch
		b.Queue(l.s.q(`UPDATE @.shard SET member = NULL, taking = NULL, until = '-infinity' WHERE member = $1::bytea`), []byte(member))
		b.Queue(l.s.q(`DELETE FROM @.member WHERE id = $1::bytea`), []byte(member))
		return tx.SendBatch(ctx, &b).Close()
	})
}

// View implements [fleet.Leases].
func (l *Leases) View(ctx context.Context) (v fleet.View, err error) {
	err = l.s.try(ctx, "view", func(ctx context.Context) error {
		v, err = scanView(l.s.pool.QueryRow(ctx, l.s.q(view)))
		return err
	})
	if err != nil {
		return fleet.View{}, err
	}
	return v, nil
}

// leaseRow is a lease on its way as JSON; names are in hexadecimal.
type leaseRow struct {
	Shard, Member     string
	Epoch, Generation uint64
	Since, Left       int64 // microseconds
}

// view reads all in one statement, so that it is one moment.
const view = `WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now)
	SELECT now, generation, layout,
		(SELECT json_agg(body ORDER BY id) FROM @.member WHERE until > now),
		(SELECT json_agg(json_build_object('shard', encode(shard, 'hex'), 'member', encode(member, 'hex'), 'epoch', epoch, 'generation', s.generation,
			'since', (extract(epoch FROM since) * 1000000)::bigint, 'left', (extract(epoch FROM until - now) * 1000000)::bigint) ORDER BY shard)
			FROM @.shard AS s WHERE until > now)
	FROM t, @.fleet`

func scanView(row pgx.Row) (v fleet.View, err error) {
	var members, leases []byte
	err = row.Scan(&v.Time, &v.Generation, &v.Layout, &members, &leases)
	if err != nil {
		return v, err
	}
	v.Time = v.Time.UTC()
	if members != nil {
		if err := json.Unmarshal(members, &v.Members); err != nil {
			return v, refuse("%w: members: %v", dr.ErrCorrupt, err)
		}
	}
	var rows []leaseRow
	if leases != nil {
		if err := json.Unmarshal(leases, &rows); err != nil {
			return v, refuse("%w: leases: %v", dr.ErrCorrupt, err)
		}
	}
	for _, r := range rows {
		shard, err1 := hex.DecodeString(r.Shard)
		member, err2 := hex.DecodeString(r.Member)
		if err := first(err1, err2); err != nil {
			return v, refuse("%w: leases: %v", dr.ErrCorrupt, err)
		}
		v.Leases = append(v.Leases, fleet.Lease{Shard: fleet.Shard(shard), Member: string(member), Epoch: r.Epoch, Generation: r.Generation,
			Since: time.UnixMicro(r.Since).UTC(), Left: time.Duration(r.Left) * time.Microsecond})
	}
	return v, nil
}

// shardNames are the names in hexadecimal, as JSON: an array that every mode of
// the driver can send.
func shardNames(shards []fleet.Shard) string {
	names := make([]string, len(shards))
	for i, s := range shards {
		names[i] = hex.EncodeToString([]byte(s))
	}
	all, _ := json.Marshal(names) // strings can't fail
	return string(all)
}

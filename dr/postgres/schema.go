package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// migrations bring a schema from the version that is their index to the next.
// They are only ever added to. One that programs of the versions before can't
// live with says from which version on they can (floor), and gives what it
// changes a new name: a program that runs meanwhile fails then, and writes
// nothing. All others only add what such programs needn't know: tables, and
// columns with defaults.
//
// Names are bytea: they are compared byte by byte whatever the database's
// collation, and hold whatever a Go string does. Bodies are json, not jsonb:
// the text stays what it was, to the last digit.
var migrations = []migration{{floor: 1, sql: `
CREATE TABLE @.claim(
	resource bytea PRIMARY KEY,
	owner    bytea,            -- NULL: free
	epoch    bigint NOT NULL CHECK(epoch > 0), -- kept for ever
	since    timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 80);
CREATE TABLE @.protection(
	id      bytea PRIMARY KEY,
	version bigint NOT NULL CHECK(version > 0),
	epoch   bigint NOT NULL CHECK(epoch >= 0),
	save    uuid NOT NULL,     -- of whoever saved it last: tells a lost answer from somebody else's save
	body    json NOT NULL
) WITH (fillfactor = 80);
CREATE TABLE @.fleet(
	one        boolean PRIMARY KEY CHECK(one), -- whoever changes leases locks this row
	generation bigint NOT NULL,
	layout     text NOT NULL
);
INSERT INTO @.fleet VALUES(true, 0, '');
CREATE TABLE @.member(
	id         bytea PRIMARY KEY,
	generation bigint NOT NULL,
	ttl        interval NOT NULL,
	until      timestamptz NOT NULL,
	body       json NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE @.shard(
	shard      bytea PRIMARY KEY,
	member     bytea,          -- NULL: given back
	epoch      bigint NOT NULL CHECK(epoch > 0), -- kept for ever
	generation bigint NOT NULL,
	taking     uuid,           -- of the call that took it
	since      timestamptz NOT NULL,
	until      timestamptz NOT NULL,
	-- A save holds its shard's epoch still by FOR KEY SHARE, which waits for
	-- changes of what is unique, and for no renewal.
	UNIQUE(shard, epoch)
) WITH (fillfactor = 50);
`}}

type migration struct {
	floor int // the oldest version whose programs can live with it
	sql   string
}

// program is what the schema's own table says that it is.
const program = "lifeboat"

// version of a schema.
type version struct{ at, floor int }

// migrate brings the schema to the newest version. One process does, under a
// lock; it is done whole or not at all.
func (s *Store) migrate(ctx context.Context) error {
	return s.try(ctx, "open schema "+s.o.Schema, func(ctx context.Context) error {
		if err := s.sound(ctx); err != nil {
			return err
		}
		// First without rights to change anything, and without the lock.
		v, err := s.version(ctx, s.pool)
		if err != nil {
			return err
		}
		if v.at >= len(migrations) {
			return nil
		}
		return s.transact(ctx, func(tx pgx.Tx) error {
			const lock = `SELECT pg_advisory_xact_lock(hashtextextended('lifeboat schema ' || $1::text, 0)), ` + durable
			if _, err := tx.Exec(ctx, lock, s.o.Schema); err != nil {
				return err
			}
			v, err := s.version(ctx, tx)
			if err != nil {
				return err
			}
			return s.upgrade(ctx, tx, v)
		})
	})
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// version of the schema, 0 if it isn't there or has nothing in it. It refuses
// what is another program's, and what this one is too old for.
func (s *Store) version(ctx context.Context, db querier) (v version, err error) {
	var tables, ours int
	err = db.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE c.relname = 'lifeboat_schema') FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1::text`, s.o.Schema).Scan(&tables, &ours)
	if err != nil || tables == 0 {
		return v, err
	}
	foreign := refuse("schema %s: %w: it is another program's: name one of its own", s.o.Schema, dr.ErrInvalid)
	if ours == 0 {
		return v, foreign
	}
	var of string
	err = db.QueryRow(ctx, s.q(`SELECT program, version, floor FROM @.lifeboat_schema`)).Scan(&of, &v.at, &v.floor)
	switch {
	case code(err) == "42703", errors.Is(err, pgx.ErrNoRows), err == nil && (of != program || v.at < 1 || v.floor < 1):
		return v, foreign
	case err != nil:
		return v, err
	case v.floor > len(migrations):
		return v, refuse("schema %s: %w: it is at version %d, for programs that know version %d; this one knows %d",
			s.o.Schema, dr.ErrUnsupported, v.at, v.floor, len(migrations))
	}
	return v, nil
}

func (s *Store) upgrade(ctx context.Context, tx pgx.Tx, v version) error {
	if v.at >= len(migrations) {
		return nil // somebody else was first
	}
	var b strings.Builder
	if v.at == 0 {
		b.WriteString(`CREATE TABLE @.lifeboat_schema(one boolean PRIMARY KEY CHECK(one), program text NOT NULL, version int NOT NULL, floor int NOT NULL);
			INSERT INTO @.lifeboat_schema VALUES(true, '` + program + `', 0, 0);`)
	}
	floor := v.floor
	for _, m := range migrations[v.at:] {
		b.WriteString(m.sql)
		floor = max(floor, m.floor)
	}
	fmt.Fprintf(&b, `UPDATE @.lifeboat_schema SET version = %d, floor = %d;`, len(migrations), floor)
	// Several statements go in the simple protocol only.
	sql := s.q(b.String())
	// IF NOT EXISTS would ask for the right to make one, though it is there.
	var there bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS(SELECT FROM pg_namespace WHERE nspname = $1::text)`, s.o.Schema).Scan(&there); err != nil {
		return err
	}
	if !there {
		sql = `CREATE SCHEMA ` + s.schema + `;` + sql
	}
	_, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// sound refuses a database that can't hold what is given to it, and warns of a
// server that doesn't keep what it acknowledges.
func (s *Store) sound(ctx context.Context) error {
	var encoding, fsync, pages string
	err := s.pool.QueryRow(ctx, `SELECT current_setting('server_encoding'), current_setting('fsync'), current_setting('full_page_writes')`).Scan(&encoding, &fsync, &pages)
	if err != nil {
		return err
	}
	if encoding != "UTF8" {
		return refuse("%w: the database's encoding is %s: make one with ENCODING 'UTF8'", dr.ErrUnsupported, encoding)
	}
	if fsync != "on" || pages != "on" {
		s.log.WarnContext(ctx, "postgres: the server may lose claims that it has acknowledged when its machine loses power, and then two runs hold one machine",
			"fsync", fsync, "full_page_writes", pages)
	}
	return nil
}

// Grants returns the SQL that lets a role use a schema that is up to date, and
// nothing else: it can't change tables, and can't delete a claim, whose epoch
// has to stay. Run it as the schema's owner, again after an upgrade. "" is the
// default schema.
func Grants(schema, role string) string {
	schema = cmp.Or(schema, defaultSchema)
	s, r := pgx.Identifier{schema}.Sanitize(), pgx.Identifier{role}.Sanitize()
	return strings.NewReplacer("@", s, "ROLE", r).Replace(`GRANT USAGE ON SCHEMA @ TO ROLE;
GRANT SELECT ON @.lifeboat_schema TO ROLE;
GRANT SELECT, INSERT, UPDATE ON @.claim, @.protection, @.shard TO ROLE;
GRANT SELECT, UPDATE ON @.fleet TO ROLE;
GRANT SELECT, INSERT, UPDATE, DELETE ON @.member TO ROLE;
`)
}

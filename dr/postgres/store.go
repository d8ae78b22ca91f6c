package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Options say where the database is. One of DSN and Config is needed.
type Options struct {
	// DSN is a connection string of libpq's kind, URL or keywords, with TLS as
	// it says (sslmode=verify-full and sslrootcert are what a network needs) and
	// the pool's size as pool_max_conns. Several hosts may be named: the one
	// that takes writes is used; one that doesn't answer is passed over after
	// connect_timeout, half an Attempt if it isn't given. It may hold a password,
	// which no error shows.
	DSN string
	// Config is what [pgxpool.ParseConfig] gives, for who has more to say, as
	// passwords that expire (BeforeConnect). It is copied.
	Config *pgxpool.Config
	// Schema is where the tables are, alone; "" is "lifeboat". Stores of
	// different schemas know nothing of each other.
	Schema string
	// Patience is for how long a call tries again while the database can't be
	// reached, restarts or fails over; 0 is 30 seconds. A context that ends
	// earlier ends it earlier.
	Patience time.Duration
	// Attempt is how long one try may take before the connection is given up,
	// as one that a network swallowed would never answer; 0 is 10 seconds.
	Attempt time.Duration
	// Log is told of what was tried again, and of a server that doesn't keep
	// what it acknowledges; nil is silent.
	Log *slog.Logger
}

// Store is a schema of a PostgreSQL database: [dr.Claims], [dr.Records] and
// [dr.RecordLister]. It is safe for concurrent use, by any number of processes.
// Close it when nothing uses it any more.
type Store struct {
	pool   *pgxpool.Pool
	schema string // quoted
	o      Options
	log    *slog.Logger

	mu    sync.Mutex
	doubt map[string]int64 // by resource, the epoch that a claim on its way compares with
}

// defaultSchema is where the tables are if nothing else is said.
const defaultSchema = "lifeboat"

// Open connects, and brings the schema up to date: it is made if there is none,
// by one of the processes that open it at once. That needs a role that may do
// so; a schema that is up to date needs no more than what [Grants] says.
// ErrUnsupported: the schema was upgraded past what this program knows, or the
// server's encoding isn't UTF8. ErrInvalid: the schema is another program's, or
// the options make no sense. Nothing is changed then.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Schema == "" {
		o.Schema = defaultSchema
	}
	if len(o.Schema) > 63 || strings.ContainsRune(o.Schema, 0) || !utf8.ValidString(o.Schema) {
		return nil, fmt.Errorf("postgres: %w: no name of a schema: %q", dr.ErrInvalid, o.Schema)
	}
	if o.Patience <= 0 {
		o.Patience = 30 * time.Second
	}
	if o.Attempt <= 0 {
		o.Attempt = 10 * time.Second
	}
	cfg, err := config(o)
	if err != nil {
		return nil, err
	}
	s := &Store{schema: pgx.Identifier{o.Schema}.Sanitize(), o: o, log: o.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, s.explain("open", err)
	}
	if err := s.migrate(ctx); err != nil {
		s.pool.Close()
		return nil, err
	}
	return s, nil
}

// config is the pool's. What the parser says of a string that it can't read is
// not passed on: it quotes the string, and with it the password.
func config(o Options) (*pgxpool.Config, error) {
	var cfg *pgxpool.Config
	switch {
	case o.Config != nil && o.DSN != "":
		return nil, fmt.Errorf("postgres: %w: both DSN and Config are given", dr.ErrInvalid)
	case o.Config != nil:
		cfg = o.Config.Copy()
	case o.DSN != "":
		var err error
		if cfg, err = pgxpool.ParseConfig(o.DSN); err != nil {
			return nil, fmt.Errorf("postgres: %w: the DSN can't be read: it is postgres://user:password@host:port/database?sslmode=verify-full"+
				" (special characters of a password as %%XX), or host=... user=... dbname=...; files that it names must be there", dr.ErrInvalid)
		}
	default:
		return nil, fmt.Errorf("postgres: %w: neither DSN nor Config is given", dr.ErrInvalid)
	}
	if cfg.ConnConfig.ValidateConnect == nil {
		// A standby would show what was so a while ago, and take no change.
		cfg.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	if cfg.ConnConfig.ConnectTimeout <= 0 {
		// The driver's own is two minutes, for each host that is named: one that is
		// gone, before that which isn't, would outlast any patience.
		cfg.ConnConfig.ConnectTimeout = o.Attempt / 2
	}
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "lifeboat"
	}
	return cfg, nil
}

// Close ends the connections. It waits for calls that are under way.
func (s *Store) Close() error {
	s.pool.Close()
	return nil
}

// q puts the schema's name into SQL, where it says "@.".
func (s *Store) q(sql string) string { return strings.ReplaceAll(sql, "@.", s.schema+".") }

// transact runs f in a transaction, and commits it if f returns nil.
func (s *Store) transact(ctx context.Context, f func(tx pgx.Tx) error) error {
	tx, err := s.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback(ctx) // a connection that can't is closed
		return err
	}
	return tx.Commit(ctx)
}

// durable is a column that makes the transaction it is read in wait for the
// disk, whatever the server, the role or a pooler in between has set. Unlike a
// setting of the session it can't be lost on the way. A stronger setting stays.
const durable = `set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)`

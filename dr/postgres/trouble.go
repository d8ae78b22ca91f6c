package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// The first and the longest pause before a call tries again.
const (
	pauseFirst = 20 * time.Millisecond
	pauseMost  = time.Second
)

// silence is how long no answer says something of the connection. A caller's time may
// be shorter than an attempt's: what renews a lease has a beat of it, and asks anew.
const silence = time.Second

// try calls f until it answers, or fails with what trying again won't cure, or
// patience ends. Everything that it is used for may happen twice: a statement
// compares before it changes, so that one whose answer was lost, or that arrives
// late, changes nothing when it comes again.
func (s *Store) try(ctx context.Context, op string, f func(ctx context.Context) error) error {
	began := time.Now()
	for pause := pauseFirst; ; pause = min(2*pause, pauseMost) {
		attempt, cancel := context.WithTimeout(ctx, s.o.Attempt)
		asked := time.Now()
		err := f(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if s.silent(err, time.Since(asked)) {
			// What happened to one connection has happened to all: each of them
			// would cost an attempt to find out.
			s.pool.Reset()
		}
		if ctx.Err() != nil {
			return fmt.Errorf("postgres: %s: %w", op, context.Cause(ctx))
		}
		if !passes(err) || time.Since(began)+pause > s.o.Patience {
			return s.explain(op, err)
		}
		s.log.WarnContext(ctx, "postgres: trying again", "op", op, "err", s.explain(op, err), "pause", pause)
		wait := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-ctx.Done():
			wait.Stop()
			return fmt.Errorf("postgres: %s: %w", op, context.Cause(ctx))
		case <-wait.C:
		}
	}
}

// code is the SQLSTATE of PostgreSQL's error, or "".
// https://www.postgresql.org/docs/15/errcodes-appendix.html
func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// passes reports whether trying again may help.
func passes(err error) bool {
	switch c := code(err); c {
	case "":
	case "40001", "40P01", // serialization failure, deadlock
		"57P01", "57P02", "57P03", "57P05", // shutdown, crash, not started yet, idle session
		"25P03", // stood still within a transaction
		"53300", // too many connections
		"55P03", // a lock's timeout
		"57014", // statement_timeout, or a pooler that cancels another client's
		"25006": // read only: what was the primary has become a standby
		return true
	default:
		return strings.HasPrefix(c, "08") // connection
	}
	if as[*tls.CertificateVerificationError](err) {
		return false
	}
	return as[*pgconn.ConnectError](err) || pgconn.SafeToRetry(err) || as[net.Error](err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, pgx.ErrTxCommitRollback)
}

// silent reports whether a connection that still stands is of no use after so long:
// nothing comes over it, or what it leads to takes no writes any more.
func (s *Store) silent(err error, after time.Duration) bool {
	return code(err) == "25006" || code(err) == "" && errors.Is(err, context.DeadlineExceeded) && after >= min(silence, s.o.Attempt)
}

func as[T error](err error) bool {
	var e T
	return errors.As(err, &e)
}

// explain says what a person can do, and wraps what callers branch on. Errors
// of connecting carry the configuration, password included: of them only the
// text is kept.
func (s *Store) explain(op string, err error) error {
	if refused(err) {
		return fmt.Errorf("postgres: %s: %w", op, err)
	}
	var of error // what callers branch on
	remedy := ""
	switch c := code(err); {
	case c == "42P01", c == "42703", c == "3F000", c == "42804":
		of, remedy = dr.ErrUnsupported, "the tables aren't those that this program knows: they were upgraded, or removed, beneath it"
	case c == "42501":
		of, remedy = dr.ErrNotAllowed, "the role lacks a privilege: postgres.Grants tells which it needs; open a new version once as a role that may make tables"
	case c == "28P01", c == "28000":
		remedy = "the database doesn't accept the role or its password"
	case c == "25006", strings.Contains(err.Error(), "read only connection"):
		remedy = "this server takes no writes: it is a standby, or is set to read only; name the primary, or all hosts"
	case c == "53100":
		remedy = "make room on the database's disk"
	case c == "26000", c == "42P05":
		remedy = "a pooler lies between that gives each transaction another connection: add default_query_exec_mode=exec to the DSN"
	case c == "57014":
		remedy = "the server's statement_timeout is shorter than this takes"
	case c == "" && s.closed(err):
		of, remedy = dr.ErrInvalid, "the store was closed"
	case errors.Is(err, context.DeadlineExceeded):
		remedy = fmt.Sprintf("no answer within %v: a network that swallows packets, a lock, or a standby that a commit waits for", s.o.Attempt)
	case as[*tls.CertificateVerificationError](err):
		remedy = "sslrootcert must name the authority that signed the server's certificate"
	}
	e := &trouble{op: op, text: s.scrub(err.Error()), remedy: remedy, of: of}
	if p := (*pgconn.PgError)(nil); errors.As(err, &p) {
		e.pg = p
	}
	return e
}

// trouble is a failure of the database's. It wraps PostgreSQL's own error if
// there is one, for its code.
type trouble struct {
	op, text, remedy string
	of               error
	pg               *pgconn.PgError
}

func (e *trouble) Error() string {
	s := "postgres: " + e.op + ": "
	if e.of != nil {
		s += e.of.Error() + ": "
	}
	s += e.text
	if e.remedy != "" {
		s += " (" + e.remedy + ")"
	}
	return s
}

func (e *trouble) Unwrap() (all []error) {
	if e.of != nil {
		all = append(all, e.of)
	}
	if e.pg != nil {
		all = append(all, e.pg)
	}
	return all
}

// scrub takes the password out of a text, should it have come there.
func (s *Store) scrub(text string) string {
	if s.pool == nil {
		return text
	}
	if pw := s.pool.Config().ConnConfig.Password; len(pw) > 3 {
		text = strings.ReplaceAll(text, pw, "***")
	}
	return text
}

// closed tells the pool's error after Close, whose type is the pool's own.
func (s *Store) closed(err error) bool { return err.Error() == "closed pool" }

// refuse is an answer, not a failure of the database's.
func refuse(format string, args ...any) error { return &refusal{fmt.Errorf(format, args...)} }

type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

func refused(err error) bool { return as[*refusal](err) }

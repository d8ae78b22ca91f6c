package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// StandStill begins a change of leases, calls f in the middle of it, and goes on.
func (l *Leases) StandStill(ctx context.Context, f func()) error {
	return l.s.meet(ctx, "stand still", func(ctx context.Context, tx pgx.Tx, m meeting) error {
		f()
		_, err := tx.Exec(ctx, l.s.q(`DELETE FROM @.member`))
		return err
	})
}

// ConnectTimeout is how long one host may take to let a connection in.
func (s *Store) ConnectTimeout() time.Duration { return s.pool.Config().ConnConfig.ConnectTimeout }

package postgres

import (
	"context"

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

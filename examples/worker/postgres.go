package main

import (
	"context"
	"io"
	"log/slog"
	"net/url"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr/postgres"
)

func isPostgres(spec string) bool {
	return strings.HasPrefix(spec, "postgres://") || strings.HasPrefix(spec, "postgresql://")
}

// passwordIn reports whether an address holds a password, which arguments must
// not: every user of a host can read them.
func passwordIn(spec string) bool {
	u, err := url.Parse(spec)
	if err != nil {
		return strings.Contains(spec, "@")
	}
	_, has := u.User.Password()
	return has || u.Query().Has("password")
}

// openPostgres opens the database that keeps records, claims and leases. Its
// schema is made or brought up to date.
func openPostgres(ctx context.Context, spec string, log *slog.Logger) (*shared, io.Closer, error) {
	s, err := postgres.Open(ctx, postgres.Options{DSN: spec, Log: log})
	if err != nil {
		return nil, nil, err
	}
	return &shared{records: s, claims: s, leases: s.Leases()}, s, nil
}

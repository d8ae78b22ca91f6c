package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/dr/transfer"
)

// importRecords is "worker import": it moves the records of a journal, and the
// epochs of its claims, to a place that many workers share. The worker whose
// journal it is has to be stopped; its machines are replicated again as soon as
// a worker serves them from the new place, which may run already. It may be
// repeated, and goes on where it was cut off.
func importRecords(ctx context.Context, args []string, out io.Writer, log *slog.Logger) (err error) {
	var from, to, claims string
	var wait time.Duration
	f := flags("import")
	f.StringVar(&from, "from", "", "")
	f.StringVar(&to, "to", "", "")
	f.StringVar(&claims, "claims", "", "")
	f.DurationVar(&wait, "wait", 0, "")
	if err := parse(f, args); err != nil {
		return err
	}
	if from == "" || !isPostgres(to) || wait < 0 {
		return wrongUsage("import: -from JOURNAL and -to postgres://... are needed")
	}
	if passwordIn(to) || passwordIn(claims) {
		return wrongUsage("import: %s", noPassword)
	}
	old, err := embedded.Open(from, embedded.Options{Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	p := &opener{log: log, store: map[string]*shared{}}
	defer func() { err = errors.Join(err, p.Close()) }()
	place, err := p.place(ctx, to)
	if err != nil {
		return err
	}
	theirs := place.claims
	if claims != "" {
		c, err := p.place(ctx, claims)
		if err != nil {
			return err
		}
		theirs = c.claims
	}
	// Epochs first: a run that starts over there must not get one that machines
	// have seen.
	epochs, err := transfer.Epochs(ctx, dr.Claims(old), theirs)
	if err != nil {
		return fmt.Errorf("epochs of claims: %w", err)
	}
	r, err := transfer.Move(ctx, transfer.Leaving(old), place.records, transfer.Options{To: "postgres", Wait: wait, Log: log})
	fmt.Fprintf(out, "%d records moved, %d were there already, %d wait for their runs; %d epochs\n", r.Moved, r.Already, len(r.Held), epochs)
	return err
}

package main

import (
	"context"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

var pruneCommand = command{
	name:  "prune",
	brief: "delete old points and give their room back",
	help: `Usage: vault prune --store DIR --keep DURATION [OPTION]...

Deletes the recovery points that are older than DURATION, but never the newest
of a machine, and gives back the room that no remaining point needs. It may be
killed anywhere and run again. A point that is being exported or served stays
until that ends; run prune again then.

Options:
  --keep DURATION  how far back points are kept (required): numbers with the
                   units w, d, h, m or s, as in 30d, 72h or 1w12h
  --machine NAME   delete points of this machine only
  --dry-run        print what would be deleted, and do nothing
  --store DIR, --passphrase-file FILE: see vault --help

Prints "deleted MACHINE ID" for each point, and at last the bytes freed.
`,
	setup: func(fs *flag.FlagSet) action {
		var o pruneOptions
		o.flags(fs)
		fs.Var(&o.keep, "keep", "")
		fs.StringVar(&o.machine, "machine", "", "")
		fs.BoolVar(&o.dry, "dry-run", false, "")
		return func(ctx context.Context, args []string) error {
			if err := required(fs, "store", "keep"); err != nil {
				return err
			}
			if len(args) > 0 {
				return wrongUsage("prune takes no arguments; see vault prune --help")
			}
			return o.run(ctx)
		}
	},
}

type pruneOptions struct {
	storeOptions
	keep    age
	machine string
	dry     bool
}

func (o *pruneOptions) run(ctx context.Context) error {
	s, err := o.open(false, vault.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	machines, err := machinesOf(ctx, s, o.machine)
	if err != nil {
		return err
	}
	policy := recoverypoint.Policy{Keep: time.Duration(o.keep)}
	now := time.Now()
	for _, m := range machines {
		var points []dr.Point
		for p, err := range s.List(ctx, m) {
			if err != nil {
				return err
			}
			points = append(points, p)
		}
		for _, id := range recoverypoint.Expired(points, policy, now, nil) {
			if o.dry {
				fmt.Println("would delete", m, id)
				continue
			}
			if err := s.Delete(ctx, m, id); err != nil {
				return err
			}
			fmt.Println("deleted", m, id)
		}
	}
	if o.dry {
		return nil
	}
	freed, err := s.Prune(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("freed %d bytes (%s)\n", freed, size(freed))
	return nil
}

// age is a flag's duration that also knows days and weeks.
type age time.Duration

// String is empty for the zero value, so that an option that isn't set is
// seen as missing.
func (a *age) String() string {
	if *a == 0 {
		return ""
	}
	return time.Duration(*a).String()
}

func (a *age) Set(s string) error {
	d, err := parseAge(s)
	*a = age(d)
	return err
}

var ageUnits = map[byte]time.Duration{'w': 7 * 24 * time.Hour, 'd': 24 * time.Hour, 'h': time.Hour, 'm': time.Minute, 's': time.Second}

func parseAge(s string) (sum time.Duration, err error) {
	bad := fmt.Errorf("%q is no duration above zero, as 30d, 72h or 1w12h", s)
	for rest := s; rest != ""; {
		i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if i <= 0 {
			return 0, bad
		}
		n, err := strconv.ParseInt(rest[:i], 10, 64)
		unit := ageUnits[rest[i]]
		if err != nil || unit == 0 || n > int64((1<<63-1-sum)/unit) {
			return 0, bad
		}
		sum += time.Duration(n) * unit
		rest = rest[i+1:]
	}
	if sum <= 0 {
		return 0, bad
	}
	return sum, nil
}

package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// options are what the command line and the environment say.
type options struct {
	vcenter   vcenter
	store     storeOptions
	selection selection

	list, check   bool
	once          bool
	every         age
	consistency   dr.Consistency
	policy        recoverypoint.Policy
	parallel      int
	limit         *rate.Limiter
	keepSnapshots bool
	verbose       bool
}

// several is a flag that may be given more than once.
type several []string

func (s *several) String() string { return strings.Join(*s, ",") }

func (s *several) Set(v string) error {
	*s = append(*s, v)
	return nil
}

func parseOptions(args []string) (*options, error) {
	o := &options{policy: recoverypoint.VMwarePolicy(), consistency: dr.CrashConsistent}
	o.vcenter.environment()
	fs := flag.NewFlagSet(program, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	o.vcenter.flags(fs)
	o.store.flags(fs)
	o.selection.flags(fs)
	fs.BoolVar(&o.list, "list", false, "")
	fs.BoolVar(&o.check, "check", false, "")
	fs.BoolVar(&o.once, "once", false, "")
	fs.Var(&o.every, "every", "")
	fs.Func("consistency", "", func(s string) error {
		switch s {
		case "crash":
			o.consistency = dr.CrashConsistent
		case "application":
			o.consistency = dr.ApplicationConsistent
		default:
			return fmt.Errorf("want crash or application")
		}
		return nil
	})
	fs.Func("keep", "", func(s string) (err error) {
		o.policy.Keep, err = parseAge(s)
		return err
	})
	fs.IntVar(&o.parallel, "parallel", 4, "")
	fs.Func("limit", "", func(s string) error {
		n, err := parseSize(s)
		if err == nil {
			o.limit = rate.NewLimiter(rate.Limit(n), 1<<20)
		}
		return err
	})
	fs.BoolVar(&o.keepSnapshots, "keep-snapshots", false, "")
	fs.BoolVar(&o.verbose, "verbose", false, "")
	rest, err := parse(fs, args)
	if err == flag.ErrHelp {
		return nil, err
	}
	if err != nil {
		return nil, wrongUsage("%v; see %s --help", err, program)
	}
	o.selection.machines = rest
	return o, o.complete()
}

// complete refuses what makes no sense together.
func (o *options) complete() error {
	protects := !o.list && !o.check
	switch {
	case o.list && o.check:
		return wrongUsage("--list and --check can't be given together")
	case o.once && o.every != 0:
		return wrongUsage("--once and --every can't be given together")
	case o.parallel < 1:
		return wrongUsage("--parallel must be 1 or more")
	case protects && o.store.dir == "":
		return wrongUsage("--store must be given; see %s --help", program)
	case protects && o.selection.empty():
		return wrongUsage("which machines? Name them, or give --name, --folder or --all; see %s --help", program)
	}
	if err := o.selection.validate(); err != nil {
		return err
	}
	return o.vcenter.complete()
}

// parse lets options stand behind arguments too, which package flag doesn't.
func parse(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		left := fs.Args()
		if used := len(args) - len(left); used > 0 && args[used-1] == "--" {
			return append(rest, left...), nil
		}
		if len(left) == 0 {
			return rest, nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// logger tells what the library has to say, between the lines of progress.
func logger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// age is a flag's duration that also knows days and weeks.
type age time.Duration

// String is empty for the zero value.
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
	bad := fmt.Errorf("%q is no duration above zero, as 30d, 72h or 1h30m", s)
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

// parseSize reads bytes with a unit: 100MiB, 100M and 104857600 are the same.
func parseSize(s string) (int64, error) {
	bad := fmt.Errorf("%q is no size above zero, as 100MiB, 2G or 65536", s)
	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if i < 0 {
		i = len(s)
	}
	n, err := strconv.ParseInt(s[:i], 10, 64)
	unit := strings.ToUpper(strings.TrimSpace(s[i:]))
	shift, ok := map[string]int{"": 0, "B": 0, "K": 10, "M": 20, "G": 30}[strings.TrimSuffix(unit, "IB")]
	if err != nil || !ok || n < 1 || n > (1<<62)>>shift {
		return 0, bad
	}
	return n << shift, nil
}

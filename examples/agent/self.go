package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/backend/physical/inventory"
)

// selfFile is what a file behind "self:" may say: which disks, and everything of
// a physical.Config but the machines. The zero value protects all fixed disks.
type selfFile struct {
	// Disks by ID, kernel's name or path, as "agent inventory" lists them.
	Disks []string `json:"disks,omitempty"`
	// Loop takes loop devices for disks too, for trials: name them.
	Loop bool `json:"loop,omitempty"`
	live
	physical.Config
}

// selfRoot is where the agent keeps its state if nothing else is said.
const selfRoot = "/var/lib/lifeboat"

// openSelf protects the machine that the agent runs on.
func openSelf(what string, log *slog.Logger) (backend.Backend, io.Closer, error) {
	var f selfFile
	if what != "" {
		if err := readFile(what, &f); err != nil {
			return nil, nil, err
		}
		if len(f.Machines) > 0 {
			return nil, nil, fmt.Errorf(`%s: "machines" are for the kind physical: self is the machine that this runs on`, what)
		}
	}
	f.Config.Log = log
	cfg, err := selfConfig(context.Background(), f, inventory.Options{Loop: f.Loop})
	if err != nil {
		return nil, nil, err
	}
	f.freeze(&cfg, log)
	return f.open(cfg, f.Track == nil || *f.Track, log)
}

// selfConfig makes a host's configuration of what the inventory finds.
func selfConfig(ctx context.Context, f selfFile, o inventory.Options) (physical.Config, error) {
	cfg := f.Config
	r, err := inventory.Read(ctx, o)
	if err != nil {
		return cfg, err
	}
	m, err := r.Machine(f.Disks...)
	if err != nil {
		return cfg, err
	}
	if err := blocked(r, m); err != nil {
		return cfg, err
	}
	if cfg.Log != nil { // as what is left out
		for _, p := range r.Problems {
			cfg.Log.Warn("inventory: "+p.Text, "code", p.Code, "disk", p.Disk, "remedy", p.Remedy)
		}
	}
	cfg.Machines = []physical.Machine{m}
	cfg.Inspect = inventory.Inspector(m.ID, o)
	if cfg.Root == "" {
		cfg.Root = selfRoot
	}
	return cfg, nil
}

// blocked says what about the chosen disks would make a copy fail, or lie.
func blocked(r inventory.Report, m physical.Machine) error {
	var errs []error
	for _, p := range r.Blockers(m) {
		errs = append(errs, fmt.Errorf("%s: %s (%s)", p.Code, p.Text, p.Remedy))
	}
	return errors.Join(errs...)
}

// showInventory is "agent inventory".
func showInventory(ctx context.Context, args []string, out io.Writer) error {
	var o inventory.Options
	var asJSON, facts bool
	f := flag.NewFlagSet("inventory", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.Root, "root", "", "")
	f.BoolVar(&o.Loop, "loop", false, "")
	f.BoolVar(&asJSON, "json", false, "")
	f.BoolVar(&facts, "facts", false, "")
	if err := f.Parse(args); err != nil {
		return wrongUsage("%v", err)
	}
	if f.NArg() > 0 {
		return wrongUsage("%q is no option", f.Arg(0))
	}
	var v any
	var err error
	if facts {
		v, err = inventory.Inspect(ctx, o)
	} else {
		v, err = inventory.Read(ctx, o)
	}
	if err != nil {
		return err
	}
	if r, ok := v.(inventory.Report); ok && !asJSON {
		_, err = fmt.Fprint(out, r)
		return err
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

var lsCommand = command{
	name:  "ls",
	brief: "list machines and their recovery points",
	help: `Usage: vault ls --store DIR [OPTION]...

Lists the recovery points of all machines, oldest first.

Options:
  --machine NAME  of this machine only
  --json          print an array of objects, one a point:
                  {"machine": NAME, "id": ID, "time": RFC 3339 in UTC,
                   "consistency": "crash", "file-system", "application" or
                   "unknown", "parent": ID of the point before, if any,
                   "base": true if it is no recovery point but content that
                   later ones were written over,
                   "disks": [{"id": DISK, "size": BYTES}, ...]}
                  Fields may be added, never changed.
  --store DIR, --passphrase-file FILE: see vault --help
`,
	setup: func(fs *flag.FlagSet) action {
		var o lsOptions
		o.flags(fs)
		fs.StringVar(&o.machine, "machine", "", "")
		fs.BoolVar(&o.json, "json", false, "")
		return func(ctx context.Context, args []string) error {
			if err := required(fs, "store"); err != nil {
				return err
			}
			if len(args) > 0 {
				return wrongUsage("ls takes no arguments; see vault ls --help")
			}
			return o.run(ctx)
		}
	},
}

type lsOptions struct {
	storeOptions
	machine string
	json    bool
}

// listed is a point as --json prints it.
type listed struct {
	Machine     dr.MachineID   `json:"machine"`
	ID          dr.PointID     `json:"id"`
	Time        time.Time      `json:"time"`
	Consistency dr.Consistency `json:"consistency"`
	Parent      dr.PointID     `json:"parent,omitempty"`
	Base        bool           `json:"base,omitempty"`
	Disks       []listedDisk   `json:"disks"`
}

type listedDisk struct {
	ID   dr.DiskID `json:"id"`
	Size int64     `json:"size"`
}

func (o *lsOptions) run(ctx context.Context) error {
	s, err := o.open(false, vault.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	machines, err := machinesOf(ctx, s, o.machine)
	if err != nil {
		return err
	}
	all := []listed{}
	for _, m := range machines {
		for p, err := range s.List(ctx, m) {
			if err != nil {
				return err
			}
			l := listed{Machine: m, ID: p.ID, Time: p.Time.UTC(), Consistency: p.Consistency, Parent: p.Parent, Base: p.Base, Disks: []listedDisk{}}
			for _, d := range p.Machine.Disks {
				l.Disks = append(l.Disks, listedDisk{d.ID, d.Size})
			}
			all = append(all, l)
		}
	}
	if o.json {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return out.Encode(all)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MACHINE\tPOINT\tTIME\tCONSISTENCY\tDISKS\tSIZE")
	for _, l := range all {
		var bytes int64
		for _, d := range l.Disks {
			bytes += d.Size
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", l.Machine, l.ID, l.Time.Local().Format("2006-01-02 15:04:05"), l.Consistency, len(l.Disks), size(bytes))
	}
	return w.Flush()
}

// machinesOf returns one machine, or all that the store knows.
func machinesOf(ctx context.Context, s *vault.Store, one string) ([]dr.MachineID, error) {
	var all []dr.MachineID
	for m, err := range s.Machines(ctx) {
		if err != nil {
			return nil, err
		}
		if one == "" || m == dr.MachineID(one) {
			all = append(all, m)
		}
	}
	if one != "" && all == nil {
		return nil, noPoints(ctx, s, dr.MachineID(one))
	}
	return all, nil
}

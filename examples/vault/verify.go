package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

var verifyCommand = command{
	name:  "verify",
	brief: "read everything in the store and check it",
	help: `Usage: vault verify --store DIR [OPTION]...

Reads everything in the store and checks every bit of it. It changes nothing.

Prints a line for each piece of damage and each point that it spoils:
  damaged: machine NAME, point ID, disk DISK, bytes FROM-TO: OBJECT: CAUSE
where OBJECT is the file below DIR, and TO is the first byte behind. Parts that
aren't known are left out; damage without a point is in what no point needs.
Points that aren't named are whole and can be exported.

Ends with status 0 if there is no damage, 3 if there is some, and 1 if the
store could not be checked to the end.

To mend: bring the OBJECTs back from a copy of the store; or delete the points
by letting them age out (vault prune) and add new ones.

Options:
  --store DIR, --passphrase-file FILE: see vault --help
`,
	setup: func(fs *flag.FlagSet) action {
		var o storeOptions
		o.flags(fs)
		return func(ctx context.Context, args []string) error {
			if err := required(fs, "store"); err != nil {
				return err
			}
			if len(args) > 0 {
				return wrongUsage("verify takes no arguments; see vault verify --help")
			}
			return verify(ctx, &o)
		}
	},
}

func verify(ctx context.Context, o *storeOptions) error {
	s, err := o.open(false, vault.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	type name struct {
		m  dr.MachineID
		id dr.PointID
	}
	spoiled := map[name]bool{}
	found := 0
	for d, err := range s.Scrub(ctx) {
		if err != nil {
			return err
		}
		found++
		for _, id := range d.Points {
			spoiled[name{d.Machine, id}] = true
			tell(d, id)
		}
		if len(d.Points) == 0 {
			tell(d, "")
		}
	}
	if found > 0 {
		return fmt.Errorf("%w: %s damaged", errDamage, plural(len(spoiled), "point is", "points are"))
	}
	points, holders := 0, 0
	machines, err := machinesOf(ctx, s, "")
	if err != nil {
		return err
	}
	for _, m := range machines {
		before := points
		for _, err := range s.List(ctx, m) {
			if err != nil {
				return err
			}
			points++
		}
		if points > before {
			holders++
		}
	}
	fmt.Printf("no damage: %s of %s\n", plural(points, "point", "points"), plural(holders, "machine", "machines"))
	return nil
}

func tell(d recoverypoint.Damage, point dr.PointID) {
	where := ""
	if d.Machine != "" {
		where = fmt.Sprintf("machine %s, ", d.Machine)
	}
	if point != "" {
		where += fmt.Sprintf("point %s, ", point)
	}
	if d.Disk != "" {
		where += fmt.Sprintf("disk %s, ", d.Disk)
	}
	if d.Extent.Len > 0 {
		where += fmt.Sprintf("bytes %d-%d, ", d.Extent.Off, d.Extent.End())
	}
	if where != "" {
		where = where[:len(where)-2] + ": "
	}
	fmt.Printf("damaged: %s%s: %v\n", where, d.Object, d.Err)
}

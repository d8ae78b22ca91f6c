package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// line is what is said of a machine as soon as it is done.
func (o outcome) line() string {
	r := o.report
	switch {
	case errors.Is(o.err, context.Canceled):
		return o.machine.Name + ": interrupted"
	case o.err != nil && r.Point.ID != "":
		return fmt.Sprintf("%s: point %s is in the store, but: %v", o.machine.Name, r.Point.ID, o.err)
	case o.err != nil:
		return fmt.Sprintf("%s: failed: %v", o.machine.Name, o.err)
	}
	s := fmt.Sprintf("%s: point %s, read %s", o.machine.Name, r.Point.ID, size(r.Read))
	if r.Resumed > 0 {
		s += fmt.Sprintf(", %s resumed", size(r.Resumed))
	}
	if len(r.Full) > 0 {
		s += fmt.Sprintf(", %s compared whole: the changes weren't known", plural(len(r.Full), "disk", "disks"))
	}
	return s + fmt.Sprintf(", %.1f s", r.Took.Seconds())
}

// printRound prints the table that ends a round.
func printRound(all []outcome, took time.Duration, freed, now, before int64) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MACHINE\tCONSISTENCY\tCHANGED\tREAD\tSTORED\tTOOK\tRPO")
	made, expired := 0, 0
	for _, o := range all {
		rpo := "no point"
		if o.newest.ID != "" {
			rpo = short(recoverypoint.Age(o.newest, time.Now()))
		}
		expired += o.expired
		r := o.report
		if r.Point.ID == "" {
			what := "failed"
			if errors.Is(o.err, context.Canceled) {
				what = "interrupted"
			}
			fmt.Fprintf(w, "%s\t%s\t-\t-\t-\t%s\t%s\n", o.machine.Name, what, short(r.Took), rpo)
			continue
		}
		made++
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", o.machine.Name, r.Point.Consistency, size(r.Changed), size(r.Read), size(r.Written), short(r.Took), rpo)
	}
	w.Flush()
	s := fmt.Sprintf("%s of %s in %s; the store has %s (%s)", plural(made, "point", "points"), plural(len(all), "machine", "machines"), short(took), size(now), signed(now-before))
	if expired > 0 {
		s += fmt.Sprintf("; %s expired, %s freed", plural(expired, "point", "points"), size(freed))
	}
	fmt.Println(s)
}

func signed(n int64) string {
	if n < 0 {
		return "-" + size(-n)
	}
	return "+" + size(n)
}

// short is a duration in three digits or so.
func short(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	return d.Round(time.Minute).String()
}

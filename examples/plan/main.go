// Command plan takes six machines of a vCenter, in three tiers, through a
// recovery plan: a dry run, a drill with its report, a planned failover to Azure
// with a question that a person answers, and the way home. Everything that
// works on it may be killed at any moment.
//
// Without a command it tells the whole story, playing all the parts itself, in
// processes of their own: the two sites, which are simulators; the program that
// embeds Lifeboat, which is killed on the way, twice; and the person who answers
// from another terminal. With commands you play them:
//
//	plan -dir D sites                   the simulated vCenter and Azure, until interrupted
//	plan -dir D serve                   what embeds Lifeboat, until interrupted or killed
//	plan -dir D protect                 make the first recovery points
//	plan -dir D dry-run FLOW            what would happen
//	plan -dir D start FLOW              test, drill, planned, unplanned, failback, reprotect, commit, cancel, clean-up
//	plan -dir D watch RUN               until it ends, or waits for a person
//	plan -dir D decide RUN STEP [no]    answer a question
//	plan -dir D report RUN FILE         the report of a run, as a page
//	plan -dir D machines                what runs where
//
// It exits with 0 if what was asked for went well, with 1 if it didn't, and with
// 2 for a wrong command line.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	dir := flag.String("dir", "", "the folder that holds everything durable; made if it isn't there")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: plan [-dir D] [sites | serve | protect | dry-run FLOW | start FLOW | watch RUN | decide RUN STEP [no] | report RUN FILE | machines]")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	stdlog.SetOutput(io.Discard) // the vCenter's simulator talks to it
	if err := run(ctx, *dir, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "plan:", err)
		if _, usage := err.(usageError); usage {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

type usageError string

func (e usageError) Error() string { return string(e) }

func run(ctx context.Context, dir string, args []string) error {
	if len(args) == 0 {
		return demo(ctx, dir)
	}
	if dir == "" {
		return usageError("-dir must be given with a command")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	want := map[string][2]int{"sites": {0, 0}, "serve": {0, 0}, "protect": {0, 0}, "dry-run": {1, 1}, "start": {1, 1}, "watch": {1, 1},
		"decide": {2, 3}, "report": {2, 2}, "machines": {0, 0}}
	n, known := want[args[0]]
	if given := len(args) - 1; !known || given < n[0] || given > n[1] {
		return usageError(fmt.Sprintf("command line %q; see plan -h", args))
	}
	switch args = append(args, ""); args[0] {
	case "sites":
		return serveSites(ctx, dir)
	case "serve":
		return serve(ctx, dir)
	}
	c := client{dir: dir}
	switch args[0] {
	case "protect":
		return c.protect(ctx, os.Stdout)
	case "dry-run":
		return c.dryRun(ctx, args[1], os.Stdout)
	case "start":
		run, err := c.start(ctx, args[1])
		fmt.Println(run)
		return err
	case "watch":
		_, err := c.watch(ctx, args[1], os.Stdout)
		return err
	case "decide":
		return c.decide(ctx, args[1], args[2], args[3] != "no")
	case "report":
		return c.report(ctx, args[1], args[2])
	}
	return c.machines(ctx, os.Stdout)
}

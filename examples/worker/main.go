package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

const usage = `worker serves runs and replication; many may serve together.

  worker serve    -sites FILE|DIR [-engine embedded -journal FILE] [flags]
  worker import   -from JOURNAL -to postgres://... [-claims SPEC] [-wait 5s]
  worker simulate -dir DIR -site NAME=HOST:PORT... [-host NAME]... [-machines N] [-empty NAME]...
                  [-disk 1MiB] [-full 128KiB] [-write 64KiB] [-every 5m] [-takes 0s] [-seed 1]

Of serve:
%s`

// Exit codes.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitAtOnce  = 3 // a second signal came while it was draining
	exitDrained = 4 // what was under way didn't stop within -drain
)

// usageError is the caller's mistake, found before anything was done.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func wrongUsage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		again := make(chan os.Signal, 1)
		signal.Notify(again, os.Interrupt, syscall.SIGTERM)
		<-again
		os.Exit(exitAtOnce) // a kill -9 between any two instructions is survived, so this is
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	err := command(ctx, args, out, errs)
	var wrong *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &wrong):
		fmt.Fprintf(errs, "worker: %s\n(\"worker help\" tells of all commands and flags)\n", wrong.text)
		return exitUsage
	}
	fmt.Fprintln(errs, "worker:", err)
	if errors.Is(err, errNotDrained) {
		return exitDrained
	}
	return exitFailed
}

func command(ctx context.Context, args []string, out, errs io.Writer) error {
	if len(args) == 0 {
		return wrongUsage("no command")
	}
	switch args[0] {
	case "serve":
		o, err := parseServe(args[1:])
		if err != nil {
			return err
		}
		return serve(ctx, o, out, logger(errs, o.json, o.verbose))
	case "simulate":
		o, err := parseSimulation(args[1:])
		if err != nil {
			return err
		}
		return simulate(ctx, o, out, logger(errs, false, false))
	case "import":
		return importRecords(ctx, args[1:], out, logger(errs, false, false))
	case "help", "-h", "-help", "--help":
		fmt.Fprintf(out, usage, serveUsage())
		return nil
	}
	return wrongUsage("there is no command %q", args[0])
}

// flags is a set that prints nothing by itself.
func flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

func parse(f *flag.FlagSet, args []string) error {
	if err := f.Parse(args); err != nil {
		return wrongUsage("%s: %v", f.Name(), err)
	}
	if f.NArg() > 0 {
		return wrongUsage("%s: %q is no option", f.Name(), f.Arg(0))
	}
	return nil
}

func logger(w io.Writer, asJSON, verbose bool) *slog.Logger {
	o := &slog.HandlerOptions{}
	if verbose {
		o.Level = slog.LevelDebug
	}
	if asJSON {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

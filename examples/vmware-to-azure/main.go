// Command vmware-to-azure takes two machines of a vCenter round the whole cycle
// of disaster recovery to Azure and back: replicate, drill in an isolated
// network, planned and unplanned failover, change of point, commit, reprotect to
// the original and to an alternate location, fail back, commit, reprotect.
//
// The vCenter and Azure are simulators in this process; their clients are the
// real ones, and Lifeboat is told nothing of it. The guests write all the time,
// on either side. What was copied is compared, byte for byte, with what they
// wrote: each recovery point as it is stored, and each machine when it starts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

const exitInterrupted = 130

func main() {
	mib := flag.Int64("mib", 96, "size of the larger disks, in MiB")
	verbose := flag.Bool("v", false, "tell what Lifeboat logs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	stdlog.SetOutput(io.Discard) // the vCenter's simulator talks to it
	log := slog.New(slog.DiscardHandler)
	if *verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	err := run(ctx, *mib<<20, log)
	switch {
	case err == nil:
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "vmware-to-azure: interrupted")
		os.Exit(exitInterrupted)
	default:
		fmt.Fprintln(os.Stderr, "vmware-to-azure:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, size int64, log *slog.Logger) (err error) {
	dir, err := os.MkdirTemp("", "lifeboat")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w, err := open(ctx, dir, size, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	rows, err := w.tell(ctx, story())
	if err != nil {
		return err
	}
	printTable(os.Stdout, rows)
	return w.leftOver(ctx)
}

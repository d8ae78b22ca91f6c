// Command vsphere-to-directory protects virtual machines of a vCenter, or of an
// ESXi host, by recovery points in a folder: round by round, only what changed
// is read and stored. The folder is a vault, which examples/vault lists,
// verifies, exports and serves.
//
// It is also the example of how to replicate many machines: connect.go opens
// vSphere by the environment of govc, selection.go chooses machines, round.go
// replicates them with replication.Cycle and lets old points expire, and
// everything else is for the person who watches. What may not live here:
// anything that another program would need as well.
//
// # Not verified on
//
// Nothing here was run against a real vCenter: tests run the command against
// the simulator vmwaretest, over HTTPS and NBD. On Windows and macOS it builds
// and is not run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const program = "vsphere-to-directory"

func main() {
	// The first signal ends the command in order, the second one at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, program+": "+message(err))
	}
	os.Exit(exitCode(err))
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parseOptions(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(help)
		return nil
	}
	if err != nil {
		return err
	}
	s := newScreen(os.Stderr)
	log := logger(s, o.verbose)
	v, err := o.vcenter.open(ctx, log)
	if err != nil {
		return err
	}
	defer func() {
		// A session that isn't ended counts against the server's limit for half an hour.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if bad := v.Close(ctx); bad != nil {
			log.Warn("log out", "error", bad)
		}
	}()
	switch {
	case o.check:
		return check(ctx, v)
	case o.list:
		return list(ctx, v, &o.selection)
	}
	store, err := o.store.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return newProtector(o, v, store, s, log).rounds(ctx)
}

// Command vault keeps the disks of machines as recovery points in a folder:
// raw image files or block devices go in, only what changed takes room, and
// any point comes out again as raw images or, at once, as a network block
// device that a machine can boot from.
//
// It is also the example of how to use the store (package
// recoverypoint/vault) without the rest of Lifeboat. A file for each
// subcommand; images.go makes files an image to read from, target.go a draft
// to write to, and everything in between is replication.Copy. What may not
// live here: anything that another program would need as well.
//
// # Not verified on
//
// Block devices are tested with loop devices only. On Windows and macOS the
// command builds and is not run.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// commands in the order in which they are needed.
var commands = []command{addCommand, lsCommand, exportCommand, verifyCommand, pruneCommand, serveCommand}

func main() {
	// Buffers are pooled and what else lives is small, so that the collector
	// would otherwise run for every few megabytes of passing garbage.
	debug.SetGCPercent(200)
	debug.SetMemoryLimit(100 << 20)

	// The first signal ends the command in order, the second one at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := dispatch(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "vault: "+message(err))
	}
	os.Exit(exitCode(err))
}

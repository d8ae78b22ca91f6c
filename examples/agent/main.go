// Command agent runs on a host beside its disks and serves them to a replicator
// or orchestrator elsewhere: what it serves is a backend.Backend there
// (backend/remote).
//
//	agent pki --dir pki --host disks1.example.com
//	agent serve --listen :8443 --cert pki/server.pem --key pki/server.key --clients pki/ca.pem \
//	    --backend physical:/etc/lifeboat/machines.json
//
// and at the other end
//
//	client, err := remote.Dial(ctx, "disks1.example.com:8443", remote.DialOptions{TLS: ...})
//
// "agent inventory" shows the machine that it runs on, and what about its disks
// is worth knowing; --backend self protects that machine.
//
// It stops on SIGTERM or an interrupt: nobody opens anything any more, what is
// under way may end within --grace, and the rest is given back: machines that were
// frozen thaw, replicas that were half written stay torn until they are written
// again. On Windows "agent install", with what would follow "agent serve", makes it
// a service.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const usage = `agent serves this host's disks to a replicator elsewhere.

  agent serve    --listen ADDR --cert FILE --key FILE --clients FILE --backend KIND:WHAT
                 [--machine ID]... [--grace 10s] [--json]
  agent pki      --dir DIR --host NAME [--host NAME]...
  agent inventory [--json] [--facts] [--loop] [--root DIR]
%s
Backends of this system: %s.
`

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is the caller's mistake, found before anything was done.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func wrongUsage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

func main() {
	if asService() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	err := command(ctx, args, out, errs)
	var wrong *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &wrong):
		fmt.Fprintf(errs, "agent: %s\n\n"+usage, wrong.text, serviceUsage, kinds())
		return exitUsage
	}
	fmt.Fprintln(errs, "agent:", err)
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
		return serve(ctx, o, out, logger(errs, o.json))
	case "pki":
		return makePKI(args[1:], out)
	case "inventory":
		return showInventory(ctx, args[1:], out)
	case "help", "-h", "--help":
		fmt.Fprintf(out, usage, serviceUsage, kinds())
		return nil
	}
	return serviceCommand(args[0], args[1:], out)
}

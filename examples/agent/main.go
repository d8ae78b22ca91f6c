// Command agent runs on a host beside its disks and serves them to a replicator
// or orchestrator elsewhere: what it serves is a backend.Backend there
// (backend/remote).
//
// Where the owner keeps the authority, best at the recovery site:
//
//	agent authority --dir /var/lib/lifeboat-authority --listen :8444 --host authority.example.com
//	agent token --dir /var/lib/lifeboat-authority --name disks1 --role agent --host disks1.example.com
//
// on the host, with the token and the pin that this prints (LIFEBOAT_TOKEN in place of
// --token keeps it from other users of the host):
//
//	agent enrol --url https://authority.example.com:8444 --token ... --pin sha256:... --dir /var/lib/lifeboat/identity
//	agent serve --listen :8443 --identity /var/lib/lifeboat/identity --backend physical:/etc/lifeboat/machines.json
//
// and at the other end, enrolled as a client:
//
//	id, err := enrol.OpenIdentity(dir, enrol.IdentityOptions{})
//	go id.Run(ctx)
//	client, err := remote.Dial(ctx, "disks1.example.com:8443", remote.DialOptions{GetTLS: id.ClientTLS, Recheck: id.Recheck})
//
// The identity renews its certificate by itself. "agent revoke --what NAME" ends a
// client's sessions within --poll, and it can't come back. With certificates from
// elsewhere, or of "agent pki" for a first trial, it is
//
//	agent serve --listen :8443 --cert pki/server.pem --key pki/server.key --clients pki/ca.pem \
//	    --backend physical:/etc/lifeboat/machines.json
//
// agent.service beside this file runs it under systemd with few privileges, and says how
// to replace the program.
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

  agent serve     --listen ADDR --backend KIND:WHAT [--machine ID]... [--grace 10s] [--health] [--json]
                  --identity DIR [--poll 1m], or --cert FILE --key FILE --clients FILE
  agent enrol     --dir DIR --url URL --token TOKEN --pin PIN
  agent authority --dir DIR --listen ADDR --host NAME [--host NAME]... [--life 720h] [--json]
  agent token     --dir DIR --name NAME --role agent|client [--host NAME]... [--ttl 1h]
  agent revoke    --dir DIR --what NAME|SERIAL
  agent rotate    --dir DIR [--after 24h]
  agent pki       --dir DIR --host NAME [--host NAME]...
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
	case "enrol":
		return enroll(ctx, args[1:], out)
	case "authority":
		return authority(ctx, args[1:], out, errs)
	case "token":
		return token(ctx, args[1:], out)
	case "revoke":
		return revoke(ctx, args[1:], out)
	case "rotate":
		return rotate(ctx, args[1:], out)
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

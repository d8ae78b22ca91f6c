package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/backend/remote/enrol"
	"github.com/lifeboat-dr/lifeboat/dr"
)

type (
	machineID = dr.MachineID
	diskID    = dr.DiskID
)

// options of "agent serve".
type options struct {
	listen, cert, key, clients, identity, backend string
	machines                                      []dr.MachineID
	grace, poll                                   time.Duration
	health, json                                  bool
}

func parseServe(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.listen, "listen", "", "")
	f.StringVar(&o.cert, "cert", "", "")
	f.StringVar(&o.key, "key", "", "")
	f.StringVar(&o.clients, "clients", "", "")
	f.StringVar(&o.identity, "identity", "", "")
	f.DurationVar(&o.poll, "poll", time.Minute, "")
	f.BoolVar(&o.health, "health", false, "")
	f.StringVar(&o.backend, "backend", "", "")
	f.Func("machine", "", func(s string) error {
		o.machines = append(o.machines, dr.MachineID(s))
		return dr.MachineID(s).Validate()
	})
	f.DurationVar(&o.grace, "grace", 10*time.Second, "")
	f.BoolVar(&o.json, "json", false, "")
	if err := f.Parse(args); err != nil {
		return o, wrongUsage("%v", err)
	}
	if f.NArg() > 0 {
		return o, wrongUsage("%q is no option", f.Arg(0))
	}
	type option struct{ name, value string }
	needed := []option{{"listen", o.listen}, {"backend", o.backend}}
	switch {
	case o.identity == "":
		needed = append(needed, option{"cert", o.cert}, option{"key", o.key}, option{"clients", o.clients})
	case o.cert+o.key+o.clients != "":
		return o, wrongUsage("--identity stands in place of --cert, --key and --clients")
	case o.poll <= 0:
		return o, wrongUsage("--poll %v", o.poll)
	}
	for _, need := range needed {
		if need.value == "" {
			return o, wrongUsage("--%s is needed", need.name)
		}
	}
	return o, nil
}

func logger(w io.Writer, asJSON bool) *slog.Logger {
	if asJSON {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

// serve serves until ctx ends, and gives everything back. Its first line on out
// is the address that it listens on.
func serve(ctx context.Context, o options, out io.Writer, log *slog.Logger) (err error) {
	so, err := identify(ctx, o, log)
	if err != nil {
		return err
	}
	b, c, err := open(o.backend, log)
	if err != nil {
		return err
	}
	if c != nil {
		defer func() { err = errors.Join(err, c.Close()) }()
	}
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, ln.Addr())
	log.Info("serving", "addr", ln.Addr().String(), "backend", o.backend)
	grace := o.grace
	if grace == 0 {
		grace = -1
	}
	so.Authorize = func(*x509.Certificate) (remote.Scope, error) { return remote.Scope{Machines: o.machines}, nil }
	so.Grace, so.Health, so.Log = grace, o.health, log
	err = remote.Serve(ctx, ln, b, so)
	log.Info("stopped", "err", err)
	return err
}

// identify says who this agent is and whom it lets in. An identity is kept fresh until
// ctx ends.
func identify(ctx context.Context, o options, log *slog.Logger) (so remote.ServeOptions, err error) {
	if o.identity == "" {
		so.TLS, err = serverTLS(o)
		return so, err
	}
	// Both together are what --poll promises.
	again := min(o.poll/5, 10*time.Second)
	id, err := enrol.OpenIdentity(o.identity, enrol.IdentityOptions{Poll: max(o.poll-2*again, 1), Log: log})
	if errors.Is(err, fs.ErrNotExist) {
		return so, fmt.Errorf("%w: enrol first with agent enrol", err)
	}
	if err != nil {
		return so, err
	}
	go func() { _ = id.Run(ctx) }()
	so.GetTLS, so.Recheck, so.RecheckEvery = id.ServerTLS, id.Recheck, max(again, 1)
	return so, nil
}

func serverTLS(o options) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(o.clients)
	if err != nil {
		return nil, err
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate of an authority", o.clients)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert},
		ClientCAs:    clients,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		MinVersion:   tls.VersionTLS13,
	}, nil
}

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/dr"
)

type (
	machineID = dr.MachineID
	diskID    = dr.DiskID
)

// options of "agent serve".
type options struct {
	listen, cert, key, clients, backend string
	machines                            []dr.MachineID
	grace                               time.Duration
	json                                bool
}

func parseServe(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.listen, "listen", "", "")
	f.StringVar(&o.cert, "cert", "", "")
	f.StringVar(&o.key, "key", "", "")
	f.StringVar(&o.clients, "clients", "", "")
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
	for _, need := range []struct{ name, value string }{
		{"listen", o.listen}, {"cert", o.cert}, {"key", o.key}, {"clients", o.clients}, {"backend", o.backend},
	} {
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
	conf, err := serverTLS(o)
	if err != nil {
		return err
	}
	b, c, err := open(o.backend)
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
	err = remote.Serve(ctx, ln, b, remote.ServeOptions{
		TLS:       conf,
		Authorize: func(*x509.Certificate) (remote.Scope, error) { return remote.Scope{Machines: o.machines}, nil },
		Grace:     grace,
		Log:       log,
	})
	log.Info("stopped", "err", err)
	return err
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

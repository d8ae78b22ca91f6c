package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/backend/physical/qemu"
	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// siteCommand begins the command line of a process that is a whole site: the host
// with its machine, and the agent that serves it. Who kills it kills all of that.
const siteCommand = "site"

// What the site says on its output, each with an address behind it.
const (
	saysServing = "serving" // the agent listens there
	saysGuest   = "guest"   // the machine was started; its page is there
)

// host is a physical host whose machines run in QEMU.
type host struct {
	*physical.Host
	runner *qemu.Runner
}

// openHost has every write of a machine noted, so that cycles are deltas.
func openHost(dir string, machines ...physical.Machine) (*host, error) {
	r, err := qemu.New(qemu.Options{
		Folder: filepath.Join(dir, "qemu"), Tracker: physical.NewBitmapTracker(0),
		Evidence: evidence, Type: "pc", Memory: guestMemory,
	})
	if err != nil {
		return nil, err
	}
	cfg := physical.Config{Root: filepath.Join(dir, "machines"), Machines: machines, LastPass: 4 << 20}
	r.Configure(&cfg)
	h, err := physical.Open(cfg)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return &host{h, r}, nil
}

// Close ends the machines, as a loss of power would.
func (h *host) Close() error { return errors.Join(h.runner.Close(), h.Host.Close()) }

// page is where this computer reaches the machine's page.
func (h *host) page(ctx context.Context, id dr.MachineID) (string, error) {
	return h.runner.Port(ctx, id, guestPort)
}

// serveSite is the site's process, until it is told to end or killed.
func serveSite(args []string, out io.Writer) (err error) {
	f := flag.NewFlagSet(siteCommand, flag.ExitOnError)
	dir := f.String("dir", "", "")
	listen := f.String("listen", "127.0.0.1:0", "")
	firmware := f.String("firmware", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	h, err := openHost(*dir, physical.Machine{
		ID: app, Name: "shop", Power: dr.Off, OS: "linux", Firmware: dr.Firmware(*firmware), Memory: guestMemory,
		Disks: []physical.Disk{{ID: "root", Path: filepath.Join(*dir, diskName), Boot: true}},
		NICs:  []dr.NIC{{ID: "nic0", Network: "office"}},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	// What ran when the site was lost does not run any more.
	if err := h.Stop(ctx, app); err != nil {
		return err
	}
	conf, err := siteTLS(*dir)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, saysServing, l.Addr())
	return remote.Serve(ctx, l, told{h, out}, remote.ServeOptions{TLS: conf, Grace: -1})
}

// told says where a machine's page is when it was started.
type told struct {
	*host
	out io.Writer
}

// Start implements backend.Target.
func (t told) Start(ctx context.Context, id dr.MachineID) error {
	if err := t.Host.Start(ctx, id); err != nil {
		return err
	}
	page, err := t.page(ctx, id)
	if err == nil {
		fmt.Fprintln(t.out, saysGuest, page)
	}
	return err
}

func siteTLS(dir string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "agent.pem"), filepath.Join(dir, "agent.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}, nil
}

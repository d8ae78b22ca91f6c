package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/backend/remote/trialpki"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/examples/worker/bucket"
)

// simulation is what "worker simulate" was asked for.
type simulation struct {
	dir      string
	sites    []simSite
	hosts    []string
	empty    []string // sites without machines of their own
	machines int
	disk     int64
	full     int64
	write    int64
	every    time.Duration
	takes    time.Duration
	seed     uint64
}

type simSite struct{ name, address string }

func parseSimulation(args []string) (simulation, error) {
	var o simulation
	f := flags("simulate")
	f.StringVar(&o.dir, "dir", "", "")
	f.Func("site", "", func(s string) error {
		name, address, ok := strings.Cut(s, "=")
		if !ok || name == "" || strings.ContainsAny(name, "/\\.") {
			return errors.New("want NAME=HOST:PORT")
		}
		o.sites = append(o.sites, simSite{name, address})
		return nil
	})
	f.Func("host", "", func(s string) error { o.hosts = append(o.hosts, s); return nil })
	f.Func("empty", "", func(s string) error { o.empty = append(o.empty, s); return nil })
	f.IntVar(&o.machines, "machines", 10, "")
	f.Var((*size)(&o.disk), "disk", "")
	f.Var((*size)(&o.full), "full", "")
	f.Var((*size)(&o.write), "write", "")
	f.DurationVar(&o.every, "every", 5*time.Minute, "")
	f.DurationVar(&o.takes, "takes", 0, "")
	f.Uint64Var(&o.seed, "seed", 1, "")
	o.disk, o.full, o.write = 1<<20, 128<<10, 64<<10
	if err := parse(f, args); err != nil {
		return o, err
	}
	switch {
	case o.dir == "" || len(o.sites) == 0:
		return o, wrongUsage("simulate: -dir and at least one -site are needed")
	case o.machines < 0 || o.every <= 0 || o.takes < 0:
		return o, wrongUsage("simulate: -machines %d -every %v -takes %v", o.machines, o.every, o.takes)
	case o.disk < simBlock || o.disk%simBlock != 0 || o.full < 0 || o.full > o.disk || o.write < 0 || o.write > o.disk:
		return o, wrongUsage("simulate: -disk must be a multiple of 64KiB, -full and -write no more than it")
	}
	return o, nil
}

// simulated is one site as this process holds it.
type simulated struct {
	name     string
	platform *counted
	points   *bucket.Memory
	handler  *remote.Handler
	listener net.Listener
	server   *http.Server
	guests   *guests
	ledger   *ledger
}

// simulate holds sites in this process's memory and serves them to workers
// until ctx ends: machines by the agents' protocol, points beside them. Its
// folder gets the certificates that workers need, and for each site a file that
// a worker's -sites reads. It prints the sites' addresses when all are served.
func simulate(ctx context.Context, o simulation, out io.Writer, log *slog.Logger) error {
	var sites []*simulated
	defer func() {
		for _, s := range sites {
			_ = s.server.Close() // whoever is connected sees the site fall
		}
	}()
	failed := make(chan error, len(o.sites))
	for i, at := range o.sites {
		s, err := o.open(at, uint64(i), log)
		if err != nil {
			return fmt.Errorf("site %s: %w", at.name, err)
		}
		sites = append(sites, s)
	}
	for _, s := range sites {
		go func() { failed <- s.server.ServeTLS(s.listener, "", "") }()
		fmt.Fprintf(out, "%s %s\n", s.name, s.listener.Addr())
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	for _, s := range sites {
		go s.guests.run(running, o.every)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

func (o simulation) open(at simSite, n uint64, log *slog.Logger) (*simulated, error) {
	l, err := net.Listen("tcp", at.address)
	if err != nil {
		return nil, err
	}
	hosts := o.hosts
	for _, s := range o.sites {
		if host, _, err := net.SplitHostPort(s.address); err == nil && host != "" {
			hosts = append(hosts, host)
		}
	}
	serverTLS, err := o.pki(hosts)
	if err != nil {
		return nil, err
	}
	s := &simulated{name: at.name, listener: l, points: bucket.New(), ledger: &ledger{}}
	s.platform = &counted{Backend: memory.New(memory.Options{Site: at.name, Effect: s.ledger.enter}), starts: map[dr.MachineID]int{}}
	if slices.Contains(o.empty, at.name) {
		o.machines = 0
	}
	if s.guests, err = newGuests(s.platform, at.name, o, n); err != nil {
		return nil, err
	}
	s.handler = remote.NewHandler(&slow{s.platform, o.takes}, remote.ServeOptions{Log: log, Open: 1024, Calls: 1024})
	mux := http.NewServeMux()
	mux.Handle("/points/", http.StripPrefix("/points", bucket.Handler(s.points)))
	mux.HandleFunc("GET /machines", s.serveMachines)
	mux.HandleFunc("GET /effects", s.ledger.serve)
	mux.Handle("/", s.handler)
	s.server = &http.Server{Handler: mux, TLSConfig: serverTLS, ReadHeaderTimeout: 10 * time.Second,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // a session is an Upgrade, which HTTP/2 has not
		ErrorLog:     slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	return s, o.describe(at.name, l.Addr().String())
}

// serveMachines tells of every machine, as a console of the platform would: it
// is how a show finds one that runs twice.
func (s *simulated) serveMachines(w http.ResponseWriter, r *http.Request) {
	all, err := s.guests.list(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	n, bytes := s.points.Size()
	answer(w, http.StatusOK, struct {
		Machines []simMachine `json:"machines"`
		Objects  int          `json:"objects"` // of the store
		Bytes    int64        `json:"bytes"`
	}{all, n, bytes})
}

// pki makes certificates in the folder unless they are there: several processes
// that simulate a site each share them.
func (o simulation) pki(hosts []string) (*tls.Config, error) {
	dir := filepath.Join(o.dir, "pki")
	if _, err := os.Stat(filepath.Join(dir, "ca.pem")); errors.Is(err, os.ErrNotExist) {
		if err := makePKI(dir, hosts); err != nil {
			return nil, err
		}
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "site.pem"), filepath.Join(dir, "site.key"))
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%w: %s/ca.pem", dr.ErrInvalid, dir)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: clients,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}, nil
}

func makePKI(dir string, hosts []string) error {
	ca, err := trialpki.New("simulated sites", 30*24*time.Hour)
	if err != nil {
		return err
	}
	site, err := ca.Server("site", hosts...)
	if err != nil {
		return err
	}
	worker, err := ca.Client("worker")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{"site.pem", site.Cert}, {"site.key", site.Key}, {"worker.pem", worker.Cert}, {"worker.key", worker.Key}, {"ca.pem", ca.PEM()}} {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// describe writes the site's part of a worker's -sites.
func (o simulation) describe(name, address string) error {
	dir := filepath.Join(o.dir, "sites")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	end := func(kind string) map[string]string {
		return map[string]string{"kind": kind, "address": address,
			"cert": "../pki/worker.pem", "key": "../pki/worker.key", "authorities": "../pki/ca.pem"}
	}
	raw, err := json.MarshalIndent(map[string]any{"sites": map[string]any{name: map[string]any{"machines": end("agent"), "points": end("simulated")}}}, "", "\t")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, name+".json")
	if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// size is a flag of bytes: "64KiB", "1MiB", "2GiB" or a bare number.
type size int64

func (s *size) String() string { return fmt.Sprint(int64(*s)) }

func (s *size) Set(text string) error {
	var n int64
	var unit string
	if _, err := fmt.Sscanf(text+" ", "%d%s", &n, &unit); err != nil && unit != "" || n < 0 {
		return fmt.Errorf("%q is no size", text)
	}
	shift, ok := map[string]int{"": 0, "KiB": 10, "MiB": 20, "GiB": 30}[unit]
	if !ok || n > 1<<20 && shift > 0 {
		return fmt.Errorf("%q is no size: want 64KiB, 1MiB, 2GiB", text)
	}
	*s = size(n << shift)
	return nil
}

var _ flag.Value = (*size)(nil)

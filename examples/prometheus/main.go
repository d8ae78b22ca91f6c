// Command prometheus serves the metrics of a small fleet to Prometheus. The
// fleet is simulated: machines on the memory backend that write all the time,
// are protected by runs of an orchestrator, and replicated every few seconds.
// What is shown is the wiring, which is the same for a fleet of one's own:
//
//	/metrics     what package telemetry records, by OpenTelemetry's exporter
//	/health      each site and its protections, as JSON
//	/jobs.csv    every job, for a spreadsheet
//
// It is a Go module of its own: who embeds the library doesn't get the SDK of
// OpenTelemetry nor Prometheus with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9464", "address to serve at")
	machines := flag.Int("machines", 20, "how many machines to simulate")
	every := flag.Duration("every", 5*time.Second, "how often each machine is replicated")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *machines, *every); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "prometheus:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen string, machines int, every time.Duration) error {
	f, err := open(ctx, machines)
	if err != nil {
		return err
	}
	defer f.close()
	if err := f.protect(ctx); err != nil {
		return err
	}
	server := &http.Server{Addr: listen, Handler: f.handler(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	fmt.Printf("%d machines are replicated every %s; see http://%s/metrics, /health and /jobs.csv\n", machines, every, listen)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return errors.Join(server.Close(), ctx.Err())
		case err := <-failed:
			return err
		case <-tick.C:
			f.cycle(ctx)
		}
	}
}

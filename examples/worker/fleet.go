package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// sharing is this worker's part of a fleet, as a replicator.
type sharing struct {
	*fleet.Worker
	drain time.Duration
}

// layout is how the fleet's machines are shared out.
func (w *worker) layout() fleet.Layout {
	return fleet.Layout{Generation: w.sites.Generation, Shards: w.o.fleet, Areas: w.sites.Areas}
}

// share has this worker keep its share of the fleet's machines.
func (w *worker) share(p *plant, o scheduler.Options) (replicator, error) {
	leases := p.engine.leases
	if leases == nil {
		return nil, fmt.Errorf("%w: where these records are no leases are kept, so -fleet can't be", dr.ErrUnsupported)
	}
	var sites []string
	if len(w.sites.Areas) > 0 { // without areas whoever takes part reaches every site
		for name := range sorted(w.sites.Sites) {
			sites = append(sites, name)
		}
	}
	f, err := fleet.New(p.env, fleet.Options{
		Leases: leases, Name: w.o.name, Sites: sites, TTL: w.o.lease, Finish: w.o.drain / 2,
		Layout:    w.layout(),
		Scheduler: o, Observe: w.watch.shards(w.log),
	})
	if err != nil {
		return nil, err
	}
	return &sharing{f, w.o.drain}, nil
}

// Run takes part until ctx ends, and then gives everything back: cycles under
// way may end before others go on.
func (s *sharing) Run(ctx context.Context) error {
	lasting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.Worker.Run(lasting) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	draining, cancel := context.WithTimeout(lasting, s.drain*3/4)
	defer cancel()
	if err := s.Drain(draining); err != nil {
		stop()
	}
	return errors.Join(ctx.Err(), <-ended) // which names what doesn't stop
}

// Status implements replicator.
func (s *sharing) Status() scheduler.Status { return s.Keeper().Scheduler().Status() }

// Poke implements replicator.
func (s *sharing) Poke(ids ...dr.ProtectionID) { s.Keeper().Scheduler().Poke(ids...) }

// Fleet is what /status tells of the shards.
func (s *sharing) Fleet() fleet.Status { return s.Worker.Status() }

// fleetState is why this worker replicates nothing, or soon won't, or can't do all
// that it is given: others do what they can of it, but somebody should know.
func fleetState(s fleet.Status, unreached []dr.ProtectionID) error {
	switch {
	case len(unreached) > 0:
		return fmt.Errorf("without areas a worker of the fleet is given any protection, and this one doesn't reach the sites of %d, %s first: name all sites in its -sites, or part them into areas",
			len(unreached), unreached[0])
	case s.Outdated:
		return errors.New("the fleet has a newer layout: this worker replicates nothing until it is started anew with that one")
	case s.Err != "":
		return fmt.Errorf("leases were last heard of at %s, and what isn't renewed is not replicated by this worker any more (it holds %d shards now): %s",
			s.Renewed.UTC().Format(time.RFC3339), len(s.Holds), s.Err)
	}
	return nil
}

// shards tells the log and metrics what becomes of this worker's shards.
func (w *watch) shards(log *slog.Logger) func(fleet.Event) {
	return func(e fleet.Event) {
		if e.Kind == fleet.Lost {
			w.lost.Inc()
		}
		level := slog.LevelInfo
		if e.Err != nil || e.Kind == fleet.Outdated {
			level = slog.LevelWarn
		}
		args := []any{"shard", e.Shard, "epoch", e.Epoch}
		if e.Why != "" {
			args = append(args, "why", e.Why)
		}
		if e.Err != nil {
			args = append(args, "err", e.Err)
		}
		log.Log(context.Background(), level, string(e.Kind), args...)
	}
}

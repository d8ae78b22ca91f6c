package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/dr/transfer"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
)

// records are what a worker needs of them: the scheduler lists them.
type records interface {
	dr.Records
	dr.RecordLister
}

// engine is an orchestrator with what is behind it.
type engine struct {
	dr.Orchestrator
	records records
	claims  dr.Claims    // nil: the engine's own
	leases  fleet.Leases // nil: none are kept beside the records
	// cheap says that listing all runs costs little.
	cheap bool
}

// probes report whether journal, records and claims answer, by asking for what
// isn't there.
func (e *engine) probes() map[string]func(context.Context) error {
	there := func(err error) error {
		if errors.Is(err, dr.ErrNotFound) {
			return nil
		}
		return err
	}
	all := map[string]func(context.Context) error{
		"engine": func(ctx context.Context) error {
			_, err := e.Status(ctx, "readiness-probe")
			return there(err)
		},
		"records": func(ctx context.Context) error {
			_, err := e.records.Load(ctx, "readiness-probe")
			return there(err)
		},
	}
	if e.claims != nil {
		all["claims"] = func(ctx context.Context) error { return probeClaims(ctx, e.claims) }
	}
	return all
}

// opener opens what an engine needs, and closes all of it again.
type opener struct {
	o     options
	sites []string
	log   *slog.Logger
	store map[string]*shared // by what named them: records and claims are often one
	all   closers
}

// shared is a place that keeps records, claims, or both.
type shared struct {
	records records
	claims  dr.Claims
	leases  fleet.Leases
}

// Close closes what was opened, the engine first.
func (p *opener) Close() error { return p.all.Close() }

// open opens records and claims and then the engine. A journal's records may have
// moved to another place ("worker import"): those are not listed, and nothing is saved
// in them, a drill neither.
func (p *opener) open(ctx context.Context) (*engine, error) {
	p.store = map[string]*shared{}
	var keeps records
	var claims dr.Claims
	var leases fleet.Leases
	if p.o.records != "" && p.o.records != p.o.journal {
		s, err := p.place(ctx, p.o.records)
		if err != nil {
			return nil, fmt.Errorf("records: %w", err)
		}
		if keeps = s.records; keeps == nil {
			return nil, fmt.Errorf("%w: -records %s keeps no records", dr.ErrInvalid, p.o.records)
		}
		leases = s.leases
	}
	if p.o.claims != "" {
		s, err := p.place(ctx, p.o.claims)
		if err != nil {
			return nil, fmt.Errorf("claims: %w", err)
		}
		claims = s.claims
	}
	if p.o.engine == "temporal" {
		o, err := openTemporal(ctx, p.o, claims, p.sites, p.log)
		if err != nil {
			return nil, fmt.Errorf("temporal: %w", err)
		}
		p.all = append(p.all, o)
		return &engine{Orchestrator: o.Orchestrator, records: keeps, claims: claims, leases: leases}, nil
	}
	e, err := embedded.Open(p.o.journal, embedded.Options{Claims: claims, Parallel: p.o.parallel, Keep: p.o.keep, Log: p.log})
	if err != nil {
		return nil, err
	}
	p.all = append(p.all, e)
	if keeps == nil {
		keeps = transfer.Leaving(e)
	}
	return &engine{Orchestrator: e, records: keeps, claims: claims, leases: leases, cheap: true}, nil
}

// served is an orchestrator that is closed together with its connection.
type served struct {
	dr.Orchestrator
	io.Closer
}

// place opens what a specification names, once.
func (p *opener) place(ctx context.Context, spec string) (*shared, error) {
	if s := p.store[spec]; s != nil {
		return s, nil
	}
	s, c, err := openPlace(ctx, spec, p.log)
	if err != nil {
		return nil, err
	}
	p.store[spec], p.all = s, append(p.all, c)
	return s, nil
}

// openPlace knows the places by their scheme: a file is SQLite's.
func openPlace(ctx context.Context, spec string, log *slog.Logger) (*shared, io.Closer, error) {
	scheme, rest, _ := strings.Cut(spec, ":")
	switch {
	case isPostgres(spec):
		return openPostgres(ctx, spec, log)
	case scheme == "dir" || scheme == "azblob":
		c, err := openClaims(scheme, rest)
		return &shared{claims: c}, nil, err
	case len(scheme) > 1 && scheme != spec || strings.HasPrefix(spec, "postgres"): // one letter is a drive
		return nil, nil, fmt.Errorf("%w: %q: want postgres://..., dir:FOLDER, azblob:URL or a file", dr.ErrInvalid, spec)
	}
	e, err := embedded.Open(spec, embedded.Options{Log: log})
	if err != nil {
		return nil, nil, err
	}
	return &shared{records: transfer.Leaving(e), claims: e}, e, nil
}

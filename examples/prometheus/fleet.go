package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/dr/observe"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/telemetry"
)

const (
	here     = "hall-1"
	there    = "hall-2"
	diskSize = 16 << 20
)

// fleet is a simulated fleet and what watches it.
type fleet struct {
	dir      string
	platform *memory.Backend
	env      *replication.Env
	engine   *embedded.Engine
	o        dr.Orchestrator
	tel      *telemetry.Telemetry
	metrics  *prometheus.Registry
	policy   recoverypoint.Policy
	log      *slog.Logger
	machines []dr.ProtectionID
	random   *rand.Rand

	mu        sync.Mutex
	lastError map[dr.ProtectionID]error // of each machine's last cycle

	stop   context.CancelFunc
	served chan error
}

// open makes the fleet, and serves its runs.
func open(ctx context.Context, machines int) (_ *fleet, err error) {
	f := &fleet{platform: memory.New(memory.Options{Site: here}), policy: recoverypoint.VMwarePolicy(),
		log:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		lastError: map[dr.ProtectionID]error{}, random: rand.New(rand.NewPCG(1, 2)), served: make(chan error, 1), stop: func() {}}
	f.policy.Keep = 10 * time.Minute // the points are in memory
	defer func() {
		if err != nil {
			f.served <- nil
			f.close()
		}
	}()
	if f.dir, err = os.MkdirTemp("", "fleet"); err != nil {
		return nil, err
	}
	if f.engine, err = embedded.Open(filepath.Join(f.dir, "journal"), embedded.Options{}); err != nil {
		return nil, err
	}
	f.env = &replication.Env{Records: f.engine, Sites: replication.Sites{
		here:  {Backend: f.platform, Points: memstore.New(memstore.Options{})},
		there: {Backend: memory.New(memory.Options{Site: there}), Points: memstore.New(memstore.Options{})},
	}}
	if err := f.watch(); err != nil {
		return nil, err
	}
	for i := range machines {
		id := dr.MachineID(fmt.Sprintf("vm-%02d", i))
		if err := f.platform.Add(dr.Machine{ID: id, Power: dr.On, Disks: []dr.Disk{{ID: "os", Size: diskSize, Boot: true}}}); err != nil {
			return nil, err
		}
		p := replication.New(dr.ProtectionID(id), dr.Place{Site: here, Machine: id}, there)
		if _, err := f.engine.Save(ctx, p); err != nil {
			return nil, err
		}
		f.machines = append(f.machines, p.ID)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.stop = stop
	go func() { f.served <- f.o.Serve(serving, f.tel.Actions(replication.Actions(f.env))) }()
	return f, nil
}

// watch wires what the library tells to Prometheus and to the log.
func (f *fleet) watch() error {
	f.metrics = prometheus.NewRegistry()
	reader, err := exporter.New(exporter.WithRegisterer(f.metrics), exporter.WithoutScopeInfo())
	if err != nil {
		return err
	}
	// A series for each protection, in two gauges.
	meters := sdk.NewMeterProvider(sdk.WithReader(reader), sdk.WithCardinalityLimit(20_000))
	f.tel, err = telemetry.New(telemetry.Options{Meter: meters, Runs: f.engine.Runs})
	f.o = observe.Orchestrator(f.engine, observe.Log(f.log))
	return err
}

// protect has every machine protected, each by a run.
func (f *fleet) protect(ctx context.Context) error {
	for _, id := range f.machines {
		f.write(id)
		p, err := f.engine.Load(ctx, id)
		if err != nil {
			return err
		}
		plan, err := replication.Protect(p)
		if err != nil {
			return err
		}
		if err := f.o.Start(observe.By(ctx, "example"), dr.RunID("protect-"+id), plan); err != nil {
			return err
		}
	}
	for _, id := range f.machines {
		s, err := dr.Wait(ctx, f.o, dr.RunID("protect-"+id), nil)
		if err = errors.Join(err, s.Err()); err != nil {
			return err
		}
		p, err := f.engine.Load(ctx, id)
		if err != nil {
			return err
		}
		f.tel.Track(id, telemetry.Pair{From: here, To: there}, p.Last.Time, f.policy.RPO)
	}
	return nil
}

// cycle has every machine write something, and replicates it. It returns what
// the cycles did.
func (f *fleet) cycle(ctx context.Context) (all []replication.Report) {
	for _, id := range f.machines {
		f.write(id)
		ctx, end := f.tel.Cycle(ctx, id, telemetry.Pair{From: here, To: there})
		r, err := f.env.Replicate(ctx, id, dr.CrashConsistent, nil)
		end(r, err)
		f.mu.Lock()
		f.lastError[id] = err
		f.mu.Unlock()
		all = append(all, r)
		if _, err := f.env.Expire(ctx, id, f.policy); err != nil {
			f.log.WarnContext(ctx, "retention", "protection", id, "error", err)
		}
	}
	return all
}

// failure is what the machine's last cycle ended with.
func (f *fleet) failure(id dr.ProtectionID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastError[id]
}

// write is what a guest does.
func (f *fleet) write(id dr.ProtectionID) {
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = byte(f.random.Uint32())
	}
	for range 1 + f.random.IntN(4) {
		off := f.random.Int64N(diskSize/int64(len(block))) * int64(len(block))
		if err := f.platform.Write(dr.MachineID(id), "os", block, off); err != nil {
			panic(err) // the simulation itself is wrong
		}
	}
}

func (f *fleet) close() {
	f.stop()
	<-f.served
	if f.tel != nil {
		_ = f.tel.Close() // the process ends, and its metrics with it
	}
	if f.engine != nil {
		_ = f.engine.Close() // nothing is under way
	}
	_ = os.RemoveAll(f.dir) // a temporary folder
}

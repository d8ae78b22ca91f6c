package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/observe"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// errNotDrained says that the drain took longer than it may.
var errNotDrained = errors.New("not everything stopped in time; what was under way goes on in another worker, or here after a restart")

// worker is this process. What it serves with is there once all of it could be
// reached.
type worker struct {
	o     options
	sites sitesFile
	log   *slog.Logger
	board *board
	users *users
	watch *watch

	mu     sync.Mutex
	opened *plant  // nil: not yet
	census *census // nil: the records weren't read yet
}

// plant is what a worker works with.
type plant struct {
	engine *engine
	runs   dr.Orchestrator // the engine, observed
	env    *replication.Env
	plans  *recoveryplan.Env
	act    dr.Actions
	repl   replicator // nil: this worker runs no cycles
}

func (w *worker) plant() *plant {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opened
}

// serve is "worker serve". It returns nil after a drain.
func serve(ctx context.Context, o options, out io.Writer, log *slog.Logger) (err error) {
	host, _ := os.Hostname() // none is a poor name, no failure
	o.name = cmp.Or(o.name, fmt.Sprintf("%s-%d", host, os.Getpid()))
	w := &worker{o: o, log: log, board: newBoard()}
	if w.sites, err = readSites(o.sites); err != nil {
		return err
	}
	for _, q := range o.queues {
		if _, ok := w.sites.Sites[q]; !ok {
			return wrongUsage("serve: -queues %s: %s has no such site, but %s", q, o.sites, strings.Join(slices.Sorted(maps.Keys(w.sites.Sites)), ", "))
		}
	}
	if w.users, err = readUsers(o.tokenFile); err != nil {
		return err
	}
	if w.watch, err = newWatch(o.coarse, len(w.sites.Sites), log); err != nil {
		return err
	}
	if err = w.watch.metrics.Register(gauges{w}); err != nil {
		return err
	}
	// Before anybody can ask: nothing is good that wasn't reached.
	w.board.set("serving", errStarting)
	w.board.set("engine", errStarting)
	for name := range w.sites.Sites {
		w.board.set("site "+name, errStarting)
	}
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	api := &http.Server{Handler: w.handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	failed := make(chan error, 2)
	go func() { failed <- api.Serve(l) }()
	fmt.Fprintln(out, l.Addr())
	log.Info("listening", "addr", l.Addr().String(), "worker", o.name, "engine", o.engine)

	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- w.work(working) }()
	go w.guard(working)
	select {
	case err = <-ended: // it can't go on
		return errors.Join(cmp.Or(beside(err), err), api.Close())
	case err = <-failed:
		stop()
	case <-ctx.Done():
		log.Info("draining", "within", o.drain)
		w.board.drain()
		notify("STOPPING=1")
		stop()
	}
	select {
	case ending := <-ended:
		if errors.Is(ending, errNotDrained) || !errors.Is(ending, context.Canceled) {
			err = errors.Join(err, ending)
		}
	case <-time.After(o.drain):
		err = errors.Join(err, errNotDrained)
	}
	log.Info("stopped", "err", err)
	return errors.Join(err, api.Close())
}

// work opens what the worker needs, serves until ctx ends, and gives everything
// back. What can't be reached yet is tried again, and told by /readyz meanwhile.
func (w *worker) work(ctx context.Context) (err error) {
	p := &plant{}
	var all closers
	defer func() { err = errors.Join(err, all.Close()) }()
	sites := replication.Sites{}
	open := &opener{o: w.o, sites: slices.Sorted(maps.Keys(w.sites.Sites)), log: w.log}
	all = append(all, open)
	err = w.patient(ctx, "engine", func(ctx context.Context) (err error) {
		if p.engine, err = open.open(ctx); err != nil {
			err = errors.Join(err, open.Close())
			open.all = nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for name, spec := range sorted(w.sites.Sites) {
		err := w.patient(ctx, "site "+name, func(ctx context.Context) error {
			s, c, err := openSite(ctx, spec, w.log)
			if err == nil {
				sites[name], all = s, append(all, c)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := w.assemble(p, sites); err != nil {
		return err
	}
	return w.serving(ctx, p)
}

var errStarting = errors.New("not reached yet")

// patient tries until it succeeds or ctx ends; what trying again can't cure ends
// it too.
func (w *worker) patient(ctx context.Context, part string, try func(context.Context) error) error {
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		trying, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := try(trying)
		cancel()
		w.board.set(part, err)
		if err == nil || dr.IsPermanent(err) || ctx.Err() != nil {
			return cmp.Or(ctx.Err(), err)
		}
		w.log.Warn("not reached", "part", part, "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// assemble makes the parts of one another.
func (w *worker) assemble(p *plant, sites replication.Sites) (err error) {
	p.runs = observe.Orchestrator(p.engine.Orchestrator, observe.Join(observe.Log(w.log), p.pokes))
	p.env = &replication.Env{Sites: sites, Records: p.engine.records, Log: w.log}
	if w.o.fleet > 0 {
		p.env.Records = fleet.Guard(p.engine.records)
	}
	p.plans = &recoveryplan.Env{Replication: p.env, Runs: p.runs, Callbacks: callbacks(), Scripts: w.o.scripts}
	p.act, err = dr.Merge(replication.Actions(p.env), failover.Actions(p.env), failback.Actions(p.env), recoveryplan.Actions(p.plans), ownActions())
	if err != nil {
		return err
	}
	if w.o.replicate {
		if p.repl, err = w.newReplicator(p); err != nil {
			return err
		}
	}
	p.act = w.watch.tel.Actions(p.act)
	return nil
}

// pokes has replication look at a record that a flow has let go of: it would
// notice at its next listing.
func (p *plant) pokes(_ context.Context, e observe.Event) {
	if p.repl != nil && e.Kind == observe.AttemptEnded && e.Step == failover.StepFinish && e.Protection != "" {
		p.repl.Poke(e.Protection)
	}
}

// queues are the sites whose steps this worker runs.
func (w *worker) queues() []string {
	if len(w.o.queues) > 0 {
		return w.o.queues
	}
	return slices.Sorted(maps.Keys(w.sites.Sites))
}

// serving serves runs and replication until ctx ends.
func (w *worker) serving(ctx context.Context, p *plant) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	queues := w.queues()
	w.mu.Lock()
	w.opened = p
	w.mu.Unlock()
	w.board.set("serving", nil)
	notify("READY=1")
	w.log.Info("serving", "queues", queues)
	var parts sync.WaitGroup
	var errs [2]error
	part := func(err *error, name string, run func() error) {
		parts.Go(func() {
			defer stop() // one without the other is half a worker: it is started again whole
			switch *err = run(); {
			case ctx.Err() == nil:
				*err = fmt.Errorf("%s: %w", name, cmp.Or(*err, errEnded))
			case beside(*err) != nil:
				*err = fmt.Errorf("%s: %w: %w", name, errNotDrained, beside(*err))
			}
		})
	}
	part(&errs[0], "runs", func() error { return p.runs.Serve(ctx, p.act, queues...) })
	parts.Go(func() { w.attend(ctx, p) })
	if p.repl != nil {
		part(&errs[1], "replication", func() error { return p.repl.Run(ctx) })
	}
	parts.Wait()
	return errors.Join(errs[:]...)
}

// beside is what an error says beside that its context has ended: of cycles that
// don't stop, say.
func beside(err error) error {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		var rest []error
		for _, e := range all.Unwrap() {
			rest = append(rest, beside(e))
		}
		return errors.Join(rest...)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

var errEnded = errors.New("it ended by itself")

// probeEvery is how often what a worker needs is looked at.
const probeEvery = 10 * time.Second

// guard keeps the board true and the service manager content.
func (w *worker) guard(ctx context.Context) {
	every := probeEvery
	if limit := watchdog(); limit > 0 {
		every = min(every, limit/3)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p := w.plant()
		if p == nil { // it waits for what it can't reach, which a restart doesn't cure
			notify("WATCHDOG=1")
			continue
		}
		var st scheduler.Status
		if p.repl != nil {
			st = p.repl.Status() // would hang with the scheduler
		}
		notify("WATCHDOG=1")
		// What hangs from here on is others', and a restart doesn't cure it either.
		w.recount(ctx, p)
		if p.repl != nil {
			objectives := w.counted().objectives
			w.watch.follow(st, func(id dr.ProtectionID) time.Duration { return objectives[id] })
		}
		w.probe(ctx, p)
	}
}

// errSilent is how a part is that doesn't even end its probe.
var errSilent = errors.New("it doesn't answer, nor gives up")

// probe asks everything at once: one that hangs must not hide the others, nor keep
// this process from telling that it lives. What still hangs is not asked again.
func (w *worker) probe(ctx context.Context, p *plant) {
	ctx, cancel := context.WithTimeout(ctx, probeEvery/2)
	asks := p.engine.probes()
	for name, s := range p.env.Sites {
		asks["site "+name] = func(ctx context.Context) error { return probeSite(ctx, s) }
	}
	if f, ok := p.repl.(*sharing); ok {
		asks["fleet"] = func(context.Context) error { return fleetState(f.Fleet(), w.counted().unreached) }
	}
	var asked sync.WaitGroup
	for part, ask := range asks {
		if w.board.ask(part) {
			asked.Go(func() { w.board.answer(part, ask(ctx)) })
		}
	}
	all := make(chan struct{})
	go func() { defer close(all); defer cancel(); asked.Wait() }()
	late := time.NewTimer(probeEvery)
	defer late.Stop()
	select {
	case <-all:
	case <-late.C:
		cancel()
		w.board.silence(errSilent)
	}
}

// sorted yields a map by its keys' order.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

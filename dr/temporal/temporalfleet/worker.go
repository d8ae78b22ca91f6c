package temporalfleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/replication"
	"github.com/lifeboat-dr/lifeboat/replication/fleet"
	"github.com/lifeboat-dr/lifeboat/replication/scheduler"
)

// Options are the knobs of a Worker. The zero value works.
type Options struct {
	// Queue names the fleet: its task queues and workflow IDs begin with it. "":
	// "lifeboat".
	Queue string
	// Layout must be the same in all workers. To change it, stop all workers, call
	// Retire with the old one, and start them with the new one under a higher
	// generation.
	Layout fleet.Layout
	// Name is the worker's, for people.
	Name string
	// Sites are those that it reaches; none: all.
	Sites []string
	// Most is how many shards this worker keeps at once, however few workers
	// there are; 0: 1000.
	Most int
	// Heartbeat is how long a worker may be silent before its shards are begun
	// elsewhere; of shards whose workflow this worker starts. 0: 30 seconds.
	Heartbeat time.Duration
	// Finish is how long the cycles of a shard that goes to another may go on; 0: a
	// minute.
	Finish time.Duration
	// Balance is how often a worker looks whether others have more shards than it
	// has, and asks them for some; 0: a minute. It costs a call a shard.
	Balance time.Duration
	// Moves is how many shards it asks for at a time; 0: 4.
	Moves int
	// Scheduler are the options of the scheduler that runs the cycles; see
	// fleet.NewKeeper.
	Scheduler scheduler.Options
	// Converter is the client's own data converter, if it isn't Temporal's default.
	Converter converter.DataConverter
	// Log may be nil.
	Log *slog.Logger
}

// Worker is one of those that keep a fleet's machines.
type Worker struct {
	c      client.Client
	o      Options
	id     string
	keeper *fleet.Keeper
	log    *slog.Logger

	mu      sync.Mutex
	serving bool
}

// New returns a worker that keeps the protections of env.Records, which must be
// wrapped by fleet.Guard. The client stays the caller's. Options that make no sense
// are dr.ErrInvalid.
func New(c client.Client, env *replication.Env, o Options) (*Worker, error) {
	if c == nil || o.Most < 0 || o.Heartbeat < 0 || o.Finish < 0 || o.Balance < 0 || o.Moves < 0 {
		return nil, fmt.Errorf("temporal fleet: %w: no client, or options below 0", dr.ErrInvalid)
	}
	k, err := fleet.NewKeeper(env, o.Layout, o.Scheduler)
	if err != nil {
		return nil, err
	}
	o.Queue = cmp.Or(o.Queue, "lifeboat")
	o.Most = cmp.Or(o.Most, 1000)
	o.Heartbeat = cmp.Or(o.Heartbeat, 30*time.Second)
	o.Finish = cmp.Or(o.Finish, time.Minute)
	o.Balance = cmp.Or(o.Balance, time.Minute)
	o.Moves = cmp.Or(o.Moves, 4)
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Worker{c: c, o: o, id: cmp.Or(o.Name, "worker") + "-" + rand.Text()[:10], keeper: k, log: log}, nil
}

// ID is the worker's among the others: this life's.
func (w *Worker) ID() string { return w.id }

// Keeper is what keeps the worker's shards.
func (w *Worker) Keeper() *fleet.Keeper { return w.keeper }

// workflowID is that of a shard.
func (o Options) workflowID(s fleet.Shard) string {
	return fmt.Sprintf("%s/fleet/%d/%s", cmp.Or(o.Queue, "lifeboat"), o.Layout.Generation, s)
}

// queue is that of workers who reach an area; own that of one worker.
func (o Options) queue(area string) string     { return o.driving() + "/area/" + area }
func (o Options) own(worker string) string     { return o.driving() + "/worker/" + worker }
func (o Options) driving() string              { return cmp.Or(o.Queue, "lifeboat") + "/fleet" }
func (w *Worker) areas() []fleet.Area          { return w.o.Layout.Reached(w.o.Sites) }
func (w *Worker) grace() time.Duration         { return w.o.Finish + w.o.Heartbeat }
func margin(limit time.Duration) time.Duration { return limit / 6 }

// Run takes part until ctx ends, whose error it returns then, when all that it kept
// has been given back: cycles under way may go on for Finish. Another error means
// that it can't take part. It runs once.
func (w *Worker) Run(ctx context.Context) error {
	w.mu.Lock()
	again := w.serving
	w.serving = true
	w.mu.Unlock()
	if again {
		return fmt.Errorf("temporal fleet: %w: Run was called before", dr.ErrBusy)
	}
	if err := w.start(ctx); err != nil {
		return err
	}
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	kept := make(chan error, 1)
	go func() { kept <- w.keeper.Run(inner) }()
	broken := make(chan error, 1)
	workers := w.workers(func(err error) {
		select {
		case broken <- err:
		default:
		}
	})
	begun := 0
	err := error(nil)
	for _, x := range workers {
		if err = x.Start(); err != nil {
			break
		}
		begun++
	}
	if err == nil {
		err = w.balance(ctx, broken)
	}
	var all sync.WaitGroup
	for _, x := range workers[:begun] {
		all.Go(x.Stop) // which has the activities finish
	}
	all.Wait()
	stop()
	if kerr := <-kept; !errors.Is(kerr, context.Canceled) {
		err = errors.Join(err, kerr)
	}
	return err
}

// workers are those that poll: for workflows, for each area, and for what was asked
// for.
func (w *Worker) workers(fatal func(error)) []worker.Worker {
	o := worker.Options{Identity: w.id, MaxConcurrentActivityExecutionSize: w.o.Most, WorkerStopTimeout: w.grace(), OnFatalError: fatal, DisableWorkflowWorker: true}
	var all []worker.Worker
	for _, a := range w.areas() {
		all = append(all, worker.New(w.c, w.o.queue(a.Name), o))
	}
	all = append(all, worker.New(w.c, w.o.own(w.id), o))
	for _, x := range all {
		x.RegisterActivityWithOptions(w.keep, activityOptions())
	}
	return append(all, driver(w.c, w.o, w.id, fatal))
}

// driver drives the shards' workflows.
func driver(c client.Client, o Options, identity string, fatal func(error)) worker.Worker {
	d := worker.New(c, o.driving(), worker.Options{Identity: identity, LocalActivityWorkerOnly: true, OnFatalError: fatal})
	d.RegisterWorkflowWithOptions(keepShard, workflow.RegisterOptions{Name: workflowName})
	return d
}

// start has a workflow for every shard that this worker reaches.
func (w *Worker) start(ctx context.Context) error {
	for _, a := range w.areas() {
		for _, s := range a.All() {
			o := client.StartWorkflowOptions{ID: w.o.workflowID(s), TaskQueue: w.o.driving(), WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING}
			if _, err := w.c.ExecuteWorkflow(ctx, o, workflowName, state{Shard: s, Queue: w.o.queue(a.Name), Heartbeat: w.o.Heartbeat}); err != nil {
				return fmt.Errorf("temporal fleet: shard %s: %w", s, err)
			}
		}
	}
	return nil
}

// activityOptions are those of registering keep.
func activityOptions() activity.RegisterOptions {
	return activity.RegisterOptions{Name: activityName}
}

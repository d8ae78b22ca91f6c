package temporal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// ErrClosed is what the methods of a closed engine fail with.
var ErrClosed = errors.New("engine is closed")

// MaxPayload is how many bytes of plan, or of the events of a run that is
// continued as new, Temporal takes in one piece: its server's limit is 2 MiB,
// and some of it is ours. Both are compressed first.
const MaxPayload = 1900 << 10

// Options are the engine's settings. Claims are required; for the rest the
// zero value works.
type Options struct {
	// Claims are asked for the plans' locks, by whichever process drives the
	// run, in the name "RUN@temporal:NAMESPACE-ID/QUEUE#START", of which the
	// last part is another each time a run is started. Every process of the
	// engine must be given the same ones.
	Claims dr.Claims

	// Queue names the engine: its task queues, and its runs' workflow IDs,
	// begin with it. Engines of different names in one namespace don't see
	// each other's runs. "": "lifeboat".
	Queue string

	// Sites are queues of plans that a Serve without queues serves from its
	// beginning. Others it finds when a run that is open names them, within
	// about Discover.
	Sites []string

	// Discover is how often a Serve without queues looks for new ones. 0: 5 s.
	Discover time.Duration

	// Parallel is how many actions this process runs at once for one queue,
	// steps that only wait apart. 0: 64. Steps mostly wait for a platform.
	Parallel int

	// Heartbeat is how long a worker may be silent before its steps are taken
	// for lost and begun again elsewhere; of runs that this engine starts. A
	// worker that can't reach Temporal stops its actions before that. 0: 20 s.
	Heartbeat time.Duration

	// An attempt that failed is followed by another after BackoffFirst, each
	// further one after twice the time, up to BackoffMost; every wait is
	// shortened by up to half, by a hash. Of runs that this engine starts. 0:
	// 200 ms and 1 minute.
	BackoffFirst, BackoffMost time.Duration

	// SearchAttributes has runs that this engine starts set the search
	// attributes LifeboatFlow, LifeboatState and LifeboatMachines, which the
	// namespace must have.
	SearchAttributes bool

	// Converter is the client's own data converter, if it isn't Temporal's
	// default: the client doesn't tell.
	Converter converter.DataConverter

	// NoDriver: this engine leaves it to others to drive runs. It needs one of
	// them for everything that it does.
	NoDriver bool

	// Log gets what a person may want to know later. Nil: nothing is logged.
	// The SDK's own log is an option of the client.
	Log *slog.Logger

	// Long is at how many events of history a run goes on in a new workflow run
	// of the same ID; of runs that this engine starts. 0: when the server
	// suggests it, which is what it should be but in tests.
	Long int
}

// Engine is an orchestrator on Temporal. Any number of processes may open the
// same one. All methods are safe for concurrent use.
type Engine struct {
	c      client.Client
	o      Options
	log    *slog.Logger
	driver worker.Worker

	ctx  context.Context // ends, with its cause, when the engine is of no use any more
	fail context.CancelCauseFunc

	closing sync.Once
	mu      sync.Mutex
	recent  map[dr.RunID]started // those started here lately, which visibility may not show yet
	serves  *serving
	served  chan struct{} // closed when Serve has returned; nil before
}

// started is a run that was started here.
type started struct {
	at   time.Time
	what planned
}

// Open makes an engine over the client, which stays the caller's, and begins
// to drive runs, so that they can be started, decided, cancelled and looked at
// also while nobody serves. ErrUnreachable: Temporal, or the namespace, isn't
// there or doesn't let us in. Close must be called.
func Open(c client.Client, o Options) (*Engine, error) {
	if c == nil || o.Claims == nil {
		return nil, fmt.Errorf("temporal engine: %w: it needs a client and claims", dr.ErrInvalid)
	}
	if o.Heartbeat < 0 || o.BackoffFirst < 0 || o.BackoffMost < 0 || o.Discover < 0 || o.Parallel < 0 || o.Long < 0 {
		return nil, fmt.Errorf("temporal engine: %w: a negative option", dr.ErrInvalid)
	}
	o = o.withDefaults()
	e := &Engine{c: c, o: o, log: o.Log, recent: map[dr.RunID]started{}}
	e.ctx, e.fail = context.WithCancelCause(context.Background())
	if err := e.drive(); err != nil {
		e.fail(ErrClosed)
		return nil, err
	}
	return e, nil
}

func (o Options) withDefaults() Options {
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	or(&o.Heartbeat, 20*time.Second)
	or(&o.BackoffFirst, 200*time.Millisecond)
	or(&o.BackoffMost, time.Minute)
	or(&o.Discover, 5*time.Second)
	if o.Queue == "" {
		o.Queue = "lifeboat"
	}
	if o.Parallel == 0 {
		o.Parallel = 64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Converter == nil {
		o.Converter = converter.GetDefaultDataConverter()
	}
	return o
}

// drive has this process interpret plans, and claim for them. It runs no
// actions.
func (e *Engine) drive() error {
	if e.o.NoDriver {
		return e.reach(e.ctx)
	}
	w := worker.New(e.c, e.o.Queue, worker.Options{
		// How long a dead driver's workflows wait for it.
		StickyScheduleToStartTimeout: min(e.o.Heartbeat/4, 5*time.Second),
		// The other kind of pollers may all wait at the queue of what this
		// process knows already, for a minute, while others' work isn't taken.
		WorkflowTaskPollerBehavior: worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{
			InitialNumberOfPollers: 4, MinimumNumberOfPollers: 2, MaximumNumberOfPollers: 16}),
		// A plan of thousands of steps on a machine that has much to do takes more
		// than the second that the SDK allows.
		DeadlockDetectionTimeout: taskTimeout(e.o.Heartbeat),
		WorkerStopTimeout:        10 * time.Second,
		OnFatalError:             func(err error) { e.fail(explain(context.Background(), "drive runs", err)) },
	})
	Register(w)
	c := &claimant{claims: e.o.Claims, c: e.c}
	w.RegisterActivityWithOptions(c.claim, activity.RegisterOptions{Name: claimName})
	w.RegisterActivityWithOptions(c.release, activity.RegisterOptions{Name: releaseName})
	w.RegisterActivityWithOptions((&asking{e: e}).ask, activity.RegisterOptions{Name: askName})
	w.RegisterActivityWithOptions(e.underway, activity.RegisterOptions{Name: underwayName})
	if err := w.Start(); err != nil {
		return explain(context.Background(), "open engine", err)
	}
	e.driver = w
	return nil
}

// interpreters are those of all revisions of the fold.
var interpreters = map[string]func(workflow.Context, runInput) (seen, error){
	workflowName(1): interpret,
}

// Register makes the workflows known that this package drives runs with, of all
// revisions. An engine does that itself; give it a replayer of the SDK's to see,
// before a deployment, whether a new version drives on the runs that you have.
//
// It is done without the SDK's own decoding, whose failure would make the
// workflow fail: a driver that lacks the codec's key would end every run that
// comes to it, with its machines as they are. So such a run stands still
// instead, until a driver takes it that can read it.
func Register(w worker.WorkflowRegistry) {
	w.RegisterDynamicWorkflow(func(ctx workflow.Context, args converter.EncodedValues) (seen, error) {
		name := workflow.GetInfo(ctx).WorkflowType.Name
		do := interpreters[name]
		if do == nil {
			panic(fmt.Errorf("no interpreter of %q: this program is older than who started the run", name))
		}
		var in runInput
		if err := args.Get(&in); err != nil {
			panic(fmt.Errorf("the run can't be read by this driver; it needs the codec, with the key, of who started it: %w", err))
		}
		return do(ctx, in)
	}, workflow.DynamicRegisterOptions{})
	w.RegisterWorkflowWithOptions(askSite, workflow.RegisterOptions{Name: askName})
}

// Close ends serving, waits until Serve has returned, which takes as long as
// the actions take to stop, and stops driving. What is open goes on with who
// else drives and serves, or when somebody does again. A second call does
// nothing.
func (e *Engine) Close() error {
	e.closing.Do(func() {
		e.mu.Lock()
		e.fail(ErrClosed)
		served := e.served
		e.mu.Unlock()
		if served != nil {
			<-served
		}
		if e.driver != nil {
			e.driver.Stop()
		}
	})
	return nil
}

// dead returns why the engine is of no use any more, or nil.
func (e *Engine) dead() error {
	if e.ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("temporal engine %s: %w", e.o.Queue, context.Cause(e.ctx))
}

func (e *Engine) workflowID(id dr.RunID) string { return workflowID(e.o.Queue, id) }

func workflowID(queue string, id dr.RunID) string { return queue + "/" + string(id) }

// taskQueue names where the steps of a plan's queue wait for workers. Those
// that only wait do so apart, where many can at once.
func taskQueue(engine, queue string, waits bool) string {
	name := engine + "/steps"
	if queue != "" {
		name += "/" + url.PathEscape(queue)
	}
	if waits {
		name += "#waits"
	}
	return name
}

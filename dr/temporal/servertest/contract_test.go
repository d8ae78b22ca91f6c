package servertest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/dr/enginetest"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

// link is a connection to the server that can be cut.
type link struct {
	mu    sync.RWMutex
	dying bool
	ctx   context.Context
	cut   context.CancelFunc
}

func newLink() *link {
	l := &link{}
	l.ctx, l.cut = context.WithCancel(context.Background())
	return l
}

// kill cuts it: when it returns nothing more comes to the server. What the
// driver has decided already it may still say, so that the server needn't wait
// for it: it is what any other driver would decide. That a driver may die, too,
// is what TestSIGKILL shows.
func (l *link) kill() {
	l.mu.Lock()
	l.dying = true
	l.mu.Unlock()
	l.cut()
}

func drives(method string) bool {
	return strings.Contains(method, "WorkflowTask") || strings.HasSuffix(method, "/ShutdownWorker")
}

func (l *link) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	l.mu.RLock()
	dying := l.dying
	l.mu.RUnlock()
	if drives(method) {
		if dying && strings.HasSuffix(method, "/PollWorkflowTaskQueue") {
			return status.Error(codes.PermissionDenied, "the process is dead")
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	if dying {
		return status.Error(codes.PermissionDenied, "the process is dead")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	return invoke(ctx, method, req, reply, cc, opts...)
}

func (l *link) dial(t enginetest.T) client.Client { return l.dialTo(t, place{}) }

func (l *link) dialTo(t enginetest.T, p place) client.Client {
	if p.address == "" {
		p.address, p.namespace = server.GetFrontendHostPort(), server.GetDefaultNamespace()
	}
	c, err := temporal.Connect(t.Context(), temporal.ConnectOptions{Address: p.address, Namespace: p.namespace, Codec: p.codec, Identity: "worker",
		DialTimeout: time.Minute, DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(l.intercept)}})
	require.NoError(t, err)
	return c
}

// place is a server; the zero value is the one within this process.
type place struct {
	address, namespace string
	codec              *temporal.Codec
	undertaker         client.Client
}

type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

// state is the runs of one queue on the server.
type state struct {
	t    enginetest.T
	at   place
	o    temporal.Options
	link *link
	c    client.Client
	e    *temporal.Engine

	mu   sync.Mutex
	runs []dr.RunID
}

var queues atomic.Int64

func newState(t enginetest.T, o temporal.Options) *state {
	o.BackoffFirst, o.BackoffMost = time.Millisecond, 4*time.Millisecond
	o.Heartbeat = 12 * time.Second
	o.Queue = fmt.Sprintf("q%d", queues.Add(1))
	if o.Claims == nil {
		o.Claims = newClaims(t)
	}
	s := &state{t: t, o: o}
	t.Cleanup(s.replay)
	return s
}

// replay holds what the workflows did, with all their deaths, against what they
// would do again.
func (s *state) replay() {
	r := worker.NewWorkflowReplayer()
	temporal.Register(r)
	for _, id := range s.runs {
		h := &history.History{}
		it := server.GetDefaultClient().GetWorkflowHistory(context.Background(), s.o.Queue+"/"+string(id), "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for it.HasNext() {
			ev, err := it.Next()
			if err != nil { // it was refused: there is none
				break
			}
			h.Events = append(h.Events, ev)
		}
		if len(h.Events) > 3 {
			if err := r.ReplayWorkflowHistory(quiet{}, h); err != nil {
				s.t.Errorf("the history of run %s doesn't replay: %v", id, err)
			}
		}
	}
}

func newClaims(t enginetest.T) dr.Claims {
	e, err := embedded.Open(filepath.Join(t.TempDir(), "claims"), embedded.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

func (s *state) Open() (o dr.Orchestrator, err error) {
	s.link = newLink()
	s.c = s.link.dialTo(s.t, s.at)
	if s.e, err = temporal.Open(s.c, s.o); err != nil {
		return nil, err
	}
	return polite{s.e, s}, nil
}

// polite asks for the status no more often than a console would. The suite asks
// each millisecond, which keeps a small machine from doing anything else.
type polite struct {
	*temporal.Engine
	s *state
}

func (p polite) Status(ctx context.Context, id dr.RunID) (dr.Status, error) {
	time.Sleep(25 * time.Millisecond)
	return p.Engine.Status(ctx, id)
}

func (p polite) Start(ctx context.Context, id dr.RunID, plan dr.Plan) error {
	p.s.mu.Lock()
	p.s.runs = append(p.s.runs, id)
	p.s.mu.Unlock()
	return p.Engine.Start(ctx, id, plan)
}

func (s *state) Kill() {
	if s.e == nil {
		return
	}
	s.link.kill()
	s.e.Close()
	s.c.Close()
	s.e = nil
	s.bury()
}

// bury says of what the dead worker had in hand what the server itself would
// say after the Heartbeat, which would make the suite take half an hour.
// TestSIGKILL waits for the server.
func (s *state) bury() {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, namespace := s.at.undertaker, s.at.namespace
	if c == nil {
		c, namespace = server.GetDefaultClient(), server.GetDefaultNamespace()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, id := range s.runs {
		d, err := c.DescribeWorkflowExecution(ctx, s.o.Queue+"/"+string(id), "")
		if err != nil {
			continue
		}
		for _, a := range d.GetPendingActivities() {
			if a.GetState() == enums.PENDING_ACTIVITY_STATE_STARTED || a.GetState() == enums.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED {
				x := d.GetWorkflowExecutionInfo().GetExecution()
				_ = c.CompleteActivityByID(ctx, namespace, x.GetWorkflowId(), x.GetRunId(), a.GetActivityId(), nil, errors.New("its worker is dead"))
			}
		}
	}
}

// Patience is for what is cancelled only with the next heartbeat, and for a
// machine that has much to do.
func (s *state) Patience() time.Duration { return 90 * time.Second }

func TestContract(t *testing.T) {
	t.Parallel()
	enginetest.Run(t, func(t enginetest.T) enginetest.State {
		t.(*testing.T).Parallel()
		return newState(t, temporal.Options{})
	})
}

package servertest

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

// A step that runs alone costs one workflow task and six entries of history; of
// those side by side, and of a point of no return, the run is told at once.
func TestStepsThatRunAloneCostLittle(t *testing.T) {
	t.Parallel()
	st := newState(t, temporal.Options{})
	_, err := st.Open()
	require.NoError(t, err)
	t.Cleanup(st.Kill)
	go func() { _ = st.e.Serve(t.Context(), dr.Actions{"do@1": succeed, "undo@1": succeed}) }()
	noReturn := do("n", "f")
	noReturn.NoReturn = true
	cost := func(id dr.RunID, steps ...dr.Step) (events, signals int) {
		require.NoError(t, st.e.Start(t.Context(), id, dr.Plan{Flow: "test", Rev: 1, Steps: steps}))
		until(t, st.e, id, func(dr.Status) bool { return false })
		h := chainOf(t, st.o.Queue+"/"+string(id))[0]
		for _, ev := range h.Events {
			if ev.GetEventType() == enums.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED {
				signals++
			}
		}
		return len(h.Events), signals
	}
	one, signals := cost("one", do("a"))
	require.Zero(t, signals)
	six, signals := cost("six", do("a"), do("b", "a"), do("c", "b"), do("d", "c"), do("e", "d"), do("f", "e"))
	require.Zero(t, signals)
	t.Logf("%d entries of history for one step, %d for six", one, six)
	require.LessOrEqual(t, six-one, 5*6+3, "a workflow task may come twice") // it was 5*10
	_, signals = cost("beside", do("a"), do("b", "a"), do("c", "a"), do("d", "b", "c"))
	require.Equal(t, 2, signals)
	_, signals = cost("forward", do("f"), noReturn)
	require.Equal(t, 1, signals)
}

func succeed(context.Context, *dr.Call) (json.RawMessage, error) { return json.RawMessage(`"x"`), nil }

// A worker that sleeps when it has taken a step, and wakes when the run was
// cancelled, calls nothing, and nothing is undone.
func TestAStepCancelledAsItIsTaken(t *testing.T) {
	t.Parallel()
	held, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c, err := client.Dial(client.Options{HostPort: server.GetFrontendHostPort(), Namespace: server.GetDefaultNamespace(), Logger: quiet{},
		ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				if strings.HasSuffix(method, "/RecordActivityTaskHeartbeat") {
					once.Do(func() { close(held) })
					<-goOn
				}
				return invoke(ctx, method, req, reply, cc, opts...)
			})}}})
	require.NoError(t, err)
	defer c.Close()
	e, err := temporal.Open(c, temporal.Options{Claims: newClaims(t), Queue: t.Name(), Heartbeat: time.Minute})
	require.NoError(t, err)
	defer e.Close()
	var called atomic.Int64
	act := func(context.Context, *dr.Call) (json.RawMessage, error) {
		called.Add(1)
		return nil, nil
	}
	go func() { _ = e.Serve(t.Context(), dr.Actions{"do@1": act, "undo@1": act}) }()
	require.NoError(t, e.Start(t.Context(), "r", dr.Plan{Flow: "test", Rev: 1, Steps: []dr.Step{do("a")}}))
	<-held
	require.NoError(t, e.Cancel(t.Context(), "r", "changed my mind"))
	close(goOn)
	until(t, e, "r", func(dr.Status) bool { return false })
	s, err := e.Status(t.Context(), "r")
	require.NoError(t, err)
	require.Equal(t, dr.RunCancelled, s.State)
	require.Equal(t, dr.StepPending, s.Steps[0].State)
	require.Zero(t, called.Load())
}

// A worker that is lost after its action was called leaves an attempt that has
// begun: the next one is the second.
func TestAStepWhoseWorkerIsLost(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var first []byte
	c, err := client.Dial(client.Options{HostPort: server.GetFrontendHostPort(), Namespace: server.GetDefaultNamespace(), Logger: quiet{},
		ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				if beat, ok := req.(*workflowservice.RecordActivityTaskHeartbeatRequest); ok {
					mu.Lock()
					silent := bytes.Equal(first, beat.GetTaskToken())
					if first == nil {
						first = beat.GetTaskToken()
					}
					mu.Unlock()
					if silent {
						return status.Error(codes.Unimplemented, "cut off")
					}
				}
				return invoke(ctx, method, req, reply, cc, opts...)
			})}}})
	require.NoError(t, err)
	defer c.Close()
	e, err := temporal.Open(c, temporal.Options{Claims: newClaims(t), Queue: t.Name(), Heartbeat: 2 * time.Second})
	require.NoError(t, err)
	defer e.Close()
	again := make(chan int, 20)
	act := func(_ context.Context, c *dr.Call) (json.RawMessage, error) {
		if c.Attempt == 1 && len(again) == 0 {
			again <- 0
			for len(again) == 1 {
				time.Sleep(10 * time.Millisecond)
			}
			return nil, nil
		}
		again <- c.Attempt
		return nil, nil
	}
	go func() { _ = e.Serve(t.Context(), dr.Actions{"do@1": act, "undo@1": act}) }()
	require.NoError(t, e.Start(t.Context(), "r", dr.Plan{Flow: "test", Rev: 1, Steps: []dr.Step{do("a")}}))
	until(t, e, "r", func(dr.Status) bool { return false })
	<-again
	require.Equal(t, 2, <-again)
}

package temporal

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// moved is a client of a server whose workflow takes no update: it is closed,
// or has just gone on in a new workflow run.
type moved struct {
	client.Client
	status enums.WorkflowExecutionStatus
	down   error // what looking at it comes to
}

func (m *moved) UpdateWorkflow(context.Context, client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	return nil, serviceerror.NewNotFound("no such open workflow")
}

func (m *moved) DescribeWorkflowExecution(context.Context, string, string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	if m.down != nil {
		return nil, m.down
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
		Status: m.status, Execution: &commonpb.WorkflowExecution{RunId: "one"}}}, nil
}

// QueryWorkflow answers as the run's workflow would whose gate waits.
func (m *moved) QueryWorkflow(_ context.Context, _, _, query string, args ...any) (converter.EncodedValue, error) {
	x := &interp{in: runInput{Run: "r"}, fold: dr.NewRun("r", dr.Plan{Flow: "f", Steps: []dr.Step{{ID: "g", Gate: "go on?"}}})}
	for _, e := range []dr.Event{{Kind: dr.EventClaimed}, {Kind: dr.EventOpened, Step: "g"}} {
		if err := x.fold.Apply(e); err != nil {
			return nil, err
		}
	}
	var v any
	switch query {
	case decideQuery:
		v = x.late(args[0].(decideInput))
	case statusQuery:
		s, err := see(x.fold.Status())
		if err != nil {
			return nil, err
		}
		v = s
	}
	p, err := converter.GetDefaultDataConverter().ToPayloads(v)
	return client.NewValue(p), err
}

func engineOf(c client.Client) *Engine {
	o := Options{}.withDefaults()
	e := &Engine{c: c, o: o, log: o.Log, recent: map[dr.RunID]started{}}
	e.ctx, e.fail = context.WithCancelCause(context.Background())
	return e
}

// What can't be recorded any more is not said to be.
func TestDecisionThatCannotBeRecorded(t *testing.T) {
	yes := dr.Decision{Verdict: dr.Approve, By: "me"}
	for name, m := range map[string]*moved{
		"terminated by a person": {status: enums.WORKFLOW_EXECUTION_STATUS_TERMINATED},
		"timed out":              {status: enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, engineOf(m).Decide(t.Context(), "r", "g", yes), dr.ErrNotFound)
			require.ErrorIs(t, engineOf(m).Cancel(t.Context(), "r", "why"), dr.ErrNotAllowed)
		})
	}
	t.Run("it can't be looked at", func(t *testing.T) {
		e := engineOf(&moved{down: serviceerror.NewPermissionDenied("not now", "")})
		require.ErrorIs(t, e.Decide(t.Context(), "r", "g", yes), ErrUnreachable)
		require.ErrorIs(t, e.Cancel(t.Context(), "r", "why"), ErrUnreachable)
	})
}

// cutOff is a client that has no answer before ctx ends, and says so as
// Temporal's does.
type cutOff struct{ client.Client }

func ended(ctx context.Context) error {
	<-ctx.Done()
	if ctx.Err() == context.Canceled {
		return serviceerror.NewCanceled("context canceled")
	}
	return serviceerror.NewDeadlineExceeded("context deadline exceeded")
}

func (cutOff) DescribeWorkflowExecution(ctx context.Context, _, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	return nil, ended(ctx)
}

func (cutOff) ListWorkflow(ctx context.Context, _ *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	return nil, ended(ctx)
}

// A call whose context ends says so, in the way of contexts.
func TestContextsErrorIsWhatCallsEndWith(t *testing.T) {
	e := engineOf(cutOff{})
	for name, call := range map[string]func(context.Context) error{
		"Serve":  func(ctx context.Context) error { return e.Serve(ctx, dr.Actions{}) },
		"Status": func(ctx context.Context) error { _, err := e.Status(ctx, "r"); return err },
		"Watch":  func(ctx context.Context) error { _, err := dr.Wait(ctx, e, "r", nil); return err },
		"Start":  func(ctx context.Context) error { return e.Start(ctx, "r", dr.Plan{Flow: "f"}) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			require.ErrorIs(t, call(ctx), context.Canceled)
			ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			require.ErrorIs(t, call(ctx), context.DeadlineExceeded)
		})
	}
}

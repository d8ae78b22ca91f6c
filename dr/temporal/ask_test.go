package temporal

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"
)

// crier is a client on which workflows answer when they are told to.
type crier struct {
	client.Client
	starts atomic.Int64
	answer chan bool
}

func (c *crier) ExecuteWorkflow(context.Context, client.StartWorkflowOptions, any, ...any) (client.WorkflowRun, error) {
	c.starts.Add(1)
	return cried{c: c}, nil
}

type cried struct {
	client.WorkflowRun
	c *crier
}

func (r cried) Get(ctx context.Context, there any) error {
	select {
	case *there.(*bool) = <-r.c.answer:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// However many runs want to know at a time whether anybody is at a site, it is
// asked once; and again by who comes later.
func TestASiteIsAskedOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crier{answer: make(chan bool)}
		a := &asking{e: engineOf(c)}
		for n, there := range []bool{true, false} {
			var all sync.WaitGroup
			for range 300 {
				all.Go(func() {
					got, err := a.ask(t.Context(), askInput{"there", time.Minute})
					require.NoError(t, err)
					require.Equal(t, there, got)
				})
			}
			synctest.Wait() // all have asked
			require.EqualValues(t, n+1, c.starts.Load())
			c.answer <- there
			all.Wait()
		}
	})
}

// Who asks for nothing any more waits no longer, nor does anybody when the
// engine is closed.
func TestAskingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &asking{e: engineOf(&crier{answer: make(chan bool)})}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := a.ask(ctx, askInput{"there", time.Hour})
		require.ErrorIs(t, err, context.Canceled)
		time.AfterFunc(time.Minute, func() { a.e.fail(ErrClosed) })
		_, err = a.ask(t.Context(), askInput{"there", time.Hour})
		require.ErrorIs(t, err, context.Canceled)
	})
}

// Only a question that nobody takes up says that nobody is there.
func TestAskSite(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		there bool
	}{
		"answered":           {nil, true},
		"with an error":      {errors.New("there is no such activity"), true},
		"taken up, and lost": {sdk.NewTimeoutError(enums.TIMEOUT_TYPE_START_TO_CLOSE, nil), true},
		"not taken up":       {sdk.NewTimeoutError(enums.TIMEOUT_TYPE_SCHEDULE_TO_START, nil), false},
	} {
		t.Run(name, func(t *testing.T) {
			var suite testsuite.WorkflowTestSuite
			suite.SetLogger(slog.New(slog.DiscardHandler))
			env := suite.NewTestWorkflowEnvironment()
			env.RegisterWorkflowWithOptions(askSite, workflow.RegisterOptions{Name: askName})
			env.RegisterActivityWithOptions(present, activity.RegisterOptions{Name: presentName})
			env.OnActivity(presentName, mock.Anything).Return(c.err)
			env.ExecuteWorkflow(askName, askInput{"there", time.Second})
			var there bool
			require.NoError(t, env.GetWorkflowResult(&there))
			require.Equal(t, c.there, there)
		})
	}
}

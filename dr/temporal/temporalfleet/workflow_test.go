package temporalfleet

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"
)

// The workflow's epochs rise with each turn, also over a continuing as new, and a
// shard that is yielded is offered to who asked.
func TestAShardsWorkflow(t *testing.T) {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(slog.New(slog.DiscardHandler))
	env := suite.NewTestWorkflowEnvironment()
	env.RegisterWorkflowWithOptions(keepShard, workflow.RegisterOptions{Name: workflowName})
	var epochs []uint64
	keep := func(ctx context.Context, in keepInput) error {
		epochs = append(epochs, in.Epoch)
		if len(epochs) == 2 {
			return errors.New("could not")
		}
		return nil
	}
	env.RegisterActivityWithOptions(keep, activityOptions())
	env.OnActivity(activityName, mock.Anything, mock.Anything).Return(keep)
	env.ExecuteWorkflow(workflowName, state{Shard: "0001", Queue: "q", Heartbeat: time.Minute, Epoch: 1 << 40, Turns: 3})
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, env.GetWorkflowError(), &next)
	require.Equal(t, []uint64{1<<40 + 1, 1<<40 + 2, 1<<40 + 3}, epochs)
	var s state
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(next.Input, &s))
	require.Equal(t, epochs[2], s.Epoch)
}

package temporal

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

func histories(t *testing.T) []string {
	all, err := filepath.Glob(filepath.Join("testdata", "histories", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, all)
	return all
}

// TestRecordedHistories: runs that an earlier version of this package began are
// driven on by this one. A history that doesn't replay any more is never to be
// recorded anew: the interpreter needs a new revision, beside the old.
func TestRecordedHistories(t *testing.T) {
	for _, path := range histories(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			r, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{DisableDeadlockDetection: true})
			require.NoError(t, err)
			Register(r)
			f, err := os.Open(path)
			require.NoError(t, err)
			defer f.Close()
			h, err := client.HistoryFromJSON(f, client.HistoryJSONOptions{})
			require.NoError(t, err)
			require.NoError(t, r.ReplayWorkflowHistory(quiet{}, h))
		})
	}
}

// TestTheReplayRefuses: an interpreter that decides otherwise is found out.
func TestTheReplayRefuses(t *testing.T) {
	r := worker.NewWorkflowReplayer()
	r.RegisterWorkflowWithOptions(func(ctx workflow.Context, in runInput) (seen, error) {
		x := &in.Settings
		x.Queue += "-elsewhere"
		in.Plan = packed{JSON: []byte(`{"flow":"test","rev":1,"steps":[{"id":"a","action":"do@1"}]}`)}
		return interpret(ctx, in)
	}, workflow.RegisterOptions{Name: workflowName(1)})
	f, err := os.Open(filepath.Join("testdata", "histories", "straight.json"))
	require.NoError(t, err)
	defer f.Close()
	h, err := client.HistoryFromJSON(f, client.HistoryJSONOptions{})
	require.NoError(t, err)
	require.Error(t, r.ReplayWorkflowHistory(quiet{}, h))
}

type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

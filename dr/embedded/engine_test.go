package embedded

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var (
	_ dr.Orchestrator = (*Engine)(nil)
	_ dr.Watcher      = (*Engine)(nil)
	_ dr.RunLister    = (*Engine)(nil)
	_ dr.Claims       = (*Engine)(nil)
	_ dr.Records      = (*Engine)(nil)
	_ dr.RecordLister = (*Engine)(nil)
)

func open(t testing.TB, path string, o Options) *Engine {
	t.Helper()
	e, err := Open(path, o)
	require.NoError(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

func serve(t testing.TB, e *Engine, a dr.Actions) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = e.Serve(ctx, a)
	}()
	t.Cleanup(func() {
		cancel()
		<-gone
	})
}

func TestRunsAPlan(t *testing.T) {
	e := open(t, filepath.Join(t.TempDir(), "journal"), Options{})
	p := dr.Plan{Flow: "f", Locks: []string{"m"}, Steps: []dr.Step{
		{ID: "a", Action: "echo", Input: json.RawMessage(`1`)},
		{ID: "b", Action: "echo", Input: json.RawMessage(`2`), After: []string{"a"}},
	}}
	serve(t, e, dr.Actions{"echo": func(ctx context.Context, c *dr.Call) (json.RawMessage, error) { return c.Input, nil }})
	require.NoError(t, e.Start(t.Context(), "r", p))
	s, err := dr.Wait(t.Context(), e, "r", nil)
	require.NoError(t, err)
	require.Equal(t, dr.RunDone, s.State)
	require.ErrorIs(t, e.Start(t.Context(), "r", p), dr.ErrRunExists)
	require.NoError(t, e.Start(t.Context(), "r2", p))
	_, err = Open(e.path, Options{})
	require.ErrorIs(t, err, dr.ErrBusy)
}

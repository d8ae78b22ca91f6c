package temporal

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// A result that only becomes too large as it is written into the history is
// refused here: Temporal would refuse the attempt's end, and the step would be
// taken for one that kills its worker, twenty times.
func TestResultThatGrowsAsItIsWritten(t *testing.T) {
	text := strings.Repeat("<", dr.MaxResult/4)
	a := &attempt{o: offer{Step: dr.Step{ID: "a", Action: "do@1"}}, log: slog.New(slog.DiscardHandler), s: &serving{actions: dr.Actions{
		"do@1": func(context.Context, *dr.Call) (json.RawMessage, error) {
			return json.RawMessage(`"` + text + `"`), nil
		}}}}
	a.ctx, a.stop = context.WithCancelCause(t.Context())
	out := a.run(dr.Task{Kind: dr.TaskDo, Step: a.o.Step}, &dr.Call{}, nil)
	require.Equal(t, outcomeFailed, out.Kind)
	require.True(t, out.Final)
	require.Contains(t, out.Err, "bytes")
	text = strings.Repeat("<", dr.MaxResult/7)
	require.Equal(t, outcomeDone, a.run(dr.Task{Kind: dr.TaskDo, Step: a.o.Step}, &dr.Call{}, nil).Kind)
}

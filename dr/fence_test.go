package dr_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestFencesReachWhatAnActionCalls(t *testing.T) {
	var seen map[string]uint64
	a := dr.Actions{"do@1": func(ctx context.Context, _ *dr.Call) (json.RawMessage, error) {
		seen = dr.Fences(ctx)
		return nil, nil
	}}
	task := dr.Task{Kind: dr.TaskDo, Step: dr.Step{ID: "a", Action: "do@1"}}
	ctx := dr.WithFences(t.Context(), map[string]uint64{"outer": 1, "m": 2})
	_, err := a.Exec(ctx, task, &dr.Call{Epochs: map[string]uint64{"m": 7}})
	require.NoError(t, err)
	require.Equal(t, map[string]uint64{"outer": 1, "m": 7}, seen, "the run's claim is the one that counts")
	require.Equal(t, map[string]uint64{"outer": 1, "m": 2}, dr.Fences(ctx), "who called keeps its own")

	seen["m"] = 99
	require.EqualValues(t, 2, dr.Fences(ctx)["m"], "a reader can't change them")
	require.Nil(t, dr.Fences(t.Context()), "nobody's claim")
}
